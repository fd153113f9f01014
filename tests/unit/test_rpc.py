"""The client of the JSON-RPC wire, on a transport in memory."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import MessageTooLarge, ProtocolError, SidecarExited, UsageError
from coredeno.sidecar.rpc import RpcClient
from coredeno.testing import TurnedClock
from coredeno.wire.codec import FrameReader
from coredeno.wire.typed import decoder_for
from coredeno.wire.values import Outgoing

LIMIT = 2000
GONE = SidecarExited(reason="it was killed", exit_code=-9)


class MemoryTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = False
        self.too_late = 0
        self.paused = 0

    def is_closing(self):
        return self.aborted

    def pause_reading(self):
        self.paused += 1

    def resume_reading(self):
        self.paused -= 1

    def write(self, data):
        self.too_late += self.aborted
        assert not self.aborted
        self.writes.append(bytes(data))

    def abort(self):
        self.aborted = True


class Wire:
    """A client, and the sidecar's end of it."""

    def __init__(self, *, connected=True):
        self.notifications: list[Any] = []
        self.broken: list[ProtocolError] = []
        self.lost = 0
        self.settled: list[str] = []
        self.clock = TurnedClock()
        self.client = RpcClient(
            limit_bytes=LIMIT,
            clock=self.clock,
            on_notification=lambda method, params: self.notifications.append((method, bytes(params))),
            on_broken=self.broken.append,
            on_lost=self.lose,
        )
        self.transport = MemoryTransport()
        if connected:
            self.client.connection_made(self.transport)

    def lose(self):
        self.lost += 1

    def ask(self, name, params=None, **options):
        """A request under way; its name is noted when it is settled."""
        return asyncio.create_task(
            self.client.request(name, params, on_settled=lambda: self.settled.append(name), **options)
        )

    @property
    def sent(self) -> list[dict[str, Any]]:
        """The messages that were written, each with its raw bytes."""
        reader = FrameReader(limit_bytes=LIMIT)
        found = []
        for frame in reader.feed(b"".join(self.transport.writes)):
            message = json.loads(frame.text)
            found.append({**message, "raw": frame.attachments} if frame.attachments else message)
        return found

    def id_of(self, name):
        (request_id,) = (message["id"] for message in self.sent if message["method"] == name)
        return request_id

    def say(self, data=b"", **message):
        text = b"" if not message else msgspec.json.encode({"jsonrpc": "2.0", **message}) + b"\n"
        self.client.data_received(text + data)

    def answer(self, name, result):
        self.say(id=self.id_of(name), result=result)


async def turns(count=4):
    for _ in range(count):
        await asyncio.sleep(0)


async def end(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def plain(reply):
    return reply.result(decoder_for(Any))


async def test_requests_are_numbered_and_answered():
    """Ids are whole numbers that count up; the answer comes to whoever asked."""
    wire = Wire()
    first, second = wire.ask("a", {"x": 1}), wire.ask("b", [2])
    await turns()
    assert wire.sent == [
        {"jsonrpc": "2.0", "method": "a", "params": {"x": 1}, "id": 1},
        {"jsonrpc": "2.0", "method": "b", "params": [2], "id": 2},
    ]
    assert not first.done()
    wire.answer("a", {"r": [1]})
    wire.answer("b", None)
    assert plain(await first) == {"r": [1]}
    assert plain(await second) is None
    assert (await first).error is None
    assert wire.settled == ["a", "b"]


async def test_answers_come_in_any_order():
    """Many requests are under way at once, and each gets its own answer."""
    wire = Wire()
    tasks = {f"m{number}": wire.ask(f"m{number}") for number in range(20)}
    await turns()
    for name in reversed(tasks):
        wire.answer(name, name)
    assert {name: plain(await task) for name, task in tasks.items()} == {name: name for name in tasks}


async def test_what_is_ready_together_is_written_together():
    """All messages of one turn leave in one write, in their order."""
    wire = Wire()
    tasks = [wire.ask(f"m{number}") for number in range(10)]
    await turns()
    wire.client.notify("n", {})
    wire.client.notify("o", {})
    await turns()
    assert len(wire.transport.writes) == 2
    assert [message["method"] for message in wire.sent] == [f"m{number}" for number in range(10)] + ["n", "o"]
    await end(*tasks)


async def test_a_turn_with_very_much_is_written_in_pieces():
    """However much one turn brings, all of it is written, in order."""
    wire = Wire()
    for number in range(5000):
        wire.client.notify("n", number)
    await turns()
    assert [message["params"] for message in wire.sent] == list(range(5000))


async def test_binary_values_both_ways():
    """They follow the line, in the order of the entries."""
    wire = Wire()
    value = Outgoing([b"\n\n", {"k": b"x"}], ("params",))
    task = wire.ask("a", value.plain, entries=value.entries, attachments=value.attachments)
    other = wire.ask("b")
    await turns()
    assert wire.sent[0] == {
        "jsonrpc": "2.0",
        "method": "a",
        "params": [None, {"k": None}],
        "id": 1,
        "bytes": [{"at": ["params", 0], "len": 2}, {"at": ["params", 1, "k"], "len": 1}],
        "raw": [b"\n\n", b"x"],
    }
    assert wire.sent[1]["method"] == "b"
    wire.say(id=1, result=[None], bytes=[{"at": ["result", 0], "len": 3}])
    assert not task.done()
    wire.say(b"ab")
    wire.say(b'\n{"jsonrpc":"2.0","id":2,"result":2}\n')
    assert plain(await task) == [b"ab\n"]
    assert plain(await other) == 2


async def test_errors_are_answers():
    """An error object is given as it came; the client judges nothing."""
    wire = Wire()
    task = wire.ask("a")
    await turns()
    wire.say(id=1, error={"code": -32000, "message": "m", "data": {"k": 1}})
    error = (await task).error
    assert (error.code, error.message, error.data) == (-32000, "m", {"k": 1})


async def test_results_of_another_type():
    """A result is decoded when it is looked at, and only its own reader hears what is wrong with it."""
    wire = Wire()
    task = wire.ask("a")
    await turns()
    wire.answer("a", "text")
    reply = await task
    with pytest.raises(msgspec.ValidationError):
        reply.result(decoder_for(int))
    assert plain(reply) == "text"


async def test_notifications():
    """What the sidecar says by itself goes to its owner."""
    wire = Wire()
    wire.say(method="ModuleExited", params={"code": "a"})
    wire.say(method="x")
    assert wire.notifications == [("ModuleExited", b'{"code":"a"}'), ("x", b"")]


# --- sending


def notes(first, last):
    return b"".join(b'{"jsonrpc":"2.0","method":"n","params":%d}\n' % number for number in range(first, last))


def heard(wire):
    return [int(params) for _method, params in wire.notifications]


async def test_a_read_that_brings_very_much_is_taken_over_some_turns():
    """So many messages a turn, in their order; meanwhile nothing more is read."""
    wire = Wire()
    wire.client.data_received(notes(0, 600) + notes(600, 601)[:20])
    seen = []
    for _ in range(4):
        seen.append((len(wire.notifications), wire.transport.paused))
        await turns(1)
    assert seen == [(256, 1), (512, 1), (600, 0), (600, 0)]
    wire.client.data_received(notes(600, 601)[20:])
    assert heard(wire) == list(range(601))


async def test_what_comes_from_a_transport_that_does_not_pause_waits():
    """It is taken behind what came before."""
    wire = Wire()
    for first in range(0, 1200, 400):
        wire.client.data_received(notes(first, first + 400))
    assert len(wire.notifications) == 256
    await turns(6)
    assert heard(wire) == list(range(1200))
    assert wire.transport.paused == 0


@pytest.mark.parametrize("how", ["fail", "lost"])
async def test_what_was_answered_before_the_end_is_answered(how):
    """The end is told after the last answer that came, however much waits before it."""
    wire = Wire()
    answered, open_still = wire.ask("a"), wire.ask("b")
    await turns()
    wire.client.data_received(notes(0, 300))
    wire.answer("a", 5)
    if how == "fail":
        wire.client.fail(GONE)
    else:
        wire.client.connection_lost(None)
        assert wire.lost == 1
        wire.client.fail(GONE)
    assert len(wire.notifications) == 300
    assert plain(await answered) == 5
    with pytest.raises(SidecarExited):
        await open_still
    wire.client.data_received(notes(300, 301))
    await turns()
    assert len(wire.notifications) == 300


def held_by_frames(error: BaseException | None) -> int:
    """How many bytes the frames of an error hold, and those of what it came of."""
    held = 0
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            held += sum(len(each) for each in trace.tb_frame.f_locals.values() if isinstance(each, bytes))
            trace = trace.tb_next
        error = error.__context__
    return held


async def test_what_broke_the_rules_is_not_kept():
    """The error is, as long as the module; the frames that it came through held the message."""
    wire = Wire()
    wire.client.data_received(b'{"jsonrpc":"' + b"x" * 1_500 + b'"}\n')
    (error,) = wire.broken
    assert held_by_frames(error) < 1000


async def test_rules_that_are_broken_behind_very_much():
    """What came before is taken, and nothing that came behind."""
    wire = Wire()
    wire.client.data_received(notes(0, 300) + b"x\n" + notes(300, 900))
    assert not wire.broken
    await turns()
    assert heard(wire) == list(range(300))
    assert len(wire.broken) == 1
    wire.client.data_received(notes(900, 901))
    await turns()
    assert len(wire.notifications) == 300


async def test_an_end_by_what_is_heard():
    """Whoever ends the connection for a notification hears what came with it, and nothing is taken twice."""
    wire = Wire()
    hear = wire.client._on_notification

    def end(method, params):
        hear(method, params)
        if bytes(params) == b"300":
            wire.client.fail(GONE)

    wire.client._on_notification = end
    wire.client.data_received(notes(0, 900))
    await turns()
    assert heard(wire) == list(range(900))


async def test_what_is_too_large_is_not_sent():
    """It fails its own request, before any of it is sent; with its binary values it is one message."""
    wire = Wire()
    with pytest.raises(MessageTooLarge) as caught:
        await wire.ask("a", "x" * LIMIT)
    assert (caught.value.limit_bytes, caught.value.size_bytes > LIMIT) == (LIMIT, True)
    value = Outgoing(b"x" * LIMIT, ("params",))
    with pytest.raises(MessageTooLarge):
        await wire.ask("b", value.plain, entries=value.entries, attachments=value.attachments)
    task = wire.ask("c")
    await turns()
    assert [message["method"] for message in wire.sent] == ["c"]
    assert wire.settled == ["a", "b"]
    await end(task)


def exact(size, *, request_id=1):
    """Params with which a request has exactly this size."""
    empty = len(msgspec.json.encode({"jsonrpc": "2.0", "method": "a", "params": "", "id": request_id}))
    return "x" * (size - empty)


async def test_the_limit_is_met_exactly():
    """A message of the limit goes, one byte more does not."""
    wire = Wire()
    with pytest.raises(MessageTooLarge):
        await wire.ask("a", exact(LIMIT + 1))
    task = wire.ask("a", exact(LIMIT))
    await turns()
    assert len(b"".join(wire.transport.writes)) == LIMIT + 1
    await end(task)


async def test_the_limit_holds_for_the_number_that_is_sent():
    """A request that waited is sent under a later number, which may be longer: it still must fit."""
    wire = Wire()
    before = [wire.ask(f"m{number}") for number in range(8)]
    await turns()
    wire.client.pause_writing()
    tasks = [wire.ask("first"), wire.ask("a", exact(LIMIT, request_id=9))]
    await turns()
    wire.client.resume_writing()
    await turns()
    assert max(len(line) for line in b"".join(wire.transport.writes).split(b"\n")) <= LIMIT
    await end(*before, *tasks)


@pytest.mark.parametrize("params", ["\ud800", {"\udfff": 1}, ["fine", ["\ud83d"]]])
async def test_a_lone_surrogate_fails_its_own_request_alone(params):
    """The others of the same turn are sent and answered."""
    wire = Wire()
    tasks = [wire.ask("a"), wire.ask("bad", params), wire.ask("b")]
    await turns()
    with pytest.raises(UsageError, match="lone surrogate"):
        await tasks[1]
    assert [message["method"] for message in wire.sent] == ["a", "b"]
    wire.answer("a", 1)
    wire.answer("b", 2)
    assert [plain(await tasks[0]), plain(await tasks[2])] == [1, 2]
    assert sorted(wire.settled) == ["a", "b", "bad"]


async def test_nothing_is_sent_before_there_is_a_connection():
    """A request waits for it."""
    wire = Wire(connected=False)
    task = wire.ask("a")
    await turns()
    assert wire.transport.writes == []
    wire.client.connection_made(wire.transport)
    await turns()
    assert [message["method"] for message in wire.sent] == ["a"]
    await end(task)


async def test_a_full_connection_lets_requests_wait():
    """Between pause and resume no request is written; they go on in their order."""
    wire = Wire()
    wire.client.pause_writing()
    tasks = [wire.ask(name) for name in "abc"]
    await turns()
    assert wire.transport.writes == []
    wire.client.resume_writing()
    await turns()
    assert [(message["method"], message["id"]) for message in wire.sent] == [("a", 1), ("b", 2), ("c", 3)]
    await end(*tasks)


async def test_a_request_that_waits_can_be_given_up():
    """Nothing of it is sent, not even that it was given up."""
    wire = Wire()
    wire.client.pause_writing()
    first, second = wire.ask("a"), wire.ask("b")
    await turns()
    await end(first)
    assert wire.settled == ["a"]
    wire.client.resume_writing()
    await turns()
    assert [(message["method"], message["id"]) for message in wire.sent] == [("b", 1)]
    await end(second)


# --- giving up


async def test_a_request_that_was_given_up_is_cancelled_and_still_counts():
    """The sidecar is told; `on_settled` comes when it has answered all the same."""
    wire = Wire()
    task = wire.ask("a")
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turns()
    assert wire.sent[1] == {"jsonrpc": "2.0", "method": "Cancel", "params": {"id": 1}}
    assert wire.settled == []
    wire.answer("a", "too late")
    assert wire.settled == ["a"]
    assert not wire.broken


async def test_giving_up_in_the_turn_in_which_it_was_asked():
    """Request and cancel leave together, in their order."""
    wire = Wire()
    task = wire.ask("a")
    await asyncio.sleep(0)
    await end(task)
    await turns()
    assert [message["method"] for message in wire.sent] == ["a", "Cancel"]
    wire.answer("a", None)
    assert wire.settled == ["a"]


async def test_giving_up_what_has_just_been_answered():
    """The caller is cancelled, the sidecar is told nothing, and all is settled once."""
    for answered_first in (True, False):
        wire = Wire()
        task = wire.ask("a")
        await turns()
        if answered_first:
            wire.answer("a", 1)
            task.cancel()
        else:
            task.cancel()
            wire.answer("a", 1)
        await asyncio.gather(task, return_exceptions=True)
        await turns()
        assert [message["method"] for message in wire.sent] == ["a"]
        assert wire.settled == ["a"]
        assert not wire.broken


async def test_giving_up_without_anybody_to_tell():
    """`on_settled` is optional."""
    wire = Wire()
    task = asyncio.create_task(wire.client.request("a", None))
    await turns()
    await end(task)
    await turns()
    wire.say(id=1, error={"code": -32005, "message": "cancelled"})
    assert not wire.broken


# --- timeouts


async def test_a_request_that_is_not_answered_in_time():
    """It raises, the sidecar is told, and it counts until it is answered all the same."""
    wire = Wire()
    task, other = wire.ask("a", timeout_s=2), wire.ask("b", timeout_s=3)
    await wire.clock.turn(1.9)
    assert not task.done()
    await wire.clock.turn(0.1)
    with pytest.raises(TimeoutError):
        await task
    assert [message["method"] for message in wire.sent] == ["a", "b", "Cancel"]
    assert wire.settled == []
    wire.answer("a", 1)
    wire.answer("b", 2)
    assert plain(await other) == 2
    assert wire.settled == ["a", "b"]
    assert wire.clock.waiting == 0


async def test_an_answer_in_the_moment_of_the_timeout():
    """Whichever comes first counts, and all is settled once."""
    wire = Wire()
    task = wire.ask("a", timeout_s=2)
    wire.clock.call_later(2, lambda: wire.answer("a", "just in time"))
    late = wire.ask("b", timeout_s=2)
    await wire.clock.turn(0)
    await wire.clock.turn(2)
    with pytest.raises(TimeoutError):
        await late
    (result,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(result, TimeoutError) or plain(result) == "just in time"
    assert wire.settled.count("a") == 1
    assert not wire.broken
    assert wire.clock.waiting == 0


@pytest.mark.parametrize("timeout_s", [0, -1])
async def test_no_time_at_all(timeout_s):
    """A request whose time is over already raises in the next turn."""
    wire = Wire()
    with pytest.raises(TimeoutError):
        await wire.ask("a", timeout_s=timeout_s)


async def test_the_time_counts_while_a_request_waits_to_be_sent():
    """Waiting for room on the connection is part of the time; what was never sent is not cancelled."""
    wire = Wire()
    wire.client.pause_writing()
    early, late = wire.ask("a", timeout_s=1), wire.ask("b", timeout_s=3)
    await wire.clock.turn(1)
    with pytest.raises(TimeoutError):
        await early
    assert wire.settled == ["a"]
    await wire.clock.turn(1)
    wire.client.resume_writing()
    await wire.clock.turn(0.9)
    assert not late.done()
    assert [message["method"] for message in wire.sent] == ["b"]
    await wire.clock.turn(0.1)
    with pytest.raises(TimeoutError):
        await late
    assert wire.clock.waiting == 0


async def test_answered_requests_leave_no_timer():
    """Nothing waits for the time of a request that is over."""
    wire = Wire()
    tasks = [wire.ask(name, timeout_s=9) for name in "abc"]
    await turns()
    assert wire.clock.waiting == 3
    wire.answer("a", 1)
    await end(tasks[1])
    wire.client.fail(GONE)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert wire.clock.waiting == 0


# --- the end


async def test_everything_under_way_ends_at_once():
    """All requests raise the same reason; later ones too, and nothing more is written."""
    wire = Wire()
    tasks = [wire.ask(f"m{number}") for number in range(5)]
    given_up = wire.ask("g")
    await turns()
    await end(given_up)
    wire.client.pause_writing()
    waiting = wire.ask("w")
    await turns()
    written = list(wire.transport.writes)
    wire.client.notify("n", {})
    wire.client.fail(GONE)
    wire.client.fail(SidecarExited(reason="another", exit_code=0))
    results = await asyncio.gather(*tasks, waiting, return_exceptions=True)
    assert all(result is GONE for result in results)
    assert sorted(wire.settled) == ["g", "m0", "m1", "m2", "m3", "m4", "w"]
    assert wire.transport.aborted
    with pytest.raises(SidecarExited):
        await wire.ask("late")
    wire.client.notify("n", {})
    await turns()
    assert wire.transport.writes == written
    assert wire.settled[-1] == "late"


async def test_an_end_before_there_was_a_connection():
    """Those who wait for it are told why there is none."""
    wire = Wire(connected=False)
    task = wire.ask("a")
    await turns()
    wire.client.fail(GONE)
    with pytest.raises(SidecarExited):
        await task


async def test_an_end_in_the_turn_in_which_the_caller_gives_up():
    """A caller that is cancelled as it ends leaves nothing behind, whichever came first."""
    for fail_first in (True, False):
        wire = Wire()
        task = wire.ask("a")
        await turns()
        if fail_first:
            wire.client.fail(GONE)
            task.cancel()
        else:
            task.cancel()
            wire.client.fail(GONE)
        (result,) = await asyncio.gather(task, return_exceptions=True)
        assert result is GONE or isinstance(result, asyncio.CancelledError)
        assert wire.settled == ["a"]


async def test_a_connection_that_ends_by_itself():
    """Its owner is told once; what is under way stays so until the owner knows why."""
    wire = Wire()
    task = wire.ask("a")
    await turns()
    wire.client.connection_lost(None)
    await turns()
    assert wire.lost == 1
    assert not task.done()
    wire.client.fail(GONE)
    with pytest.raises(SidecarExited):
        await task
    wire.client.connection_lost(None)
    assert wire.lost == 1


# --- a hostile sidecar

HOSTILE = {
    "an unknown id": b'{"jsonrpc":"2.0","id":99,"result":1}\n',
    "an id of the future": b'{"jsonrpc":"2.0","id":2,"result":1}\n',
    "a negative id": b'{"jsonrpc":"2.0","id":-1,"result":1}\n',
    "no id": b'{"jsonrpc":"2.0","result":1}\n',
    "an id of null": b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":""}}\n',
    "neither result nor error": b'{"jsonrpc":"2.0","id":1}\n',
    "an answer twice": b'{"jsonrpc":"2.0","id":1,"result":1}\n{"jsonrpc":"2.0","id":1,"result":1}\n',
    "no JSON": b"{\n",
    "no JSON-RPC": b'{"id":1,"result":1}\n',
    "too much": b" " * (LIMIT + 1),
    "too deep": b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 500 + b"]" * 500 + b"}\n",
    "bytes without end": b'{"jsonrpc":"2.0","id":1,"result":null,"bytes":[{"at":["result"],"len":99999}]}\n',
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_what_breaks_the_rules_ends_the_connection(kind):
    """The owner hears of it once, and everybody who waits is told, with the same error."""
    wire = Wire()
    task, other = wire.ask("a"), asyncio.create_task(asyncio.sleep(0))
    await turns()
    wire.say(HOSTILE[kind])
    (error,) = wire.broken
    assert type(error) is ProtocolError
    assert wire.transport.aborted
    if kind == "an answer twice":
        assert plain(await task) == 1
    else:
        with pytest.raises(ProtocolError):
            await task
    wire.say(HOSTILE[kind])
    wire.client.connection_lost(None)
    assert len(wire.broken) == 1
    assert wire.lost == 0
    await other


async def test_an_answer_to_what_was_given_up_comes_once():
    """A second one is to a request that is not under way."""
    wire = Wire()
    task = wire.ask("a")
    await turns()
    await end(task)
    wire.answer("a", 1)
    assert not wire.broken
    wire.answer("a", 1)
    assert len(wire.broken) == 1


async def test_bytes_at_no_place_are_the_readers_problem():
    """A result whose binary values have no place is a `ProtocolError` where it is read."""
    wire = Wire()
    task = wire.ask("a")
    await turns()
    wire.say(b"x", id=1, result=[], bytes=[{"at": ["result", 0], "len": 1}])
    with pytest.raises(ProtocolError, match="a place that the message does not have"):
        plain(await task)


SAID = st.one_of(
    st.builds(
        lambda number, member: msgspec.json.encode({"jsonrpc": "2.0", "id": number, **member}) + b"\n",
        st.integers(0, 6),
        st.sampled_from([{"result": 1}, {"error": {"code": 1, "message": ""}}, {}]),
    ),
    st.just(b'{"jsonrpc":"2.0","method":"n"}\n'),
    st.binary(max_size=10),
)


@given(st.lists(SAID, max_size=8), st.sets(st.integers(0, 4)))
async def test_whatever_a_sidecar_says_every_request_is_settled_once(said, given_up):
    """Answered, failed or given up: `on_settled` comes exactly once for each, at the latest with the end."""
    wire = Wire()
    tasks = [wire.ask(f"m{number}") for number in range(5)]
    await turns()
    await end(*(tasks[number] for number in given_up))
    for data in said:
        wire.say(data)
        await turns()
    wire.client.fail(GONE)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(wire.settled) == [f"m{number}" for number in range(5)]
    assert len(wire.broken) <= 1


async def test_nothing_is_written_to_a_connection_that_is_closed():
    """It may be some time until the owner knows why it ended: who asks meanwhile is told then."""
    wire = Wire()
    wire.transport.abort()
    asking = wire.ask("late")
    await turns()
    assert wire.transport.too_late == 0
    wire.client.fail(GONE)
    with pytest.raises(SidecarExited):
        await asking
