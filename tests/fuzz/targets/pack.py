"""Packs of git: scanned, read and planned within bounds; every object that is given has the id that it is asked by."""

from __future__ import annotations

import hashlib
import io

from coredeno.errors import FetchLimitExceeded, SourceInvalid, UnsafePath
from coredeno.install.git_child.bounds import Bounds
from coredeno.install.git_child.objects import Objects
from coredeno.install.git_child.pack import COMMIT, NAMES, TAG, scan
from coredeno.install.git_child.tree import plan
from tests.fuzz.shape import require, require_equal, value_of
from tests.git import objects as made

BOUNDS = Bounds(
    timeout_s=10,
    transfer_bytes=1 << 20,
    objects=50,
    file_bytes=256 * 1024,
    total_bytes=1024 * 1024,
    files=20,
    depth=4,
)
_INNER = made.blob(b"hello world\n" * 9)
_LIB = made.tree((made.FILE, b"a.ts", _INNER.id))
_ROOT = made.tree((made.FOLDER, b"lib", _LIB.id), (made.FILE, b"main.ts", _INNER.id))
_TOP = made.commit(_ROOT)
_ALL = made.plain(_TOP, _ROOT, _LIB, _INNER, made.tag(_TOP))
_DELTA = made.delta(len(_INNER.data), 16, made.copy(0, 12), made.insert(b"abcd"))
_LAST = made.plain(_INNER)[0]
SEEDS = [
    made.pack(*_ALL),
    made.pack(_LAST, made.ofs_delta(len(_LAST), _DELTA)),
    made.pack(made.ref_delta(_INNER.id, _DELTA), _LAST),
    made.pack(made.entry(made.BLOB, bytes(200_000))),
    made.pack(),
    made.pack(made.entry(made.BLOB, b"hello", size=9)),
    made.pack(made.entry(made.BLOB, b"hello", size=3)),
    made.pack(made.ref_delta(_INNER.id, made.delta(len(_INNER.data), 8, made.copy(100, 16))), _LAST),
]


def target(data: bytes) -> None:
    _look(data)
    body = data[:-20]
    _look(body + hashlib.sha1(body).digest())  # or hardly any would get by the checksum at the end


def _look(data: bytes) -> None:
    file = io.BytesIO(data)
    contents = value_of(lambda: scan(file, BOUNDS), SourceInvalid, FetchLimitExceeded)
    if contents is None:
        return
    require(len(contents.entries) <= BOUNDS.objects, "no more objects than the bound")
    objects = value_of(lambda: Objects(file, contents), SourceInvalid)
    if objects is None:
        return
    for name in list(objects._ids):
        content = objects.read(name)
        require_equal(len(content), objects.size(name), "as large as it says")
        require(len(content) <= BOUNDS.object_bytes, "no larger than the bound")
        head = b"%s %d\0" % (NAMES[objects.kind(name)], len(content))
        require_equal(hashlib.sha1(head + content).digest(), name, "an object has its id")
        if objects.kind(name) in (COMMIT, TAG):
            _plan(objects, name)


def _plan(objects: Objects, name: bytes) -> None:
    found = value_of(lambda: plan(objects, name, BOUNDS), SourceInvalid, FetchLimitExceeded, UnsafePath)
    if found is not None:
        sizes = [objects.size(file.name) for file in found.files]
        require(len(sizes) <= BOUNDS.files and sum(sizes) == found.total_bytes, "no more than the bounds")
