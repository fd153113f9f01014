"""Text by a plugin, made fit to be shown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.wire.text import printable

DIRECTION = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("plain é 😀 \t tab", "plain é 😀 \t tab"),
        ("two\nlines", "two\nlines"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb", "a\\x0db"),
        ("\x00\x07\x08\x0b\x0c\x7f", "\\x00\\x07\\x08\\x0b\\x0c\\x7f"),
        ("\x85\x9b31m", "\\x85\\x9b31m"),
        ("\u2028\u2029", "\\x2028\\x2029"),
        ("\ud800", "\\xd800"),
        *((mark, f"\\x{ord(mark):02x}") for mark in DIRECTION),
    ],
)
def test_what_is_shown(text, shown):
    """Controls, direction marks, line separators and lone surrogates are escaped, all else stays."""
    assert printable(text) == shown


def test_one_line():
    """Where one line is wanted, newlines are escaped too."""
    assert printable("a\nb\r\nc", one_line=True) == "a\\nb\\x0d\\nc"


@given(st.text(st.characters() | st.sampled_from("\n\t\x1b\x9b" + DIRECTION)))
def test_nothing_that_could_rewrite_a_terminal_is_left(text):
    """Whatever the text, what is left can be written as UTF-8 and holds no control but newline and tab."""
    for one_line in (False, True):
        shown = printable(text, one_line=one_line)
        shown.encode()
        left = {char for char in shown if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")}
        assert left <= ({"\t"} if one_line else {"\t", "\n"})
        assert not set(shown) & set(DIRECTION)
        assert printable(shown, one_line=one_line) == shown
