"""A mutant: the package with one defence taken out."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Stale(Exception):
    """A mutant whose place in the source is not there any more, or not the only one of its kind."""


class Cut(msgspec.Struct, frozen=True):
    """One place that is changed.

    Attributes:
        file: where it is, relative to `coredeno/`.
        old: the text that is taken out; it stands there once.
        new: what stands there instead.
    """

    file: str
    old: str
    new: str

    def apply(self, source: str) -> str:
        """The changed source.

        Raises:
            Stale: `old` does not stand in it exactly once.
        """
        count = source.count(self.old)
        if count != 1:
            raise Stale(f"{self.file} has {self.old[:60]!r} {count} times, wanted once")
        return source.replace(self.old, self.new)


class Mutant(msgspec.Struct, frozen=True):
    """One defence taken out.

    Attributes:
        name: the defence that is missing.
        file: where it stood, relative to `coredeno/`.
        old: the text that is taken out; it stands there once.
        new: what stands there instead.
        attacks: names of attacks of which one at least must succeed then.
        layers: what is taken out besides, where one layer alone still stops the attacks.
    """

    name: str
    file: str
    old: str
    new: str
    attacks: tuple[str, ...]
    layers: tuple[Cut, ...] = ()

    def apply(self, package: Path) -> None:
        """Change a copy of the package.

        Raises:
            Stale: a text that is taken out does not stand in its file exactly once.
        """
        for cut in (Cut(self.file, self.old, self.new), *self.layers):
            place = package / cut.file
            place.write_text(cut.apply(place.read_text()))
