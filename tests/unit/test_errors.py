"""What the errors say of themselves, as text and as fields."""

from __future__ import annotations

import pytest

from coredeno import CoreDenoError, PluginRaised
from coredeno.errors import (
    IndexInvalid,
    IntegrityError,
    InvalidResult,
    ManifestError,
    ProtocolError,
    UnsafePath,
    facts_of,
)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("plain text, with ümlauts and 漢字", "plain text, with ümlauts and 漢字"),
        ("two\n\tlines", "two\n\tlines"),
        ("\x1b]0;owned\x07\x1b[2J", "\\x1b]0;owned\\x07\\x1b[2J"),
        ("a\rb\x00c\x7f\x9b", "a\\x0db\\x00c\\x7f\\x9b"),
        ("\u202egpj.exe\u2028\u2069", "\\x202egpj.exe\\x2028\\x2069"),
        ("half \ud800", "half \\xd800"),
        ("", ""),
    ],
)
def test_no_control_character_is_in_the_text_of_an_error(message: str, shown: str):
    """What rules a terminal or turns its text round is escaped; lines and tabs stay, for stacks."""
    error = CoreDenoError(message)
    assert str(error) == shown
    assert error.args == (message,)


@pytest.mark.parametrize("error", [ProtocolError, InvalidResult])
def test_what_a_peer_sent_is_repeated_in_part(error: type[CoreDenoError]):
    """A decoder quotes what it does not want, however long; the end says where it stood."""
    assert str(error("receive: short")) == "receive: short"
    text = str(error(f"receive: Invalid enum value '{'x' * 1_000_000}' - at `$.jsonrpc`"))
    assert text.startswith("receive: Invalid enum value 'xxx")
    assert text.endswith("xxx' - at `$.jsonrpc`")
    assert len(text) == 2049


def test_the_fields_of_an_error_are_as_they_came():
    """What a plugin threw is escaped in the text alone: a program wants it as it is."""
    error = PluginRaised(module="m", name="Error", message="\x1b[31mred", stack="at \x1b")
    assert str(error) == "m: Error: \\x1b[31mred"
    assert (error.message, error.stack) == ("\x1b[31mred", "at \x1b")
    assert facts_of(error) == {
        "module": "m",
        "name": "Error",
        "message": "\x1b[31mred",
        "stack": "at \x1b",
        "code": None,
    }
    assert str(PluginRaised(module="m", name="Error", message="")) == "m: Error"


def test_what_is_not_known_is_left_out_of_the_text():
    """A field, an entry or a plugin that is not given leaves no empty place."""
    assert str(ManifestError(file="view.yml", field="", problem="x")) == "view.yml: x"
    assert str(ManifestError(file="view.yml", field="code", problem="x")) == "view.yml: code: x"
    assert str(IndexInvalid(origin="o", entry="", problem="x")) == "o: x"
    assert str(IndexInvalid(origin="o", entry="plugins[0]", problem="x")) == "o: plugins[0]: x"
    assert str(IntegrityError("a", expected="b", actual="c")) == "a: is c, wanted b"
    assert str(IntegrityError("a", expected="b", actual="c", plugin="t 1")) == "t 1: a: is c, wanted b"


def test_a_long_path_is_cut_in_the_text_and_whole_in_its_field():
    """Of a wrong path as much is shown as tells it from others; escaped it is once, not twice."""
    long = UnsafePath("a" * 200, "too long")
    assert str(long) == f"path '{'a' * 160}...': too long"
    assert long.path == "a" * 200
    assert str(UnsafePath(b"\xff\x1b", "bad")) == r"path '\xff\x1b': bad"
    assert UnsafePath(r"\x1b", "bad", escaped=True).path == r"\x1b"
