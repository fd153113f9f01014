"""Looking through a git pack, and reading the objects that are in it."""

from __future__ import annotations

import hashlib
import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import FetchLimitExceeded, SourceInvalid
from coredeno.install.git_child.bounds import Bounds
from coredeno.install.git_child.deltas import apply_delta
from coredeno.install.git_child.objects import CACHE_BYTES, Objects
from coredeno.install.git_child.pack import scan
from tests.git.objects import (
    BLOB,
    COMMIT,
    OFS_DELTA,
    TAG,
    TREE,
    Object,
    blob,
    commit,
    copy,
    delta,
    entry,
    insert,
    ofs_delta,
    pack,
    plain,
    ref_delta,
    tag,
    tree,
)

BOUNDS = Bounds(
    timeout_s=10,
    transfer_bytes=1 << 30,
    objects=100,
    file_bytes=64 * 1024 * 1024,
    total_bytes=128 * 1024 * 1024,
    files=100,
    depth=4,
)
ZEROS = entry(BLOB, bytes(200_000))


def look(data: bytes, bounds: Bounds = BOUNDS):
    return scan(io.BytesIO(data), bounds)


def objects_of(data: bytes, bounds: Bounds = BOUNDS) -> Objects:
    file = io.BytesIO(data)
    return Objects(file, scan(file, bounds))


def number(value: int, count: int) -> bytes:
    """A number in more bytes than it takes."""
    return bytes([0x80 | value & 0x7F] + [0x80] * (count - 1))


def test_objects_are_found_by_their_ids():
    """Each object of a pack can be had, with its type and size, by the SHA-1 of what it is."""
    inner = blob(b"hello")
    root = tree((b"100644", b"main.ts", inner.id))
    top = commit(root)
    everything = [top, root, inner, tag(top), blob(b""), blob(bytes(range(256)) * 1000)]
    found = objects_of(pack(*plain(*everything)))
    for each in everything:
        assert (found.kind(each.id), found.size(each.id)) == (each.kind, len(each.data))
        assert found.read(each.id) == each.data
    assert [found.kind(each.id) for each in everything[:4]] == [COMMIT, TREE, BLOB, TAG]


def test_an_object_may_stand_twice():
    """Some servers repeat an object; either of the two will do, as a base too."""
    base = blob(b"base and more")
    made = blob(b"base")
    entries = [*plain(base), *plain(base)]
    change = ofs_delta(len(entries[1]), delta(13, 4, copy(0, 4)))
    assert objects_of(pack(*entries, change)).read(made.id) == b"base"


def test_deltas_by_distance_and_by_id():
    """A delta is applied to its base, wherever that stands, and may be the base of another."""
    base, middle, last = blob(b"0123456789" * 30), blob(b"0123456789abc"), blob(b"9abcabc")
    by_id = ref_delta(middle.id, delta(13, 7, copy(9, 4), copy(10, 3)))
    full = entry(BLOB, base.data)
    by_distance = ofs_delta(len(full), delta(300, 13, copy(0, 10), insert(b"abc")))
    found = objects_of(pack(by_id, full, by_distance))
    for each in (base, middle, last):
        assert found.read(each.id) == each.data
        assert found.size(each.id) == len(each.data)
        assert found.kind(each.id) == BLOB


def test_bases_are_kept_only_as_far_as_memory_goes():
    """What does not fit into the cache is made anew, with the same result."""
    third = CACHE_BYTES // 3 + 1
    contents = [bytes([fill]) * third for fill in range(4)] + [bytes([9]) * (CACHE_BYTES + 1)]
    entries = [entry(BLOB, each) for each in contents]
    changes = [ref_delta(blob(each).id, delta(len(each), 1, copy(0, 1))) for each in contents]
    chained = ref_delta(blob(b"\0").id, delta(1, 3, insert(b"end")))
    found = objects_of(pack(*entries, *changes, chained))
    for each in [*contents, *(each[:1] for each in contents), b"end"] * 2:
        assert found.read(blob(each).id) == each


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "ends within"),
        (b"<html>", "ends within"),
        (b"<html>" * 20, "wanted a git pack"),
        (pack(version=3), "wanted a git pack"),
        (pack(*plain(blob(b"x")), trailer=bytes(20)), "checksum"),
        (pack(*plain(blob(b"x")), trailer=b""), "ends within an object"),
        (pack(*plain(blob(b"x"))) + b"x", "goes on after|checksum|does not inflate"),
        (pack(*plain(blob(b"x"), blob(b"y")), count=1), "goes on after"),
        (pack(*plain(blob(b"x")), count=2), "ends within an object"),
        (pack(*plain(blob(bytes(range(256)) * 4))[:1])[:60], "ends within an object"),
        (pack(entry(0, b"x")), "type 0"),
        (pack(entry(5, b"x")), "type 5"),
        (pack(entry(BLOB, b"x", size=2)), "not the 2 bytes"),
        (pack(entry(BLOB, b"xyz", size=2)), "not the 2 bytes"),
        (pack(ZEROS[:1] + b"\x01" + zlib.compress(bytes(200_000))), "bytes it says"),
        (pack(bytes([0xB0]) + number(0, 12)), "a size at byte .* has no end"),
        (pack(b"\x31not zlib at all"), "does not inflate"),
        (pack(entry(OFS_DELTA, b"xx", base=b"\x00")), "no base where it says"),
        (pack(entry(OFS_DELTA, b"xx", base=b"\x05")), "no base where it says"),
        (pack(entry(OFS_DELTA, b"xx", base=b"\xff" * 12)), "a distance at byte .* has no end"),
        (pack(*plain(blob(b"x")), ofs_delta(9, b"xx")), "no base where it says"),
        (pack(*plain(blob(b"x")), ref_delta(blob(b"x").id, b"")), "ends within its sizes"),
        (pack(*plain(blob(b"x")), ref_delta(blob(b"x").id, b"\x80" * 30)), "size in a delta has no end"),
    ],
)
def test_what_is_no_pack_is_refused(data, problem):
    """Every fault of a pack is `SourceInvalid`, and says what and where."""
    with pytest.raises(SourceInvalid, match=problem):
        look(data)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (delta(2, 1, insert(b"x")), "for a base of 2 bytes"),
        (delta(1, 1, copy(1, 1)), "cannot be followed"),
        (delta(1, 1, copy(0, 2)), "cannot be followed"),
        (delta(1, 1, b"\x90\x00"), "cannot be followed"),
        (delta(1, 1, b"\0"), "cannot be followed"),
        (delta(1, 1, insert(b"xy")), "cannot be followed"),
        (delta(1, 3, b"\x03ab"), "cannot be followed"),
        (delta(1, 2, insert(b"x")), "makes 1 bytes, and says 2"),
        (delta(1, 1, b"\xff"), "ends within a command"),
        (b"\x01", "ends within its sizes"),
    ],
)
def test_what_is_no_delta_is_refused(change, problem):
    """A delta never reads outside its base, nor makes more than it said."""
    with pytest.raises(SourceInvalid, match=problem):
        apply_delta(b"x", change)


def test_a_copy_of_size_nought_copies_64_kib():
    """The one special case of the format."""
    assert apply_delta(bytes(70_000), delta(70_000, 0x10000, b"\x80")) == bytes(0x10000)


def test_deltas_without_a_base_are_refused():
    """A base that is not in the pack, and two deltas that are for each other."""
    with pytest.raises(SourceInvalid, match="1 deltas have no base"):
        objects_of(pack(ref_delta(bytes(20), delta(1, 1, copy(0, 1)))))
    one, other = blob(b"1"), blob(b"2")
    circle = [ref_delta(other.id, delta(1, 1, insert(b"1"))), ref_delta(one.id, delta(1, 1, insert(b"2")))]
    with pytest.raises(SourceInvalid, match="2 deltas have no base"):
        objects_of(pack(*circle))


def test_an_object_that_is_not_there():
    """What is missing is named."""
    found = objects_of(pack(*plain(blob(b"x"))))
    with pytest.raises(SourceInvalid, match=f"{'0' * 40} is not in it"):
        found.read(bytes(20))


@pytest.mark.parametrize(
    ("data", "limit", "allowed"),
    [
        (pack(count=2**32 - 1), "objects", 100),
        (pack(*plain(*[blob(b"")] * 101)), "objects", 100),
        (pack(*plain(blob(bytes(101)))), "file_bytes", 100),
        (pack(entry(BLOB, b"", size=1 << 40)), "file_bytes", 100),
        (pack(entry(TREE, b"", size=1 << 40)), "file_bytes", 100),
        (pack(ref_delta(bytes(20), delta(1, 1 << 40, copy(0, 1)))), "file_bytes", 100),
        (pack(*plain(*[Object(COMMIT, bytes(1 << 20))] * 9)), "total_bytes", 1000),
    ],
)
def test_limits_hold_before_anything_is_inflated(data, limit, allowed):
    """Numbers and sizes are compared as the pack claims them, those of a delta's result too."""
    bounds = BOUNDS._replace(file_bytes=100, total_bytes=1000)
    with pytest.raises(FetchLimitExceeded) as raised:
        look(data, bounds)
    assert (raised.value.limit, raised.value.allowed) == (limit, allowed)


def test_trees_are_not_held_to_the_limit_of_files():
    """Where files may only be small, commits and trees have a bound of their own."""
    bounds = BOUNDS._replace(file_bytes=1)
    top = commit(tree((b"100644", b"x", blob(b"x").id)))
    assert objects_of(pack(*plain(top)), bounds).read(top.id) == top.data


def test_it_says_how_far_it_is():
    """The count of objects that are done, and of all."""
    said = []
    scan(io.BytesIO(pack(*plain(blob(b"x"), blob(b"y")))), BOUNDS, lambda *numbers: said.append(numbers))
    assert said == [(1, 2), (2, 2)]


GOOD = pack(
    *plain(blob(b"0123456789" * 30), blob(b"y")),
    ref_delta(blob(b"y").id, delta(1, 3, copy(0, 1), insert(b"zz"))),
)


def reads(data: bytes) -> None:
    """Every object of it, if it has any; its faults are the declared ones."""
    bounds = BOUNDS._replace(file_bytes=1000, total_bytes=10_000)
    try:
        found = objects_of(data, bounds)
    except (SourceInvalid, FetchLimitExceeded):
        return
    for name in found._ids:
        content = found.read(name)
        kind = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", TAG: b"tag"}[found.kind(name)]
        assert hashlib.sha1(b"%s %d\0" % (kind, len(content)) + content).digest() == name
        assert len(content) == found.size(name)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_pack_or_refused(body):
    """Whatever follows the header: objects that are what their ids say, or a declared error."""
    for count in (0, 1, 3):
        reads(pack(body, count=count))
    reads(body)


@given(st.integers(12, len(GOOD) - 21), st.binary(min_size=1, max_size=4), st.booleans())
def test_any_change_of_a_pack_is_a_pack_or_refused(position, change, inserted):
    """A pack with bytes changed, put in or left out, and a right checksum, is no way round either."""
    body = GOOD[12:-20]
    position -= 12
    end = position if inserted else position + len(change)
    reads(pack(body[:position] + change + body[end:], count=3))
    reads(pack(body[:position] + body[position + len(change) :], count=3))


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_are_a_delta_or_refused(base, change):
    """A delta makes as many bytes as it says, or is refused."""
    try:
        made = apply_delta(base, delta(len(base), 30, change))
    except SourceInvalid:
        return
    assert len(made) == 30
