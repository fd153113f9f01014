"""The objects of a pack by their ids, read one at a time. Pure: no I/O but on the file that it is given.

Ids are proven, never believed: each is the SHA-1 of what the object turned out to be.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict, defaultdict
from typing import BinaryIO

from coredeno.errors import SourceInvalid
from coredeno.install.git_child.deltas import apply_delta
from coredeno.install.git_child.pack import ID_BYTES, NAMES, Contents

CACHE_BYTES = 8 * 1024 * 1024
"""How much of what was read last is kept: bases of deltas are asked for again and again."""

_READ = 64 * 1024


class Objects:
    """What is in a pack. All sizes are known, and within bounds, before anything is inflated.

    Args:
        file: the pack.
        contents: what `pack.scan` found in it.

    Raises:
        SourceInvalid: a delta does not fit its base, or has none in the pack.
    """

    def __init__(self, file: BinaryIO, contents: Contents) -> None:
        self._file = file
        self._entries = contents.entries
        self._ids: dict[bytes, int] = {}
        self._kinds = [entry.kind for entry in contents.entries]
        self._bases: dict[int, int] = {}
        self._cache: OrderedDict[int, bytes | bytearray] = OrderedDict()
        self._cached_bytes = 0
        self._name_all(contents.names)

    def kind(self, name: bytes) -> int:
        """The type of an object: `COMMIT`, `TREE`, `BLOB` or `TAG`.

        Raises:
            SourceInvalid: it is not in the pack.
        """
        return self._kinds[self._number(name)]

    def size(self, name: bytes) -> int:
        """How many bytes an object has.

        Raises:
            SourceInvalid: it is not in the pack.
        """
        return self._entries[self._number(name)].size

    def read(self, name: bytes) -> bytes | bytearray:
        """The whole of an object.

        Raises:
            SourceInvalid: it is not in the pack.
        """
        return self._content(self._number(name))

    def _number(self, name: bytes) -> int:
        number = self._ids.get(name)
        if number is None:
            raise SourceInvalid(f"pack: the object {name.hex()} is not in it")
        return number

    def _name_all(self, names: list[bytes | None]) -> None:
        """Find out the id and type of each entry: of a delta after that of its base."""
        by_number: dict[int, list[int]] = defaultdict(list)
        by_id: dict[bytes, list[int]] = defaultdict(list)
        known = []
        for number, (entry, name) in enumerate(zip(self._entries, names, strict=True)):
            if name is not None:
                known.append((number, name))
            elif isinstance(entry.base, int):
                by_number[entry.base].append(number)
            else:
                assert entry.base is not None
                by_id[entry.base].append(number)
        missing = len(self._entries) - len(known)
        while known:
            base, name = known.pop()
            self._ids.setdefault(name, base)
            for number in [*by_number.pop(base, ()), *by_id.pop(name, ())]:
                self._bases[number] = base
                kind = self._kinds[number] = self._kinds[base]
                known.append((number, _id_of(kind, self._content(number))))
                missing -= 1
        if missing:
            raise SourceInvalid(f"pack: {missing:,} deltas have no base in it")

    def _content(self, number: int) -> bytes | bytearray:
        chain = []
        content = self._cache.get(number)
        while content is None:
            chain.append(number)
            if number not in self._bases:
                content = self._inflate(chain.pop())
                self._keep(number, content)
            else:
                number = self._bases[number]
                content = self._cache.get(number)
        for delta in reversed(chain):
            content = apply_delta(content, self._inflate(delta))
            self._keep(delta, content)
        return content

    def _keep(self, number: int, content: bytes | bytearray) -> None:
        if len(content) > CACHE_BYTES:
            return
        self._cache[number] = content
        self._cached_bytes += len(content)
        while self._cached_bytes > CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= len(oldest)

    def _inflate(self, number: int) -> bytes:
        entry = self._entries[number]
        self._file.seek(entry.start)
        inflater = zlib.decompressobj()
        pieces = []
        left = entry.stored
        while not inflater.eof and left >= 0:
            data = inflater.unconsumed_tail or self._file.read(min(_READ, left + ID_BYTES))
            piece = inflater.decompress(data, left + 1)
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)


def _id_of(kind: int, content: bytes | bytearray) -> bytes:
    digest = hashlib.sha1(b"%s %d\0" % (NAMES[kind], len(content)), usedforsecurity=False)
    digest.update(content)
    return digest.digest()
