"""Looks through a git pack before anything of it is used: what is in it, and how large that becomes.

Pure: no I/O. The pack is read from a binary file that the caller gives, once from its begin to its end, in memory
that does not grow with the sizes that the pack claims. A pack is a header, objects, and the SHA-1 of all that; an
object is a type and a size, for a delta its base, and a zlib stream (gitformat-pack(5)).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from coredeno.errors import FetchLimitExceeded, SourceInvalid
from coredeno.install.git_child.bounds import TREES_BYTES, Bounds

COMMIT, TREE, BLOB, TAG, OFS_DELTA, REF_DELTA = 1, 2, 3, 4, 6, 7
NAMES = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", TAG: b"tag"}
ID_BYTES = 20

_HEADER_BYTES = 12
_SMALL_READ = 4096  # what a zlib stream leaves of a read is copied, so that most objects get a small one
_LARGE_READ = 64 * 1024
_SIZE_BYTES = 10  # of a size of 63 bits, seven bits to a byte
_MORE = 0x80  # set in each byte of a number but the last
_DELTA_HEADER_BYTES = 2 * _SIZE_BYTES


class Entry(NamedTuple):
    """One object of a pack.

    Attributes:
        kind: its type as the pack has it; `OFS_DELTA` or `REF_DELTA` for a delta.
        size: what it has in the end, with its delta applied.
        start: where in the pack its zlib stream begins.
        stored: what that stream inflates to.
        base: of a delta: the number of the entry before it, or the id, that it is a difference from.
    """

    kind: int
    size: int
    start: int
    stored: int
    base: int | bytes | None


class Contents(NamedTuple):
    """What is in a pack: its entries, and beside each its id, or None for a delta."""

    entries: list[Entry]
    names: list[bytes | None]


def scan(file: BinaryIO, bounds: Bounds, on_progress: Callable[[int, int], None] | None = None) -> Contents:
    """Look through a whole pack.

    Args:
        file: the pack; it can seek.
        bounds: what is allowed of `objects`, `file_bytes` and `total_bytes`.
        on_progress: called with the objects done and their number, for each.

    Raises:
        SourceInvalid: it is no pack, is cut off or goes on after its end, or its checksum is another one.
        FetchLimitExceeded: it has more objects, a larger one, or more in all than `bounds` allow.
    """
    stream = _Stream(file)
    count = _header(stream)
    if count > bounds.objects:
        raise FetchLimitExceeded(f"pack: has {count:,} objects", limit="objects", allowed=bounds.objects)
    entries: list[Entry] = []
    names: list[bytes | None] = []
    at: dict[int, int] = {}
    total = 0
    for number in range(count):
        at[stream.offset] = number
        entry, name = _entry(stream, at, bounds)
        total += entry.size
        if total > bounds.total_bytes + TREES_BYTES:
            raise FetchLimitExceeded(
                f"pack: its first {number + 1:,} objects become more than that in all",
                limit="total_bytes",
                allowed=bounds.total_bytes,
            )
        entries.append(entry)
        names.append(name)
        if on_progress is not None:
            on_progress(number + 1, count)
    stream.finish()
    return Contents(entries, names)


class _Stream:
    """The bytes of a pack up to its checksum, which they must have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = file.seek(0, 2) - ID_BYTES
        file.seek(0)
        self._hash = hashlib.sha1(usedforsecurity=False)
        self._buffer = b""
        self._next = 0
        self.offset = 0

    def take(self, limit_bytes: int) -> bytes:
        """Up to so many bytes; none at the end. What was taken last can be given back."""
        if self._next == len(self._buffer):
            self._buffer = self._file.read(max(0, min(_LARGE_READ, self._left)))
            self._next = 0
            self._left -= len(self._buffer)
            self._hash.update(self._buffer)
        data = self._buffer[self._next : self._next + limit_bytes]
        self._next += len(data)
        self.offset += len(data)
        return data

    def give_back(self, count: int) -> None:
        """Have so many of the bytes that were taken last be taken again."""
        self._next -= count
        self.offset -= count

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.take(size - len(data))
            if not more:
                raise _cut_off(self)
            data += more
        return data

    def finish(self) -> None:
        if self.take(1):
            raise SourceInvalid(f"pack: goes on after its last object, at byte {self.offset:,}")
        if self._file.read(ID_BYTES + 1) != self._hash.digest():
            raise SourceInvalid("pack: its checksum is not that of its bytes")


def _cut_off(stream: _Stream) -> SourceInvalid:
    return SourceInvalid(f"pack: ends within an object, at byte {stream.offset:,}")


def _header(stream: _Stream) -> int:
    header = stream.exactly(_HEADER_BYTES)
    if header[:4] != b"PACK" or header[4:8] != b"\0\0\0\2":
        raise SourceInvalid(f"pack: begins with {header[:8]!a}, wanted a git pack of version 2")
    return int.from_bytes(header[8:], "big")


def _entry(stream: _Stream, at: dict[int, int], bounds: Bounds) -> tuple[Entry, bytes | None]:
    offset = stream.offset
    byte = stream.exactly(1)[0]
    kind, size, shift = byte >> 4 & 7, byte & 15, 4
    if byte & _MORE:
        size |= _number(stream) << shift
    _check_size(kind, size, bounds)
    base: int | bytes | None = None
    if kind == OFS_DELTA:
        base = at.get(offset - _distance(stream))
        if base is None or base == at[offset]:
            raise SourceInvalid(f"pack: the delta at byte {offset:,} has no base where it says")
    elif kind == REF_DELTA:
        base = stream.exactly(ID_BYTES)
    elif kind not in NAMES:
        raise SourceInvalid(f"pack: the object at byte {offset:,} has type {kind}, which there is not")
    start = stream.offset
    if base is None:
        digest = hashlib.sha1(b"%s %d\0" % (NAMES[kind], size), usedforsecurity=False)
        _inflate(stream, size, digest.update)
        return Entry(kind, size, start, size, None), digest.digest()
    head = bytearray()
    _inflate(stream, size, lambda data: head.extend(data[: _DELTA_HEADER_BYTES - len(head)]))
    final = delta_sizes(bytes(head))[1]
    _check_size(kind, final, bounds)
    return Entry(kind, final, start, size, base), None


def _check_size(kind: int, size: int, bounds: Bounds) -> None:
    if size <= bounds.tree_bytes and kind != BLOB:
        return
    if size > bounds.file_bytes:
        raise FetchLimitExceeded(
            f"pack: an object of {size:,} bytes", limit="file_bytes", allowed=bounds.file_bytes
        )


def _number(stream: _Stream) -> int:
    value = 0
    for place in range(_SIZE_BYTES):
        byte = stream.exactly(1)[0]
        value |= (byte & 0x7F) << 7 * place
        if not byte & _MORE:
            return value
    raise SourceInvalid(f"pack: a size at byte {stream.offset:,} has no end")


def _distance(stream: _Stream) -> int:
    value = -1
    for _ in range(_SIZE_BYTES):
        byte = stream.exactly(1)[0]
        value = value + 1 << 7 | byte & 0x7F
        if not byte & _MORE:
            return value
    raise SourceInvalid(f"pack: a distance at byte {stream.offset:,} has no end")


def _inflate(stream: _Stream, size: int, take: Callable[[bytes], object]) -> None:
    """Inflate one zlib stream of exactly this size, a piece at a time."""
    inflater = zlib.decompressobj()
    done, read = 0, _SMALL_READ
    while not inflater.eof:
        data = inflater.unconsumed_tail or stream.take(read)
        read = _LARGE_READ
        try:
            piece = inflater.decompress(data, _LARGE_READ)
        except zlib.error:
            raise SourceInvalid(f"pack: what is before byte {stream.offset:,} does not inflate") from None
        if not (data or piece or inflater.eof):
            raise _cut_off(stream)
        done += len(piece)
        if done > size:
            break
        take(piece)
    if done != size:
        raise SourceInvalid(
            f"pack: the object before byte {stream.offset:,} has not the {size:,} bytes it says"
        )
    stream.give_back(len(inflater.unused_data))


def delta_sizes(delta: bytes) -> tuple[int, int, int]:
    """What a delta says at its begin: the sizes of its base and of its result, and where its commands begin.

    Raises:
        SourceInvalid: it ends before, or a size has no end.
    """
    sizes, position = [], 0
    for _ in range(2):
        value = 0
        for place in range(_SIZE_BYTES):
            if position >= len(delta):
                raise SourceInvalid("pack: a delta ends within its sizes")
            byte = delta[position]
            position += 1
            value |= (byte & 0x7F) << 7 * place
            if not byte & _MORE:
                break
        else:
            raise SourceInvalid("pack: a size in a delta has no end")
        sizes.append(value)
    return sizes[0], sizes[1], position
