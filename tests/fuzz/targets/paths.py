"""Path rules, of permissions and of plugins' files: one spelling, never beyond the root, and no order that matters."""

from __future__ import annotations

import posixpath

from coredeno.errors import InvalidArgument, UnsafePath
from coredeno.install.paths import LIMIT_PATH_BYTES, PathSet, check_path
from coredeno.permissions import at_and_above, is_beneath, is_host_path, normalise_path
from coredeno.services.file_names import decoded_name, split_path
from tests.fuzz.shape import require, require_equal, value_of

SEEDS = [
    b"photos/2026/a b.jpg\n./data/./x/\n.\n..\n.core/view.yml\n.CORE",
    "main.ts\nlib/é.ts\nLib/e\u0301.ts\nstraße.ts\nSTRASSE.ts\nnul.txt\n.git/x\nﬁ.ts\nfi.ts".encode(),
    b"a/b/c\na/b\nA/b/d\na\\b\n/etc/passwd\na//b\ncon .x\nx.\n x",
    b"/".join([b"d"] * 40),
]


def target(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    lines = text.split("\n")[:16]
    for path in (text, *lines):
        _beneath_the_root(path)
    _of_files(lines)
    for name in data.split(b"\n")[:16]:
        found = decoded_name(name)
        require(
            found is None or (found.encode() == name and split_path(found) == [found]),
            f"{name!r} is one name",
        )


def _beneath_the_root(text: str) -> None:
    is_host_path(text)  # of whatever text: only the time counts
    path = value_of(lambda: normalise_path(text), InvalidArgument)
    if path is None:
        return
    require_equal(normalise_path(path), path, "the one spelling of a spelling is itself")
    require_equal(posixpath.normpath(text), path, "it means what the system takes it for")
    require(not path.startswith("/") and ".." not in path.split("/"), f"{path!r} is beneath the root")
    above = list(at_and_above(path))
    require(above[-1] == "." and all(is_beneath(path, folder) for folder in above), "what is above holds it")
    require(not is_beneath(path, path + "x"), "names count whole")


def _of_files(lines: list[str]) -> None:
    paths = []
    for line in lines:
        path = value_of(lambda line=line: check_path(line), UnsafePath)
        if path is None:
            continue
        require_equal(path, line, "a path is given back as it is")
        require(len(path.encode()) <= LIMIT_PATH_BYTES, "no longer than the limit")
        require_equal(posixpath.normpath(path), path, "nothing in it goes up or nowhere")
        require(not set(path) & set('\\:*?"<>|\0'), "no character that some system takes for another")
        paths.append(path)
    accepted = _are_accepted(paths)
    require_equal(_are_accepted(paths[::-1]), accepted, f"the same in any order: {paths!r}")
    if accepted:
        require_equal(len({path.casefold() for path in paths}), len(paths), "no two are one but for case")


def _are_accepted(paths: list[str]) -> bool:
    known = PathSet()
    try:
        for path in paths:
            known.add(path)
    except UnsafePath:
        return False
    return True
