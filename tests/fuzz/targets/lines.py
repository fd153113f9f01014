"""Lines of a sidecar's output: however they are cut the same lines, of bounded length, fit for a terminal."""

from __future__ import annotations

import unicodedata

from coredeno.audit.records import canonical, record_of
from coredeno.events import PermissionDenied
from coredeno.sidecar.lines import LineCutter
from coredeno.wire.text import printable
from tests.fuzz.shape import cuts, require, require_equal, single_bytes

LIMIT = 40
LIMIT_ROW = 8192
SEEDS = [
    b"\x03a line\nanother one, which is longer than the limit of forty bytes\n\nlast",
    b"\x00\x1b[31mred\x1b[0m \xe2\x80\xaegnp\r\n\xff\xfe\xc3\xa9\n",
]


def target(data: bytes) -> None:
    pattern, stream = data[:1], data[1:]
    at_once = _lines([stream])
    require_equal(_lines(single_bytes(stream)), at_once, "byte by byte")
    require_equal(_lines(list(cuts(stream, pattern))), at_once, f"in pieces of {pattern!r}")
    for line in at_once:
        require(len(line) <= LIMIT, "no longer than the limit")
        shown = printable(line, one_line=True)
        require_equal(printable(shown, one_line=True), shown, "shown text is fit to be shown")
        odd = [
            char for char in shown if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") and char != "\t"
        ]
        require(not odd, f"controls in what is shown: {odd!r}")
    text = data.decode("utf-8", "surrogateescape")
    event = PermissionDenied(module="m", permission="files.read", resource=text, remedy=text)
    row = canonical(record_of(event).fields)
    require(
        len(row) <= LIMIT_ROW and printable(row, one_line=True) == row,
        "a row of the audit log is bounded, and can be shown",
    )


def _lines(pieces: list[bytes]) -> list[str]:
    cutter = LineCutter(LIMIT)
    lines = []
    for piece in pieces:
        lines += cutter.feed(piece)
        require(len(cutter._pending) <= LIMIT, "holds no more than a line")
    return lines + cutter.end()
