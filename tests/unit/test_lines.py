"""Lines of bounded length out of a stream of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.line_rate import LineRate
from coredeno.sidecar.lines import LineCutter

LIMIT = 8


def lines(*chunks, limit_bytes=LIMIT):
    cutter = LineCutter(limit_bytes)
    return [line for chunk in chunks for line in cutter.feed(chunk)] + cutter.end()


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"a\r\n", ["a\r"]),
        (b"12345678\n", ["12345678"]),
        (b"12345678", ["12345678"]),
        (b"123456789\n", ["12345678"]),
        (b"123456789", ["12345678"]),
        (b"123456789 and more\nnext\n", ["12345678", "next"]),
        (b"123456789\n123456789\n", ["12345678", "12345678"]),
        (b"123456789\n\n", ["12345678", ""]),
        (b"\xff\xc3\n", ["\ufffd\ufffd"]),
        ("1234567é\n".encode(), ["1234567\ufffd"]),
        ("é\n".encode(), ["é"]),
        (b"\x1b[0m\x00\n", ["\x1b[0m\x00"]),
    ],
)
def test_lines(data, wanted):
    """Each line once, without its newline; of a longer one what fits; the last one needs no newline."""
    assert lines(data) == wanted


PIECE = st.binary(max_size=12) | st.sampled_from([b"\n", b"\n\n", b"x" * 9, b"12345678\n", b"\xc3\xa9"])


@given(st.lists(PIECE, max_size=10).map(b"".join), st.lists(st.integers(0, 100), max_size=6))
def test_the_cuts_of_the_stream_change_nothing(data, places):
    """Byte by byte, in pieces or at once: the same lines, and as a simple split says."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    pieces = [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]  # noqa: RUF007 - plainer
    *whole, last = data.split(b"\n")
    model = [line[:LIMIT].decode("utf-8", "replace") for line in (*whole, *([last] if last else []))]
    assert lines(data) == lines(*pieces) == lines(*(bytes([byte]) for byte in data)) == model


def test_what_is_held_is_bounded():
    """A line without an end takes no more room than its limit."""
    cutter = LineCutter(LIMIT)
    found = [line for _ in range(1000) for line in cutter.feed(b"x" * 100)]
    assert found == ["x" * LIMIT]
    assert len(cutter._pending) <= LIMIT
    assert cutter.feed(b"y\nz\n") == ["z"]
    assert cutter.end() == []


def test_so_many_lines_a_second_pass():
    """What is more is dropped and counted, and told of once; a new second is a new chance."""
    rate = LineRate(2)
    passed = [rate.passes(now) for now in (5.0, 5.1, 5.2, 5.9, 6.0, 6.5, 6.9)]
    assert passed == [
        True,
        True,
        False,
        False,
        True,
        True,
        False,
    ]
    assert rate.take_dropped() == "3 lines were dropped: more than 2 a second"
    assert rate.take_dropped() == ""


def test_what_is_skipped_is_counted_and_leaves_no_half_line():
    """Lines that are skipped are told by their number, and the rest of one that was begun is not taken for a line."""
    cutter = LineCutter(100)
    assert cutter.feed(b"begun") == []
    assert cutter.skip(b" and ended\nb\nc") == 3
    assert cutter.feed(b" the rest of c\nd\n") == ["d"]
    assert cutter.skip(b"e\n") == 1
    assert cutter.skip(b"e\nf\n") == 2
    assert cutter.feed(b"f\n") == ["f"]


@given(st.lists(st.text("x\n", min_size=1)))
def test_a_line_that_is_skipped_in_pieces_is_counted_once(pieces: list[str]):
    """Wherever they are cut, as many are counted as there are."""
    cutter = LineCutter(100)
    counted = sum(cutter.skip(piece.encode()) for piece in pieces)
    assert counted == len("".join(pieces).splitlines())


def test_a_rate_is_spent_until_its_second_is_over():
    """Who asks first need not cut lines that would not pass; they are counted with the others."""
    rate = LineRate(1)
    assert not rate.is_spent(5.0)
    assert rate.passes(5.0)
    assert rate.is_spent(5.5)
    rate.drop(7)
    assert not rate.is_spent(6.0)
    assert rate.take_dropped() == "7 lines were dropped: more than 1 a second"
