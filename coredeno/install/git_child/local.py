"""Reads a repository on this machine, in place: nothing of it is run, and nothing is copied but the files.

Its settings are not read, for they may include any file, and nothing is followed that leads out of it: neither a
`.git` file, nor alternates, nor a link among its objects. So only the two parts of dulwich are used that read objects
and refs: its `Repo` does all of that, and for one with a reftable it even writes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from dulwich.object_store import BaseObjectStore, DiskObjectStore
from dulwich.objects import ObjectID
from dulwich.refs import DiskRefsContainer, Ref

from coredeno.errors import SourceInvalid, SourceUnavailable
from coredeno.install.git_child.blame import of_repository
from coredeno.install.git_child.pack import NAMES
from coredeno.install.git_child.refs import candidates

# Packs are mapped into memory by dulwich: what was read of them counts as ours until they are closed.
_MAPPED_BYTES = 32 * 1024 * 1024

_REFUSED = {
    "commondir": "is a worktree's part of another one, wanted the repository itself",
    "reftable": "has its refs in reftables, wanted files: `git refs migrate --ref-format=files`",
    **{
        f"objects/info/{name}": "has objects elsewhere, wanted all in it: "
        f"`git repack -a -d && rm objects/info/{name}`"
        for name in ("alternates", "http-alternates")
    },
}


class _Objects(DiskObjectStore):
    """The objects in one folder, and no others: also where it is changed after it was looked at."""

    @property
    def alternates(self) -> list[BaseObjectStore]:
        return []

    def get_midx(self) -> None:
        """None: an index over many packs names them by paths of its own."""


class Repository(NamedTuple):
    """What is read of a repository: its refs, and its objects."""

    refs: DiskRefsContainer
    objects: DiskObjectStore


@contextmanager
def opened(path: str) -> Iterator[Repository]:
    """Open a repository, bare or with a working tree.

    Raises:
        SourceUnavailable: there is none, or it may not be read.
        SourceInvalid: a part of it is elsewhere, or in a form that is not read.
    """
    with of_repository():
        if not _kind(path):
            raise SourceUnavailable("source: there is no such file or folder")
        inner = _inner(path)
        for name, problem in _REFUSED.items():
            if _kind(f"{inner}/{name}"):
                raise SourceInvalid(f"source: {problem}")
        for name in ("objects", "refs"):
            kind = _kind(f"{inner}/{name}")
            if kind == stat.S_IFLNK:
                raise _linked(name)
            if kind != stat.S_IFDIR:
                raise SourceUnavailable("source: is no git repository that can be read")
        _refuse_links(f"{inner}/objects")
        objects = _Objects(f"{inner}/objects")
    with closing(objects):
        yield Repository(DiskRefsContainer(inner), objects)


def found_refs(repository: Repository, ref: str | None) -> dict[bytes, bytes | None]:
    """What the repository has of what a ref may stand for."""
    found: dict[bytes, bytes | None] = {}
    for name in candidates(ref):
        with of_repository():
            try:
                found[name] = repository.refs[Ref(name)]
            except KeyError:
                found[name] = None
    return found


class RepositoryObjects:
    """Its objects, each proven by its id. One that does not fit into the process's memory ends the fetch."""

    def __init__(self, repository: Repository) -> None:
        self._store = repository.objects
        self._known: dict[bytes, tuple[int, int]] = {}
        self._read_bytes = 0

    def has(self, digits: bytes) -> bool:
        """Whether there is an object of this id, given as 40 digits."""
        with of_repository():
            return ObjectID(digits) in self._store

    def kind(self, name: bytes) -> int:
        """The type of an object."""
        return self._facts(name)[0]

    def size(self, name: bytes) -> int:
        """How many bytes an object has."""
        return self._facts(name)[1]

    def read(self, name: bytes) -> bytes:
        """The whole of an object.

        Raises:
            SourceInvalid: it is not there, or is not what its id says.
        """
        with of_repository():
            try:
                kind, content = self._store.get_raw(ObjectID(name.hex().encode()))
            except KeyError:
                raise SourceInvalid(f"source: the object {name.hex()} is not in it") from None
        digest = hashlib.sha1(b"%s %d\0" % (NAMES.get(kind, b""), len(content)), usedforsecurity=False)
        digest.update(content)
        if digest.digest() != name:
            raise SourceInvalid(f"source: the object {name.hex()} is not what its id says")
        self._known[name] = kind, len(content)
        self._read_bytes += len(content)
        if self._read_bytes > _MAPPED_BYTES:
            self._read_bytes = 0
            self._store.close()  # it opens its packs again as they are needed
        return content

    def _facts(self, name: bytes) -> tuple[int, int]:
        if name not in self._known:
            self.read(name)
        return self._known[name]


def _inner(path: str) -> str:
    """The folder that has the objects and refs: the `.git` of a working tree, or the path itself."""
    inner = f"{path}/.git"
    kind = _kind(inner)
    if kind not in (0, stat.S_IFDIR):
        raise SourceInvalid(
            "source: has no folder '.git' but a file that leads elsewhere, as worktrees and submodules "
            "have, wanted the repository itself"
        )
    return inner if kind else path


def _kind(path: str) -> int:
    """The type of what is there, a link being one of its own; 0 if there is nothing."""
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _refuse_links(folder: str, name: str = "objects") -> None:
    """Refuse links in `objects` and in the folders in it; what lies deeper is not read."""
    with os.scandir(folder) as entries:
        for entry in entries:
            inner_name = f"{name}/{entry.name}"
            if entry.is_symlink():
                raise _linked(inner_name)
            if name == "objects" and entry.is_dir(follow_symlinks=False):
                _refuse_links(entry.path, inner_name)


def _linked(name: str) -> SourceInvalid:
    return SourceInvalid(f"source: has a link at {name!a}, wanted all of the repository in it")
