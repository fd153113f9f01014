"""The gate: every method of both doors declares the access that it needs, and nothing gets past it."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coredeno import Context, HostConfig, Policy, Service, errors, events, rpc
from coredeno.config import Limits, Program
from coredeno.errors import (
    InternalError,
    InvalidArgument,
    LimitExceeded,
    MethodNotFound,
    PermissionDenied,
    ProtocolError,
)
from coredeno.gateway._generated import coredeno as pb
from coredeno.gateway.gate import Gate
from coredeno.gateway.gateway import Gateway
from coredeno.gateway.listener import _Services
from coredeno.gateway.unary import UNARY
from coredeno.interfaces import FileEntry, ProcessResult
from coredeno.kept_grants import KeptGrants
from coredeno.permission_desk import PermissionDesk
from coredeno.permissions import (
    FileAccess,
    Grants,
    OpenAccess,
    ProcessAccess,
    ProgramAccess,
    ServiceAccess,
    StoreAccess,
)
from coredeno.services.builtin import LogParams, _log_method, builtin_methods
from coredeno.services.keyvalue import Store
from coredeno.services.log_rates import LogRates
from coredeno.services.method import SIDECAR, Caller, Method
from coredeno.services.service import methods_of
from coredeno.testing import FakeProcesses, MemoryFiles, MemoryStore, TurnedClock
from coredeno.wire.typed import TypedDecoder

OTHER = "another module's process"

# Every method, params of it, and the access that these need. A method that is not here fails the first test.
DECLARED: dict[str, tuple[dict[str, Any], Any]] = {
    "files.read": ({"path": "./a/b"}, FileAccess("read", "a/b")),
    "files.write": ({"path": "a/b/", "data": b"x"}, FileAccess("write", "a/b")),
    "files.list": ({"path": "a"}, FileAccess("read", "a")),
    "files.delete": ({"path": "a/./b"}, FileAccess("write", "a/b")),
    "store.get": ({"group": "g", "key": "k"}, StoreAccess("read", "g")),
    "store.set": ({"group": "g", "key": "k", "value": "v"}, StoreAccess("write", "g")),
    "store.delete": ({"group": "g", "key": "k"}, StoreAccess("write", "g")),
    "store.get_all": ({"group": "g"}, StoreAccess("read", "g")),
    "store.count": ({"group": "g"}, StoreAccess("read", "g")),
    "store.delete_group": ({"group": "g"}, StoreAccess("write", "g")),
    "store.render": ({"group": "g", "template": "t"}, StoreAccess("read", "g")),
    "processes.start": ({"command": "tool", "args": []}, ProgramAccess("tool")),
    "processes.wait": ({"process_id": OTHER}, ProcessAccess(OTHER, "other")),
    "processes.stop": ({"process_id": OTHER}, ProcessAccess(OTHER, "other")),
    "log.write": ({"level": "info", "message": "m"}, OpenAccess()),
    "health.check": ({}, OpenAccess()),
    "permissions.request": ({"permissions": {"read": ["a"]}}, OpenAccess()),
    "permissions.query": ({"permissions": {"read": ["a"]}}, OpenAccess()),
    "services.app.echo": ({"args": ["x"]}, ServiceAccess(service="app", permission="speak")),
}
OPEN = {"log.write", "health.check", "permissions.request", "permissions.query"}
FOR_SIDECAR = {"health.check"}
# Beside the unary methods: the Session leads to the gate itself, and the health service says nothing but "well".
OTHER_RPCS = {"/coredeno.CoreService/Session", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}


class App(Service, name="app"):
    @rpc(permission="app:speak")
    async def echo(self, ctx: Context, text: str) -> str:
        return text


class Untouched:
    """A part that nobody may reach: only who owns a process may be asked."""

    def __getattr__(self, name):
        async def touched(*_args, **_kwargs):
            pytest.fail(f"the gate let {name} through")

        return touched

    def owner_of(self, process_id):
        return "other"


async def nothing_to_write():
    """There is no audit log."""


def all_methods(*, files=None, store=None, processes=None, programs=None, limits=None):
    parts = builtin_methods(
        files=files or Untouched(),
        store=store or Untouched(),
        processes=processes or Untouched(),
        programs=programs or {},
        root=Path("/app"),
        log_rates=LogRates(1000, clock=TurnedClock()),
        limit_bytes=1000,
        limits=limits or Limits(),
    )
    desk = PermissionDesk(
        policy=Policy(),
        hooks=(),
        config=HostConfig(),
        kept=KeptGrants(Untouched()),
        processes=processes or Untouched(),
        clock=TurnedClock(),
        emit=lambda _event: None,
        audited=nothing_to_write,
    )
    return [*parts, *desk.methods(), *methods_of(App())]


def params_of(params):
    return lambda decoder: decoder.convert(params)


class Heard:
    """What a gate told its app."""

    def __init__(self, methods):
        self.events: list[events.Event] = []
        self.gate = Gate(methods, self.events.append)


NOBODY = Caller("m", "1", Grants())
ALL = Grants(
    read=(".",),
    write=(".",),
    run=("tool",),
    store_read=("g",),
    store_write=("g",),
    services={"app": frozenset({"speak"})},
)


def test_every_method_declares_its_access():
    """Each method of the gate is in the table above, and needs what the table says."""
    methods = {method.name: method for method in all_methods()}
    assert set(methods) == set(DECLARED)
    for name, (params, access) in DECLARED.items():
        method = methods[name]
        assert method.access(NOBODY, method.decoder.convert(params)) == access
        assert method.for_sidecar == (name in FOR_SIDECAR)


def test_every_rpc_leads_to_the_gate(project: Path):
    """The .proto, the table of unary methods and what grpclib serves have the same methods, and no third door."""
    text = (project / "coredeno/gateway/proto/coredeno.proto").read_text()
    in_proto = set(re.findall(r"^ +rpc (\w+)\(", text, re.MULTILINE))
    assert in_proto == set(UNARY) | {"Session"}
    gateway = Gateway(
        Heard([]).gate, clock=TurnedClock(), message_bytes=1, requests_in_flight=1, emit=lambda _event: None
    )
    assert set(_Services(gateway).__mapping__()) == OTHER_RPCS | {
        f"/coredeno.CoreService/{name}" for name in UNARY
    }


# Every unary method: a request, the gate's method and params for it, a result of the gate, and the answer.
RPCS: dict[str, tuple[Any, str, dict[str, Any], Any, Any]] = {
    "FileRead": (
        pb.FileReadRequest(path="a"),
        "files.read",
        {"path": "a"},
        b"\0x",
        pb.FileReadResponse(content=b"\0x"),
    ),
    "FileWrite": (
        pb.FileWriteRequest(path="a", content=b"c"),
        "files.write",
        {"path": "a", "data": b"c"},
        None,
        pb.FileWriteResponse(ok=True),
    ),
    "FileList": (
        pb.FileListRequest(path="a"),
        "files.list",
        {"path": "a"},
        [FileEntry(name="f", is_dir=False, size=5), FileEntry(name="d", is_dir=True, size=0)],
        pb.FileListResponse(entries=[pb.FileEntry(name="f", size=5), pb.FileEntry(name="d", is_dir=True)]),
    ),
    "FileDelete": (
        pb.FileDeleteRequest(path="a"),
        "files.delete",
        {"path": "a"},
        None,
        pb.FileDeleteResponse(ok=True),
    ),
    "StoreGet": (
        pb.StoreGetRequest(group="g", key="k"),
        "store.get",
        {"group": "g", "key": "k"},
        "v",
        pb.StoreGetResponse(value="v", found=True),
    ),
    "StoreSet": (
        pb.StoreSetRequest(key="k", value="v"),
        "store.set",
        {"group": None, "key": "k", "value": "v"},
        None,
        pb.StoreSetResponse(ok=True),
    ),
    "StoreDelete": (
        pb.StoreDeleteRequest(group="g", key="k"),
        "store.delete",
        {"group": "g", "key": "k"},
        None,
        pb.StoreDeleteResponse(ok=True),
    ),
    "StoreGetAll": (
        pb.StoreGetAllRequest(group="g"),
        "store.get_all",
        {"group": "g"},
        {"k": "v"},
        pb.StoreGetAllResponse(values={"k": "v"}),
    ),
    "StoreCount": (
        pb.StoreCountRequest(group="g"),
        "store.count",
        {"group": "g"},
        7,
        pb.StoreCountResponse(count=7),
    ),
    "StoreDeleteGroup": (
        pb.StoreDeleteGroupRequest(group="g"),
        "store.delete_group",
        {"group": "g"},
        None,
        pb.StoreDeleteGroupResponse(ok=True),
    ),
    "StoreRender": (
        pb.StoreRenderRequest(template="t", group="g"),
        "store.render",
        {"template": "t", "group": "g"},
        "text",
        pb.StoreRenderResponse(text="text"),
    ),
    "ProcessStart": (
        pb.ProcessStartRequest(command="tool", args=["-v"]),
        "processes.start",
        {"command": "tool", "args": ["-v"]},
        pb.ProcessStartResponse(process_id="p"),
        pb.ProcessStartResponse(process_id="p"),
    ),
    "ProcessWait": (
        pb.ProcessWaitRequest(process_id="p"),
        "processes.wait",
        {"process_id": "p"},
        ProcessResult(exit_code=-9, stdout="o", stderr="e"),
        pb.ProcessWaitResponse(exit_code=-9, stdout="o", stderr="e"),
    ),
    "ProcessStop": (
        pb.ProcessStopRequest(process_id="p"),
        "processes.stop",
        {"process_id": "p"},
        None,
        pb.ProcessStopResponse(ok=True),
    ),
    "Invoke": (
        pb.InvokeRequest(service="app", method="echo", args=b'["x"]'),
        "services.app.echo",
        {"args": ["x"]},
        {"a": [1]},
        pb.InvokeResponse(result=b'{"a":[1]}'),
    ),
}


def test_every_unary_method_is_looked_at_here():
    """A new method needs a row above."""
    assert set(RPCS) == set(UNARY)
    assert {row[1] for row in RPCS.values()} == set(DECLARED) - OPEN


@pytest.mark.parametrize("name", RPCS)
def test_how_a_unary_method_is_mapped(name):
    """The request becomes the gate's params, which its method takes; the gate's result becomes the answer."""
    request, method, params, result, answer = RPCS[name]
    row = UNARY[name]
    assert row.request is type(request)
    assert row.response is type(answer)
    assert row.method(request) == method
    assert row.params(request) == params
    assert row.answer(result) == answer
    Heard(all_methods()).gate.methods[method].decoder.convert(params)


def test_what_is_empty_in_protobuf():
    """An empty group is the module's own; a value that does not exist is told from an empty one."""
    assert UNARY["StoreGet"].params(pb.StoreGetRequest(key="k")) == {"group": None, "key": "k"}
    assert UNARY["StoreGet"].answer(None) == pb.StoreGetResponse(found=False)
    assert UNARY["StoreGet"].answer("") == pb.StoreGetResponse(value="", found=True)
    assert UNARY["Invoke"].params(pb.InvokeRequest()) == {"args": []}


@pytest.mark.parametrize("args", [b"[", b"\xff", b"[" * 200, b"nul"])
def test_arguments_that_are_no_json(args):
    """An app's client made a mistake: it is told so, and breaks nothing."""
    with pytest.raises(InvalidArgument, match=r"^Invoke: args: "):
        UNARY["Invoke"].params(pb.InvokeRequest(args=args))


def test_results_that_no_unary_answer_carries():
    """Bytes need a Session; what cannot cross at all is a bug of the service."""
    with pytest.raises(errors.FailedPrecondition, match="only a Session carries"):
        UNARY["Invoke"].answer([b"x"])
    with pytest.raises(errors.UsageError):
        UNARY["Invoke"].answer({1, 2})


@pytest.mark.parametrize("name", DECLARED)
async def test_without_grants_nothing_happens(name):
    """A module that was granted nothing is refused each method but the open ones, and no part is reached."""
    heard = Heard(all_methods())
    params, _access = DECLARED[name]
    if name in OPEN:
        if name == "log.write":
            await heard.gate.run(NOBODY, name, params_of(params))
        return
    with pytest.raises(PermissionDenied) as caught:
        await heard.gate.run(NOBODY, name, params_of(params))
    denial = caught.value
    assert denial.module == "m"
    assert heard.events == [
        events.PermissionDenied(
            module="m", permission=denial.permission, resource=denial.resource, remedy=denial.remedy
        )
    ]


@pytest.mark.parametrize("name", DECLARED)
@pytest.mark.parametrize("group", ["_host", "_", "_m"])
async def test_the_hosts_own_is_reached_by_nobody(name, group):
    """Groups that begin with `_`, and `.core`, are refused whatever was granted."""
    grants = msgspec.structs.replace(ALL, store_read=(group,), store_write=(group,))
    params, access = DECLARED[name]
    hidden = {"group": group} if isinstance(access, StoreAccess) else {"path": ".core/lock"}
    if not isinstance(access, StoreAccess | FileAccess):
        return
    with pytest.raises(PermissionDenied, match="nothing can allow it"):
        await Heard(all_methods()).gate.run(Caller("m", "1", grants), name, params_of({**params, **hidden}))


async def test_with_grants_every_method_works():
    """A module that has all grants reaches each part through the gate."""
    files = MemoryFiles({"a/b": b"content"})
    backend = MemoryStore()
    await backend.open(Path("/none"))
    processes = FakeProcesses({"/bin/tool": lambda _args: ProcessResult(exit_code=3, stdout="", stderr="")})
    heard = Heard(
        all_methods(files=files, store=Store(backend), processes=processes, programs={"tool": "/bin/tool"})
    )
    caller = Caller("m", "1", ALL)

    async def ask(name, **params):
        return await heard.gate.run(caller, name, params_of(params))

    assert await ask("files.read", path="a/b") == b"content"
    await ask("files.write", path="n", data=b"new")
    assert [entry.name for entry in await ask("files.list", path=".")] == ["a", "n"]
    await ask("files.delete", path="n")
    for group, code in ({"group": "g"}, "g"), ({}, "m"):
        await ask("store.set", key="k", value="v", **group)
        assert backend.groups[code] == {"k": "v"}
        assert await ask("store.get", key="k", **group) == "v"
        assert await ask("store.get_all", **group) == {"k": "v"}
        assert await ask("store.render", template="{{ .k }}!", **group) == "v!"
        await ask("store.delete", key="k", **group)
        assert await ask("store.count", **group) == 0
        await ask("store.delete_group", **group)
    started = await ask("processes.start", command="tool")
    assert processes.started[0].owner == "m"
    assert processes.started[0].cwd == Path("/app")
    assert (await ask("processes.wait", process_id=started.process_id)).exit_code == 3
    await ask("processes.stop", process_id=started.process_id)
    assert await ask("services.app.echo", args=["x"]) == "x"
    assert (await ask("health.check")).ok
    assert heard.events == []
    await processes.stop_all()


async def test_a_program_that_the_app_has_not_approved():
    """A name in the manifest is not enough: the app says which program it is, or the request is refused."""
    heard = Heard(all_methods(processes=FakeProcesses({}), programs={}))
    with pytest.raises(PermissionDenied, match=r"HostConfig\.programs"):
        await heard.gate.run(Caller("m", "1", ALL), "processes.start", params_of({"command": "tool"}))
    assert [type(event) for event in heard.events] == [events.PermissionDenied]


async def test_a_log_record_is_a_modules_own(caplog):
    """It is logged under the module's name, as data and not as a format, without control characters."""
    heard = Heard(all_methods())
    record = {"level": "warning", "message": "%s %d \x1b[2J{x}", "call": 7}
    with caplog.at_level(logging.DEBUG):
        await heard.gate.run(NOBODY, "log.write", params_of(record))
    (written,) = caplog.records
    assert (written.name, written.levelname) == ("coredeno.plugin.m", "WARNING")
    assert written.getMessage() == "%s %d \\x1b[2J{x}"
    assert (written.plugin, written.plugin_version, written.call_id) == ("m", "1", "7")


@pytest.mark.parametrize(
    ("trace", "call_id"),
    [
        ("request 7", "request 7"),
        ("", ""),
        ("a\nb\x1b[2J\u202e%s", "a\\nb\\x1b[2J\\x202e%s"),
        ("x" * 100_000, "x" * 256),
    ],
    ids=["as it is", "empty", "controls", "long"],
)
async def test_the_trace_of_a_log_record_is_only_a_label(caplog, trace, call_id):
    """What a sidecar says of the call of a record is bounded, one line and printable, and names the call by itself."""
    heard = Heard(all_methods())
    caller = msgspec.structs.replace(NOBODY, trace=trace)
    with caplog.at_level(logging.DEBUG):
        await heard.gate.run(caller, "log.write", params_of({"level": "info", "message": "m", "call": 7}))
    (written,) = caplog.records
    assert written.call_id == call_id


@pytest.mark.parametrize(
    "name",
    [
        "",
        "files",
        "files.read.",
        "FILES.READ",
        "files.chmod",
        "services.app.private",
        "services.app",
        "__class__",
    ],
)
async def test_methods_that_do_not_exist(name):
    """Nothing is guessed: the name is there or it is not."""
    with pytest.raises(MethodNotFound, match="there is no such method"):
        await Heard(all_methods()).gate.run(Caller("m", "1", ALL), name, params_of({}))


async def test_a_name_of_any_length():
    """The error repeats as much of it as is needed to recognise it."""
    with pytest.raises(MethodNotFound) as caught:
        await Heard([]).gate.run(NOBODY, "x" * 100_000, params_of({}))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", DECLARED)
async def test_a_sidecar_itself_may_do_next_to_nothing(name):
    """Without a module only `health.check` exists; every other method does not, for it."""
    heard = Heard(all_methods())
    if name in FOR_SIDECAR:
        assert heard.gate.methods[name].for_sidecar
        return
    with pytest.raises(MethodNotFound):
        await heard.gate.run(SIDECAR, name, params_of(DECLARED[name][0]))
    assert heard.events == []


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("files.read", {}, "files.read: Object missing required field `path`"),
        ("files.read", {"path": 5}, "files.read: Expected `str`, got `int` - at `$.path`"),
        ("files.read", {"path": "a", "more": 1}, "files.read: Object contains unknown field `more`"),
        ("files.read", {"path": "../a"}, "it has an empty or '..' part"),
        ("files.read", {"path": "/etc/passwd"}, "it is absolute"),
        ("files.write", {"path": "a", "data": "text"}, "files.write: Expected `bytes`, got `str`"),
        ("store.get", {"key": None}, "store.get: Expected `str`, got `n"),
        ("log.write", {"level": "fatal", "message": ""}, "log.write: Invalid enum value 'fatal'"),
        ("log.write", {"level": "info", "message": "", "call": 0}, "Expected `int` >= 1 - at `$.call`"),
        ("log.write", {"level": "info", "message": "", "call": 2**53}, "Expected `int` <= 9007199254740991"),
        ("log.write", {"level": "info", "message": "", "call": "7"}, "Expected `int | null`, got `str`"),
        ("processes.start", {"command": "tool", "args": [1]}, "Expected `str`, got `int` - at `$.args[0]`"),
        ("health.check", {"a": 1}, "unknown field `a`"),
        ("store.count", [], "Expected `object`, got `array`"),
    ],
)
async def test_params_of_a_wrong_form(name, params, message):
    """The error names the method and the field; no part is reached, and no event tells of it."""
    heard = Heard(all_methods())
    with pytest.raises(InvalidArgument) as caught:
        await heard.gate.run(Caller("m", "1", ALL), name, params_of(params))
    assert message in str(caught.value)
    assert heard.events == []


class Nothing(msgspec.Struct):
    pass


def method_that_raises(error, *, where="run"):
    async def run(_caller, _params):
        raise error

    def access(_caller, _params):
        if where == "access":
            raise error
        return OpenAccess()

    return Method(name="x", decoder=TypedDecoder(Nothing), access=access, run=run)


BUGS = [
    ValueError("the password is 1234"),
    KeyError("the password is 1234"),
    TimeoutError("the password is 1234"),
    PermissionError("the password is 1234"),
    StopAsyncIteration("the password is 1234"),
    RecursionError("the password is 1234"),
    ExceptionGroup("the password is 1234", [ValueError()]),
    errors.UsageError("the password is 1234"),
    errors.InvalidResult("the password is 1234"),
    errors.PluginRaised(module="other", name="E", message="the password is 1234"),
    errors.PluginCrashed(module="other", reason="the password is 1234"),
    errors.PluginTimeout(module="other", what="the password is 1234", timeout_s=1),
    errors.ProtocolError("the password is 1234"),
    errors.SidecarExited(reason="the password is 1234", exit_code=1),
    errors.InternalError("the password is 1234"),
]


async def test_the_same_bug_again_and_again_does_not_flood_the_log(caplog):
    """What a module can make happen thousands of times a second is logged some times, and counted."""
    heard = Heard([method_that_raises(ValueError("again"), where="run")])
    with caplog.at_level(logging.ERROR, "coredeno.gateway"):
        told = []
        for _ in range(300):
            with pytest.raises(InternalError) as caught:
                await heard.gate.run(NOBODY, "x", params_of({}))
            told.append(str(caught.value))
    logged = sum("too many" not in each for each in told)
    assert 50 <= logged < 200  # a second may pass meanwhile
    assert sum("again" in str(record.exc_info) for record in caplog.records) == logged


@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["run", "access"])
async def test_bugs_do_not_leak(error, where, caplog):
    """A module sees no more of a bug than a number, under which the log has everything."""
    with caplog.at_level(logging.ERROR, "coredeno.gateway"), pytest.raises(InternalError) as caught:
        await Heard([method_that_raises(error, where=where)]).gate.run(NOBODY, "x", params_of({}))
    told = caught.value
    assert type(told) is InternalError
    assert "1234" not in str(told)
    assert "1234" not in repr(errors.facts_of(told))
    (record,) = caplog.records
    assert told.incident
    assert told.incident in str(told)
    assert told.incident in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


TOLD = [
    errors.NotFound("no such city"),
    errors.InvalidArgument("no such city"),
    errors.FailedPrecondition("no such city"),
    errors.LimitExceeded("no such city"),
    errors.MethodNotFound("no such city"),
    errors.RequestError("no such city"),
    errors.StoreError("the disk is full"),
    type("Own", (errors.NotFound,), {})("an app's own"),
]


@pytest.mark.parametrize("error", TOLD, ids=lambda error: type(error).__name__)
async def test_what_a_service_may_tell(error, caplog):
    """A `RequestError` or `StoreError` reaches the module as it is, and is no bug."""
    with pytest.raises(type(error)) as caught:
        await Heard([method_that_raises(error)]).gate.run(NOBODY, "x", params_of({}))
    assert caught.value is error
    assert caplog.records == []


async def test_a_service_may_refuse_too():
    """A refusal by a service is an event, like one by the gate."""
    denial = PermissionDenied(module="m", permission="p", resource="r", remedy="a")
    heard = Heard([method_that_raises(denial)])
    with pytest.raises(PermissionDenied):
        await heard.gate.run(NOBODY, "x", params_of({}))
    assert heard.events == [events.PermissionDenied(module="m", permission="p", resource="r", remedy="a")]


async def test_a_message_that_breaks_the_wire_is_a_protocol_error():
    """What is wrong with the message itself, and not with what it asks for, stays a `ProtocolError`."""

    def read(_decoder):
        raise ProtocolError("bytes at no place")

    with pytest.raises(ProtocolError, match="bytes at no place"):
        await Heard(all_methods()).gate.run(NOBODY, "files.read", read)


async def test_a_cancellation_is_not_swallowed():
    """A cancelled request ends as one."""
    entered = asyncio.Event()

    async def run(_caller, _params):
        entered.set()
        await asyncio.Event().wait()

    method = Method(name="x", decoder=TypedDecoder(Nothing), access=lambda *_: OpenAccess(), run=run)
    task = asyncio.create_task(Heard([method]).gate.run(NOBODY, "x", params_of({})))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def asked(heard, name, **params):
    grants = Grants(read=(".",), write=(".",), run=("tool",), store_write=("shared",), store_read=("shared",))
    caller = Caller(code=params.pop("module", "m"), version="1", grants=grants)
    return await heard.gate.run(caller, name, params_of(params))


@pytest.mark.parametrize("arg", ["-", "-x", "--output=/etc/passwd", "--"])
async def test_run_args(arg: str):
    """An argument that begins with `-` reaches only a program for which the app allowed options."""
    processes = FakeProcesses({"/bin/tool": lambda args: ProcessResult(exit_code=0, stdout="", stderr="")})
    heard = Heard(all_methods(processes=processes, programs={"tool": Program("/bin/tool", ("--fixed",))}))
    with pytest.raises(PermissionDenied, match=r"Program\.allow_options"):
        await asked(heard, "processes.start", command="tool", args=["a", arg])
    assert processes.started == []
    await asked(heard, "processes.start", command="tool", args=["a", " -x"])
    free = Program("/bin/tool", allow_options=True)
    heard = Heard(all_methods(processes=processes, programs={"tool": free}))
    await asked(heard, "processes.start", command="tool", args=[arg])
    assert [started.args for started in processes.started] == [("--fixed", "a", " -x"), (arg,)]
    await processes.stop_all()


async def test_quota_store():
    """What modules set is held to `Limits`, by the group and not by who wrote it; deleting always works."""
    backend = MemoryStore()
    await backend.open(Path())
    store = Store(backend)
    heard = Heard(all_methods(store=store, limits=Limits(store_keys=2, store_bytes=20)))
    await asked(heard, "store.set", group="shared", key="a", value="1")
    await asked(heard, "store.set", module="other", group="shared", key="b", value="1")
    for module in ("m", "other"):
        with pytest.raises(LimitExceeded, match="wanted at most 2 and 20"):
            await asked(heard, "store.set", module=module, group="shared", key="c", value="1")
    await asked(heard, "store.set", key="c", value="x" * 19)
    with pytest.raises(LimitExceeded):
        await asked(heard, "store.set", key="c", value="x" * 20)
    await store.set("shared", "c", "x" * 1000)
    with pytest.raises(LimitExceeded):
        await asked(heard, "store.get_all", group="shared")
    await asked(heard, "store.delete", group="shared", key="c")
    assert await asked(heard, "store.get_all", group="shared") == {"a": "1", "b": "1"}


async def test_disk_in_flight():
    """A module has so many requests for files under way, and another's do not wait for them."""
    under_way = {"m": 0, "other": 0}
    most = dict(under_way)
    go = asyncio.Event()

    class Files(MemoryFiles):
        async def read(self, path, *, limit_bytes):
            under_way[path] += 1
            most[path] = max(most[path], under_way[path])
            await go.wait()
            under_way[path] -= 1
            return b""

    heard = Heard(all_methods(files=Files(), limits=Limits(disk_in_flight=2)))
    tasks = [asyncio.create_task(asked(heard, "files.read", module="m", path="m")) for _ in range(6)]
    await asyncio.sleep(0)
    other = asyncio.create_task(asked(heard, "files.read", module="other", path="other"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert under_way == {"m": 2, "other": 1}
    tasks[5].cancel()
    go.set()
    await asyncio.wait([*tasks, other])
    assert most == {"m": 2, "other": 1}
    assert tasks[5].cancelled()
    assert all(task.result() == b"" for task in tasks[:5])


async def test_a_flood_of_log_records_is_cut_and_told_of(caplog: pytest.LogCaptureFixture):
    """So many a second are written; of the others one line says how many there were, and no other module has fewer."""
    caplog.set_level(logging.INFO, "coredeno.plugin")
    clock = TurnedClock()
    rates = LogRates(3, clock=clock)
    write = _log_method(100, rates).run

    async def flood():
        for number in range(10):
            await write(Caller("loud", "1", Grants()), LogParams(level="info", message=f"m{number}"))

    def said():
        return [(record.name.rpartition(".")[2], record.getMessage()) for record in caplog.records]

    await flood()
    await write(Caller("quiet", "1", Grants()), LogParams(level="info", message="q"))
    assert said() == [("loud", "m0"), ("loud", "m1"), ("loud", "m2"), ("quiet", "q")]
    await clock.turn(1)
    dropped = ("loud", "7 lines were dropped: more than 3 a second")
    assert said()[4:] == [dropped]
    await flood()
    await rates.aclose()
    assert said()[8:] == [dropped]
    await rates.aclose()
    await clock.turn(10)
    assert len(said()) == 9
