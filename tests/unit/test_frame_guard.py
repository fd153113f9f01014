"""The guard before HTTP/2: by the heads of frames it knows what is too long, too often, and enough for one turn."""

from __future__ import annotations

import pytest

from coredeno.errors import ProtocolError
from coredeno.gateway.frame_guard import FrameGuard
from coredeno.gateway.rate import Rate

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, payload: bytes = b"", flags: int = 0, *, size: int | None = None) -> bytes:
    length = len(payload) if size is None else size
    return length.to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 1]) + payload


def slices(data: bytes, guard: FrameGuard | None = None, now: float = 0) -> list[int]:
    """The lengths of the slices into which it is cut."""
    guard = guard or FrameGuard(0)
    found, position = [], 0
    while position < len(data):
        end = guard.cut(data, position, now)
        found.append(end - position)
        position = end
    return found


def test_a_call_is_one_slice():
    """What an honest client sends for a call is passed on as it came."""
    call = PREFACE + frame(SETTINGS, bytes(12)) + frame(HEADERS, bytes(200), END_HEADERS)
    call += frame(DATA, bytes(1000), END_STREAM) + frame(WINDOW, bytes(4))
    assert slices(call) == [len(call)]


@pytest.mark.parametrize("cut", range(1, 40))
def test_bytes_may_be_cut_anywhere(cut: int):
    """A head in two parts is the same head."""
    data = PREFACE + frame(PING, bytes(8)) + frame(DATA, b"", size=16_385)
    guard = FrameGuard(0)
    pieces = (data[start : start + cut] for start in range(0, len(data), cut))
    with pytest.raises(ProtocolError, match="a frame of 16385 bytes, wanted at most 16384"):
        any(slices(piece, guard) == [] for piece in pieces)


def test_many_small_frames_are_many_slices():
    """No turn of the loop has more than a slice, whatever a read brought."""
    cut = slices(PREFACE + frame(PING, bytes(8)) * 1000)
    assert len(cut) > 10
    assert max(cut) < 2000


def test_requests_cost_more_than_data():
    """A stream and a task are made for each; and its fields are decoded."""
    requests = slices(frame(HEADERS, bytes(100), END_HEADERS) * 100, guard_after_preface())
    data = slices(frame(DATA, bytes(100)) * 100, guard_after_preface())
    assert len(requests) > 5 * len(data)


@pytest.mark.parametrize(
    "flood",
    [
        frame(PING, bytes(8)),
        frame(PRIORITY, bytes(5)),
        frame(SETTINGS, bytes(6)),
        frame(DATA),
        frame(CONTINUATION),
        frame(99, b"unknown"),
    ],
)
def test_control_frames_have_a_rate(flood: bytes):
    """Some thousand at once, a thousand a second; who sends more breaks the rules."""
    guard = guard_after_preface()
    slices(flood * 2000, guard)
    slices(flood * 500, guard, now=1)
    with pytest.raises(ProtocolError, match="more than 1000 control frames a second"):
        slices(flood * 5000, guard, now=1)


def test_resets_have_a_lower_rate():
    """A request was begun and ended for each (CVE-2023-44487)."""
    guard = guard_after_preface()
    slices(frame(RST, bytes(4)) * 2000, guard)
    with pytest.raises(ProtocolError, match="control frames"):
        slices(frame(RST, bytes(4)), guard)


def test_a_client_may_cancel_each_of_its_calls():
    """As fast as grpcio can, for as long as it likes, and with the pings that it sends beside."""
    guard = guard_after_preface()
    call = frame(HEADERS, bytes(200), END_HEADERS) + frame(DATA, bytes(50), END_STREAM) + frame(RST, bytes(4))
    second = call * 440 + frame(PING, bytes(8)) * 20
    for now in range(120):
        slices(second, guard, now=now)


def test_resets_fill_a_slice_sooner_than_their_rate_says():
    """What is done for one in a turn of the loop is that of several other frames."""
    resets = slices(frame(RST, bytes(4)) * 100, guard_after_preface())
    pings = slices(frame(PING, bytes(8)) * 100, guard_after_preface())
    assert len(resets) >= 5 * len(pings)


def test_window_updates_have_a_higher_rate():
    """A client that is sent much sends many."""
    guard = guard_after_preface()
    slices(frame(WINDOW, bytes(4)) * 30_000, guard)
    with pytest.raises(ProtocolError, match="more than 15000 WINDOW_UPDATE frames a second"):
        slices(frame(WINDOW, bytes(4)), guard)


def test_the_last_empty_data_of_a_stream_is_no_flood():
    """Each call may end with one."""
    slices(frame(DATA, b"", END_STREAM) * 10_000, guard_after_preface())


def test_blocks_of_headers_are_bounded():
    """However many frames they are sent in; each block by itself."""
    guard = guard_after_preface()
    for _ in range(5):
        slices(frame(HEADERS, bytes(16_000)) + frame(CONTINUATION, bytes(16_000), END_HEADERS), guard)
    with pytest.raises(ProtocolError, match="a block of headers over 32768 bytes"):
        slices(frame(HEADERS, bytes(16_384)) + frame(CONTINUATION, bytes(16_384)) * 2, guard)


def test_a_rate():
    """Its burst at once, then so much a second; what is refused costs nothing; a silence fills it up, and no more."""
    rate = Rate(per_s=2, burst=3, now=0)
    assert [rate.allows(0) for _ in range(4)] == [True, True, True, False]
    assert not rate.allows(0.4)
    assert rate.allows(0.5)
    assert not rate.allows(100, cost=4)
    assert rate.allows(100, cost=3)


def guard_after_preface() -> FrameGuard:
    guard = FrameGuard(0)
    slices(PREFACE, guard)
    return guard
