"""Trees of git: a name that is given is safe and stands once, and dulwich reads the same names."""

from __future__ import annotations

from dulwich.objects import parse_tree

from coredeno.errors import FetchLimitExceeded, SourceInvalid, UnsafePath
from coredeno.install.git_child.bounds import Bounds
from coredeno.install.git_child.tree import plan
from coredeno.install.paths import check_path
from tests.fuzz.shape import require, require_equal, value_of
from tests.git.objects import BLOB, COMMIT, FILE, FOLDER, LINK, TREE, Object, blob, commit, tree

BOUNDS = Bounds(
    timeout_s=10, transfer_bytes=1 << 20, objects=50, file_bytes=100, total_bytes=1000, files=30, depth=3
)
_X = blob(b"x")
_LIB = tree((FILE, b"b.ts", _X.id))
SEEDS = [
    tree((FOLDER, b"lib", _LIB.id), (FOLDER, b"lib", _LIB.id)).data,
    tree((FILE, b"A.ts", _X.id), (FILE, b"a.ts", _X.id)).data,
    tree((FILE, b"a.ts", _X.id), (FOLDER, b"lib", _LIB.id), (b"100755", "é.ts".encode(), _X.id)).data,
    tree((LINK, b"link", _X.id)).data,
    tree((FILE, b"..", _X.id), (FILE, b".git", _X.id), (FILE, b"a/b", _X.id)).data,
    tree(*((FILE, b"%d" % number, _X.id) for number in range(20))).data,
]


class _Objects:
    """The tree under test, what the seeds name, and for every other id nothing."""

    def __init__(self, root: Object, top: Object) -> None:
        self._all = {each.id: each for each in (root, top, _LIB, _X)}

    def _find(self, name: bytes) -> Object:
        if name not in self._all:
            raise SourceInvalid(f"{name.hex()} is not there")
        return self._all[name]

    def kind(self, name: bytes) -> int:
        return self._find(name).kind

    def size(self, name: bytes) -> int:
        return len(self._find(name).data)

    def read(self, name: bytes) -> bytes:
        return self._find(name).data


def target(data: bytes) -> None:
    root = Object(TREE, data)
    top = commit(root)
    value_of(
        lambda: plan(_Objects(Object(BLOB, data), Object(COMMIT, data)), Object(COMMIT, data).id, BOUNDS),
        SourceInvalid,
    )
    found = value_of(
        lambda: plan(_Objects(root, top), top.id, BOUNDS), SourceInvalid, FetchLimitExceeded, UnsafePath
    )
    if found is None:
        return
    paths = [check_path(file.path) for file in found.files]
    require_equal(len({path.casefold() for path in paths}), len(paths), "no two are one but for case")
    names = [entry[0].decode() for entry in parse_tree(data, 20)]
    require({path.partition("/")[0] for path in paths} <= set(names), "dulwich reads other names")
