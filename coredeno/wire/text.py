"""Text by a plugin, made fit to be shown. Pure: no I/O."""

from __future__ import annotations

import re

# C0 and C1 controls but tab and newline, and the marks that turn the direction of text (Unicode TR 36, 3.1):
# with them a plugin could rewrite what stands on a terminal already.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str, *, one_line: bool = False) -> str:
    """The text with control characters, direction marks and lone surrogates written as escapes.

    Args:
        text: anything.
        one_line: whether newlines are escaped too.
    """
    shown = _UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    return shown.replace("\n", "\\n") if one_line else shown
