"""From what a source calls its refs to the object that is wanted. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping

from coredeno.errors import SourceInvalid, SourceUnavailable

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT = re.compile(r"[0-9a-fA-F]{7,39}")  # seven digits are git's own least, where it abbreviates
_ID = re.compile(rb"[0-9a-f]{40}")


def candidates(ref: str | None) -> list[bytes]:
    """The full names that a ref may stand for, in the order in which git takes them (gitrevisions(7)).

    Args:
        ref: a name, a commit's id (for which the source is only asked for HEAD), or None for HEAD.
    """
    if ref is None or _COMMIT.fullmatch(ref):
        return [b"HEAD"]
    name = ref.encode()
    return [name] if name.startswith(b"refs/") else [b"refs/tags/" + name, b"refs/heads/" + name]


def wanted_object(ref: str | None, found: Mapping[bytes, bytes | None]) -> bytes:
    """The id, as 40 digits, of what a ref stands for at the source.

    Args:
        ref: as in `candidates`.
        found: what the source says it has.

    Raises:
        SourceUnavailable: it has no such ref.
        SourceInvalid: what it says is no id.
    """
    if ref is not None and _COMMIT.fullmatch(ref):
        if not ref.strip("0"):  # what git writes where there is no object
            raise SourceUnavailable(f"source: has no commit {ref}")
        return ref.encode()
    for name in candidates(ref):
        wanted = found.get(name)
        if wanted is None:
            continue
        if not _ID.fullmatch(wanted):
            raise SourceInvalid(f"refs: {name.decode()!a} is no id of SHA-1")
        return wanted
    if ref is None:
        raise SourceUnavailable("source: has no default branch, or no commit on it; wanted a ref")
    hint = " (a commit needs all its 40 digits)" if _SHORT.fullmatch(ref) else ""
    raise SourceUnavailable(f"source: has no branch or tag {ref!r}{hint}")
