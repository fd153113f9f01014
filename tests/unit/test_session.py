"""One Session in memory: what a sidecar sends is served, answered in batches, or ends the Session."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import (
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    ProtocolError,
    UsageError,
)
from coredeno.gateway.gate import Gate
from coredeno.gateway.gateway import Gateway
from coredeno.permissions import Grants, OpenAccess
from coredeno.services.builtin import LogParams, NoParams, PathParams
from coredeno.services.method import Caller, Method
from coredeno.testing import TurnedClock
from coredeno.wire.codes import ROWS
from coredeno.wire.typed import TypedDecoder

LIMIT = 10_000
IN_FLIGHT = 5
SLACK = 64
CODES = {name: row.code for name, row in ROWS.items()}


class Value(msgspec.Struct, forbid_unknown_fields=True):
    value: Any = None


class Data(msgspec.Struct):
    data: bytes


class LazyList(list):
    """Fails where somebody looks into it."""

    def __iter__(self):
        raise ZeroDivisionError


def deep(levels):
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


RESULTS = {
    "set": {1, 2},
    "nan": float("nan"),
    "large integer": 10**400,
    "surrogate": "\ud800",
    "surrogate key": {"\udfff": 1},
    "deep": deep(129),
    "object": object(),
    "integer key": {1: 2},
    "many binary values": [b""] * 1025,
    "lazy": LazyList([1]),
}
ERRORS = {
    "not found": NotFound("no such city"),
    "precondition": FailedPrecondition("later"),
    "long": NotFound("x" * 3 * LIMIT),
    "surrogate": NotFound("\ud800"),
    "odd field": type("Odd", (NotFound,), {})("odd"),
    "protocol": ProtocolError("another module's sidecar broke its wire"),
    "bug": ValueError("secret"),
    "timeout": TimeoutError("secret"),
}
ERRORS["odd field"].field = object()  # type: ignore[attr-defined]


class Wire:
    """A gateway with one sidecar, and the sidecar's end of its Session."""

    def __init__(self, *modules: str, in_flight: int = IN_FLIGHT, message_bytes: int = LIMIT) -> None:
        self.message_bytes = message_bytes
        self.clock = TurnedClock()
        self.batches: list[tuple[list[Any], list[bytes]]] = []
        self.broken: list[ProtocolError] = []
        self.callers: list[Caller] = []
        self.entered: list[Any] = []
        self.cancelled: list[Any] = []
        self.free = asyncio.Event()
        self.gateway = Gateway(
            Gate(self.methods(), lambda _event: None),
            clock=self.clock,
            message_bytes=message_bytes,
            requests_in_flight=in_flight,
            emit=lambda _event: None,
        )
        self.token = self.gateway.admit_sidecar("sidecar-1", self.broken.append)
        for code in modules:
            self.gateway.admit_module(self.token, Caller(code, "1", Grants()))
        self.session = self.gateway.open_session(self.token, self.take)

    def take(self, messages, attachments):
        size = len(messages) + sum(map(len, attachments))
        assert size <= self.message_bytes + 65_536
        self.batches.append((msgspec.json.decode(messages), list(attachments)))

    @property
    def answers(self) -> dict[int, Any]:
        """By id, what was answered: the result, or the code of the error."""
        found = {}
        for messages, _attachments in self.batches:
            for message in messages:
                assert message["jsonrpc"] == "2.0"
                assert message["id"] not in found
                assert ("result" in message) != ("error" in message)
                found[message["id"]] = message["error"]["code"] if "error" in message else message["result"]
        return found

    @property
    def under_way(self):
        """The ids of what is still worked on."""
        return [number for number, (task, _module) in self.session._tasks.items() if not task.done()]

    def error(self, request_id):
        (error,) = (
            message["error"] for batch, _ in self.batches for message in batch if message["id"] == request_id
        )
        return error

    def send(self, *messages, attachments=()):
        self.session.receive(msgspec.json.encode(list(messages)), attachments)

    async def settle(self):
        """Until nothing is ready any more."""
        await self.clock.turn(0)

    def methods(self):  # noqa: C901 - one small function each
        async def echo(caller, params):
            self.callers.append(caller)
            return params.value

        async def slow(_caller, params):
            self.entered.append(params.value)
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                self.cancelled.append(params.value)
                raise
            return params.value

        async def stubborn(_caller, params):
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                return params.value

        async def size(_caller, params):
            return "x" * params.value

        async def data(_caller, params):
            return [params.data, {"again": params.data}]

        async def large(_caller, params):
            self.entered.append(params.value)
            await self.free.wait()
            return "x" * 1_000_000

        async def path(_caller, params):
            return params.path

        async def result(_caller, params):
            return RESULTS[params.value]

        async def fail(_caller, params):
            raise ERRORS[params.value]

        async def log(caller, params):
            logging.getLogger(f"coredeno.plugin.{caller.code}").info(params.message)

        async def health(_caller, _params):
            return {"ok": True}

        return [
            Method(
                name,
                TypedDecoder(params),
                lambda *_: OpenAccess(),
                run,
                for_sidecar=name == "health.check",
                is_bulk=name == "bulk",
                is_sizeable=name == "sizeable",
            )
            for name, params, run in [
                ("echo", Value, echo),
                ("slow", Value, slow),
                ("bulk", Value, slow),
                ("sizeable", Value, slow),
                ("large", Value, large),
                ("stubborn", Value, stubborn),
                ("size", Value, size),
                ("data", Data, data),
                ("path", PathParams, path),
                ("result", Value, result),
                ("fail", Value, fail),
                ("log.write", LogParams, log),
                ("health.check", NoParams, health),
            ]
        ]


@contextmanager
def open_wire(*modules, **options):
    wire = Wire(*(modules or ("m",)), **options)
    yield wire
    wire.session.close()


def request(request_id, method="echo", value=None, *, module="m", **members):
    params = members.pop("params", {"value": value})
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params, **members}
    return message if module is None else {**message, "module": module}


def notice(method, params, *, module="m"):
    return {"jsonrpc": "2.0", "method": method, "params": params, "module": module}


def cancel(request_id):
    return notice("cancel", {"id": request_id})


# --- answers


async def test_what_is_ready_together_leaves_together():
    """All answers of one turn of the loop are one batch."""
    with open_wire() as wire:
        wire.send(*(request(number, value=number * 10) for number in range(5)))
        wire.send(request(5, value=50))
        await wire.settle()
        assert len(wire.batches) == 1
        assert wire.answers == {number: number * 10 for number in range(6)}


async def test_answers_come_when_they_are_ready():
    """A slow request holds up no other, and each answer has the id of its request."""
    with open_wire() as wire:
        wire.send(request(1, "slow", "a"), request(2, value="b"))
        await wire.settle()
        assert wire.answers == {2: "b"}
        wire.free.set()
        await wire.settle()
        assert wire.answers == {1: "a", 2: "b"}
        assert not wire.broken


async def test_batches_are_split_at_the_limit():
    """No batch of answers is larger than a message may be, and none is lost."""
    with open_wire() as wire:
        wire.send(*(request(number, "size", LIMIT // 3) for number in range(5)))
        await wire.settle()
        assert [len(messages) for messages, _ in wire.batches] == [2, 2, 1]
        assert len(wire.answers) == 5


async def test_binary_values_both_ways():
    """They come and go beside the messages, in the order of the messages and their entries."""
    with open_wire() as wire:
        entry = [{"at": ["params", "data"], "len": 3}]
        wire.send(
            request(1, "data", params={"data": None}, bytes=entry),
            request(2, value=None),
            request(3, "data", params={"data": None}, bytes=entry),
            attachments=[b"one", b"two"],
        )
        await wire.settle()
        ((messages, attachments),) = wire.batches
        assert attachments == [b"one", b"one", b"two", b"two"]
        assert [message["id"] for message in messages] == [1, 2, 3]
        assert messages[0]["result"] == [None, {"again": None}]
        assert messages[0]["bytes"] == [
            {"at": ["result", 0], "len": 3},
            {"at": ["result", 1, "again"], "len": 3},
        ]
        assert "bytes" not in messages[1]


async def test_an_answer_that_is_too_large():
    """The module is told; nothing of it is sent."""
    with open_wire() as wire:
        wire.send(request(1, "size", LIMIT), request(2, value="small"))
        await wire.settle()
        assert wire.answers == {1: CODES["LimitExceeded"], 2: "small"}


async def test_a_bug_of_ours_is_answered(monkeypatch, caplog):
    """Whoever asked does not wait for ever, and is told the number under which the log has it."""
    with open_wire() as wire, caplog.at_level(logging.ERROR, "coredeno.gateway"):

        async def run(*_arguments):
            raise ZeroDivisionError("ours")

        with monkeypatch.context() as patched:
            patched.setattr(wire.session._gate, "run", run)
            wire.send(request(1, value="x"))
            await wire.settle()
        assert wire.answers == {1: CODES["InternalError"]}
        assert wire.error(1)["data"]["incident"] in caplog.text
        assert not wire.broken


@pytest.mark.parametrize("kind", RESULTS)
async def test_a_result_that_cannot_cross(kind, caplog):
    """It is a bug of the service: the module gets a number, the log the details, and others are not harmed."""
    with open_wire() as wire, caplog.at_level(logging.ERROR, "coredeno.gateway"):
        wire.send(request(1, "result", kind), request(2, value="fine"))
        await wire.settle()
        assert wire.answers == {1: CODES["InternalError"], 2: "fine"}
        assert len(caplog.records) == 1
        assert wire.error(1)["data"]["incident"] in caplog.records[0].getMessage()
        assert not wire.broken


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("not found", "NotFound"),
        ("precondition", "FailedPrecondition"),
        ("long", "NotFound"),
        ("surrogate", "NotFound"),
        ("odd field", "NotFound"),
        ("protocol", "InternalError"),
        ("bug", "InternalError"),
        ("timeout", "InternalError"),
    ],
)
async def test_an_error_of_a_service(kind, name):
    """Whatever a service raises is answered, within the limit, and the Session lives on."""
    with open_wire() as wire:
        wire.send(request(1, "fail", kind), request(2, value="fine"))
        await wire.settle()
        assert wire.answers == {1: CODES[name], 2: "fine"}
        assert "secret" not in str(wire.batches)
        assert len(msgspec.json.encode(wire.error(1))) <= LIMIT
        assert not wire.broken


async def test_facts_of_an_error_cross():
    """The answer has the code of the class, its text and its fields."""
    with open_wire() as wire:
        wire.send(request(1, "fail", "not found"), request(2, "nothing"))
        await wire.settle()
        assert wire.error(1) == {
            "code": CODES["NotFound"],
            "message": "no such city",
            "data": {"name": "NotFound"},
        }
        assert wire.answers[2] == CODES["MethodNotFound"]


@pytest.mark.parametrize(
    ("method", "params"),
    [("echo", {"other": 1}), ("echo", [1]), ("path", {"path": "../up"}), ("data", {"data": "eA=="})],
)
async def test_wrong_params_fail_their_own_request(method, params):
    """What a module asks wrongly is answered, and breaks nothing."""
    with open_wire() as wire:
        wire.send(request(1, method, params=params), request(2, value="fine"))
        await wire.settle()
        assert wire.answers == {1: CODES["InvalidArgument"], 2: "fine"}


# --- who asks


async def test_the_caller_is_the_module_that_the_host_put_there():
    """Identity and grants are the host's; deadline and trace those of the frame."""
    with open_wire("m", "n") as wire:
        wire.send(request(1, module="n", deadline_ms=1500, trace="t"), request(2))
        await wire.settle()
        assert wire.callers == [Caller("n", "1", Grants(), 1.5, "t"), Caller("m", "1", Grants(), None, None)]


async def test_a_frame_without_a_module():
    """It means the only one; where there are several, or none, it is refused."""
    with open_wire("m") as wire:
        wire.send(request(1, module=None))
        await wire.settle()
        assert wire.callers[0].code == "m"
        assert 1 in wire.answers
    for modules in ((), ("m", "n")):
        wire = Wire(*modules)
        wire.send(request(1, module=None))
        await wire.settle()
        assert wire.answers == {1: CODES["PermissionDenied"]}
        assert not wire.broken
        wire.session.close()


@pytest.mark.parametrize("module", ["other", "", "M", "m ", "__proto__", "x" * 5000])
@pytest.mark.parametrize("kind", ["request", "log"])
async def test_a_forged_module_ends_the_session(module, kind):
    """A frame that names a module which was never there is a `ProtocolError` of its sidecar."""
    wire = Wire("m")
    wire.send(request(1, "slow"))
    await wire.settle()
    forged = request(2, module=module)
    if kind == "log":
        forged = notice("log.write", {"level": "info", "message": "m"}, module=module)
    wire.send(forged, request(3))
    await wire.settle()
    (error,) = wire.broken
    assert "which is not its own" in str(error)
    assert len(str(error)) < 200
    assert wire.batches == []
    assert wire.cancelled == [None]


async def test_a_module_that_was_unloaded_is_refused():
    """What was on its way when it was unloaded is answered with a refusal, a log record is dropped."""
    with open_wire("m", "n") as wire:
        wire.gateway.dismiss_module(wire.token, "m")
        wire.send(
            request(1), notice("log.write", {"level": "info", "message": "bye"}), request(2, module="n")
        )
        await wire.settle()
        assert wire.answers == {1: CODES["PermissionDenied"], 2: None}
        assert not wire.broken
        wire.gateway.admit_module(wire.token, Caller("m", "2", Grants()))
        wire.send(request(3))
        await wire.settle()
        assert wire.callers[-1].version == "2"


async def test_the_sidecar_itself():
    """`health.check` needs no module, and may be asked by one; nothing else goes without one."""
    with open_wire("m", "n") as wire:
        wire.send(
            request(1, "health.check", module=None, params={}),
            request(2, "health.check", module="m", params={}),
        )
        await wire.settle()
        assert wire.answers == {1: {"ok": True}, 2: {"ok": True}}


# --- cancelling


async def test_a_request_that_is_no_longer_wanted():
    """It is cancelled where it waits, and answered as cancelled; others go on."""
    with open_wire() as wire:
        wire.send(request(1, "slow", "a"), request(2, "slow", "b"))
        await wire.settle()
        wire.send(cancel(1))
        await wire.settle()
        assert wire.cancelled == ["a"]
        assert wire.answers == {1: CODES["Cancelled"]}
        wire.free.set()
        await wire.settle()
        assert wire.answers == {1: CODES["Cancelled"], 2: "b"}


async def test_a_request_that_is_cancelled_in_the_batch_that_it_came_in():
    """It is answered too, and takes no room any more."""
    with open_wire() as wire:
        for number in range(3 * (IN_FLIGHT + SLACK)):
            wire.send(request(number, "slow"), cancel(number))
            await wire.settle()
        assert not wire.broken
        assert wire.answers == dict.fromkeys(range(3 * (IN_FLIGHT + SLACK)), CODES["Cancelled"])


async def test_a_module_that_is_unloaded_in_the_turn_of_its_request():
    """Nothing of it is left under way."""
    with open_wire("m", "n") as wire:
        wire.send(request(1, "slow", "m"), request(2, "slow", "n", module="n"))
        wire.gateway.dismiss_module(wire.token, "m")
        await wire.settle()
        assert "m" not in wire.entered or wire.cancelled == ["m"]
        assert list(wire.session._tasks) == [2]


async def test_a_cancel_that_comes_too_late():
    """For a request that was answered, or never was, it means nothing."""
    with open_wire() as wire:
        wire.send(request(1, value="a"))
        await wire.settle()
        wire.send(cancel(1), cancel(99), request(2, value="b"))
        await wire.settle()
        assert wire.answers == {1: "a", 2: "b"}
        assert not wire.broken


async def test_a_service_that_will_not_be_cancelled():
    """One that catches its cancellation and returns is answered with what it returned, once."""
    with open_wire() as wire:
        wire.send(request(1, "stubborn", "done all the same"))
        await wire.settle()
        wire.send(cancel(1))
        await wire.settle()
        assert wire.answers == {1: "done all the same"}


async def test_unloading_cancels_what_is_under_way_for_that_module_alone():
    """The requests of others go on."""
    with open_wire("m", "n") as wire:
        wire.send(request(1, "slow", "m"), request(2, "slow", "n", module="n"))
        await wire.settle()
        wire.gateway.dismiss_module(wire.token, "m")
        wire.gateway.dismiss_module(wire.token, "m")
        await wire.settle()
        assert wire.cancelled == ["m"]
        wire.free.set()
        await wire.settle()
        assert wire.answers[2] == "n"


# --- deadlines


async def test_a_deadline():
    """A request that is not done in the time that is left is cancelled and answered so."""
    with open_wire() as wire:
        wire.send(request(1, "slow", "a", deadline_ms=1500), request(2, "slow", "b", deadline_ms=5000))
        await wire.clock.turn(1.4)
        assert wire.answers == {}
        await wire.clock.turn(0.1)
        assert wire.cancelled == ["a"]
        assert wire.answers == {1: CODES["PluginTimeout"]}
        assert wire.error(1)["data"] == {"name": "PluginTimeout", "module": "m", "timeout_s": 1.5}
        wire.free.set()
        await wire.settle()
        assert wire.answers[2] == "b"
        assert wire.clock.waiting == 0


@pytest.mark.parametrize("deadline_ms", [0, -5, -1e300])
async def test_a_deadline_that_has_passed_already(deadline_ms):
    """What has to wait ends at once."""
    with open_wire() as wire:
        wire.send(request(1, "slow", deadline_ms=deadline_ms))
        await wire.settle()
        assert wire.answers == {1: CODES["PluginTimeout"]}
        assert wire.clock.waiting == 0


async def test_a_deadline_far_away():
    """A number of any size is a time."""
    with open_wire() as wire:
        wire.send(request(1, value="a", deadline_ms=1e300))
        await wire.settle()
        assert wire.answers == {1: "a"}
        assert wire.clock.waiting == 0


# --- bounds, and what breaks the rules


@pytest.mark.parametrize("modules", [("m",), ("m", "n")])
async def test_requests_in_flight_are_bounded(modules):
    """The limit of each module, and some slack for those on their way; one more ends the Session."""
    wire = Wire(*modules)
    bound = (IN_FLIGHT + SLACK) * len(modules)
    wire.send(*(request(number, "slow") for number in range(bound)))
    await wire.settle()
    assert len(wire.entered) == bound
    assert not wire.broken
    wire.send(request(bound, "slow"))
    await wire.settle()
    assert "more requests in flight than it may have" in str(wire.broken[0])
    assert len(wire.cancelled) == bound
    assert wire.batches == []


async def test_answered_requests_make_room():
    """Only what is under way counts."""
    with open_wire() as wire:
        for number in range(3 * (IN_FLIGHT + SLACK)):
            wire.send(request(number))
            await wire.settle()
        assert not wire.broken


BREAKS = {
    "no array": b"{}",
    "no JSON": b"[",
    "no UTF-8": b'[{"jsonrpc":"2.0","method":"cancel","params":{"\xff":1}}]',
    "too deep": b'[{"jsonrpc":"2.0","id":1,"method":"echo","params":' + b"[" * 200 + b"]" * 200 + b"}]",
    "no method": b'[{"jsonrpc":"2.0","id":1}]',
    "negative id": b'[{"jsonrpc":"2.0","id":-1,"method":"echo","params":{},"module":"m"}]',
    "id in use": b'[{"jsonrpc":"2.0","id":7,"method":"slow","module":"m"},'
    b'{"jsonrpc":"2.0","id":7,"method":"slow","module":"m"}]',
    "other notification": b'[{"jsonrpc":"2.0","method":"echo","params":{},"module":"m"}]',
    "cancel of nothing": b'[{"jsonrpc":"2.0","method":"cancel","params":{},"module":"m"}]',
    "cancel of text": b'[{"jsonrpc":"2.0","method":"cancel","params":{"id":"1"},"module":"m"}]',
    "cancel and more": b'[{"jsonrpc":"2.0","method":"cancel","params":{"id":1,"more":1},"module":"m"}]',
    "log of another level": b'[{"jsonrpc":"2.0","method":"log.write",'
    b'"params":{"level":"fatal","message":""},"module":"m"}]',
    "log of no text": b'[{"jsonrpc":"2.0","method":"log.write","params":{"level":"info","message":1},"module":"m"}]',
    "log without a module": b'[{"jsonrpc":"2.0","method":"log.write",'
    b'"params":{"level":"info","message":""},"module":""}]',
    "bytes that did not come": b'[{"jsonrpc":"2.0","id":1,"method":"data","params":{"data":null},"module":"m",'
    b'"bytes":[{"at":["params","data"],"len":1}]}]',
    "bytes at no place": b'[{"jsonrpc":"2.0","id":1,"method":"data","params":{},"module":"m",'
    b'"bytes":[{"at":["params","data"],"len":0}]}]',
}


@pytest.mark.parametrize("kind", BREAKS)
async def test_what_breaks_the_rules_ends_the_session(kind):
    """The owner hears of it once; what is under way is cancelled; nothing is sent or taken any more."""
    wire = Wire("m")
    wire.send(request(50, "slow", "before"), request(51))
    attachments = [b""] if kind == "bytes at no place" else []
    wire.session.receive(BREAKS[kind], attachments)
    await wire.settle()
    assert [type(error) for error in wire.broken] == [ProtocolError]
    before = list(wire.batches)
    wire.free.set()
    wire.send(request(60))
    wire.session.receive(b"[", [])
    await wire.settle()
    assert wire.batches == before
    assert len(wire.broken) == 1
    assert wire.under_way == []


@pytest.mark.parametrize(
    ("lengths", "attachments"),
    [
        ([2], []),
        ([2], [b"abc"]),
        ([], [b"ab"]),
        ([2], [b"ab", b"more"]),
        ([1, 2], [b"ab", b"c"]),
        ([2, 2], [b"abcd"]),
    ],
)
async def test_attachments_that_are_not_those_that_were_named(lengths, attachments):
    """Too few, too many, or of other lengths: nothing of the batch can be trusted."""
    wire = Wire("m")
    messages = [
        request(number, "data", params={"data": None}, bytes=[{"at": ["params", "data"], "len": length}])
        for number, length in enumerate(lengths)
    ]
    wire.send(*messages, attachments=attachments)
    await wire.settle()
    assert "attachments" in str(wire.broken[0])
    assert wire.batches == []


async def test_a_log_record_with_binary_values():
    """No notification has any."""
    wire = Wire("m")
    record = notice("log.write", {"level": "info", "message": None})
    record["bytes"] = [{"at": ["params", "message"], "len": 1}]
    wire.send(record, attachments=[b"x"])
    await wire.settle()
    assert len(wire.broken) == 1


async def test_log_records_are_written_and_not_answered(caplog):
    """A notification has no answer."""
    with open_wire() as wire, caplog.at_level(logging.INFO, "coredeno.plugin.m"):
        wire.send(*(notice("log.write", {"level": "info", "message": f"n{number}"}) for number in range(3)))
        await wire.settle()
        assert [record.message for record in caplog.records] == ["n0", "n1", "n2"]
        assert wire.batches == []
        assert not wire.session._logs._writing


async def test_a_log_handler_of_the_app_that_fails():
    """A bug in the app's logging is no fault of the module: it lives on."""

    def refuse(_record):
        raise ZeroDivisionError

    logger = logging.getLogger("coredeno.plugin.m")
    logger.addFilter(refuse)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with open_wire() as wire:
            wire.send(notice("log.write", {"level": "info", "message": "a"}), request(1, value="fine"))
            await wire.settle()
            assert not wire.broken
            assert wire.answers == {1: "fine"}
    finally:
        logger.setLevel(level)
        logger.removeFilter(refuse)


def records(numbers):
    return [notice("log.write", {"level": "info", "message": f"n{number}"}) for number in numbers]


@pytest.mark.parametrize("how", ["in time", "at the end"])
async def test_log_records_that_do_not_fit_are_counted(caplog, how):
    """The oldest of those that wait go; a second later, or when the Session ends, one record says how many."""
    with open_wire("m", "n") as wire, caplog.at_level(logging.WARNING, "coredeno.plugin"):
        for start in range(0, 5120, 1024):
            wire.send(*records(range(start, start + 1024)))
        wire.send(*(notice("log.write", {"level": "info", "message": ""}, module="n") for _ in range(7)))
        assert bytes(wire.session._logs._waiting[-8][1].params) == b'{"level":"info","message":"n5119"}'
        assert caplog.records == []
        if how == "in time":
            await wire.clock.turn(0.9)
            assert caplog.records == []
            await wire.clock.turn(0.1)
        else:
            wire.session.close()
        dropped = 5120 + 7 - 32 - 4096
        (record,) = caplog.records
        assert record.getMessage() == f"{dropped:,} log records were dropped: more than 4,096 waited"
        assert (record.name, record.plugin, record.plugin_version, record.call_id) == (
            "coredeno.plugin.m",
            "m",
            "1",
            None,
        )
        await wire.clock.turn(5)
        wire.session.close()
        assert len(caplog.records) == 1
        assert wire.gateway.peer(wire.token).held.now_bytes == 0
        assert not wire.broken
        assert wire.clock.waiting == 0


async def test_a_log_handler_that_fails_does_not_keep_a_session_from_its_end(caplog):
    """What was dropped is told in vain, and all else ends as it should."""

    def refuse(_record):
        raise ZeroDivisionError

    logger = logging.getLogger("coredeno.plugin.m")
    logger.addFilter(refuse)
    try:
        with open_wire() as wire:
            wire.send(request(1, "slow"))
            await wire.settle()
            for _ in range(5):
                wire.send(*records(range(1024)))
            wire.session.close()
            await wire.settle()
            assert wire.cancelled
            assert "a log record about module 'm' failed" in caplog.text
    finally:
        logger.removeFilter(refuse)


async def test_log_records_that_wait_count_among_what_is_held():
    """A small record keeps all of its batch in memory."""
    with open_wire() as wire:
        held = wire.gateway.peer(wire.token).held
        sizes = []
        for _ in range(3):
            wire.send(*records(range(100)))
            sizes.append(held.now_bytes)
        assert sizes[2] == 3 * sizes[0] > 3 * 100 * 60
        for turns in range(20):
            await asyncio.sleep(0)
            assert held.now_bytes or turns > 5
        assert held.now_bytes == 0


@pytest.mark.parametrize("message", [notice("cancel", {"id": 1}), records([0])[0], request(1)])
async def test_a_batch_has_a_bounded_number_of_messages(message):
    """It is taken in one turn of the loop, whatever is in it."""
    with open_wire(in_flight=2000) as wire:
        wire.send(*({**message, "id": number} if "id" in message else message for number in range(1024)))
        assert not wire.broken
        wire.send(*[message] * 1025)
        assert "1025 messages in a batch, wanted at most 1024" in str(wire.broken[0])


# --- back-pressure, and the end


async def test_a_peer_that_takes_no_answers_is_served_no_further():
    """While it is paused no request begins; what has begun goes on, and all begin when it is resumed."""
    with open_wire() as wire:
        wire.send(request(1, "slow", "a"))
        await wire.settle()
        wire.session.pause()
        wire.send(request(2, "slow", "b"))
        await wire.settle()
        assert wire.entered == ["a"]
        wire.session.resume()
        wire.free.set()
        await wire.settle()
        assert wire.answers == {1: "a", 2: "b"}


async def test_of_large_answers_only_so_many_are_made_at_once():
    """Those that the peer has not taken count too; other requests go on, and each is answered in the end."""
    with open_wire(in_flight=20) as wire:
        wire.send(*(request(number, "bulk", number) for number in range(10)))
        await wire.settle()
        assert wire.entered == [0, 1, 2, 3]
        wire.session.pause()  # as its outbox does when what waits there is too much
        wire.free.set()
        await wire.settle()
        assert sorted(wire.answers) == wire.entered == [0, 1, 2, 3]
        wire.session.resume()
        await wire.settle()
        assert wire.answers == {number: number for number in range(10)}


async def test_a_large_answer_that_is_cancelled_gives_its_place_back():
    """While it waits, and while it is made."""
    with open_wire(in_flight=20) as wire:
        wire.send(*(request(number, "bulk", number) for number in range(8)))
        await wire.settle()
        wire.send(*(cancel(number) for number in (0, 1, 5)))
        await wire.settle()
        assert wire.entered == [0, 1, 2, 3, 4, 6]
        wire.free.set()
        await wire.settle()
        assert sorted(number for number, value in wire.answers.items() if number == value) == [2, 3, 4, 6, 7]


async def test_answers_that_are_not_taken_are_not_made():
    """Of requests under way no more answers are encoded than the peer takes; in the end all are."""
    with open_wire(in_flight=200, message_bytes=2_000_000) as wire:
        waiting, most = 0, 0
        take = wire.session._send

        def put(messages, attachments):
            nonlocal waiting, most
            take(messages, attachments)
            waiting += len(messages)
            most = max(most, waiting)
            if waiting > 5_000_000:
                wire.session.pause()

        wire.session._send = put
        wire.send(*(request(number, "large", number) for number in range(200)))
        await wire.settle()
        assert len(wire.entered) == 200
        wire.free.set()
        await wire.settle()
        taken = 0
        while waiting:
            assert waiting < 6_100_000
            waiting, taken = 0, taken + 1
            wire.session.resume()
            await wire.settle()
        assert sorted(wire.answers) == list(range(200))
        assert set(wire.answers.values()) == {"x" * 1_000_000}
        assert most < 6_100_000
        assert taken > 30


async def test_an_answer_that_waits_to_be_made_can_be_cancelled_or_late():
    """It is not made then; its place is another's."""
    with open_wire(in_flight=10) as wire:
        wire.send(request(1, "large"), request(2, "large", deadline_ms=50), request(3, "slow"))
        await wire.settle()
        wire.session.pause()
        wire.free.set()
        await wire.settle()
        assert wire.answers == {}
        wire.send(cancel(1))
        await wire.clock.turn(0.05)
        assert wire.answers == {1: CODES["Cancelled"], 2: CODES["PluginTimeout"]}
        wire.session.resume()
        await wire.settle()
        assert wire.answers[3] is None


async def test_of_sizeable_answers_some_dozens_are_made_at_once():
    """Until they can leave; the others have their turn then."""
    with open_wire(in_flight=100) as wire:
        wire.send(*(request(number, "sizeable", number) for number in range(100)))
        await wire.settle()
        assert wire.entered == list(range(64))
        wire.session.pause()
        wire.free.set()
        await wire.settle()
        assert (len(wire.entered), wire.answers) == (64, {})
        wire.session.resume()
        await wire.settle()
        assert wire.answers == {number: number for number in range(100)}


async def test_a_paused_request_can_be_cancelled():
    """It has not begun, and is answered all the same."""
    with open_wire() as wire:
        wire.session.pause()
        wire.send(request(1, "slow", "a"))
        await wire.settle()
        wire.send(cancel(1))
        await wire.settle()
        assert wire.answers == {1: CODES["Cancelled"]}
        assert wire.entered == []


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_closed_session_sends_nothing(turns):
    """Whenever it is closed: what is under way is cancelled, what was not sent yet never is."""
    wire = Wire("m")
    wire.send(request(1, "slow", "a"), request(2), notice("log.write", {"level": "info", "message": "m"}))
    for _ in range(turns):
        await asyncio.sleep(0)
    sent = len(wire.batches)
    wire.gateway.dismiss_sidecar(wire.token)
    wire.gateway.dismiss_sidecar(wire.token)
    wire.session.close()
    wire.send(request(3))
    wire.free.set()
    await wire.settle()
    assert len(wire.batches) == sent
    assert wire.under_way == []
    assert not wire.session._logs._writing
    assert not wire.broken


async def test_one_session_a_token():
    """A second one is refused, and harms the first one not; after its end there may be another."""
    wire = Wire("m")
    with pytest.raises(PermissionDenied, match="sidecar-1 has one already"):
        wire.gateway.open_session(wire.token, wire.take)
    wire.send(request(1))
    await wire.settle()
    assert 1 in wire.answers
    wire.gateway.close_session(wire.gateway.peer(wire.token))
    wire.gateway.open_session(wire.token, wire.take)
    await wire.gateway.aclose()


# --- tokens


async def test_a_token_belongs_to_its_process_and_user():
    """One that nobody gave out, or that comes from elsewhere, is refused."""
    with open_wire() as wire:
        gateway = wire.gateway
        for wrong in (None, "", "guess", wire.token + "x", wire.token[:-1], "\ud800"):
            with pytest.raises(PermissionDenied):
                gateway.peer(wrong)
        assert gateway.peer(wire.token, 7).name == "sidecar-1"
        gateway.bind_process(wire.token, 7)
        assert gateway.peer(wire.token, 7).name == gateway.peer(wire.token).name == "sidecar-1"
        with pytest.raises(PermissionDenied):
            gateway.peer(wire.token, 8)
        with pytest.raises(PermissionDenied):
            gateway.peer(wire.token, 7, 54_321)
        assert gateway.peer(wire.token, 7, 0).name == "sidecar-1"


async def test_tokens_for_clients_of_the_app():
    """They speak as one module, with its grants, until they are revoked or the module is unloaded."""
    with open_wire() as wire:
        gateway = wire.gateway
        with pytest.raises(UsageError, match="no module 'other' is loaded"):
            gateway.issue_token("other")
        first, second = gateway.issue_token("m"), gateway.issue_token("m")
        assert first != second != wire.token
        assert gateway.peer(first).caller(None) == gateway.peer(wire.token).caller("m")
        gateway.revoke_token(first)
        gateway.revoke_token(first)
        with pytest.raises(PermissionDenied):
            gateway.peer(first)
        session = gateway.open_session(second, wire.take)
        gateway.dismiss_clients_of("m")
        assert session._closed
        with pytest.raises(PermissionDenied):
            gateway.peer(second)
        assert gateway.peer(wire.token).caller("m").code == "m"


async def test_a_client_that_breaks_the_rules_is_an_event():
    """The app hears of it; there is no sidecar to kill."""
    heard: list[Any] = []
    gateway = Gateway(
        Gate([], heard.append), clock=TurnedClock(), message_bytes=1, requests_in_flight=1, emit=heard.append
    )
    token = gateway.admit_sidecar("s", heard.append)
    gateway.admit_module(token, Caller("m", "1", Grants()))
    session = gateway.open_session(gateway.issue_token("m"), lambda *_: None)
    session.receive(b"[", [])
    assert [type(event).__name__ for event in heard] == ["ProtocolBroken"]
    gateway.broken(gateway.peer(token), ProtocolError("x"))
    assert str(heard[1]) == "x"
    gateway.dismiss_module("no such token", "m")
    await gateway.aclose()


# --- whatever comes

MESSAGE = st.fixed_dictionaries(
    {
        "jsonrpc": st.just("2.0"),
        "method": st.sampled_from(["echo", "slow", "data", "cancel", "log.write", "x"]),
    },
    optional={
        "id": st.integers(-1, 6),
        "module": st.sampled_from(["m", "m", "m", "other", None]),
        "params": st.none() | st.dictionaries(st.sampled_from(["value", "id", "data"]), st.integers(0, 6)),
        "deadline_ms": st.floats(allow_nan=False, allow_infinity=False),
        "bytes": st.lists(st.just({"at": ["params", "data"], "len": 1}), max_size=2),
    },
)


@given(
    st.lists(
        st.tuples(
            st.lists(MESSAGE, max_size=4).map(msgspec.json.encode) | st.binary(max_size=40),
            st.lists(st.just(b"x") | st.binary(max_size=3), max_size=2),
        ),
        max_size=5,
    )
)
async def test_whatever_comes_is_answered_or_ends_the_session(batches):
    """Nothing escapes: each request has one answer in the end, or the Session is over and its owner knows."""
    wire = Wire("m")
    wanted = set()
    for messages, attachments in batches:
        if not wire.broken:
            try:
                decoded = msgspec.json.decode(messages)
            except (msgspec.DecodeError, UnicodeDecodeError):
                decoded = []
            wanted |= {
                message["id"]
                for message in (decoded if isinstance(decoded, list) else [])
                if isinstance(message, dict) and message.get("id") is not None
            }
        wire.session.receive(messages, attachments)
        await wire.settle()
        wire.free.set()
        await wire.settle()
        wire.free.clear()
        if not wire.broken:
            for message in wanted:
                assert any(answer["id"] == message for batch, _ in wire.batches for answer in batch)
        assert wire.under_way == []
    assert len(wire.broken) <= 1
    wire.session.close()
