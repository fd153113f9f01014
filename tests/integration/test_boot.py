"""The life of a host: it starts as a whole or leaves nothing, and it stops as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from coredeno import (
    Context,
    CoreDenoError,
    DenoNotFound,
    Hooks,
    HostConfig,
    ManifestError,
    PluginHost,
    Service,
    ServiceRegistry,
    SidecarExited,
    StoreError,
    UsageError,
    rpc,
)
from coredeno import root as root_module
from coredeno.denied_addresses import denied_addresses
from coredeno.gateway.listener import GrpcListener
from coredeno.services.process_table import ProcessTable
from coredeno.store.sqlite import SqliteStore
from tests.hosts import RememberingLauncher, assert_unused, is_gone, nothing_left

Eventually = Callable[..., Awaitable[None]]
Write = Callable[..., Path]

ECHO = "export function echo(value) { return value; }"
UNSIGNED = HostConfig(allow_unsigned=True)


@asynccontextmanager
async def running(host: PluginHost) -> AsyncIterator[PluginHost]:
    """A host that the test itself will stop; if it fails before that, it is stopped here."""
    try:
        await host.start()
        yield host
    finally:
        await host.stop()


# --- failures early in the start


class Case:
    """One way for a start to fail: a root, a host on it, and what to do so that the root can be used."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "app"
        self.core = self.root / ".core"
        self.config = HostConfig()
        self.hooks: list[Hooks] = []
        self.mended: Callable[[], object] = lambda: None

    def host(self) -> PluginHost:
        return PluginHost(self.root, config=self.config, hooks=self.hooks)

    def has_file(self, name: str, data: bytes) -> None:
        self.root.mkdir(exist_ok=True)
        self.core.mkdir(exist_ok=True)
        (self.core / name).write_bytes(data)
        self.mended = (self.core / name).unlink

    def has_deno(self, script: str, mode: int = 0o755) -> None:
        deno = self.root.with_name("deno")
        deno.write_text(f"#!/bin/sh\n{script}\n")
        deno.chmod(mode)
        self.config = HostConfig(deno=deno)
        self.mended = self.use_default

    def use_default(self) -> None:
        self.config = HostConfig()
        self.hooks = []


def root_is_a_file(case: Case) -> None:
    case.root.write_text("")
    case.mended = case.root.unlink


def root_is_beneath_a_file(case: Case) -> None:
    case.root.write_text("")
    case.root = case.root / "app"
    case.mended = case.root.parent.unlink


def root_cannot_be_made(case: Case) -> None:
    case.root, usable = Path("/proc/coredeno"), case.root  # where even root may not make a folder
    case.mended = lambda: setattr(case, "root", usable)


def core_is_a_file(case: Case) -> None:
    case.root.mkdir()
    case.core.write_text("")
    case.mended = case.core.unlink


def lock_is_a_link(case: Case) -> None:
    case.core.mkdir(parents=True)
    (case.core / "lock").symlink_to(case.root.with_name("elsewhere"))
    case.mended = (case.core / "lock").unlink


def manifest_field_is_wrong(case: Case) -> None:
    case.has_file("view.yml", b"code: app\nversion: 1.0.0\npermissions: {read: [../up]}\n")


def manifest_is_no_yaml(case: Case) -> None:
    case.has_file("view.yml", b"code: [\n")


def manifest_is_a_folder(case: Case) -> None:
    (case.core / "view.yml").mkdir(parents=True)
    case.mended = (case.core / "view.yml").rmdir


def store_is_corrupt(case: Case) -> None:
    case.has_file("store.db", b"this was a database once" * 100)


def store_is_damaged_inside(case: Case) -> None:
    case.has_file("store.db", b"SQLite format 3\0" + b"\xff" * 4080)


def store_is_newer(case: Case) -> None:
    case.has_file("store.db", b"")
    with sqlite3.connect(case.core / "store.db") as database:
        database.execute(f"PRAGMA application_id = {0x636F7265}")
        database.execute("PRAGMA user_version = 99")
    database.close()


def deno_is_missing(case: Case) -> None:
    case.config = HostConfig(deno="/nonexistent")
    case.mended = case.use_default


def deno_is_a_folder(case: Case) -> None:
    case.config = HostConfig(deno="/")
    case.mended = case.use_default


def deno_cannot_be_run(case: Case) -> None:
    case.has_deno("", mode=0o644)


def deno_is_no_program(case: Case) -> None:
    case.has_deno("")
    case.root.with_name("deno").write_bytes(b"\x7fELF and nothing more")


def deno_is_false(case: Case) -> None:
    case.config = HostConfig(deno=shutil.which("false"))
    case.mended = case.use_default


def deno_complains(case: Case) -> None:
    case.has_deno("echo 'no such flag: --no-config' >&2; exit 3")


def deno_is_too_old(case: Case) -> None:
    case.has_deno("""read -r _; echo '{"protocol":1,"deno":"2.8.3","pid":1,"ready":true}'; read -r _""")


def deno_is_too_new(case: Case) -> None:
    case.has_deno("""read -r _; echo '{"protocol":1,"deno":"3.0.0","pid":1,"ready":true}'; read -r _""")


def hook_raises(case: Case) -> None:
    class Broken(Hooks):
        async def register_services(self, services: ServiceRegistry) -> None:
            raise ZeroDivisionError("the app's own bug")

    case.hooks = [Broken()]
    case.mended = case.use_default


def service_is_wrong(case: Case) -> None:
    class Wrong(Service, name="wrong"):
        @rpc
        async def method(self, ctx: Context, untyped) -> None: ...

    class Registers(Hooks):
        async def register_services(self, services: ServiceRegistry) -> None:
            services.add(Wrong())

    case.hooks = [Registers()]
    case.mended = case.use_default


FAILURES: list[tuple[Callable[[Case], None], type[Exception], str]] = [
    (root_is_a_file, UsageError, r"root '.*app' cannot be used: .*exists"),
    (root_is_beneath_a_file, UsageError, r"root '.*app' cannot be used: .*Not a directory"),
    (root_cannot_be_made, UsageError, r"root '/proc/coredeno' cannot be used"),
    (core_is_a_file, UsageError, r"root '.*app' cannot be used: .*\.core"),
    (lock_is_a_link, UsageError, r"root '.*app' cannot be used: .*lock"),
    (manifest_field_is_wrong, ManifestError, r"app/\.core/view\.yml: permissions\.read\[0\]: "),
    (manifest_is_no_yaml, ManifestError, r"app/\.core/view\.yml: "),
    (manifest_is_a_folder, ManifestError, r"app/\.core/view\.yml: cannot be read: Is a directory"),
    (store_is_corrupt, StoreError, r"app/\.core/store\.db.* not a database"),
    (store_is_damaged_inside, StoreError, r"app/\.core/store\.db"),
    (store_is_newer, StoreError, r"version 99, wanted at most \d+: a newer coredeno wrote it"),
    (deno_is_missing, DenoNotFound, r"no file '/nonexistent'.*pip install.*HostConfig\(deno="),
    (deno_is_a_folder, DenoNotFound, r"no file '/'.*pip install"),
    (deno_cannot_be_run, DenoNotFound, r"deno cannot be run: Permission denied"),
    (deno_is_no_program, DenoNotFound, r"deno cannot be run: Exec format error"),
    (deno_is_false, SidecarExited, r"exit code 1"),
    (deno_complains, SidecarExited, r"exit code 3.*no such flag: --no-config"),
    (deno_is_too_old, DenoNotFound, r"version is 2\.8\.3, wanted at least 2\.9; pip install"),
    (deno_is_too_new, DenoNotFound, r"version is 3\.0\.0, wanted at most 2\.9.*allow_untested_deno"),
    (hook_raises, ZeroDivisionError, "the app's own bug"),
    (service_is_wrong, UsageError, r"wrong\.method: untyped has no type hint"),
]


@pytest.mark.parametrize(
    ("break_it", "error", "message"), FAILURES, ids=[break_it.__name__ for break_it, _, _ in FAILURES]
)
async def test_a_start_that_fails_leaves_nothing_and_can_be_tried_again(
    tmp_path: Path, break_it: Callable[[Case], None], error: type[Exception], message: str
):
    """Whatever is wrong, the error says what and where, nothing stays, and once mended the root starts at once."""
    case = Case(tmp_path)
    break_it(case)
    host = case.host()
    async with nothing_left(case.root):
        with pytest.raises(error, match=message):
            await host.start()
    await host.stop()  # harmless

    case.mended()
    async with nothing_left(case.root), case.host():
        pass


@pytest.mark.parametrize("break_it", [store_is_corrupt, store_is_damaged_inside, store_is_newer])
async def test_a_store_that_is_refused_is_left_as_it_is(tmp_path: Path, break_it: Callable[[Case], None]):
    """Not a byte of a database that cannot be read is changed, and nothing is put beside it."""
    case = Case(tmp_path)
    break_it(case)
    before = (case.core / "store.db").read_bytes()
    with pytest.raises(StoreError):
        await case.host().start()
    assert (case.core / "store.db").read_bytes() == before
    assert not list(case.core.glob("store.db-*"))


async def test_the_manifest_error_has_file_and_field(tmp_path: Path):
    """A program finds in the error's fields what a human reads in its text."""
    case = Case(tmp_path)
    manifest_field_is_wrong(case)
    with pytest.raises(ManifestError) as caught:
        await case.host().start()
    assert (caught.value.file, caught.value.field) == (str(case.core / "view.yml"), "permissions.read[0]")


async def test_a_wrong_service_is_refused_before_the_start(tmp_path: Path):
    """What is given to the constructor is checked there, and no root is made."""

    class Nameless(Service):
        @rpc
        async def method(self, ctx: Context) -> None: ...

    with pytest.raises(UsageError, match="its name is ''"):
        PluginHost(tmp_path / "app", services=[Nameless()])
    with pytest.raises(UsageError, match="hooks has <object"):
        PluginHost(tmp_path / "app", hooks=[object()])  # type: ignore[list-item]
    assert not (tmp_path / "app").exists()


async def test_an_untested_deno_can_be_accepted(tmp_path: Path):
    """With `allow_untested_deno` a newer version is no reason to stop: the start goes on to the next step."""
    case = Case(tmp_path)
    deno_is_too_new(case)
    case.config = HostConfig(deno=case.config.deno, allow_untested_deno=True)
    with pytest.raises(SidecarExited, match="its socket cannot be joined"):
        await case.host().start()


# --- one host a root


async def test_a_second_host_in_the_same_process_is_refused(tmp_path: Path):
    """The lock holds within a process too, the error names the process, and the first host is not disturbed."""
    async with PluginHost(tmp_path) as first:
        async with asyncio.timeout(5):
            with pytest.raises(UsageError, match=rf"in use by another host \(process {os.getpid()}\)"):
                await PluginHost(tmp_path).start()
        await first.store.set("g", "k", "still here")
        assert first.socket.is_socket()


HOLDS_A_ROOT = """
import asyncio, sys
from coredeno import HostConfig, PluginHost

async def main(root, plugin, function):
    host = PluginHost(root, config=HostConfig(allow_unsigned=True))
    await host.start()
    module = await host.load_path(plugin)
    call = asyncio.create_task(module.call(function))
    await module.call("echo", 1)
    print(host.socket.parent, flush=True)
    await call

asyncio.run(main(*sys.argv[1:]))
"""


class OtherHost:
    """A host in another process, with a module that is busy for ever."""

    def __init__(self, root: Path, plugin: Path, function: str) -> None:
        command = [sys.executable, "-c", HOLDS_A_ROOT, str(root), str(plugin), function]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.sockets = Path(self.process.stdout.readline().strip())
        self.sidecars = [
            int(pid)
            for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


BUSY = f"""{ECHO}
export function wait() {{ return new Promise(() => {{}}); }}
export async function loop() {{
  await new Promise((resolve) => setTimeout(resolve, 100));
  for (;;);
}}
"""


def is_deno(pid: int) -> bool:
    """Whether it is confined already: nobody can freeze it before, but a test that does not know."""
    return psutil.Process(pid).exe().endswith("/deno")


@pytest.mark.parametrize("function", ["wait", "loop", "stopped"])
async def test_a_host_that_was_killed_is_cleared_away(
    tmp_path: Path, write: Write, eventually: Eventually, function: str
):
    """While it lives its root is refused; a SIGKILL ends its sidecars too, busy or frozen; the rest is swept."""
    root = tmp_path / "app"
    plugin = write("busy", BUSY)
    other = await asyncio.to_thread(OtherHost, root, plugin, function.replace("stopped", "loop"))
    try:
        with pytest.raises(UsageError, match=rf"in use by another host \(process {other.process.pid}\)"):
            await PluginHost(root).start()
        (left,) = (root / ".core" / "run").iterdir()
        assert other.sidecars
        assert other.sockets.is_dir()
        if function == "stopped":
            for pid in filter(is_deno, other.sidecars):
                os.kill(pid, signal.SIGSTOP)
    finally:
        await asyncio.to_thread(other.kill)

    await eventually(lambda: all(map(is_gone, other.sidecars)), within_s=1)
    async with PluginHost(root) as host:
        assert not other.sockets.exists()
        assert host.socket.parent != other.sockets
        assert not left.exists()
        (run,) = (root / ".core" / "run").iterdir()
        assert {entry.name for entry in run.iterdir()} == {"sockets", "sidecar-1"}
    assert_unused(root)


HOLDER = """
import fcntl, os, sys, time
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
os.write(lock, b"%d\\n" % os.getpid())
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(float(sys.argv[2]))
os._exit(0)
"""


@pytest.mark.parametrize(("held_s", "starts"), [(0.3, True), (60, False)])
async def test_a_copy_of_a_killed_host_holds_the_lock_for_a_moment(
    tmp_path: Path, held_s: float, *, starts: bool
):
    """It was killed between fork and exec: what it was about to start is waited for, for a second at most."""
    lock = tmp_path / ".core" / "lock"
    lock.parent.mkdir()
    command = [sys.executable, "-I", "-S", "-c", HOLDER, str(lock), str(held_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        copy = int(await asyncio.to_thread(killed.stdout.readline))
    host = PluginHost(tmp_path)
    try:
        if starts:
            await host.start()
            assert int(lock.read_text()) == os.getpid()
        else:
            began = time.monotonic()
            with pytest.raises(UsageError, match="in use by another host"):
                await host.start()
            assert 1 <= time.monotonic() - began < 3
    finally:
        await host.stop()
        with contextlib.suppress(ProcessLookupError):
            os.kill(copy, signal.SIGKILL)


async def test_a_sidecar_that_outlives_its_killed_host_does_not_hinder_the_next(tmp_path: Path):
    """What still appears in the folders of the dead host, at any moment, is in nobody's way."""
    root = tmp_path / "app"
    old = root / ".core" / "run" / "old"
    deno = old / "sidecar-1" / "deno"
    deno.mkdir(parents=True)
    writes = f"while :; do mkdir -p {deno}; : > {deno}/cache; done"
    survivor = subprocess.Popen(["/bin/sh", "-c", writes], stderr=subprocess.DEVNULL)
    try:
        for _ in range(3):
            async with PluginHost(root):
                pass
    finally:
        survivor.kill()
        await asyncio.to_thread(survivor.wait)
    async with PluginHost(root):
        assert not old.exists()
    assert_unused(root)


async def test_a_folder_that_is_not_ours_is_not_swept(tmp_path: Path):
    """The sweep removes only folders with the host's own prefix: a forged note cannot make it remove others."""
    run = tmp_path / "app" / ".core" / "run" / "old"
    (tmp_path / "precious").mkdir()
    (tmp_path / "coredeno-link").symlink_to(tmp_path / "precious")
    for forged in (tmp_path / "precious", tmp_path / "coredeno-link", tmp_path / "coredeno-missing"):
        run.mkdir(parents=True)
        (run / "sockets").write_text(str(forged))
        async with PluginHost(tmp_path / "app"):
            pass
    assert (tmp_path / "precious").is_dir()
    assert (tmp_path / "coredeno-link").is_symlink()


# --- the order of things


class Steps(Hooks):
    """The default parts, each noting what it does and when."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.taken: list[str] = []

    def note(self, step: str) -> None:
        self.taken.append(step)

    def host(self) -> PluginHost:
        steps = self

        class Store(SqliteStore):
            async def open(self, folder: Path) -> None:
                await super().open(folder)
                steps.note("store opened")

            async def aclose(self) -> None:
                await super().aclose()
                steps.note("store closed")

        class Listener(GrpcListener):
            def bind(self, socket: Path) -> None:
                super().bind(socket)
                steps.note("socket made")

            async def aclose(self) -> None:
                await super().aclose()
                steps.note("socket removed")

        class Processes(ProcessTable):
            async def stop_all(self, owner: str | None = None) -> None:
                await super().stop_all(owner)
                if owner is None:
                    steps.note("processes stopped")

        class Launcher(RememberingLauncher):
            async def launch(self, order, door):
                process = await super().launch(order, door)
                steps.note("sidecar launched")
                return process

        self.launcher = Launcher()
        return PluginHost(
            self.root,
            hooks=[self],
            config=UNSIGNED,
            store=Store(),
            listener=Listener(),
            processes=Processes(),
            launcher=self.launcher,
        )

    async def register_services(self, services: ServiceRegistry) -> None:
        self.note("services registered")

    async def module_stopped(self, module, reason) -> None:
        self.note(f"module stopped: {reason}")


async def test_parts_start_in_order_and_stop_in_reverse(tmp_path: Path, write: Write):
    """Root, services, socket, then store and sidecar side by side; and the way back: modules first, root last."""
    steps = Steps(tmp_path / "app")
    async with nothing_left(steps.root), running(steps.host()) as host:
        assert steps.taken[:2] == ["services registered", "socket made"]
        assert set(steps.taken[2:]) == {"store opened", "sidecar launched"}
        await host.load_path(write("echo", ECHO))
        steps.taken.clear()

        await host.stop()
        assert [step for step in steps.taken if step != "sidecar launched"] == [
            "module stopped: the host stops",
            "socket removed",
            "processes stopped",
            "store closed",
        ]
        assert all(is_gone(process.pid) for process in steps.launcher.processes)


async def test_events_end_with_the_host(tmp_path: Path, write: Write):
    """Whoever listens hears of the last module, and then the iteration ends; so it does if a start fails."""
    host = PluginHost(tmp_path, config=UNSIGNED)
    heard = host.events()
    async with host:
        await host.load_path(write("echo", ECHO))
    kinds = [type(event).__name__ async for event in heard]
    # Its spare may be killed in the end, if it has just begun.
    assert [kind for kind in kinds if kind not in {"PermissionGranted", "SidecarKilled"}] == [
        "ModuleStarted",
        "ModuleStopped",
    ]

    failing = PluginHost(tmp_path, config=HostConfig(deno="/nonexistent"))
    heard = failing.events()
    with pytest.raises(DenoNotFound):
        await failing.start()
    assert [event async for event in heard] == []


# --- starting and stopping twice, at once, and under cancellation


async def test_a_host_starts_once(tmp_path: Path):
    """A second start, while it runs or after it has stopped, is a mistake that harms nothing."""
    host = PluginHost(tmp_path)
    await host.stop()  # before the start it means nothing
    async with host:
        with pytest.raises(UsageError, match="was started before"):
            await host.start()
        await host.store.set("g", "k", "v")
    with pytest.raises(UsageError, match="was started before"):
        await host.start()
    async with PluginHost(tmp_path) as second:
        assert await second.store.get("g", "k") == "v"


async def test_two_starts_at_once_are_one_start_and_one_mistake(tmp_path: Path):
    """The one that came first goes on undisturbed."""
    host = PluginHost(tmp_path)
    first, second = await asyncio.gather(host.start(), host.start(), return_exceptions=True)
    assert first is None
    assert isinstance(second, UsageError)
    assert host.socket.is_socket()
    await host.stop()


async def test_before_the_start_and_after_the_stop_nothing_can_be_used(tmp_path: Path, write: Write):
    """What needs a running host says so, instead of failing somewhere inside."""
    host = PluginHost(tmp_path, config=UNSIGNED)
    for use in (lambda: host.store, lambda: host.gateway, lambda: host.socket):
        with pytest.raises(UsageError, match="not started"):
            use()
    assert host.modules == {}
    plugin = write("echo", ECHO)
    with pytest.raises(UsageError, match="does not run"):
        await host.load_path(plugin)
    async with host:
        module = await host.load_path(plugin)
    with pytest.raises(UsageError, match="does not run"):
        await host.load_path(plugin)
    with pytest.raises(UsageError, match="STOPPED"):
        await module.call("echo", 1)
    await module.unload()
    with pytest.raises(CoreDenoError):
        await host.store.get("g", "k")


async def test_stops_at_once_and_again_are_one_stop(tmp_path: Path, write: Write):
    """Whoever asks waits for the same stop, and asking again later changes nothing."""
    async with nothing_left(tmp_path / "app"), running(PluginHost(tmp_path / "app", config=UNSIGNED)) as host:
        await host.load_path(write("echo", ECHO))
        await asyncio.gather(host.stop(), host.stop(), host.stop())
        assert_unused(tmp_path / "app")
        await host.stop()


async def test_a_stop_that_is_cancelled_finishes_first(tmp_path: Path, write: Write):
    """Cancelled once or many times, `stop` raises CancelledError only when nothing is left."""
    async with nothing_left(tmp_path / "app"), running(PluginHost(tmp_path / "app", config=UNSIGNED)) as host:
        await host.load_path(write("echo", ECHO))
        stopping = asyncio.create_task(host.stop())
        while not stopping.done():
            await turn()
            stopping.cancel()
        assert stopping.cancelled()
        assert_unused(tmp_path / "app")


async def test_a_stop_ends_a_start_that_is_under_way(tmp_path: Path):
    """The start raises UsageError, and of both nothing is left, wherever the start was."""
    root = tmp_path / "app"
    async with nothing_left(root):
        for turns in (1, 2, 10, 100, 1000):
            host = PluginHost(root)
            starting = asyncio.create_task(host.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            await host.stop()
            with pytest.raises(UsageError, match="stopped meanwhile"):
                await starting
            assert_unused(root)


async def loop_turns(task: asyncio.Task[None], most: int = sys.maxsize) -> int:
    """Let the loop turn until the task is done, or so many times; how often it did."""
    turns = 0
    while turns < most and not task.done():
        turns += 1
        await turn()
    return turns


async def turn() -> None:
    """One turn of the loop that lasts a moment: a loop that only spins starves the threads that do its work."""
    time.sleep(0.0001)  # noqa: ASYNC251 - it is the interpreter's lock that must be let go
    await asyncio.sleep(0)


async def test_a_start_can_be_cancelled_at_every_stage(tmp_path: Path):
    """Cancelled at its very beginning or a moment before its end: nothing is left, and the root starts again."""
    root = tmp_path / "app"
    async with nothing_left(root):
        host = PluginHost(root)
        whole = await loop_turns(asyncio.create_task(host.start()))
        await host.stop()
    for turns in [0, 1, 2, 3, 5, *(whole * part // 12 for part in range(1, 12))]:
        async with nothing_left(root):
            host = PluginHost(root, config=UNSIGNED)
            starting = asyncio.create_task(host.start())
            await loop_turns(starting, turns)
            starting.cancel()
            await asyncio.wait([starting])
            if starting.cancelled():
                with pytest.raises(UsageError, match="does not run"):
                    await host.load_path(tmp_path)
            else:  # this time it was faster
                await host.stop()
    async with nothing_left(root), PluginHost(root):
        pass


async def test_a_cancelled_start_waits_for_what_it_has_begun_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A thread cannot be cancelled: what it still makes after the cancellation is undone too."""
    begun, go_on = threading.Event(), threading.Event()
    short_folder = root_module._short_folder

    def slow() -> Path:
        begun.set()
        go_on.wait(10)
        return short_folder()

    monkeypatch.setattr(root_module, "_short_folder", slow)
    root = tmp_path / "app"
    async with nothing_left(root):
        starting = asyncio.create_task(PluginHost(root).start())
        await asyncio.to_thread(begun.wait, 10)
        starting.cancel()
        await loop_turns(starting, 100)
        assert not starting.done()
        go_on.set()
        await asyncio.wait([starting])
        assert starting.cancelled()


async def test_the_stop_of_a_cancelled_start_cannot_be_cut_short(tmp_path: Path):
    """Cancelled again and again, a start still clears away everything before it ends."""
    case = Case(tmp_path)
    case.has_deno("read -r _; read -r _")  # never ready: this start cannot be faster than its cancellation
    async with nothing_left(case.root):
        starting = asyncio.create_task(case.host().start())
        while not (case.core / "run").exists():
            await turn()
        await loop_turns(starting, 100)
        while not starting.done():
            starting.cancel()
            await turn()
        assert starting.cancelled()
        assert_unused(case.root)


async def test_a_deadline_on_the_start_is_kept(tmp_path: Path):
    """A start under `asyncio.timeout` raises TimeoutError to whoever set it, and leaves nothing."""
    case = Case(tmp_path)
    case.has_deno("read -r _; read -r _")
    async with nothing_left(case.root):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await case.host().start()


# --- what the system sees


async def test_the_command_line_and_the_environment_hold_nothing_else(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
):
    """A real sidecar has exactly these flags and variables, and its token in neither."""
    for name in ("SECRET", "NODE_OPTIONS", "DENO_PERMISSION_BROKER_PATH", "DENO_V8_FLAGS", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, "/nonexistent")
    launcher = RememberingLauncher()
    config = HostConfig(allow_unsigned=True)
    async with PluginHost(tmp_path / "app", config=config, launcher=launcher) as host:
        await host.load_path(write("net", ECHO, "permissions: {net: ['example.com:443']}"))
        order, process = launcher.orders[-1], launcher.processes[-1]
        command = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        own = f"{order.socket_folder}/{order.name}.sock"
        runtime = Path(sys.modules["coredeno"].__path__[0]) / "runtime"
        assert command[1:] == [
            "run",
            "--no-config",
            "--no-lock",
            "--no-remote",
            "--no-npm",
            "--cached-only",
            "--no-prompt",
            "--deny-import",
            "--deny-run",
            "--deny-ffi",
            "--deny-env",
            "--deny-sys",
            "--unstable-worker-options",
            "--v8-flags=--max-old-space-size=128,--max-semi-space-size=8",
            f"--allow-read={runtime},{order.stage},{host.socket},{own}",
            f"--allow-net=unix:{host.socket},unix:{own},example.com:443",
            f"--deny-net={','.join(denied_addresses(('example.com:443',)))}",
            f"--allow-write={host.socket},{own}",
            f"{runtime}/main.ts",
            "",
        ]
        environment = Path(f"/proc/{process.pid}/environ").read_text()
        assert dict(line.split("=", 1) for line in environment.split("\0") if line) == {
            "DENO_DIR": str(order.deno_dir),
            "DENO_CACHE_DB_MODE": "memory",
            "DENO_NO_PROMPT": "1",
            "DENO_NO_UPDATE_CHECK": "1",
            "NO_COLOR": "1",
        }
        for known in launcher.orders:
            assert known.token not in "".join(command)
            assert known.token not in environment
        assert len({known.token for known in launcher.orders}) == len(launcher.orders)


async def test_nobody_else_can_open_what_a_host_makes(tmp_path: Path, write: Write):
    """Whatever the umask, sockets and the store are the host's user's alone, and so are their folders."""

    class Launcher(RememberingLauncher):
        async def launch(self, order, door):
            process = await super().launch(order, door)
            connect = process.connect

            async def look_and_connect(protocol: asyncio.Protocol) -> None:
                modes.append(await asyncio.to_thread(mode, order.socket_folder / f"{order.name}.sock"))
                await connect(protocol)

            process.connect = look_and_connect  # type: ignore[method-assign]
            return process

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    modes: list[int] = []
    former = os.umask(0)
    try:
        async with PluginHost(tmp_path / "app", config=UNSIGNED, launcher=Launcher()) as host:
            core = tmp_path / "app" / ".core"
            module = await host.load_path(write("echo", ECHO))
            await module.call("echo", 1)
            await host.store.set("g", "k", "v")
            assert mode(host.socket) == 0o600
            assert modes
            assert all(mode & 0o077 == 0 for mode in modes), [oct(mode) for mode in modes]
            private = [
                host.socket.parent,
                core,
                core / "run",
                *(core / "run").glob("*"),
                *(core / "run").glob("*/sidecar-*"),
            ]
            assert {str(path): oct(mode(path)) for path in private} == {
                str(path): "0o700" for path in private
            }
            files = [core / "lock", *core.glob("store.db*")]
            assert len(files) == 4
            assert {str(path): oct(mode(path)) for path in files} == {str(path): "0o600" for path in files}
    finally:
        os.umask(former)


async def test_sockets_find_a_short_folder(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, short_folder: Path
):
    """Where TMPDIR is too long for a socket, or would split a flag, another folder is taken."""
    plugin = write("echo", ECHO)
    too_long = short_folder / ("long" * 25)
    too_long.mkdir()
    with_comma = short_folder / "a,b"
    with_comma.mkdir()
    for base in (too_long, with_comma, short_folder / "missing"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
        async with PluginHost(tmp_path / "app", config=UNSIGNED) as host:
            sockets = host.socket.parent
            assert not sockets.is_relative_to(base)
            assert len(os.fsencode(host.socket)) < 104
            module = await host.load_path(plugin)
            assert await module.call("echo", 1) == 1
        assert not sockets.exists()


async def test_a_root_with_odd_characters_works_or_is_refused_by_name(tmp_path: Path, write: Write):
    """Spaces, quotes, percent signs and other letters are only names; a comma would split Deno's lists."""
    plugin = write("echo", ECHO)
    async with PluginHost(tmp_path / "it's 100% “ok” #1?", config=UNSIGNED) as host:
        module = await host.load_path(plugin)
        assert await module.call("echo", "fine") == "fine"
    async with nothing_left(tmp_path / "a,b"):
        with pytest.raises(UsageError, match=r"a,b.* has a comma or a control character"):
            await PluginHost(tmp_path / "a,b").start()


async def test_a_signal_to_the_hosts_group_does_not_end_sidecars_early(tmp_path: Path):
    """Ctrl-C in a terminal reaches the whole group of the app; sidecars are not in it, and end in order."""
    launcher = RememberingLauncher()
    async with PluginHost(tmp_path, launcher=launcher):
        pid = launcher.processes[0].pid
        assert os.getpgid(pid) == pid != os.getpgid(0)
        assert os.getsid(pid) == pid
        with pytest.raises(ProcessLookupError):
            os.killpg(pid + 1_000_000, signal.SIGINT)


ON_UVLOOP = """
import asyncio, runpy, sys, tempfile
from pathlib import Path
import uvloop

app = runpy.run_path(sys.argv[1])
with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.get_loop().slow_callback_duration = 60  # -X dev would tell of each that a busy machine makes slow
    runner.run(app["main"](Path(folder)))
"""


async def test_a_host_runs_on_uvloop(project: Path):
    """The example app, on the loop that the extra `uvloop` is for: all goes on as on asyncio's own."""
    app = project / "examples" / "hello" / "app.py"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-c", ON_UVLOOP, str(app)),
        cwd=project,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    assert "Hello Grace, visit 2." in out.decode()
    assert out.decode().endswith("host      stopped, nothing left behind\n")
