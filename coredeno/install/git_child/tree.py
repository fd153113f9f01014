"""From a commit to the files of a plugin: which there are, checked to the last before one is written.

Pure: no I/O. Trees are read here and not checked out by a library: those write links, names that a disk takes for
another one, and bytes that attributes have changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from coredeno.errors import FetchLimitExceeded, SourceInvalid, UnsafePath
from coredeno.install.git_child.bounds import Bounds
from coredeno.install.git_child.pack import BLOB, COMMIT, ID_BYTES, NAMES, TAG, TREE
from coredeno.install.paths import PathSet, check_path

_FOLDER = b"40000"
_FILES = frozenset({b"100644", b"100755", b"100664"})  # the last is git's of 2005; whether it runs is dropped
_OTHER = {
    b"120000": "is a link, wanted plain files only",
    b"160000": "is a submodule, wanted plain files only",
}
_COMMIT_HEAD = re.compile(rb"tree ([0-9a-f]{40})\n")
_TAG_HEAD = re.compile(rb"object ([0-9a-f]{40})\ntype (?:commit|tag)\n")
_LIMIT_TAGS = 8  # tags of tags; git itself makes them only if asked to
_HEAD_BYTES = 128


class ObjectReader(Protocol):
    """What is read from: the objects of a pack. All raise `SourceInvalid` if there is none of that id."""

    def kind(self, name: bytes) -> int:
        """The type of an object."""
        ...

    def size(self, name: bytes) -> int:
        """Its size in bytes."""
        ...

    def read(self, name: bytes) -> bytes | bytearray:
        """All of it."""
        ...


class PlannedFile(NamedTuple):
    """One file to be written: its path, checked, and the id of its content."""

    path: str
    name: bytes


class Plan(NamedTuple):
    """What a commit has: its id, its files, and what they have in all, in bytes."""

    commit: bytes
    files: list[PlannedFile]
    total_bytes: int


def plan(objects: ObjectReader, wanted: bytes, bounds: Bounds) -> Plan:
    """Find the files of a commit, or of the commit that a tag stands for.

    Args:
        objects: where the objects are.
        wanted: the id of the commit or tag.
        bounds: what is allowed of `files`, `depth`, `file_bytes` and `total_bytes`.

    Raises:
        SourceInvalid: an object is missing, or is none of its type.
        UnsafePath: a name may not be written, two are the same, or it is no plain file.
        FetchLimitExceeded: there are more, deeper or larger ones than `bounds` allow.
    """
    commit = _peeled(objects, wanted)
    head = _COMMIT_HEAD.match(bytes(objects.read(commit)[:_HEAD_BYTES]))
    if head is None:
        raise SourceInvalid(f"commit {commit.hex()}: does not begin with its tree")
    files: list[PlannedFile] = []
    paths = PathSet()
    total = 0
    # Paths are counted, not objects: trees may be shared, so that a few of them hold any number of paths.
    for count, (path, name) in enumerate(_walk(objects, bytes.fromhex(head[1].decode()), bounds), 1):
        if count > bounds.files:
            raise FetchLimitExceeded(
                f"plugin: has more files and folders, the next is {path!a}",
                limit="files",
                allowed=bounds.files,
            )
        if name is None:
            continue
        paths.add(path)
        size = _size_of(objects, path, name)
        total += size
        if size > bounds.file_bytes:
            raise FetchLimitExceeded(
                f"file {path!a}: has {size:,} bytes", limit="file_bytes", allowed=bounds.file_bytes
            )
        if total > bounds.total_bytes:
            raise FetchLimitExceeded(
                f"plugin: its files have more bytes in all, from {path!a} on",
                limit="total_bytes",
                allowed=bounds.total_bytes,
            )
        files.append(PlannedFile(path, name))
    return Plan(commit, files, total)


def _peeled(objects: ObjectReader, name: bytes) -> bytes:
    for _ in range(_LIMIT_TAGS):
        kind = objects.kind(name)
        if kind == COMMIT:
            return name
        if kind != TAG:
            raise SourceInvalid(f"{name.hex()}: is a {NAMES[kind].decode()}, wanted a commit or a tag of one")
        head = _TAG_HEAD.match(bytes(objects.read(name)[:_HEAD_BYTES]))
        if head is None:
            raise SourceInvalid(f"tag {name.hex()}: is not one of a commit")
        name = bytes.fromhex(head[1].decode())
    raise SourceInvalid(f"tag: is one of a tag of a tag, more than {_LIMIT_TAGS} deep")


def _size_of(objects: ObjectReader, path: str, name: bytes) -> int:
    if objects.kind(name) != BLOB:
        raise UnsafePath(path, f"is a {NAMES[objects.kind(name)].decode()} that stands for a file")
    return objects.size(name)


def _walk(objects: ObjectReader, root: bytes, bounds: Bounds) -> Iterator[tuple[str, bytes | None]]:
    """Each path beneath a tree, with the id of a file's content, and None for a folder; in git's order."""
    open_trees = [_entries(objects, root, "", bounds)]
    while open_trees:
        entry = next(open_trees[-1], None)
        if entry is None:
            open_trees.pop()
            continue
        path, mode, name = entry
        if mode == _FOLDER:
            if len(open_trees) > bounds.depth:
                raise FetchLimitExceeded(
                    f"folder {path!a}: lies within too many others", limit="depth", allowed=bounds.depth
                )
            yield path, None
            open_trees.append(_entries(objects, name, f"{path}/", bounds))
        else:
            yield path, name


def _entries(
    objects: ObjectReader, tree: bytes, above: str, bounds: Bounds
) -> Iterator[tuple[str, bytes, bytes]]:
    """Path, mode and id of each entry of one tree. A mode is text, compared as such: `040000` is none."""
    if objects.kind(tree) != TREE:
        raise UnsafePath(
            above.rstrip("/"), f"is a {NAMES[objects.kind(tree)].decode()} that stands for a folder"
        )
    if objects.size(tree) > bounds.tree_bytes:  # all trees above one are held, so none may be large
        raise FetchLimitExceeded(
            f"folder {above!a}: its tree has {objects.size(tree):,} bytes",
            limit="files",
            allowed=bounds.files,
        )
    data = bytes(objects.read(tree))
    seen: set[bytes] = set()
    position = 0
    while position < len(data):
        middle, end = data.find(b" ", position), data.find(b"\0", position)
        if not position < middle < end <= len(data) - ID_BYTES - 1:
            raise SourceInvalid(f"tree {tree.hex()}: has an entry that is cut off")
        mode, raw = data[position:middle], data[middle + 1 : end]
        position = end + 1 + ID_BYTES
        path = _checked(above, raw)
        if raw in seen:
            raise UnsafePath(path, "stands twice in its folder")
        seen.add(raw)
        if mode != _FOLDER and mode not in _FILES:
            raise UnsafePath(path, _OTHER.get(mode, f"has the mode {mode[:20]!a}, wanted plain files only"))
        yield path, mode, data[end + 1 : position]


def _checked(above: str, raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise UnsafePath(above.encode() + raw, "is not UTF-8") from None
    if "/" in name:  # which in a path would be two names
        raise UnsafePath(above + name, "has a '/' within a name")
    return check_path(above + name)
