"""The bounds of one fetch, as the fetching process is told them. Pure: no I/O."""

from __future__ import annotations

from typing import NamedTuple

TREES_BYTES = 8 * 1024 * 1024
"""What trees, commits and tags may have together, beside `total_bytes` of files."""

_TEXT_BYTES = 1024 * 1024  # of a commit's message
_ENTRY_BYTES = 7 + 255 + 1 + 20  # of a tree, at most: mode, name, NUL, id


class Bounds(NamedTuple):
    """The fields of `FetchLimits`, and what they mean; that class brings more along than a child needs."""

    timeout_s: float
    transfer_bytes: int
    objects: int
    file_bytes: int
    total_bytes: int
    files: int
    depth: int

    @property
    def tree_bytes(self) -> int:
        """The most bytes of one tree, commit or tag: a tree of that many entries, a text of that length."""
        return max(_TEXT_BYTES, self.files * _ENTRY_BYTES)

    @property
    def object_bytes(self) -> int:
        """The most bytes of one object, whatever it is."""
        return max(self.file_bytes, self.tree_bytes)
