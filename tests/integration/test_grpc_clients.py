"""`CoreService` as gRPC clients see it that we did not write: grpcio in Python, and grpc-js in Deno.

Both run in processes of their own and are driven by the same commands (`grpc_clients/`), so each test is one
text for both. grpc-js comes from npm, pinned by a lock file, and is kept in `.venv/deno-npm`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import deno
import pytest
import pytest_asyncio

from coredeno import (
    Context,
    FailedPrecondition,
    HostConfig,
    InvalidArgument,
    LimitExceeded,
    Limits,
    Module,
    NotFound,
    PluginHost,
    Service,
    rpc,
)
from coredeno import events as happened
from coredeno.config import Program
from coredeno.interfaces import Launcher
from coredeno.testing import FakeLauncher
from tests.hosts import nothing_left

Eventually = Callable[..., Awaitable[None]]
Write = Callable[..., Path]

CLIENTS = Path(__file__).parent / "grpc_clients"
OK, CANCELLED, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 0, 1, 3, 4, 5
PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION = 7, 8, 9
UNIMPLEMENTED, INTERNAL, UNAUTHENTICATED = 12, 13, 16
MESSAGE_BYTES = 1024 * 1024
MANIFEST = """
permissions:
  read: [data]
  write: [data]
  run: [sh]
  store: {read: [shared], write: [shared]}
services:
  probe: []
"""


# --- the clients


class Client:
    """One client process. Its commands are answered one after the other."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **env}, text=True
        )

    async def do(self, op: str, **command: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self._do, {"op": op, **command})

    def _do(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)


def grpcio_in_python(_project: Path) -> Client:
    return Client([sys.executable, str(CLIENTS / "client.py")], {})


def grpc_js_in_deno(project: Path) -> Client:
    rights = ["--allow-net", "--allow-env", "--allow-read", f"--allow-write={tempfile.gettempdir()}"]
    command = [deno.find_deno_bin(), "run", "--frozen", "--no-prompt", *rights, str(CLIENTS / "client.ts")]
    cache = project / ".venv" / "deno-npm"
    return Client(command, {"DENO_DIR": str(cache), "DENO_NO_UPDATE_CHECK": "1"})


@pytest.fixture(scope="module", params=[grpcio_in_python, grpc_js_in_deno], ids=["grpcio", "grpc-js"])
def client(request: pytest.FixtureRequest, project: Path) -> Iterator[Client]:
    client = request.param(project)
    yield client
    client.close()


# --- the app


class Probe(Service, name="probe"):
    """A service with a method for each way to answer."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.contexts: list[Context] = []

    @rpc
    async def echo(self, ctx: Context, value: Any) -> Any:
        return value

    @rpc
    async def add(self, ctx: Context, left: int, right: int = 1) -> int:
        return left + right

    @rpc
    async def wait(self, ctx: Context) -> None:
        self.contexts.append(ctx)
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    @rpc
    async def fail(self, ctx: Context, kind: str) -> None:
        raise {
            "NotFound": NotFound("no such thing — ünïcödé, 100 %\nand a second line"),
            "InvalidArgument": InvalidArgument("colour: wanted a colour"),
            "FailedPrecondition": FailedPrecondition("not now"),
            "LimitExceeded": LimitExceeded("enough"),
            "long": NotFound("x" * 1_000_000),
            "bug": KeyError("the app's own secret"),
        }[kind]

    @rpc
    async def give_bytes(self, ctx: Context) -> bytes:
        return b"\x00\xff"

    @rpc
    async def give_much(self, ctx: Context) -> str:
        return "x" * (MESSAGE_BYTES + 1)


class App:
    """A running host with the modules `mine` and `other`, and the client with a token of `mine`."""

    def __init__(self, host: PluginHost, client: Client, probe: Probe, mine: Module, other: Module) -> None:
        self.host = host
        self.client = client
        self.probe = probe
        self.mine = mine
        self.other = other
        self.token: str | None = host.gateway.issue_token("mine")
        self._heard = host.events()

    async def begin(self, method: str, request: Any = None, **options: Any) -> Calling:
        options = {"token": self.token, "timeout_s": 20, **options}
        command = {name: value for name, value in options.items() if value is not None}
        if request is not None:
            command["request"] = request
        method = method if "/" in method else f"coredeno.CoreService/{method}"
        begun = await self.client.do("begin", socket=str(self.host.socket), method=method, **command)
        return Calling(self.client, begun["call"])

    async def ask(self, method: str, request: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """A unary call that must succeed: its response."""
        answer = await (await self.begin(method, request or {}, **options)).receive()
        assert "message" in answer, answer
        message: dict[str, Any] = answer["message"]
        return message

    async def refused(
        self, method: str, request: dict[str, Any] | None = None, **options: Any
    ) -> tuple[int, str]:
        """A unary call that must fail: its status and what it says."""
        answer = await (await self.begin(method, request or {}, **options)).receive()
        assert "status" in answer, answer
        return answer["status"], answer["details"]

    async def invoke(self, method: str, *args: Any, **options: Any) -> Any:
        response = await self.ask("Invoke", invocation("probe", method, *args), **options)
        return json.loads(base64.b64decode(response["result"]))

    async def event(self) -> happened.Event:
        """The next event."""
        async with asyncio.timeout(5):
            return await anext(self._heard)

    async def open_session(self, **options: Any) -> OpenSession:
        return OpenSession(await self.begin("Session", **options))


class Calling:
    """One call under way."""

    def __init__(self, client: Client, number: int) -> None:
        self._client = client
        self._number = number

    async def send(self, message: dict[str, Any]) -> None:
        await self._client.do("send", call=self._number, message=message)

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(20):
            return await self._client.do("receive", call=self._number)

    async def half_close(self) -> None:
        await self._client.do("half_close", call=self._number)

    async def cancel(self) -> None:
        await self._client.do("cancel", call=self._number)


class OpenSession:
    """A Session, spoken by hand."""

    def __init__(self, call: Calling) -> None:
        self.call = call

    async def send(self, *messages: dict[str, Any], attachments: tuple[bytes, ...] = ()) -> None:
        batch = [{"jsonrpc": "2.0", **message} for message in messages]
        await self.call.send({"messages": b64(json.dumps(batch)), "attachments": [*map(b64, attachments)]})

    async def receive(self) -> list[dict[str, Any]]:
        """The messages of the next batch."""
        answer = await self.call.receive()
        assert "message" in answer, answer
        messages: list[dict[str, Any]] = json.loads(base64.b64decode(answer["message"]["messages"]))
        return messages

    async def end(self) -> tuple[int, str]:
        answer = await self.call.receive()
        assert "status" in answer, answer
        return answer["status"], answer["details"]


def b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def invocation(service: str, method: str, *args: Any) -> dict[str, Any]:
    return {"service": service, "method": method, "args": b64(json.dumps(args))}


PLUGIN = "export function echo(value) { return value; }"


class Plugin:
    """Stands for the plugin where only the door is tried: starting Deno takes far longer than any call."""

    def echo(self, value: Any) -> Any:
        return value


@pytest_asyncio.fixture
async def app(tmp_path: Path, write: Write, client: Client) -> AsyncIterator[App]:
    async with running(tmp_path, write, client, FakeLauncher({"mine": Plugin, "other": Plugin})) as app:
        yield app


@asynccontextmanager
async def running(
    folder: Path, write: Write, client: Client, launcher: Launcher | None = None
) -> AsyncIterator[App]:
    root = folder / "app"
    (root / "data").mkdir(parents=True)
    (root / "secret").mkdir()
    (root / "secret" / "key").write_text("nobody's")
    probe = Probe()
    config = HostConfig(
        allow_unsigned=True,
        programs={"sh": Program("/bin/sh", allow_options=True)},
        limits=Limits(message_bytes=MESSAGE_BYTES),
    )
    host = PluginHost(root, services=[probe], config=config, launcher=launcher)
    async with nothing_left(root), host:
        mine = await host.load_path(write("mine", PLUGIN, MANIFEST))
        other = await host.load_path(write("other", PLUGIN, MANIFEST))
        socket = str(host.socket)
        try:
            yield App(host, client, probe, mine, other)
        finally:
            await client.do("close", socket=socket)


# --- every method


async def test_beside_a_real_sidecar(tmp_path: Path, write: Write, client: Client):
    """A client speaks as a module that runs in Deno, shares its store and files, and does not get in its way."""
    async with running(tmp_path, write, client) as app:
        await app.ask("StoreSet", {"key": "k", "value": "of the client"})
        assert await app.host.store.get("mine", "k") == "of the client"
        calls = [app.mine.call("echo", number) for number in range(100)]
        answers, invoked = await asyncio.gather(asyncio.gather(*calls), app.invoke("echo", "both"))
        assert (answers, invoked) == ([*range(100)], "both")


async def test_files(app: App):
    """FileWrite, FileRead, FileList and FileDelete, with any bytes."""
    content = bytes(range(256)) * 100
    assert await app.ask("FileWrite", {"path": "data/a/b.bin", "content": b64(content)}) == {"ok": True}
    assert await app.ask("FileRead", {"path": "data/a/b.bin"}) == {"content": b64(content)}
    assert await app.ask("FileRead", {"path": "./data/a/b.bin", "module_code": "mine"}) == {
        "content": b64(content)
    }
    assert await app.ask("FileList", {"path": "data"}) == {
        "entries": [{"name": "a", "is_dir": True, "size": "0"}]
    }
    assert await app.ask("FileList", {"path": "data/a"}) == {
        "entries": [{"name": "b.bin", "is_dir": False, "size": "25600"}]
    }
    assert await app.ask("FileDelete", {"path": "data/a/b.bin"}) == {"ok": True}
    assert await app.ask("FileList", {"path": "data/a"}) == {"entries": []}


async def test_the_store(app: App):
    """The seven Store methods, in the module's own group and in one that its manifest names."""
    assert await app.ask("StoreGet", {"key": "k"}) == {"value": "", "found": False}
    assert await app.ask("StoreSet", {"key": "k", "value": "grüße"}) == {"ok": True}
    assert await app.ask("StoreSet", {"group": "shared", "key": "k", "value": ""}) == {"ok": True}
    assert await app.ask("StoreGet", {"key": "k"}) == {"value": "grüße", "found": True}
    assert await app.ask("StoreGet", {"group": "mine", "key": "k"}) == {"value": "grüße", "found": True}
    assert await app.ask("StoreGet", {"group": "shared", "key": "k"}) == {"value": "", "found": True}
    assert await app.host.store.get("mine", "k") == "grüße"
    assert await app.ask("StoreRender", {"template": "<{{ .k }}>"}) == {"text": "<grüße>"}
    await app.ask("StoreSet", {"key": "l", "value": "2"})
    assert await app.ask("StoreGetAll") == {"values": {"k": "grüße", "l": "2"}}
    assert await app.ask("StoreCount") == {"count": "2"}
    assert await app.ask("StoreDelete", {"key": "l"}) == {"ok": True}
    assert await app.ask("StoreDeleteGroup", {"group": "mine"}) == {"ok": True}
    assert await app.ask("StoreCount") == {"count": "0"}
    assert await app.ask("StoreCount", {"group": "shared"}) == {"count": "1"}


async def test_processes(app: App):
    """ProcessStart, ProcessWait and ProcessStop; a process stays its module's own."""
    started = await app.ask(
        "ProcessStart", {"command": "sh", "args": ["-c", "echo out; echo err >&2; exit 3"]}
    )
    assert await app.ask("ProcessWait", started) == {"exit_code": 3, "stdout": "out\n", "stderr": "err\n"}
    started = await app.ask("ProcessStart", {"command": "sh", "args": ["-c", "exec sleep 100"]})
    app.token = app.host.gateway.issue_token("other")
    status, details = await app.refused("ProcessStop", started)
    assert status == PERMISSION_DENIED, details
    app.token = app.host.gateway.issue_token("mine")
    assert await app.ask("ProcessStop", started) == {"ok": True}
    assert await app.ask("ProcessWait", started) == {"exit_code": -15, "stdout": "", "stderr": ""}


async def test_what_clients_ask_is_counted_as_their_modules_own(app: App):
    """Each request is one of the module in whose name it is made."""
    before = app.host.stats().modules["mine"].requests
    await app.ask("StoreCount")
    await app.refused("FileRead", {"path": ".core/store.db"})
    now = app.host.stats().modules["mine"].requests
    assert (now.count - before.count, now.denied - before.denied, now.in_flight) == (2, 1, 0)


async def test_invoke(app: App):
    """The app's own services, with arguments and results as JSON."""
    value = {"text": "grüße", "numbers": [1, 2.5, -3], "nothing": None, "yes": True}
    assert await app.invoke("echo", value) == value
    assert await app.invoke("add", 2, 3) == 5
    assert await app.invoke("add", 2) == 3
    assert await app.ask("Invoke", {"service": "probe", "method": "echo", "args": b64("[null]")}) == {
        "result": b64("null")
    }


async def test_the_eight_original_methods_need_no_new_field(app: App):
    """A client made from the original proto knows neither `module_code` of the store nor of ProcessStop."""
    assert await app.ask("StoreSet", {"group": "mine", "key": "k", "value": "v"}) == {"ok": True}
    assert await app.ask("StoreGet", {"group": "mine", "key": "k"}) == {"value": "v", "found": True}
    started = await app.ask("ProcessStart", {"command": "sh", "args": [], "module_code": "mine"})
    assert await app.ask("ProcessStop", {"process_id": started["process_id"]}) == {"ok": True}
    with_code = {"path": "data/t", "content": b64("text"), "module_code": "mine"}
    assert await app.ask("FileWrite", with_code) == {"ok": True}
    assert await app.ask("FileRead", {"path": "data/t", "module_code": "mine"}) == {"content": b64("text")}


async def test_large_values_pass_up_to_the_limit(app: App):
    """A file of nearly the limit goes both ways; one byte over the limit and the call alone fails."""
    content = os.urandom(MESSAGE_BYTES - 70_000)
    for _ in range(3):
        await app.ask("FileWrite", {"path": "data/large", "content": b64(content)})
        assert (await app.ask("FileRead", {"path": "data/large"}))["content"] == b64(content)


# --- who may


async def test_without_a_token_nothing_is_answered(app: App):
    """No token, a wrong one, one with another's first letters: UNAUTHENTICATED, on every door."""
    assert app.token is not None
    for token in (None, "", "wrong", app.token[:-1], app.token + "x"):
        for method in ("StoreGet", "FileRead", "Invoke", "grpc.health.v1.Health/Check"):
            status, details = await app.refused(method, token=token)
            assert status == UNAUTHENTICATED
            assert app.token not in details
        session = await app.open_session(token=token)
        assert (await session.end())[0] == UNAUTHENTICATED
    assert await app.ask("StoreCount") == {"count": "0"}


async def test_a_module_of_somebody_else_is_refused_and_reported(app: App):
    """To speak in another's name is PERMISSION_DENIED, whether it exists or not, and an event for the app."""
    for code in ("other", "nobody"):
        status, details = await app.refused("StoreGet", {"key": "k", "module_code": code})
        assert status == PERMISSION_DENIED
        assert "not its own" in details
        event = await app.event()
        assert isinstance(event, happened.ProtocolBroken)
        assert code in event.problem
    assert await app.ask("StoreGet", {"key": "k", "module_code": "mine"}) == {"value": "", "found": False}


async def test_what_is_not_granted_is_refused_with_its_remedy(app: App):
    """PERMISSION_DENIED says what was refused, to whom, and what would allow it; the app hears of it."""
    for method, request, resource in (
        ("FileRead", {"path": "secret/key"}, "secret/key"),
        ("FileWrite", {"path": "secret/key", "content": ""}, "secret/key"),
        ("FileRead", {"path": "data-secrets/key"}, "data-secrets/key"),
        ("StoreGet", {"group": "other", "key": "k"}, "other"),
        ("StoreGet", {"group": "_host", "key": "k"}, "_host"),
        ("ProcessStart", {"command": "rm"}, "rm"),
    ):
        status, details = await app.refused(method, request)
        assert status == PERMISSION_DENIED
        assert resource in details
        assert "'mine'" in details
        event = await app.event()
        assert isinstance(event, happened.PermissionDenied)
        assert (event.module, event.resource) == ("mine", resource)
        assert event.remedy in details


async def test_paths_that_lead_out_are_refused(app: App):
    """No spelling of a path reaches beyond what is granted."""
    for path in (
        "../app/data",
        "data/../secret/key",
        "/etc/passwd",
        "data\\..\\secret",
        "data/\0",
        "",
        "data//a",
    ):
        status, details = await app.refused("FileRead", {"path": path})
        assert status in (INVALID_ARGUMENT, PERMISSION_DENIED, NOT_FOUND), (path, details)
        assert "nobody's" not in details


# --- what went wrong


async def test_each_kind_of_failure_has_its_status(app: App):
    """The status is stable, and the message names what was wrong."""
    for method, request, status, said in (
        ("FileRead", {"path": "data/none"}, NOT_FOUND, "data/none"),
        ("FileRead", {"path": "data"}, FAILED_PRECONDITION, "data"),
        ("ProcessWait", {"process_id": "guessed"}, PERMISSION_DENIED, "guessed"),
        ("StoreGet", {"key": ""}, INVALID_ARGUMENT, "key"),
        ("StoreSet", {"key": "k" * 513, "value": ""}, INVALID_ARGUMENT, "key: it has 513 characters"),
        ("StoreSet", {"key": "k", "value": "v" * 1_048_000 + "w" * 577}, RESOURCE_EXHAUSTED, "message of"),
        ("StoreRender", {"template": "{{ .missing }}"}, INVALID_ARGUMENT, "missing"),
        ("Invoke", invocation("probe", "add", "two"), INVALID_ARGUMENT, "argument 'left'"),
        ("Invoke", invocation("probe", "add"), INVALID_ARGUMENT, "services.probe.add"),
        ("Invoke", invocation("probe", "add", 1, 2, 3), INVALID_ARGUMENT, "services.probe.add"),
        ("Invoke", {"service": "probe", "method": "add", "args": b64("{")}, INVALID_ARGUMENT, "args"),
        ("Invoke", {"service": "probe", "method": "add", "args": b64("7")}, INVALID_ARGUMENT, "args"),
        ("Invoke", invocation("probe", "nothing"), UNIMPLEMENTED, "services.probe.nothing"),
        ("Invoke", invocation("nobody", "add"), UNIMPLEMENTED, "services.nobody.add"),
        ("Invoke", invocation("probe", "give_bytes"), FAILED_PRECONDITION, "binary"),
        ("Invoke", invocation("probe", "give_much"), RESOURCE_EXHAUSTED, "wanted at most 1048576"),
        ("Invoke", invocation("probe", "fail", "InvalidArgument"), INVALID_ARGUMENT, "wanted a colour"),
        ("Invoke", invocation("probe", "fail", "FailedPrecondition"), FAILED_PRECONDITION, "not now"),
        ("Invoke", invocation("probe", "fail", "LimitExceeded"), RESOURCE_EXHAUSTED, "enough"),
    ):
        answer = await app.refused(method, request)
        assert answer[0] == status, (method, request, answer)
        assert said in answer[1], (method, answer)


async def test_what_an_error_says_arrives_letter_by_letter_but_cut(app: App):
    """Any letters, percent signs and line ends cross as they are; a message of a megabyte is cut to what fits."""
    status, details = await app.refused("Invoke", invocation("probe", "fail", "NotFound"))
    assert (status, details) == (NOT_FOUND, "no such thing — ünïcödé, 100 %\nand a second line")
    status, details = await app.refused("Invoke", invocation("probe", "fail", "long"))
    assert status == NOT_FOUND
    assert 100 < len(details) < 2000
    status, details = await app.refused("FileRead", {"path": "ü" * 100_000})
    assert status in (INVALID_ARGUMENT, PERMISSION_DENIED)
    assert len(details) < 2000


async def test_a_bug_of_the_app_is_told_by_number_only(app: App, caplog: pytest.LogCaptureFixture):
    """INTERNAL with an incident that stands in the host's log, and nothing of what went wrong."""
    status, details = await app.refused("Invoke", invocation("probe", "fail", "bug"))
    assert status == INTERNAL
    assert "secret" not in details
    assert "KeyError" not in details
    incident = details.rpartition("incident ")[2]
    (record,) = [record for record in caplog.records if incident in record.getMessage()]
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


async def test_a_message_over_the_limit_is_refused_and_the_connection_lives(app: App):
    """RESOURCE_EXHAUSTED, and what was sent in vain uses up nothing: the next calls go through."""
    content = b64(bytes(3 * MESSAGE_BYTES))
    for _ in range(4):  # in all more than the HTTP/2 window of the connection
        status, details = await app.refused("FileWrite", {"path": "data/large", "content": content})
        assert status == RESOURCE_EXHAUSTED
        assert "wanted at most 1048576" in details
        assert await app.ask("StoreCount") == {"count": "0"}
    assert await app.ask("FileList", {"path": "data"}) == {"entries": []}


# --- deadlines and cancelling


async def test_a_deadline_reaches_the_service_and_ends_it(app: App):
    """DEADLINE_EXCEEDED at the caller, `ctx.deadline_s` and a cancelled task in the service."""
    status, _details = await app.refused("Invoke", invocation("probe", "wait"), timeout_s=0.3)
    assert status == DEADLINE_EXCEEDED
    async with asyncio.timeout(5):
        await app.probe.cancelled.wait()
    (context,) = app.probe.contexts
    assert context.module == "mine"
    assert context.deadline_s is not None
    assert 0 < context.deadline_s <= 0.3


async def test_a_cancelled_call_ends_the_service(app: App):
    """The client gives up: the service's task is cancelled, and other calls on the connection go on."""
    call = await app.begin("Invoke", invocation("probe", "wait"))
    await app.probe.entered.wait()
    await call.cancel()
    async with asyncio.timeout(5):
        await app.probe.cancelled.wait()
    assert (await call.receive())["status"] == CANCELLED
    assert await app.invoke("add", 1) == 2


async def test_a_token_dies_with_its_module(app: App):
    """Once the module is unloaded, what was under way is CANCELLED and the token is nobody's."""
    session = await app.open_session()
    await session.send({"id": 1, "method": "store.count"})
    await session.receive()
    watch = await app.begin("grpc.health.v1.Health/Watch", {})
    await watch.receive()
    call = await app.begin("Invoke", invocation("probe", "wait"))
    await app.probe.entered.wait()
    await app.mine.unload()
    for under_way in (call, session.call, watch):
        assert (await under_way.receive())["status"] == CANCELLED
    assert app.probe.cancelled.is_set()
    assert (await app.refused("StoreCount"))[0] == UNAUTHENTICATED
    app.token = app.host.gateway.issue_token("other")
    assert await app.ask("StoreCount") == {"count": "0"}


async def test_a_token_can_be_taken_back(app: App):
    """`revoke_token` ends what one client has under way, and leaves the module and its other tokens alone."""
    first, second = app.token, app.host.gateway.issue_token("mine")
    assert first is not None
    call = await app.begin("Invoke", invocation("probe", "wait"))
    await app.probe.entered.wait()
    app.host.gateway.revoke_token(first)
    assert (await call.receive())["status"] == CANCELLED
    assert (await app.refused("StoreCount"))[0] == UNAUTHENTICATED
    assert await app.ask("StoreCount", token=second) == {"count": "0"}
    app.host.gateway.revoke_token(first)


async def test_many_calls_at_once(app: App):
    """Calls of one connection do not wait for each other."""
    waiting = await app.begin("Invoke", invocation("probe", "wait"))
    await app.probe.entered.wait()
    calls = [await app.begin("Invoke", invocation("probe", "echo", number)) for number in range(50)]
    answers = [(await call.receive())["message"]["result"] for call in reversed(calls)]
    assert answers == [b64(str(number)) for number in reversed(range(50))]
    await waiting.cancel()


# --- health


async def test_health(app: App):
    """Check and Watch by the rules of the standard health service, with a token."""
    check, watch = "grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"
    assert await app.ask(check) == {"status": "SERVING"}
    assert await app.ask(check, {"service": "coredeno.CoreService"}) == {"status": "SERVING"}
    assert (await app.refused(check, {"service": "nobody"}))[0] == NOT_FOUND
    for service, status in (("", "SERVING"), ("nobody", "SERVICE_UNKNOWN")):
        call = await app.begin(watch, {"service": service})
        assert await call.receive() == {"message": {"status": status}}
        await call.cancel()
        assert (await call.receive())["status"] == CANCELLED


async def test_a_stop_ends_what_clients_wait_for(app: App):
    """The host does not wait for its clients, and they are not left waiting."""
    watch = await app.begin("grpc.health.v1.Health/Watch", {})
    await watch.receive()
    call = await app.begin("Invoke", invocation("probe", "wait"))
    await app.probe.entered.wait()
    async with asyncio.timeout(5):
        await app.host.stop()
    assert (await call.receive())["status"] in (CANCELLED, 14)  # 14: UNAVAILABLE, the connection went down
    assert (await watch.receive())["status"] in (CANCELLED, 14)


# --- the Session, by hand


async def test_a_session_by_hand(app: App):
    """One request, one answer; with and without a module; results, errors and bytes as docs/wire.md has them."""
    session = await app.open_session()
    await session.send(
        {"id": 7, "method": "store.set", "params": {"key": "k", "value": "v"}, "module": "mine"}
    )
    assert await session.receive() == [{"jsonrpc": "2.0", "id": 7, "result": None}]
    await session.send({"id": 8, "method": "store.get", "params": {"key": "k"}})
    assert await session.receive() == [{"jsonrpc": "2.0", "id": 8, "result": "v"}]
    await session.send({"id": 9, "method": "health.check"})
    assert await session.receive() == [{"jsonrpc": "2.0", "id": 9, "result": {"ok": True}}]

    await session.send({"id": 10, "method": "files.read", "params": {"path": "secret/key"}})
    (answer,) = await session.receive()
    assert (answer["error"]["code"], answer["error"]["data"]["name"]) == (-32000, "PermissionDenied")
    assert answer["error"]["data"]["resource"] == "secret/key"
    await session.send({"id": 11, "method": "no.such.method"})
    (answer,) = await session.receive()
    assert answer["error"]["code"] == -32601

    entry = {"bytes": [{"at": ["params", "data"], "len": 3}]}
    message = {"id": 12, "method": "files.write", "params": {"path": "data/f", "data": None}, **entry}
    await session.send(message, attachments=(b"a\0b",))
    await session.receive()
    assert (await app.ask("FileRead", {"path": "data/f"}))["content"] == b64(b"a\0b")
    await session.send({"id": 13, "method": "files.read", "params": {"path": "data/f"}})
    answer = await session.call.receive()
    assert answer["message"]["attachments"] == [b64(b"a\0b")]
    await session.call.half_close()
    assert await session.end() == (OK, "")


async def test_batches_are_coalesced(app: App):
    """What is ready in one turn of the host's loop comes back together: a hundred answers in a few batches."""
    session = await app.open_session()
    method = "services.probe.echo"
    await session.send(
        *({"id": number, "method": method, "params": {"args": [number]}} for number in range(1, 101))
    )
    batches = [await session.receive()]
    while sum(map(len, batches)) < 100:
        batches.append(await session.receive())
    assert len(batches) <= 10
    answers = [(answer["id"], answer["result"]) for batch in batches for answer in batch]
    assert answers == [(number, number) for number in range(1, 101)]
    await session.call.cancel()


async def test_a_request_on_a_session_can_be_cancelled(app: App):
    """A `cancel` ends that request alone, and it is answered as cancelled; others are not held up by it."""
    session = await app.open_session()
    wait, add = "services.probe.wait", "services.probe.add"
    await session.send({"id": 1, "method": wait, "params": {"args": []}})
    await app.probe.entered.wait()
    await session.send({"id": 2, "method": add, "params": {"args": [1, 1]}})
    assert await session.receive() == [{"jsonrpc": "2.0", "id": 2, "result": 2}]
    await session.send({"method": "cancel", "params": {"id": 1}})
    (answer,) = await session.receive()
    assert (answer["id"], answer["error"]["code"]) == (1, -32005)
    assert app.probe.cancelled.is_set()
    await session.send({"id": 3, "method": wait, "params": {"args": []}, "deadline_ms": 50})
    (answer,) = await session.receive()
    assert (answer["id"], answer["error"]["code"]) == (3, -32004)
    await session.call.cancel()


async def test_a_session_that_breaks_the_rules_is_ended_and_reported(app: App):
    """It ends with the reason, the app hears of it; the token's other calls and all other modules go on."""
    for messages, problem in (
        ([{"id": 1, "method": "store.count", "module": "other"}], "not its own"),
        ([{"id": 1, "method": "services.probe.wait", "params": {"args": []}}] * 2, "an id that is in use"),
        ([{"method": "store.delete_group"}], "as a notification"),
        ([{"method": "log.write", "params": {"level": "loud"}}], "log.write"),
    ):
        session = await app.open_session()
        await session.send(*messages)
        status, details = await session.end()
        assert status == PERMISSION_DENIED
        assert problem in details
        event = await app.event()
        assert isinstance(event, happened.ProtocolBroken)
        assert problem in event.problem
    session = await app.open_session()
    await session.call.send({"messages": b64("no json")})
    assert (await session.end())[0] == PERMISSION_DENIED
    assert await app.ask("StoreCount") == {"count": "0"}
    assert app.other.state is app.mine.state


async def test_a_token_has_one_session_at_a_time(app: App):
    """A second one is refused while the first stands, and let in once it has ended."""
    first = await app.open_session()
    await first.send({"id": 1, "method": "store.count"})
    await first.receive()
    second = await app.open_session()
    assert (await second.end())[0] == PERMISSION_DENIED
    await first.send({"id": 2, "method": "store.count"})
    await first.receive()
    await first.call.half_close()
    assert await first.end() == (OK, "")
    third = await app.open_session()
    await third.send({"id": 1, "method": "store.count"})
    await third.receive()
    await third.call.cancel()
