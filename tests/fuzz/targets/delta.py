"""Deltas of git: never more than they say; what is accepted is what dulwich makes of it too."""

from __future__ import annotations

from dulwich.pack import apply_delta as peer_apply_delta

from coredeno.errors import SourceInvalid
from coredeno.install.git_child.deltas import apply_delta
from coredeno.install.git_child.pack import delta_sizes
from tests.fuzz.shape import require_equal, value_of
from tests.git.objects import copy, delta, insert

BASE = bytes(range(256)) * 4
LIMIT = 1 << 20  # `scan` holds what a delta says to its bound before anything is made of it
SEEDS = [
    delta(len(BASE), 4, copy(len(BASE) - 4, 8)),
    delta(len(BASE), 2, b"\x04ab"),
    delta(len(BASE), 8, copy(0, 4), insert(b"abcd")),
    delta(len(BASE), 2 * len(BASE), copy(0, len(BASE)), copy(0, len(BASE))),
    delta(len(BASE), 3, insert(b"xyz")),
    delta(len(BASE), 20, b"\x91\x05\x14"),
]


def target(data: bytes) -> None:
    sizes = value_of(lambda: delta_sizes(data), SourceInvalid)
    if sizes is None or sizes[1] > LIMIT:
        return
    made = value_of(lambda: apply_delta(BASE, data), SourceInvalid)
    if made is None:
        return
    require_equal(len(made), sizes[1], "as large as it says")
    require_equal(b"".join(peer_apply_delta(BASE, data)), bytes(made), "dulwich makes something else of it")
