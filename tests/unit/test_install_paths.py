"""Paths of a plugin's files: only what every disk takes, and takes for the same."""

# ruff: noqa: RUF001 - letters that look like others are what these cases are about

from __future__ import annotations

import sys
import time
import unicodedata

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from coredeno.errors import UnsafePath
from coredeno.install.paths import (
    _LETTERS_KEPT,
    LIMIT_DEPTH,
    LIMIT_NAME_BYTES,
    LIMIT_PATH_BYTES,
    PathSet,
    _folded,
    _Letters,
    check_name,
    check_path,
)

GOOD = [
    "main.ts",
    ".core",
    ".gitignore",
    "größe.bin",
    "写真.png",
    "a b (c) [d] {e} #1 50% it's-ok_~+,;=@!&$`^.x",
    "hindi-हिन्दी",
    "console.ts",
    "com10",
    "aux-x",
    "²³½",
    ".a",
    "...a",
]

# Case 7 of the design: each is refused, for this reason.
BAD = [
    ("", "an empty"),
    (".", "an empty"),
    ("..", "an empty"),
    *(
        (name, "is git's own")
        for name in (".git", ".GIT", ".gIt", "git~1", "GIT~23", ".gitmodules", "gitmod~1")
    ),
    *((name, "is git's own") for name in (".g\u0131t", ".ｇｉｔ")),
    *((name, "begins with a space, or ends") for name in (".git ", ".git.", "a ", " a", "a.", "...", " ")),
    *(
        (f"a{char}b", "has the character")
        for char in '/\\:*?"<>|\0\n\r\t\x1b\x7f\x80\x85\u2028\u200b\u200d\u00ad'
    ),
    *(
        (f"a{char}b", "has the character")
        for char in "\u202e\u2066\u200e\u061c\ufeff\ufffd\ue000\ud800\U000e0041"
    ),
    *(
        (f"a{char}b", "has the character")
        for char in "\u034f\u115f\u17b4\u180b\u3164\ufe0f\uffa0\U000e0100\u00a0"
    ),
    (".git::$DATA", "has the character"),
    (".g\u200cit", "has the character"),
    (b"latin-\xe9", "not UTF-8"),
    (b"\xed\xa0\x80", "not UTF-8"),
    (b"a/b", "has the character"),
    *(
        (name, "is a device")
        for name in ("nul", "NUL.ts", "con", "aux.tar.gz", "com1", "LPT9.x", "com¹", "conin$")
    ),
    *((name, "is a device") for name in ("nul .ts", "ｎｕｌ", "COM0")),
    ("e\u0301", "not composed"),
    ("\u212b", "not composed"),
]

names = st.one_of(
    st.text(max_size=12),
    st.text("aAbß.\u0301éÉ ıİſ~1", max_size=6),
    st.sampled_from(GOOD),
)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


def accepted(path):
    try:
        return check_path(path) == path
    except UnsafePath:
        return False


@pytest.mark.parametrize("name", GOOD)
def test_plain_names_are_taken(name: str):
    """Letters, marks and digits of any writing, and plain punctuation; as text and as bytes."""
    assert check_name(name) == check_name(name.encode()) == check_path(f"{name}/{name}/x")[: len(name)]


@pytest.mark.parametrize(("name", "reason"), BAD)
def test_other_names_are_refused(name: str | bytes, reason: str):
    """The error says why, and shows the name without anything that could act on a terminal."""
    with pytest.raises(UnsafePath, match=reason) as caught:
        check_name(name)
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()
    assert caught.value.path.isascii()


@pytest.mark.parametrize(
    "path", ["/a", "a/", "a//b", "a/../b", "./a", "a/.GIT/config", "sub/nul.ts/x", "C:/a", ""]
)
def test_a_path_is_judged_name_by_name(path: str):
    """One bad name is enough, wherever it stands; the error names the whole path."""
    with pytest.raises(UnsafePath) as caught:
        check_path(path)
    assert caught.value.path == path


def test_bounds_of_a_path():
    """240 bytes of UTF-8 and 32 folders, not one more."""
    long = "ä" * (LIMIT_PATH_BYTES // 2)
    deep = "d/" * LIMIT_DEPTH + "f"
    assert check_path(long) == long
    assert check_path(deep) == deep
    with pytest.raises(UnsafePath, match="has 241 bytes, wanted at most 240"):
        check_path(long + "x")
    with pytest.raises(UnsafePath, match="more than 32 folders"):
        check_path("d/" + deep)


def test_bounds_of_a_name():
    """255 bytes of UTF-8, not one more."""
    assert check_name("x" * LIMIT_NAME_BYTES)
    with pytest.raises(UnsafePath, match="has 256 bytes, wanted at most 255"):
        check_name("ä" * 128)


@pytest.mark.parametrize("check", [check_name, check_path])
def test_length_is_looked_at_first(check):
    """Before any normal form is made: of 200,000 marks in turn one takes half a minute."""
    began = time.thread_time()
    with pytest.raises(UnsafePath, match="bytes, wanted at most"):
        check("a" + "\u0300\u0323" * 100_000)
    assert time.thread_time() - began < 1


@given(paths)
def test_what_is_accepted_is_harmless(path: str):
    """No control, format or direction character, no backslash, colon or line break; relative; one spelling."""
    assume(accepted(path))
    assert path.isprintable()
    assert not set(path) & set('\\:*?"<>|')
    assert all(
        unicodedata.bidirectional(char) not in ("LRO", "RLO", "LRE", "RLE", "PDF", "LRI", "RLI")
        for char in path
    )
    assert not path.startswith("/")
    assert not {"", ".", "..", ".git"} & set(path.lower().split("/"))
    assert unicodedata.normalize("NFC", path) == path
    assert len(path.encode()) <= LIMIT_PATH_BYTES


@given(st.one_of(st.text(max_size=8), st.binary(max_size=8)))
def test_any_name_is_taken_or_refused(name: str | bytes):
    """Nothing else is raised, and what is taken is what was given."""
    try:
        text = check_name(name)
    except UnsafePath:
        return
    assert name in (text, text.encode())


@pytest.mark.parametrize(
    "pair",
    [
        ("a", "a"),
        ("a.ts", "A.ts"),
        ("straße", "STRASSE"),
        ("straße", "straẞe"),
        ("ſ", "S"),
        ("ı", "I"),
        ("ﬁ", "fi"),
        ("Ａ", "a"),
        ("ᴬ", "a"),
        ("K", "k"),
        ("Σ", "ς"),
        ("src/a", "SRC/b"),
        ("x/é/a", "x/É/b"),
        ("a", "a/b"),
        ("a", "A/b"),
        ("x/a/b/c", "x/A"),
    ],
)
def test_two_paths_that_are_one_to_some_file_system(pair: tuple[str, str]):
    """Whichever comes first, the second is refused: case, Unicode form, a file and a folder of one name."""
    for one, other in (pair, pair[::-1]):
        known = PathSet()
        known.add(one)
        with pytest.raises(UnsafePath, match="the same to some file systems") as caught:
            known.add(other)
        assert str(caught.value).isascii()
        size = len(known)
        known.add("something/else")  # what was refused left nothing behind
        assert len(known) == size + 2


def test_paths_that_differ():
    """Files beside each other, in one folder or in several."""
    known = PathSet()
    for path in ("a/b/c", "a/b/d", "a/e", "ab", "a.b", "b/a/c", "b/c", "größe", "grösse2"):
        known.add(path)
    assert len(known) == 9 + 4  # and the folders a, a/b, b, b/a


def test_what_is_refused_leaves_no_folder_behind():
    """Nor is one of the folders above it known then."""
    known = PathSet()
    known.add("b/x")
    with pytest.raises(UnsafePath, match="its folder and 'b/x' are the same"):
        known.add("b/X/c/d")
    with pytest.raises(UnsafePath, match="it and 'b/x' are the same"):
        known.add("b/X")
    assert len(known) == 2
    known.add("b/c/d")
    assert len(known) == 4


def same_to_a_file_system(one: str, other: str) -> bool:
    """As APFS and HFS+ (NFD and case folding), ext4 (NFD and case folding), NTFS (upper case) compare."""
    foldings = (
        lambda path: unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold()),
        lambda path: unicodedata.normalize("NFC", path.upper()),
        lambda path: unicodedata.normalize("NFC", path.lower()),
    )
    return any(folding(one) == folding(other) for folding in foldings)


@given(paths, paths)
@example("ŉ", "ʼn")
@example("ΐ", "ΐ")
def test_no_two_paths_collide(one: str, other: str):
    """Two paths that some file system takes for one never stand in one set."""
    spellings = (other, one.upper(), one.lower(), one.casefold(), one.swapcase(), one.title())
    for variant in (unicodedata.normalize("NFC", spelling) for spelling in spellings):
        if not (accepted(one) and accepted(variant) and same_to_a_file_system(one, variant)):
            continue
        known = PathSet()
        known.add(one)
        with pytest.raises(UnsafePath):
            known.add(variant)


def test_folding_of_every_letter():
    """Each letter folds as its variants do, and none brings a slash or loses one."""
    for char in map(chr, range(128, sys.maxunicode + 1)):
        if unicodedata.category(char)[0] not in "LMN" or char.casefold() == char == unicodedata.normalize(
            "NFKD", char
        ):
            continue
        folded = _folded(char)
        assert "/" not in folded
        assert folded
        for variant in (
            char.upper(),
            char.lower(),
            char.casefold(),
            unicodedata.normalize("NFKC", char),
            folded,
        ):
            assert _folded(variant) == folded, ascii(char)


def folded_as_a_whole(path: str) -> str:
    """The rule that `_folded` is a quick way to follow, a letter at a time."""
    for _ in range(2):
        path = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", path).upper().casefold())
    return path


letters_and_marks = st.text("aAßẞıİΣς\u0345ᾳᾴΐΑιΙ\u0301\u0323\u0334ﬁﷺ가ᄀ\u1161ÅKʼnŉ", max_size=6)


@given(st.tuples(letters_and_marks, letters_and_marks) | st.tuples(st.text(max_size=4), st.text(max_size=4)))
@example(("ᾳ\u0334", "α\u0334ι"))
def test_folding_letter_by_letter(pair: tuple[str, str]):
    """Two texts fold to one if they do so as a whole, and only then.

    But for U+037A, which is a space with a mark below, and a letter in the end: a mark after it goes to the letter
    or to the space. To file systems it is only ever itself.
    """
    assume("\u037a" not in "".join(pair))
    for one, other in (pair, (pair[0], folded_as_a_whole(pair[0])), (pair[0], pair[0].swapcase())):
        as_a_whole = folded_as_a_whole(one) == folded_as_a_whole(other)
        assert (_folded(one) == _folded(other)) == as_a_whole


def test_letters_that_are_kept_are_bounded():
    """A release may have any number of them; what is forgotten is worked out again."""
    letters = _Letters()
    for code in range(_LETTERS_KEPT + 1):
        assert letters[code] is not None
    assert len(letters) == 1
    assert "É".translate(letters) == "e\u0301"
