"""Writes git objects and packs byte by byte, right or wrong: what no git binary would make."""

from __future__ import annotations

import hashlib
import zlib
from typing import NamedTuple

COMMIT, TREE, BLOB, TAG, OFS_DELTA, REF_DELTA = 1, 2, 3, 4, 6, 7
FILE, FOLDER, LINK, SUBMODULE = b"100644", b"40000", b"120000", b"160000"
_NAMES = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", TAG: b"tag"}
_WHO = b"Acme <dev@acme.example> 1700000000 +0000"


class Object(NamedTuple):
    """One object, whatever is in it."""

    kind: int
    data: bytes

    @property
    def id(self) -> bytes:
        head = b"%s %d\0" % (_NAMES[self.kind], len(self.data))
        return hashlib.sha1(head + self.data).digest()

    @property
    def digits(self) -> bytes:
        return self.id.hex().encode()


def blob(data: bytes) -> Object:
    return Object(BLOB, data)


def tree(*entries: tuple[bytes, bytes, bytes]) -> Object:
    """A tree of (mode, name, id), in this order, however odd."""
    return Object(TREE, b"".join(mode + b" " + name + b"\0" + target for mode, name, target in entries))


def commit(root: Object) -> Object:
    who = b"author " + _WHO + b"\ncommitter " + _WHO
    return Object(COMMIT, b"tree " + root.digits + b"\n" + who + b"\n\nevil\n")


def tag(target: Object) -> Object:
    kind = _NAMES[target.kind]
    return Object(
        TAG, b"object " + target.digits + b"\ntype " + kind + b"\ntag t\ntagger " + _WHO + b"\n\nt\n"
    )


def entry(kind: int, data: bytes, *, size: int | None = None, base: bytes = b"") -> bytes:
    """One object as it stands in a pack.

    Args:
        kind: its type, also one that there is not.
        data: what its zlib stream inflates to.
        size: what it says that it has; None for the truth.
        base: what stands between size and stream, for deltas.
    """
    return _head(kind, len(data) if size is None else size) + base + zlib.compress(data)


def plain(*objects: Object) -> list[bytes]:
    """Each as an entry."""
    return [entry(each.kind, each.data) for each in objects]


def ref_delta(base: bytes, delta: bytes) -> bytes:
    return entry(REF_DELTA, delta, base=base)


def ofs_delta(distance: int, delta: bytes) -> bytes:
    digits = [distance & 0x7F]
    while distance := distance >> 7:
        distance -= 1
        digits.append(0x80 | distance & 0x7F)
    return entry(OFS_DELTA, delta, base=bytes(reversed(digits)))


def delta(base_size: int, size: int, *commands: bytes) -> bytes:
    return _number(base_size) + _number(size) + b"".join(commands)


def copy(start: int, length: int) -> bytes:
    return b"\xff" + start.to_bytes(4, "little") + length.to_bytes(3, "little")


def insert(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def pack(*entries: bytes, count: int | None = None, version: int = 2, trailer: bytes | None = None) -> bytes:
    """A pack of these entries; what is None is as it must be."""
    head = (
        b"PACK" + version.to_bytes(4, "big") + (len(entries) if count is None else count).to_bytes(4, "big")
    )
    body = head + b"".join(entries)
    return body + (hashlib.sha1(body).digest() if trailer is None else trailer)


def pack_of(root: Object, *others: Object) -> tuple[Object, bytes]:
    """A commit of this tree, and the pack of it all."""
    top = commit(root)
    return top, pack(*plain(top, root, *others))


def _head(kind: int, size: int) -> bytes:
    first, rest = size & 15, size >> 4
    return bytes([kind << 4 | first | (0x80 if rest else 0)]) + (_number(rest) if rest else b"")


def _number(value: int) -> bytes:
    digits = []
    while True:
        value, digit = value >> 7, value & 0x7F
        digits.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(digits)
