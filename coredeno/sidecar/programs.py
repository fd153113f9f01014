"""What the kernel opens when it runs a program: the file itself, and whatever that names as its interpreter."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec

_HEAD_BYTES = 4096
_LONGEST_CHAIN = 5  # Linux follows as many scripts (fs/exec.c)
# https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html, for 64 bits and the lower byte first
_ELF_64_LITTLE = b"\x7fELF\x02\x01"
_PHOFF, _PHENTSIZE, _PT_INTERP = 0x20, 0x36, 3


class Program(msgspec.Struct, frozen=True):
    """A program, and all files that must be open to execution so that it runs; the libraries are others."""

    path: Path
    opened: tuple[Path, ...]


def read_program(path: Path) -> Program:
    """Look into the file of a program. Reads the disk; what cannot be read ends the chain."""
    opened: list[Path] = []
    following: Path | None = path
    while following is not None and len(opened) < _LONGEST_CHAIN + 1:
        opened.append(following)
        following = _interpreter(following)
    return Program(path, tuple(opened))


def _interpreter(path: Path) -> Path | None:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None
    name = _of_script(head) if head.startswith(b"#!") else _of_elf(head)
    if not name.startswith(b"/") or b"\0" in name:
        return None
    return Path(name.decode("utf-8", "surrogateescape"))


def _of_script(head: bytes) -> bytes:
    words = head[2:].split(b"\n", 1)[0].split()
    return words[0] if words else b""


def _of_elf(head: bytes) -> bytes:
    if not head.startswith(_ELF_64_LITTLE):
        return b""
    try:
        (table,) = struct.unpack_from("<Q", head, _PHOFF)
        size, count = struct.unpack_from("<HH", head, _PHENTSIZE)
        for number in range(count):
            kind, _flags, offset, _at, _physical, length = struct.unpack_from(
                "<IIQQQQ", head, table + number * size
            )
            if kind == _PT_INTERP:
                return head[offset : offset + length].rstrip(b"\0")
    except (struct.error, OverflowError):  # not in the head of the file, where every linker puts it
        pass
    return b""
