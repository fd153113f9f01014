"""From a commit to the files of a plugin, and from a ref to a commit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import FetchLimitExceeded, SourceInvalid, SourceUnavailable, UnsafePath
from coredeno.install.git_child.bounds import Bounds
from coredeno.install.git_child.refs import candidates, wanted_object
from coredeno.install.git_child.tree import plan
from tests.git.objects import BLOB, COMMIT, FILE, FOLDER, TAG, TREE, Object, blob, commit, tag, tree

BOUNDS = Bounds(
    timeout_s=10, transfer_bytes=1 << 30, objects=100, file_bytes=10, total_bytes=20, files=5, depth=2
)
X = blob(b"x")


class Memory:
    """Objects that a test made."""

    def __init__(self, *objects: Object) -> None:
        self.all = {each.id: each for each in objects}

    def _find(self, name: bytes) -> Object:
        if name not in self.all:
            raise SourceInvalid(f"{name.hex()} is not in it")
        return self.all[name]

    def kind(self, name: bytes) -> int:
        return self._find(name).kind

    def size(self, name: bytes) -> int:
        return len(self._find(name).data)

    def read(self, name: bytes) -> bytes:
        return self._find(name).data


def files(root: Object, *others: Object, bounds: Bounds = BOUNDS) -> list[str]:
    top = commit(root)
    found = plan(Memory(top, root, X, *others), top.id, bounds)
    assert found.commit == top.id
    return [file.path for file in found.files]


def test_files_come_in_the_trees_order():
    """Each file with its whole path; folders come with what is in them."""
    lib = tree((FILE, b"a.ts", X.id), (b"100755", b"b.ts", X.id))
    assert files(tree((FOLDER, b"lib", lib.id), (b"100664", b"main.ts", X.id)), lib) == [
        "lib/a.ts",
        "lib/b.ts",
        "main.ts",
    ]


def test_the_total_is_known():
    """What the files have in all; a blob that stands for two counts twice."""
    root = tree((FILE, b"a", X.id), (FILE, b"b", X.id))
    top = commit(root)
    assert plan(Memory(top, root, X), top.id, BOUNDS).total_bytes == 2


def test_a_tag_stands_for_its_commit():
    """A tag, and a tag of a tag, are followed to a commit."""
    root = tree((FILE, b"main.ts", X.id))
    top = commit(root)
    one = tag(top)
    two = tag(one)
    assert plan(Memory(top, root, X, one, two), two.id, BOUNDS).commit == top.id


def chain_of_tags(length: int) -> list[Object]:
    made = [commit(tree())]
    for _ in range(length):
        made.append(tag(made[-1]))
    return made


@pytest.mark.parametrize(
    ("objects", "problem"),
    [
        ([X], "is a blob, wanted a commit"),
        ([tree()], "is a tree, wanted a commit"),
        ([Object(TAG, b"object nothing")], "is not one of a commit"),
        ([Object(TAG, b"object " + X.digits + b"\ntype blob\n")], "is not one of a commit"),
        ([Object(COMMIT, b"parent " + X.digits + b"\n")], "does not begin with its tree"),
        ([commit(tree())], "is not in it"),
        (chain_of_tags(9), "more than 8 deep"),
    ],
)
def test_what_is_no_commit_is_refused(objects, problem):
    """A commit begins with its tree, a tag with its object, and both are there."""
    with pytest.raises(SourceInvalid, match=problem):
        plan(Memory(*objects), objects[-1].id, BOUNDS)


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        (b"120000", "is a link"),
        (b"160000", "is a submodule"),
        (b"10644", "has the mode b'10644'"),
        (b"0100644", "has the mode"),
        (b"040000", "has the mode"),
        (b"100600", "has the mode"),
        (b"100777", "has the mode"),
        (b"10000", "has the mode"),
        (b"1_00644", "has the mode"),
    ],
)
def test_only_plain_files_and_folders(mode, problem):
    """Links, submodules and every other mode are refused, by the text of the mode, with the file's name."""
    with pytest.raises(UnsafePath, match=problem) as raised:
        files(tree((mode, b"main.ts", X.id)))
    assert raised.value.path == "main.ts"


def test_types_must_be_those_of_the_modes():
    """A tree is no file, and a blob no folder."""
    with pytest.raises(UnsafePath, match="is a tree that stands for a file"):
        files(tree((FILE, b"main.ts", tree().id)), tree())
    with pytest.raises(UnsafePath, match="is a blob that stands for a folder") as raised:
        files(tree((FOLDER, b"lib", X.id)))
    assert raised.value.path == "lib"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"..", ".."),
        (b"", ""),
        (b"a/b", "a/b"),
        (b"/etc", "/etc"),
        (b".GIT", ".GIT"),
        (b"a\\b", r"a\\b"),
        (b"a\x1b[2J", r"a\x1b[2J"),
        ("a\u202eb".encode(), r"a\u202eb"),
        (b"a\xffb", r"a\xffb"),
        (b"n" * 241, "n" * 241),
    ],
)
def test_names_are_checked_in_every_folder(name, shown):
    """A name that may not be written is refused, with its whole path, escaped."""
    with pytest.raises(UnsafePath) as raised:
        files(tree((FILE, name, X.id)))
    assert raised.value.path == shown
    inner = tree((FILE, name, X.id))
    with pytest.raises(UnsafePath) as raised:
        files(tree((FOLDER, b"lib", inner.id)), inner)
    assert raised.value.path == f"lib/{shown}"


def test_no_two_paths_are_the_same():
    """Twice in one tree, in two trees of one name, and in two spellings of a name."""
    with pytest.raises(UnsafePath, match="stands twice") as raised:
        files(tree((FILE, b"a", X.id), (FILE, b"a", X.id)))
    assert raised.value.path == "a"
    one, two = tree((FILE, b"1", X.id)), tree((FILE, b"2", X.id))
    with pytest.raises(UnsafePath, match="stands twice"):
        files(tree((FOLDER, b"a", one.id), (FOLDER, b"a", two.id)), one, two)
    for first, second in [(b"Main.ts", b"main.ts"), ("ﬁ".encode(), b"fi")]:
        with pytest.raises(UnsafePath, match="the same"):
            files(tree((FILE, first, X.id), (FILE, second, X.id)))
    with pytest.raises(UnsafePath, match="the same"):
        files(tree((FOLDER, b"LIB", one.id), (FOLDER, b"lib", two.id)), one, two)
    with pytest.raises(UnsafePath, match="the same"):
        files(tree((FILE, b"LIB", X.id), (FOLDER, b"lib", two.id)), two)


@pytest.mark.parametrize("cut", [1, 8, 20, 30])
def test_a_tree_that_is_cut_off_is_refused(cut):
    """Mode, name and id are whole in each entry."""
    with pytest.raises(SourceInvalid, match="cut off"):
        files(Object(TREE, tree((FILE, b"main.ts", X.id)).data[:-cut]))


def test_limits():
    """Exactly as much as is allowed, and one more, of each."""
    full = tree(*((FILE, b"%d" % name, X.id) for name in range(5)))
    assert len(files(full)) == 5
    limit_of(tree(*((FILE, b"%d" % name, X.id) for name in range(6))), limit="files", names="'5'")
    ten, eleven = blob(bytes(10)), blob(bytes(11))
    assert files(tree((FILE, b"a", ten.id), (FILE, b"b", ten.id)), ten) == ["a", "b"]
    limit_of(tree((FILE, b"a", eleven.id)), eleven, limit="file_bytes", names="'a'")
    limit_of(
        tree((FILE, b"a", ten.id), (FILE, b"b", ten.id), (FILE, b"c", X.id)),
        ten,
        limit="total_bytes",
        names="'c'",
    )
    three = tree((FILE, b"x", X.id))
    two = tree((FOLDER, b"c", three.id))
    one = tree((FOLDER, b"b", two.id))
    assert files(one, two, three) == ["b/c/x"]
    limit_of(tree((FOLDER, b"a", one.id)), one, two, three, limit="depth", names="'a/b/c'")
    large = Object(TREE, bytes(BOUNDS.tree_bytes + 1))
    limit_of(tree((FOLDER, b"a", large.id)), large, limit="files", names="'a/'")


def limit_of(root: Object, *others: Object, limit: str, names: str) -> None:
    with pytest.raises(FetchLimitExceeded, match=names) as raised:
        files(root, *others)
    assert raised.value.limit == limit


def test_shared_trees_are_counted_as_often_as_they_stand():
    """Ten folders of ten folders of ten ...: paths are counted, so that few trees cannot be many files."""
    level = tree(*((FILE, b"%d" % name, X.id) for name in range(10)))
    made = [level]
    for _ in range(9):
        level = tree(*((FOLDER, b"%d" % name, level.id) for name in range(10)))
        made.append(level)
    with pytest.raises(FetchLimitExceeded) as raised:
        files(level, *made, bounds=BOUNDS._replace(files=1000, depth=20, total_bytes=5000))
    assert raised.value.limit == "files"


@given(st.binary(max_size=100), st.integers(0, 3))
def test_any_bytes_are_a_tree_or_refused(data, cut):
    """Whatever a tree has: files whose paths were checked, or a declared error."""
    good = tree((FILE, b"main.ts", X.id)).data
    for content in (data, good[:cut] + data, good + data, good[: len(good) - cut] + data):
        try:
            found = files(Object(TREE, content))
        except (UnsafePath, SourceInvalid, FetchLimitExceeded):
            continue
        assert all(".." not in path and not path.startswith("/") for path in found)


# --- refs


def wanted(ref: str | None, **found: bytes | None) -> bytes:
    named: dict[bytes, Any] = {name.replace("_", "/").encode(): value for name, value in found.items()}
    return wanted_object(ref, named)


A, B = b"a" * 40, b"b" * 40


def test_a_tag_comes_before_a_branch():
    """As in git; a full name means what it says, and None means HEAD."""
    both = {"refs_tags_v1": A, "refs_heads_v1": B, "HEAD": B}
    assert wanted("v1", **both) == A
    assert wanted("refs/heads/v1", **both) == B
    assert wanted(None, **both) == B
    assert wanted("v1", refs_heads_v1=B) == B
    assert candidates("v1") == [b"refs/tags/v1", b"refs/heads/v1"]
    assert candidates(None) == [b"HEAD"]


def test_a_commit_is_asked_for_by_its_id():
    """Whatever refs there are."""
    assert wanted("c" * 40, HEAD=A) == b"c" * 40
    assert candidates("c" * 40) == [b"HEAD"]


def test_what_is_not_there_is_said():
    """No such branch or tag, an empty repository, the id that stands for nothing."""
    with pytest.raises(SourceUnavailable, match="no branch or tag 'v2'"):
        wanted("v2", refs_tags_v1=A)
    with pytest.raises(SourceUnavailable, match="no default branch"):
        wanted(None, HEAD=None)
    with pytest.raises(SourceUnavailable, match=f"no commit {'0' * 40}"):
        wanted("0" * 40)


@pytest.mark.parametrize(("ref", "is_short"), [("a" * 6, 0), ("a1b2c3d", 1), ("A" * 39, 1), ("release", 0)])
def test_a_commit_is_not_abbreviated(ref, is_short):
    """What looks like a short id is no branch or tag either, unless there is one: then it is that."""
    with pytest.raises(SourceUnavailable) as raised:
        wanted(ref, HEAD=A)
    assert str(raised.value).endswith(repr(ref) + " (a commit needs all its 40 digits)" * is_short)
    assert wanted(ref, **{f"refs_heads_{ref}": A}) == A


def test_what_is_no_id_is_refused():
    """An id of another hash, or none at all, and nothing of it is repeated."""
    with pytest.raises(SourceInvalid, match="no id of SHA-1") as raised:
        wanted(None, HEAD=b"root:x:0")
    assert "root" not in str(raised.value)


def test_kinds_are_those_of_git():
    """The numbers that stand in a pack."""
    assert (COMMIT, TREE, BLOB, TAG) == (1, 2, 3, 4)
