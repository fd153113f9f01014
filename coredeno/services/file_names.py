"""The names by which files beneath a root are reached. Pure: no I/O."""

from __future__ import annotations

from coredeno.errors import InvalidArgument
from coredeno.permissions import normalise_path

TEMPORARY = ".coredeno-tmp-"
"""How the names of files being written begin. No path may name them, no list shows them."""


def split_path(path: str) -> list[str]:
    """The components of a path beneath the root; none for `.`, the root itself.

    Raises:
        InvalidArgument: `normalise_path` refuses it, or a name begins as those of files being written do.
    """
    normal = normalise_path(path)
    parts = [] if normal == "." else normal.split("/")
    if any(part.startswith(TEMPORARY) for part in parts):
        raise InvalidArgument(f"path {path!r}: names that begin with {TEMPORARY!r} are coredeno's own")
    return parts


def decoded_name(name: bytes) -> str | None:
    """The name of an entry, whatever the locale; None if no path can name it (not UTF-8, a backslash …)."""
    text = name.decode(errors="surrogateescape")
    try:
        return text if split_path(text) == [text] else None
    except InvalidArgument:
        return None
