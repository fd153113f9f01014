"""The index of a marketplace: which plugins there are, where they lie, and which key signs each. Pure: no I/O.

An index proves nothing, it makes an offer: what is installed from it is held to the key that the entry names, and
to the app's trust store. Its texts are shown to users, so whatever could forge a line on a terminal is refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from coredeno.errors import IndexInvalid, InvalidArgument, UsageError
from coredeno.install.keys import parse_key
from coredeno.install.strict_json import StrictJsonError, convert_strict, decode_strict
from coredeno.manifest import LIMIT_CODE, LIMIT_VERSION, check_code, check_version
from coredeno.wire.text import printable

LIMIT_INDEX_BYTES: Final = 16 * 1024 * 1024
LIMIT_ENTRIES: Final = 100_000
LIMIT_CATEGORIES: Final = 32
"""The most categories of one plugin."""

_LONGEST: Final = {
    "name": 128,
    "description": 2048,
    "category": 64,
    "source": 2048,
    "ref": 255,
    "homepage": 2048,
}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NEAR: Final = 3  # codes that an error proposes, and how much longer or shorter they may be
_ALIKE: Final = 5000  # codes among which they are looked for: a tenth of a second
_SHOWN: Final = 64  # characters of a wrong text that an error repeats

_Code: TypeAlias = Annotated[str, msgspec.Meta(max_length=LIMIT_CODE)]
_Version: TypeAlias = Annotated[str, msgspec.Meta(max_length=LIMIT_VERSION)]


class IndexEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One plugin of a marketplace, as its index describes it.

    Attributes:
        code: the plugin's code, by the manifest's rule.
        name: for humans, one line of 1 to 128 characters.
        description: one line of at most 2,048 characters.
        version: the newest version; for humans, what is installed says its own.
        categories: at most 32, of 1 to 64 characters each.
        source: where it is fetched from.
        key: the public key that signs it, as 64 lower-case hex digits.
        ref: a branch, tag or commit; None for the source's default.
        homepage: an address that begins with `https://` or `http://`, or None.
        digest: the one release that is meant, or None for whatever the key signed.
    """

    code: _Code
    name: str
    description: str
    version: _Version
    categories: tuple[str, ...]
    source: str
    key: str
    ref: str | None = None
    homepage: str | None = None
    digest: str | None = None


class _IndexDocument(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    name: str
    plugins: list[dict[str, Any]]


class Index:
    """An index that was read. Immutable.

    Attributes:
        name: the marketplace's name.
        origin: where it came from.
        entries: the plugins, in the index's order.
    """

    def __init__(self, *, name: str, origin: str, entries: tuple[IndexEntry, ...]) -> None:
        self.name: Final = name
        self.origin: Final = origin
        self.entries: Final = entries
        self._by_code = {entry.code: entry for entry in entries}
        self._folded = [_folded(entry) for entry in entries]

    def __repr__(self) -> str:
        count = len(self.entries)
        return f"<Index {self.name!r}, {count:,} plugin{'' if count == 1 else 's'}>"

    @classmethod
    def parse(cls, data: bytes, *, origin: str) -> Index:
        """Read and check an index: JSON of at most 16 MiB and 100,000 plugins.

        Args:
            data: the document.
            origin: where it came from, for errors.

        Raises:
            IndexInvalid: it is malformed, of a newer format, or an entry breaks a rule of `IndexEntry`'s, has an
                unknown field, no key, or the code of an earlier one. Nothing else is raised, whatever the bytes.
        """
        try:
            document = decode_strict(data, _IndexDocument, limit_bytes=LIMIT_INDEX_BYTES)
        except StrictJsonError as error:
            raise IndexInvalid(origin=origin, entry=error.field, problem=error.problem) from None
        if len(document.plugins) > LIMIT_ENTRIES:
            problem = f"has {len(document.plugins):,} plugins, wanted at most {LIMIT_ENTRIES:,}"
            raise IndexInvalid(origin=origin, entry="", problem=problem)
        try:
            name = _line("name", document.name)
        except InvalidArgument as error:
            raise IndexInvalid(origin=origin, entry="", problem=str(error)) from None
        places: dict[str, int] = {}
        entries = []
        for place, fields in enumerate(document.plugins):
            try:
                entry = _entry(fields)
                first = places.setdefault(entry.code, place)
                if first != place:
                    raise InvalidArgument(f"code: is that of plugins[{first}] already")
            except (InvalidArgument, UsageError, StrictJsonError) as error:
                where = f"plugins[{place}]{_called(fields)}"
                raise IndexInvalid(origin=origin, entry=where, problem=str(error)) from None
            entries.append(entry)
        return cls(name=name, origin=origin, entries=tuple(entries))

    @property
    def categories(self) -> tuple[str, ...]:
        """All categories, sorted."""
        return tuple(sorted({category for entry in self.entries for category in entry.categories}))

    def find(self, code: str) -> IndexEntry:
        """The plugin of this code.

        Raises:
            UsageError: there is none; the message names codes that are near.
        """
        entry = self._by_code.get(code)
        if entry is None:
            near = difflib.get_close_matches(code.lower(), self._alike(code.lower()), n=_NEAR)
            hint = f", the nearest are {', '.join(map(repr, near))}" if near else ""
            raise UsageError(f"index {self.name!r}: has no plugin {code[:_SHOWN]!r}{hint}")
        return entry

    def _alike(self, code: str) -> list[str]:
        """Codes that may be near. difflib would take seconds for all, and is quadratic in a code's length."""
        if len(code) > _SHOWN:
            return []
        alike = (
            known for known in self._by_code if known[:1] == code[:1] and abs(len(known) - len(code)) <= _NEAR
        )
        return list(islice(alike, _ALIKE))

    def search(self, text: str) -> list[IndexEntry]:
        """The plugins in which every word of `text` occurs, whatever the case; with no word, all plugins.

        Words are looked for in code, name, description and categories. The best come first: the one of this very
        code, then words in the code before words in the name before words elsewhere, then the index's order.
        """
        words = text.casefold().split()
        found = []
        for place, places_of in enumerate(self._folded):
            rank = 0 if text.strip().casefold() == places_of[0] else 1
            for word in words:
                at = next((at for at, where in enumerate(places_of) if word in where), None)
                if at is None:
                    break
                rank += at
            else:
                found.append((rank, place))
        return [self.entries[place] for _rank, place in sorted(found)]

    def category(self, name: str) -> list[IndexEntry]:
        """The plugins of a category, whatever the case, in the index's order."""
        wanted = name.casefold()
        return [
            entry
            for entry in self.entries
            if any(category.casefold() == wanted for category in entry.categories)
        ]


def _folded(entry: IndexEntry) -> tuple[str, str, str]:
    """Where words are looked for, the best place first. A newline keeps a word from reaching over two texts."""
    rest = "\n".join((entry.description, *entry.categories))
    return entry.code, entry.name.casefold(), rest.casefold()


def _entry(fields: dict[str, Any]) -> IndexEntry:
    if "key" not in fields:
        raise InvalidArgument("key: is missing, wanted the public key that signs the plugin")
    entry = convert_strict(fields, IndexEntry)
    _field("code", check_code, entry.code)
    _field("version", check_version, entry.version)
    _line("name", entry.name)
    _line("description", entry.description, shortest=0)
    if len(entry.categories) > LIMIT_CATEGORIES:
        raise InvalidArgument(f"categories: are {len(entry.categories):,}, wanted at most {LIMIT_CATEGORIES}")
    for category in entry.categories:
        _line("category", category)
    _line("source", entry.source)
    if entry.ref is not None:
        _line("ref", entry.ref)
    if entry.homepage is not None:
        _line("homepage", entry.homepage)
        if not entry.homepage.startswith(("https://", "http://")):
            raise InvalidArgument(f"homepage: is {entry.homepage[:_SHOWN]!r}, wanted https://…")
    if entry.digest is not None and _DIGEST.fullmatch(entry.digest) is None:
        raise InvalidArgument("digest: is none, wanted 64 of 0-9 a-f")
    return msgspec.structs.replace(entry, key=parse_key(entry.key))


def _field(name: str, rule: Callable[[str], Any], value: str) -> None:
    try:
        rule(value)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}: {error}") from None


def _line(name: str, text: str, *, shortest: int = 1) -> str:
    longest = _LONGEST[name]
    if not shortest <= len(text) <= longest:
        raise InvalidArgument(f"{name}: has {len(text):,} characters, wanted {shortest} to {longest:,}")
    if shortest and text != text.strip():
        raise InvalidArgument(f"{name}: is {text[:_SHOWN]!r}, wanted no spaces round it")
    if printable(text, one_line=True) != text or "\t" in text:
        raise InvalidArgument(
            f"{name}: has a control character or direction mark, wanted one line of visible text"
        )
    return text


def _called(fields: dict[str, Any]) -> str:
    code = fields.get("code")
    return f" ({code[:_SHOWN]!r})" if isinstance(code, str) else ""
