"""`core`, as a plugin in a real Deno has it: what works, and how what does not work is told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import psutil
import pytest

from coredeno import (
    Context,
    CoreDenoError,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    LimitExceeded,
    Module,
    NotFound,
    PermissionDenied,
    PluginHost,
    PluginRaised,
    Service,
    StoreError,
    StoreFull,
    rpc,
)
from coredeno.config import Program
from coredeno.events import PermissionDenied as Denied


class App(Service, name="app"):
    def __init__(self) -> None:
        self.error: Exception | None = None

    @rpc(permission="app:use")
    async def add(self, ctx: Context, left: int, right: int = 1) -> int:
        return left + right

    @rpc(permission="app:use")
    async def fail(self, ctx: Context) -> None:
        assert self.error is not None
        raise self.error

    @rpc(permission="app:use")
    async def odd(self, ctx: Context) -> Any:
        return {1, 2}

    @rpc(permission="app:rule")
    async def rule(self, ctx: Context) -> None: ...

    @rpc
    async def who(self, ctx: Context) -> str:
        return f"{ctx.module} {ctx.version}"


class Other(Service, name="hidden"):
    @rpc
    async def who(self, ctx: Context) -> str:
        return ctx.module


@pytest.fixture
def app() -> App:
    return App()


async def load(boot, plugins: Path, *services: Service) -> tuple[PluginHost, Module]:
    """The plugin that asks what it is told to, and a root with files in it."""
    (boot.root / "notes").mkdir(parents=True)
    (boot.root / "notes" / "a.txt").write_bytes(b"hi \xc3\xa9 \xff")
    (boot.root / "secret.txt").write_text("secret")
    host = await boot(*services, config={"programs": {"shell": Program("/bin/sh", allow_options=True)}})
    return host, await host.load_path(plugins / "asks")


async def test_core_itself(boot, plugins: Path, app: App):
    """`core` knows the code, lists the granted services and no others, and is frozen."""
    _, asks = await load(boot, plugins, app, Other())
    assert await asks.call("facts") == {"code": "asks", "services": ["app"]}
    assert await asks.call("frozen") is True


async def test_files(boot, plugins: Path):
    """Files are read as bytes or text, listed, written whole (folders are made), and deleted."""
    _, asks = await load(boot, plugins, App())
    root = boot.root
    assert await asks.call("ask", "files.read", "notes/a.txt") == b"hi \xc3\xa9 \xff"
    assert await asks.call("ask", "files.readText", "./notes/a.txt") == "hi é \ufffd"
    await asks.call("ask", "files.write", "shared/new/b.bin", b"\x00\x01")
    await asks.call("ask", "files.write", "shared/c.txt", "größe")
    assert (root / "shared/new/b.bin").read_bytes() == b"\x00\x01"
    assert (root / "shared/c.txt").read_text() == "größe"
    assert await asks.call("ask", "files.list", "shared/") == [
        {"name": "c.txt", "is_dir": False, "size": 7},
        {"name": "new", "is_dir": True, "size": 0},
    ]
    await asks.call("ask", "files.delete", "shared/c.txt")
    assert not (root / "shared/c.txt").exists()
    data = bytes(range(256)) * 4096
    await asks.call("ask", "files.write", "shared/large", data)
    assert await asks.call("ask", "files.read", "shared/large") == data


async def test_store(boot, plugins: Path):
    """The plugin's own group is the host's group of its code; other groups are named, and granted by mode."""
    host, asks = await load(boot, plugins, App())
    await asks.call("ask", "store.set", "a", "1")
    await asks.call("ask", "store.set", "b", "größe")
    assert await host.store.get_all("asks") == {"a": "1", "b": "größe"}
    await host.store.set("asks", "c", "3")
    assert await asks.call("ask", "store.get", "c") == "3"
    assert await asks.call("ask", "store.get", "nothing") is None
    assert await asks.call("ask", "store.getAll") == {"a": "1", "b": "größe", "c": "3"}
    assert await asks.call("ask", "store.count") == 3
    assert await asks.call("ask", "store.render", 'b: {{ .b }} {{ index . "a" }}') == "b: größe 1"
    await asks.call("ask", "store.delete", "a")
    assert await asks.call("ask", "store.count") == 2
    await asks.call("ask", "store.deleteGroup")
    assert await host.store.get_all("asks") == {}
    await host.store.set("other", "k", "v")
    assert await asks.call("inGroup", "other", "get", "k") == "v"
    with pytest.raises(PluginRaised) as caught:
        await asks.call("inGroup", "other", "set", "k", "changed")
    assert caught.value.code == "PERMISSION_DENIED"
    assert await host.store.get("other", "k") == "v"


async def test_processes(boot, plugins: Path, eventually):
    """A program runs in the root, is waited for, stopped, and dies with its module."""
    _, asks = await load(boot, plugins, App())
    await asks.call("run", "one", "pwd; echo $0 $1 >&2; exit 3", "zero", "größe")
    assert await asks.call("waitFor", "one") == {
        "exitCode": 3,
        "stdout": f"{boot.root}\n",
        "stderr": "zero größe\n",
    }
    await asks.call("run", "two", "exec sleep 100")
    await asks.call("stop", "two")
    assert (await asks.call("waitFor", "two"))["exitCode"] == -15
    await asks.call("run", "three", "echo $$ > pid; exec sleep 100")
    file = boot.root / "pid"
    await eventually(lambda: file.exists() and file.read_text().endswith("\n"))
    process = psutil.Process(int(file.read_text()))
    await asks.unload()
    assert not process.is_running()


async def test_a_foreign_process_is_out_of_reach(boot, plugins: Path, write):
    """A module controls only the programs that it started itself, whatever ids it knows."""
    host, asks = await load(boot, plugins, App())
    process_id = await asks.call("run", "one", "exec sleep 100")
    source = """
        let core;
        export function init(c) { core = c; }
        export const stop = (id) => core.processStop(id);
    """
    thief = await host.load_path(write("thief", source, "permissions: {run: [shell]}"))
    with pytest.raises(PluginRaised, match="only the processes that it started") as caught:
        await thief.call("stop", process_id)
    assert caught.value.code == "PERMISSION_DENIED"
    await asks.call("stop", "one")


async def test_services(boot, plugins: Path, app: App):
    """A service's method is called with the plugin's arguments; what is left out has its default."""
    _, asks = await load(boot, plugins, app)
    assert await asks.call("ask", "services.app.add", 1, 2) == 3
    assert await asks.call("ask", "services.app.add", 1) == 2
    assert await asks.call("ask", "services.app.who") == "asks 0.1.0"


async def test_arguments_are_validated(boot, plugins: Path, app: App):
    """An argument that is not of its type is `InvalidArgument`; the message names it."""
    _, asks = await load(boot, plugins, app)
    for args, named in (
        (("x",), "argument 'left': Expected `int`, got `str`"),
        ((1, [2]), "argument 'right': Expected `int`, got `array`"),
        ((1.5,), "argument 'left'"),
        ((b"1",), "argument 'left'"),
        ((), "services.app.add"),
        ((1, 2, 3), "services.app.add"),
    ):
        told = await asks.call("refusal", "services.app.add", *args)
        assert (told["name"], told["code"]) == ("InvalidArgument", "INVALID_ARGUMENT"), args
        assert named in told["message"]


async def test_a_refusal_says_everything(boot, plugins: Path, app: App):
    """What the gate refuses is an `Error` with the class as name, a stable code and the facts; an event tells."""
    host, asks = await load(boot, plugins, app)
    events = host.events()
    for name, args, permission, resource, remedy in (
        ("files.read", ("secret.txt",), "files.read", "secret.txt", "permissions.read"),
        ("files.write", ("notes/a.txt", b""), "files.write", "notes/a.txt", "permissions.write"),
        ("files.delete", ("notes/a.txt",), "files.write", "notes/a.txt", "permissions.write"),
        ("files.list", (".",), "files.read", ".", "permissions.read"),
        ("files.read", (".core/store.db",), "files.read", ".core/store.db", "the host's own folder"),
        ("storeGet", ("_host", "k"), "store.read", "_host", "the host's"),
        ("storeSet", ("other", "k", "v"), "store.write", "other", "permissions.store.write"),
        ("processes.start", ("bash",), "processes.start", "bash", "permissions.run"),
        ("processes.start", ("unapproved",), "processes.start", "unapproved", "HostConfig.programs"),
        ("processStop", ("someone's",), "processes.control", "someone's", "started itself"),
        ("services.app.rule", (), "services.app", "app:rule", "services in the manifest"),
    ):
        told = await asks.call("refusal", name, *args)
        message = told.pop("message")
        assert permission in message
        assert resource in message
        assert remedy in told.pop("remedy")
        assert told == {
            "name": "PermissionDenied",
            "code": "PERMISSION_DENIED",
            "module": "asks",
            "permission": permission,
            "resource": resource,
            "isError": True,
            "isTold": True,
            "stackLeadsHere": True,
        }
        event = await anext(events)
        assert isinstance(event, Denied)
        assert (event.module, event.permission, event.resource) == ("asks", permission, resource)


async def test_other_errors_are_stable(boot, plugins: Path, app: App):
    """Each error of the host has its name and its code, whoever raised it."""
    _, asks = await load(boot, plugins, app)
    for name, args, error, code in (
        ("files.read", ("notes/none",), "NotFound", "NOT_FOUND"),
        ("files.read", ("notes",), "FailedPrecondition", "FAILED_PRECONDITION"),
        ("files.read", ("../etc/passwd",), "InvalidArgument", "INVALID_ARGUMENT"),
        ("files.read", ("/etc/passwd",), "InvalidArgument", "INVALID_ARGUMENT"),
        ("files.read", (1,), "InvalidArgument", "INVALID_ARGUMENT"),
        ("files.read", (), "InvalidArgument", "INVALID_ARGUMENT"),
        ("files.write", ("shared/x", {"no": "bytes"}), "InvalidArgument", "INVALID_ARGUMENT"),
        ("files.write", ("shared/x", None), "InvalidArgument", "INVALID_ARGUMENT"),
        ("store.set", ("k", 1), "InvalidArgument", "INVALID_ARGUMENT"),
        ("store.set", ("", "v"), "InvalidArgument", "INVALID_ARGUMENT"),
        ("store.set", ("k", "v" * 1_100_000), "LimitExceeded", "RESOURCE_EXHAUSTED"),
        ("store.render", ("{{ .none }}",), "InvalidArgument", "INVALID_ARGUMENT"),
        ("store.render", ("{{ if }}",), "InvalidArgument", "INVALID_ARGUMENT"),
        ("processes.start", ("shell", ["\x00"]), "InvalidArgument", "INVALID_ARGUMENT"),
        ("services.app.odd", (), "InternalError", "INTERNAL"),
    ):
        told = await asks.call("refusal", name, *args)
        assert (told["name"], told["code"]) == (error, code), (name, args, told)
        assert told["message"]


async def test_what_a_service_raises(boot, plugins: Path, app: App, caplog: pytest.LogCaptureFixture):
    """A service tells the plugin its `RequestError`s in so many words; of anything else only an incident."""
    _, asks = await load(boot, plugins, app)
    denied = PermissionDenied(module="asks", permission="p", resource="r", remedy="ask")
    for raised, code in (
        (NotFound("no such city"), "NOT_FOUND"),
        (InvalidArgument("a bad city"), "INVALID_ARGUMENT"),
        (FailedPrecondition("closed"), "FAILED_PRECONDITION"),
        (LimitExceeded("too many"), "RESOURCE_EXHAUSTED"),
        (denied, "PERMISSION_DENIED"),
        (StoreError("locked"), "UNAVAILABLE"),
        (StoreFull("disk full"), "RESOURCE_EXHAUSTED"),
    ):
        app.error = raised
        told = await asks.call("refusal", "services.app.fail")
        assert (told["name"], told["code"], told["message"]) == (type(raised).__name__, code, str(raised))
    for bug in (ValueError("secret"), TypeError(), InternalError("secret"), CoreDenoError("secret")):
        app.error = bug
        caplog.clear()
        told = await asks.call("refusal", "services.app.fail")
        assert (told["name"], told["code"]) == ("InternalError", "INTERNAL")
        assert "secret" not in str(told)
        assert told["incident"] in caplog.text


async def test_an_uncaught_refusal(boot, plugins: Path, app: App):
    """An error of the gate that the plugin does not catch is `PluginRaised` with name, text, stack and code."""
    _, asks = await load(boot, plugins, app)
    with pytest.raises(PluginRaised) as caught:
        await asks.call("ask", "files.read", "secret.txt")
    error = caught.value
    assert (error.module, error.name, error.code) == ("asks", "PermissionDenied", "PERMISSION_DENIED")
    assert error.message.startswith("files.read: module 'asks' was refused 'secret.txt'")
    assert "main.ts" in error.stack
    with pytest.raises(PluginRaised) as caught:
        await asks.call("ask", "services.hidden.who")
    assert (caught.value.name, caught.value.code) == ("TypeError", None)


async def test_logs(boot, plugins: Path, app: App, caplog: pytest.LogCaptureFixture, eventually):
    """`core.log` writes records named by the plugin's code, with level, version and the call that they belong to."""
    caplog.set_level(logging.DEBUG)
    _, asks = await load(boot, plugins, app)
    await asks.call("writeLogs", trace="request 7")
    await eventually(lambda: len(records(caplog, "asks")) == 4)
    assert [(record.levelname, record.getMessage()) for record in records(caplog, "asks")] == [
        ("DEBUG", "debug 1 { a: [ 1, { b: undefined } ] }"),
        ("INFO", "info two words null undefined"),
        ("WARNING", 'warning Map(1) { "k" => 1n }'),
        ("ERROR", records(caplog, "asks")[3].getMessage()),
    ]
    assert records(caplog, "asks")[3].getMessage().startswith("error RangeError: out of it")
    for record in records(caplog, "asks"):
        assert (record.plugin, record.plugin_version, record.call_id) == ("asks", "0.1.0", "request 7")


async def test_a_module_for_the_original(boot, plugins: Path):
    """A module written for the original runs unchanged: flat names, its results in snake_case, same refusals."""
    boot.root.mkdir(parents=True)
    host = await boot(config={"programs": {"shell": Program("/bin/sh", allow_options=True)}})
    original = await host.load_path(plugins / "original")
    assert await host.store.get("original", "state") == "ready"
    assert await original.call("everything") == {
        "state": {"value": "ready", "found": True},
        "nothing": {"value": "", "found": False},
        "written": {"ok": True},
        "content": "größe",
        "entries": [{"name": "note.txt", "is_dir": False, "size": 7}],
        "deleted": {"ok": True},
        "left": [],
        "set": {"ok": True},
        "id": "string",
        "stopped": {"ok": True},
    }
    assert await host.store.get("original", "state") == "done"
    assert await original.call("refused") == {
        "storeGet": "PermissionDenied PERMISSION_DENIED",
        "storeSet": "PermissionDenied PERMISSION_DENIED",
        "fileRead": "PermissionDenied PERMISSION_DENIED",
        "fileWrite": "InvalidArgument INVALID_ARGUMENT",
        "fileList": "PermissionDenied PERMISSION_DENIED",
        "fileDelete": "NotFound NOT_FOUND",
        "processStart": "PermissionDenied PERMISSION_DENIED",
        "processStop": "PermissionDenied PERMISSION_DENIED",
    }


def records(caplog: pytest.LogCaptureFixture, code: str) -> list[logging.LogRecord]:
    """What was logged for a plugin."""
    return [record for record in caplog.records if record.name == f"coredeno.plugin.{code}"]
