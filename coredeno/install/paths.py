"""Which paths the files of a plugin may have, on every disk that it may ever lie on. Pure: no I/O.

A repository can hold names that no file system should be given: `..`, `.GIT`, `nul.ts`, names that differ in
case only, or that look like another one. They are refused where they are met (in the tree that was fetched,
in the list that was signed, in the folder that is signed), by the same rules everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import filterfalse

from coredeno.errors import UnsafePath

LIMIT_PATH_BYTES = 240
"""The longest path, as UTF-8: room for the folders above it within the 1,024 bytes of PATH_MAX on macOS."""

LIMIT_NAME_BYTES = 255
"""The longest name, as UTF-8: NAME_MAX of Linux and macOS."""

LIMIT_DEPTH = 32
"""The most folders within one another."""

# Printable ASCII is plain but for these, which are separators, wildcards or streams on some system.
_NOT_PLAIN = re.compile(r"""[\x00-\x1f/\\:*?"<>|\x7f]""")
_ASCII = re.compile(r"[\x00-\x7f]+")
# Beyond ASCII letters, marks and numbers, …
_WRITING = frozenset("LMN")
# … but for those that Unicode wants not to be shown (Default_Ignorable_Code_Point in DerivedCoreProperties.txt):
# joiners, fillers and variation selectors. Some file systems ignore them too.
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
# Both are looked for in what a name folds to.
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: with any extension, and spaces before it, too.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$) *(?:\..*)?")
# `git~1` is what NTFS calls `.git` for programs of long ago (CVE-2014-9390).
_GIT = re.compile(r"\.git|git~[0-9]+|\.gitmodules|gitmod~[0-9]+")


def check_name(name: str | bytes) -> str:
    """Check one name of a file or folder, and give it as text.

    Raises:
        UnsafePath: it is none that every disk would take, and take for the same.
    """
    if isinstance(name, bytes):
        try:
            text = name.decode("utf-8")
        except UnicodeDecodeError:
            raise UnsafePath(name, "it is not UTF-8") from None
    else:
        text = name
    # First of all: Unicode's normal forms take a time that is quadratic in the length of a run of marks.
    size = _size_bytes(text)
    if size > LIMIT_NAME_BYTES:
        raise UnsafePath(name, f"it has {size:,} bytes, wanted at most {LIMIT_NAME_BYTES}")
    problem = _problem(text)
    if problem:
        raise UnsafePath(name, problem)
    return text


def check_path(path: str) -> str:
    """Check a whole path, relative to the plugin's folder, and give it back.

    Raises:
        UnsafePath: a name in it is refused by `check_name`, it is too long, or too deep.
    """
    size = _size_bytes(path)
    if size > LIMIT_PATH_BYTES:
        raise UnsafePath(path, f"it has {size:,} bytes, wanted at most {LIMIT_PATH_BYTES}")
    names = path.split("/")
    if len(names) - 1 > LIMIT_DEPTH:
        raise UnsafePath(path, f"more than {LIMIT_DEPTH} folders within one another")
    try:
        for name in names:
            check_name(name)
    except UnsafePath as error:
        raise UnsafePath(path, error.problem) from None
    return path


class PathSet:
    """The paths of one plugin, one after the other: no two may be the same to any file system.

    Its length is the number of its files and folders.
    """

    def __init__(self) -> None:
        # By what a file system may take a path for, as it was spelled; a folder with a slash at its end.
        self._known: dict[str, str] = {}
        # What each folder is taken for, both with a slash at the end: each of their names is folded once.
        self._folders: dict[str, str] = {"": ""}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, path: str) -> None:
        """Take one more file.

        Args:
            path: as `check_path` gave it.

        Raises:
            UnsafePath: it is there already, or differs from another one in case or Unicode form only, or a
                file and a folder have one name.
        """
        above, name = _split(path)
        missing: list[tuple[str, str]] = []  # folders that are not known, the deepest first, with their names
        while above not in self._folders:
            folder = above
            above, folder_name = _split(folder[:-1])
            missing.append((folder, folder_name))
        key = self._folders[above]
        known: dict[str, str] = {}
        folders: dict[str, str] = {}
        for folder, folder_name in reversed(missing):
            key += _folded(folder_name)
            if key in self._known:
                raise UnsafePath(
                    path, f"its folder and {self._known[key]!a} are the same to some file systems"
                )
            known[key] = folder
            key += "/"
            folders[folder] = key
        key += _folded(name)
        if key in self._known:
            raise UnsafePath(path, f"it and {self._known[key]!a} are the same to some file systems")
        self._known |= known
        self._known[key] = path
        self._folders |= folders


def _split(path: str) -> tuple[str, str]:
    """The folder, with a slash at its end unless it is the plugin's, and the name."""
    place = path.rfind("/") + 1
    return path[:place], path[place:]


_LETTERS_KEPT = 0x1_0000  # 12 MB, if a plugin brings as many
_NAMES_KEPT = 1024  # the names of folders come again with each of their files


class _Letters(dict[int, str]):
    """What each letter folds to: a release of 10,000 paths has a million of them, and most many times."""

    def __missing__(self, code: int) -> str:
        if len(self) == _LETTERS_KEPT:
            self.clear()
        folded = chr(code)
        # `upper` too, as NTFS does it (of the dotless i it makes an I, which `casefold` does not); twice, since
        # the letters that NFKD takes apart have cases of their own.
        for _ in range(2):
            folded = unicodedata.normalize("NFKD", folded.upper().casefold())
        self[code] = folded
        return folded


_LETTERS = _Letters()


@lru_cache(_NAMES_KEPT)
def _folded(path: str) -> str:
    """What a file system may take a path for: it has no case, and letters that mean the same are the same.

    No slash comes or goes by any of this. Letters fold one by one only once they are taken apart: a mark may
    become a letter (U+0345), which those after it then belong to.
    """
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).translate(_LETTERS))


def _size_bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))  # a lone surrogate is refused later, by its name


@lru_cache(_NAMES_KEPT)
def _problem(name: str) -> str | None:
    if name in ("", ".", ".."):
        return "has an empty, '.' or '..' part"
    if _NOT_PLAIN.search(name) or not _is_writing(_ASCII.sub("", name)):
        odd = next(filterfalse(_is_plain, name))
        return f"has the character U+{ord(odd):04X}, wanted letters, digits and plain punctuation"
    if not name.isascii() and not unicodedata.is_normalized("NFC", name):
        return "its Unicode is not composed (NFC), so that it could stand twice"
    if name != name.strip(" ") or name.endswith("."):
        return "begins with a space, or ends with a space or dot, which some file systems drop"
    folded = _folded(name)
    return next((problem for pattern, problem in _TAKEN if pattern.fullmatch(folded)), None)


def _is_plain(char: str) -> bool:
    return not _NOT_PLAIN.match(char) if char.isascii() else _is_writing(char)


def _is_writing(text: str) -> bool:
    """Whether text without ASCII is of plain characters only. As sets, since a list has a million of them."""
    kinds = {category[0] for category in set(map(unicodedata.category, text))}
    return kinds <= _WRITING and not _IGNORABLE.search(text)


_TAKEN = ((_GIT, "is git's own"), (_DEVICE, "is a device on some systems"))
