"""What modules have apart: their processes, their permissions, their ends."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from coredeno import ModuleState, PluginCrashed, PluginHost, PluginRaised, Policy, SidecarExited
from tests.hosts import is_gone

PID = """
    export const pid = () => Deno.pid;
    export const echo = (...args) => args;
    export const end = () => { self.close(); };
    export function spin() { for (;;); }
    export const hang = () => new Promise(() => {});
"""


def sidecars() -> set[int]:
    """The processes that this one has started and that run."""
    return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


class TestProcesses:
    async def test_who_shares_one(self, boot, write, isolation: str):
        """In process isolation each module has a process; in worker isolation each trust group has one."""
        host = await boot()
        groups = {"a1": "a", "a2": "a", "b1": "b", "none1": None, "none2": None}
        modules = await asyncio.gather(
            *(host.load_path(write(code, PID), group=group) for code, group in groups.items())
        )
        pids = {module.code: await module.call("pid") for module in modules}
        assert os.getpid() not in pids.values()
        if isolation == "process":
            assert len(set(pids.values())) == 5
        else:
            assert pids["a1"] == pids["a2"]
            assert pids["none1"] == pids["none2"]
            assert len(set(pids.values())) == 3

    async def test_limits_and_net_need_their_own(self, boot, write, isolation: str):
        """Modules of one group with other hosts or another heap share no process: its flags are theirs."""
        host = await boot()
        plain = await host.load_path(write("plain", PID))
        small = await host.load_path(write("small", PID, "limits: {memory_mb: 64}"))
        net = await host.load_path(write("net", PID, "permissions: {net: ['example.com:443']}"))
        pids = {await module.call("pid") for module in (plain, small, net)}
        assert len(pids) == 3
        again = await host.load_path(write("again", PID, "permissions: {net: ['example.com:443']}"))
        assert (await again.call("pid") in pids) == (isolation == "worker")

    async def test_the_last_one_out(self, boot, write, isolation: str):
        """Unloading one module leaves the others of its group running; the last one out ends the process."""
        host = await boot()
        one, two, three = [await host.load_path(write(code, PID)) for code in ("one", "two", "three")]
        pids = [await module.call("pid") for module in (one, two, three)]
        await two.unload()
        assert is_gone(pids[1]) == (isolation == "process")
        assert await one.call("echo", 1) == [1]
        await one.unload()
        assert await three.call("echo", 3) == [3]
        assert is_gone(pids[0]) == (isolation == "process")
        await three.unload()
        assert all(is_gone(pid) for pid in pids)

    async def test_an_end_of_one(self, boot, write):
        """A module that ends its own Worker goes down alone; the others of its group answer on."""
        host = await boot()
        one, two = [await host.load_path(write(code, PID)) for code in ("one", "two")]
        hanging = asyncio.create_task(one.call("hang"))
        assert await one.call("echo", 1) == [1]
        await asyncio.gather(one.call("end"), return_exceptions=True)  # answered or not, as it comes
        with pytest.raises(PluginCrashed):
            await hanging
        assert one.state is ModuleState.ERRORED
        assert await two.call("echo", 2) == [2]
        again = await host.load_path(write("one", PID))
        assert await again.call("echo", 1) == [1]
        assert await two.call("echo", 2) == [2]

    async def test_failed_loads_leave_the_others(self, boot, write):
        """Modules whose load fails, or is given up, harm no other of their group."""
        host = await boot(load_timeout_s=0.3)
        good = await host.load_path(write("good", PID))
        for number, source in enumerate(
            (
                "export const f = {",
                "throw 1;",
                "export function init() { throw 1; }",
                "export function init() { return new Promise(() => {}); }",
                "export function init() { self.close(); return new Promise(() => {}); }",
                "export function init() { Deno.exit(); }",
            )
            * 2
        ):
            with pytest.raises((PluginRaised, TimeoutError, PluginCrashed)):
                await host.load_path(write(f"bad-{number}", source))
            assert await good.call("echo", number) == [number]

    async def test_a_dispose_that_hangs_leaves_the_others(self, boot, write):
        """A module whose `dispose` never returns, but whose Worker is not busy, is unloaded without harm to others."""
        host = await boot(unload_grace_s=0.1)
        good = await host.load_path(write("good", PID))
        slow = await host.load_path(
            write("slow", PID + "export const dispose = () => new Promise(() => {});")
        )
        await slow.unload()
        assert slow.state is ModuleState.STOPPED
        assert await good.call("echo", 1) == [1]

    async def test_a_spinning_module_costs_its_group(self, boot, write, isolation: str):
        """A Worker that spins can only be ended with its process: so its group goes down, typed, and nobody else."""
        host = await boot(unload_grace_s=0.2)
        one, two = [await host.load_path(write(code, PID), group="a") for code in ("one", "two")]
        other = await host.load_path(write("other", PID), group="b")
        task = asyncio.create_task(one.call("spin"))
        assert await two.call("echo", 2) == [2]
        await one.unload()
        with pytest.raises(PluginCrashed):
            await task
        if isolation == "worker":
            assert two.state is ModuleState.ERRORED
            assert isinstance(two.error, PluginCrashed)
            assert isinstance(two.error.__cause__, SidecarExited)
            assert "module 'one' did not end by itself" in str(two.error)
        else:
            assert await two.call("echo", 2) == [2]
        assert await other.call("echo", 3) == [3]

    async def test_a_killed_process_takes_its_own(self, boot, write, isolation: str, eventually):
        """When a process dies all its modules are ERRORED, and no module of another process is."""
        host = await boot()
        one, two = [await host.load_path(write(code, PID), group="a") for code in ("one", "two")]
        other = await host.load_path(write("other", PID), group="b")
        os.kill(await one.call("pid"), signal.SIGKILL)
        await eventually(lambda: one.state is ModuleState.ERRORED)
        shared = isolation == "worker"
        assert two.state is (ModuleState.ERRORED if shared else ModuleState.RUNNING)
        assert await other.call("echo", 3) == [3]
        again = await host.load_path(write("one", PID), group="a")
        assert await again.call("echo", 1) == [1]


class TestSpare:
    async def test_a_spare_is_used_and_replaced(self, boot, write, eventually):
        """The host keeps one process ahead: the first load takes it, and another one is started after it."""
        host = await boot()
        (spare,) = sidecars()
        started = time.monotonic()
        module = await host.load_path(write("first", PID))
        load_s = time.monotonic() - started
        print(f"a load with a spare took {load_s * 1000:.1f} ms")
        assert load_s < 5
        assert await module.call("pid") == spare
        await eventually(lambda: len(sidecars()) == 2)
        (next_spare,) = sidecars() - {spare}
        second = await host.load_path(write("second", PID), group="second")
        assert await second.call("pid") == next_spare

    async def test_a_spare_that_died(self, boot, write, eventually, caplog: pytest.LogCaptureFixture):
        """A spare that dies while it waits harms nothing: the next load takes a new process."""
        host = await boot()
        (spare,) = sidecars()
        os.kill(spare, signal.SIGKILL)
        await eventually(lambda: "it was killed" in caplog.text)
        module = await host.load_path(write("first", PID))
        assert await module.call("pid") != spare
        assert await module.call("echo", 1) == [1]
        assert is_gone(spare)

    async def test_a_spare_for_none(self, boot, write):
        """A module that the spare does not fit leaves it for the next one."""
        host = await boot()
        (spare,) = sidecars()
        net = await host.load_path(write("net", PID, "permissions: {net: ['example.com:443']}"))
        assert await net.call("pid") != spare
        plain = await host.load_path(write("plain", PID))
        assert await plain.call("pid") == spare


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    """A port of this machine on which somebody listens, whom no module may reach."""
    reached = asyncio.Event()
    server = await asyncio.start_server(
        lambda _reader, writer: (reached.set(), writer.close()), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]
    assert not reached.is_set()


class TestPermissions:
    async def test_deno_itself_refuses(self, boot, plugins: Path, port: int, tmp_path: Path):
        """Whatever a plugin asks Deno for, files, environment, programs, network, system: it is NotCapable of it."""
        host: PluginHost = await boot()
        secret = tmp_path / "secret.txt"
        secret.write_text("secret")
        probe = await host.load_path(plugins / "probe")
        files = ("/etc/passwd", str(secret), "/proc/self/environ", str(boot.root / ".core" / "store.db"))
        refused: list[tuple[str, ...]] = [
            *(
                (name, path)
                for name in ("read", "readSync", "open", "stat", "realPath", "nodeRead")
                for path in files
            ),
            ("list", "/etc"),
            ("list", str(boot.root)),
            ("fetchFile", "/etc/passwd"),
            *(
                (name, path)
                for name in ("write", "append", "mkdir", "remove", "rename", "symlink", "link", "chmod")
                for path in (str(tmp_path / "new"), str(secret), str(boot.root / "new"))
            ),
            ("temporary",),
            *((name,) for name in ("env", "environment", "setEnv", "processEnv")),
            *((name, "/bin/true") for name in ("run", "spawn", "nodeRun")),
            *((name, port) for name in ("connect", "fetch", "webSocket", "nodeConnect")),
            *((name,) for name in ("listen", "resolve", "hostname", "userInfo", "load", "ffi")),
            ("socket", str(host.socket)),
            ("listenSocket", str(tmp_path / "s")),
            ("kill", os.getpid()),
            *(("request", name) for name in ("read", "write", "net", "run", "env", "sys", "ffi")),
            *(
                ("escalate", permissions)
                for permissions in (
                    {"read": True},
                    {"net": True},
                    {"run": True},
                    {"write": ["/tmp"]},
                    {"env": True},
                )
            ),
        ]
        wrong = []
        for name, *args in refused:
            came = await probe.call("attempt", name, *args, timeout_s=5)
            if came != "NotCapable":
                wrong.append((name, args, came))
        assert not wrong
        assert secret.read_text() == "secret"
        assert not (tmp_path / "new").exists()
        assert await probe.call("granted") == []

    async def test_its_own_files(self, boot, plugins: Path):
        """A module reads its own files, and writes, renames or removes none of them."""
        host = await boot()
        probe = await host.load_path(plugins / "probe")
        stage = Path(await probe.call("where"))
        assert (await probe.call("attempt", "read", str(stage))).startswith("gave /** Tries")
        assert await probe.call("attempt", "list", str(stage.parent.parent)) == "NotCapable"
        for name in ("write", "append", "remove", "rename", "chmod"):
            assert await probe.call("attempt", name, str(stage)) == "NotCapable"
        assert await probe.call("attempt", "mkdir", str(stage.parent / "new")) == "NotCapable"

    async def test_the_files_of_others(self, boot, plugins: Path, write):
        """A module cannot read another module's files, of its own group neither."""
        host = await boot()
        other = await host.load_path(
            write("other", "export const where = () => new URL(import.meta.url).pathname;")
        )
        probe = await host.load_path(plugins / "probe")
        theirs = Path(await other.call("where"))
        assert theirs.is_file()
        assert theirs != Path(await probe.call("where"))
        for name in ("read", "readSync", "open", "stat", "nodeRead", "fetchFile", "import"):
            assert await probe.call("attempt", name, str(theirs)) in ("NotCapable", "TypeError"), name
        assert await probe.call("attempt", "list", str(theirs.parent)) == "NotCapable"

    async def test_granted_hosts(self, boot, write, port: int):
        """A module reaches the hosts in its manifest, and no other port or host."""
        source = (Path(__file__).parent / "plugins" / "probe" / "main.ts").read_text()
        heard = asyncio.Event()
        server = await asyncio.start_server(
            lambda _reader, writer: (heard.set(), writer.close()), "127.0.0.1", 0
        )
        async with server:
            allowed = server.sockets[0].getsockname()[1]
            name = f"127.0.0.1:{allowed}"
            host = await boot(config={"policy": Policy(net=(name,))})
            net = await host.load_path(write("net", source, f"permissions: {{net: ['{name}']}}"))
            assert await net.call("attempt", "connect", port) == "NotCapable"
            assert (await net.call("attempt", "connect", allowed)).startswith("gave")
            async with asyncio.timeout(5):
                await heard.wait()
            assert await net.call("attempt", "read", "/etc/passwd") == "NotCapable"
            await net.unload()
