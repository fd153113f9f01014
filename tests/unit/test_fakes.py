"""The fakes that an app tests its own code with: what a fake plugin can do, and how a fake sidecar answers."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest

from coredeno import Context, HostConfig, ModuleState, Service, errors, rpc
from coredeno.config import Program
from coredeno.errors import PluginRaised, PluginTimeout
from coredeno.interfaces import ProcessResult
from coredeno.testing import (
    FakeLauncher,
    FakeProcesses,
    MemoryFiles,
    MemorySource,
    MemoryStore,
    TurnedClock,
    fake_host,
)
from coredeno.wire.codes import ROWS

MANIFEST = """
code: tagger
permissions: {read: [data], write: [data], run: [tool], store: {read: [other], write: [other]}}
services: {app: []}
"""


class App(Service, name="app"):
    @rpc
    async def double(self, ctx: Context, number: int) -> int:
        return 2 * number

    @rpc
    async def wait(self, ctx: Context) -> None:
        await asyncio.Event().wait()


class Tagger:
    """A fake plugin as an app would write one."""

    async def init(self, core):
        self.core = core

    def sync(self, number):
        return number + 1

    async def files(self):
        files = self.core.files
        await files.write("data/a", b"x")
        listed = await files.list("data")
        read = await files.read("data/a")
        await files.delete("data/a")
        return [read, listed, await files.list("data")]

    async def store(self, group):
        store = self.core.store if group is None else self.core.store.group(group)
        await store.set("k", "v")
        await store.set("l", "w")
        await store.delete("l")
        found = [await store.get("k"), await store.get("l"), await store.get_all(), await store.count()]
        found.append(await store.render("{{ .k }}"))
        await store.delete_group()
        return [*found, await store.count()]

    async def processes(self):
        processes = self.core.processes
        first, second = await processes.start("tool", ["-v"]), await processes.start("tool")
        await processes.stop(second)
        return [await processes.wait(first), (await processes.wait(second))["exit_code"]]

    async def services(self):
        return [await self.core.services.app.double(4), sorted(vars(self.core.services))]

    async def log(self):
        self.core.log("warning", "a message")

    async def wait(self):
        await self.core.services.app.wait()

    async def late(self, method):
        try:
            await self.core.request(method, {"args": []})
        except (errors.PluginTimeout, errors.InternalError, errors.LimitExceeded) as error:
            return type(error).__name__

    async def too_large(self):
        with pytest.raises(errors.LimitExceeded, match="its arguments are over"):
            await self.core.store.set("k", "x" * 300_000)
        return "told"

    async def odd(self):
        with pytest.raises(errors.UsageError):
            await self.core.request("store.get", {"key": {1}})
        return "told"


class World:
    def __init__(self, root, **plugins):
        self.backend = MemoryStore()
        self.clock = TurnedClock()
        self.launcher = FakeLauncher({"tagger": Tagger, **plugins})
        self.processes = FakeProcesses({"/bin/tool": self.run})
        self.files = MemoryFiles()
        self.host = fake_host(
            root,
            {},
            services=[App()],
            config=HostConfig(
                restart=None,
                programs={"tool": Program("/bin/tool", allow_options=True)},
                limits=msgspec.structs.replace(HostConfig().limits, message_bytes=200_000),
            ),
            store=self.backend,
            files=self.files,
            processes=self.processes,
            launcher=self.launcher,
            clock=self.clock,
        )

    async def run(self, args):
        if not args:
            await asyncio.Event().wait()
        return ProcessResult(exit_code=0, stdout=" ".join(args), stderr="")


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path / "app")
    async with world.host:
        yield world


@pytest.fixture
async def module(world):
    return await world.host.load_source(MemorySource(MANIFEST))


async def test_functions_need_not_be_coroutines(module):
    """A plain method is a function of the plugin too."""
    assert await module.call("sync", 1) == 2


async def test_files(world, module):
    """`core.files` reaches the host's files, through the gate."""
    assert await module.call("files") == [b"x", [{"name": "a", "is_dir": False, "size": 1}], []]
    assert world.files.files == {}


@pytest.mark.parametrize(("group", "name"), [(None, "tagger"), ("other", "other")])
async def test_store(world, module, group, name):
    """`core.store` is the module's own group, `group` another one."""
    assert await module.call("store", group) == ["v", None, {"k": "v"}, 1, "v", 0]
    assert name not in world.backend.groups
    await world.host.store.set(name, "k", "v")
    assert world.backend.groups[name] == {"k": "v"}


async def test_processes(world, module):
    """`core.processes` starts what the app approved."""
    assert await module.call("processes") == [{"exit_code": 0, "stdout": "-v", "stderr": ""}, -15]
    assert {process.owner for process in world.processes.started} == {"tagger"}


async def test_services_and_logs(module, caplog):
    """`core.services` has what the manifest names, `core.log` writes under the module's name."""
    assert await module.call("services") == [8, ["app"]]
    with caplog.at_level(logging.WARNING, "coredeno.plugin.tagger"):
        await module.call("log")
        await module.call("sync", 1)
    assert [record.getMessage() for record in caplog.records] == ["a message"]


async def test_errors_of_the_host_inside_a_plugin(world, module):
    """A fake plugin can catch them by their classes, as a real one can by their names."""
    task = asyncio.create_task(module.call("late", "services.app.wait", timeout_s=2))
    await world.clock.turn(2)
    (result,) = await asyncio.gather(task, return_exceptions=True)
    assert result == "PluginTimeout" or isinstance(result, PluginTimeout)
    assert await module.call("too_large") == "told"
    assert await module.call("odd") == "told"


async def test_a_cancelled_call_cancels_what_it_asked_for(world, module):
    """The host is told that nobody waits any more."""
    task = asyncio.create_task(module.call("wait"))
    await world.clock.turn(0)
    session = world.host.gateway.peer(world.launcher.sidecars[0]._order.token).session
    assert len(session._tasks) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.clock.turn(0)
    assert session._tasks == {}


async def test_a_plugin_that_nobody_wrote(world):
    """Loading a code that the launcher does not know fails, as a missing entry would; it says what it knows."""
    with pytest.raises(PluginRaised, match="no fake plugin has the code 'other'; there are 'tagger'"):
        await world.host.load_source(MemorySource("code: other"))


async def test_a_plugin_without_init(tmp_path):
    """`init` and `dispose` are optional."""

    class Bare:
        def answer(self):
            return 42

    world = World(tmp_path / "app", bare=Bare)
    async with world.host:
        module = await world.host.load_source(MemorySource("code: bare"))
        assert module.exports == {"answer"}
        assert await module.call("answer") == 42
        await module.unload()


async def test_a_source_in_memory_has_files(tmp_path):
    """They are written where a real Deno would run them."""
    source = MemorySource("code: a", {"main.ts": b"export {}", "lib/a.ts": b"//"})
    assert source.name == "memory"
    assert (await source.read_manifest()).code == "a"
    await source.copy_to(tmp_path)
    assert (tmp_path / "main.ts").read_bytes() == b"export {}"
    assert (tmp_path / "lib" / "a.ts").read_bytes() == b"//"


async def test_a_fake_sidecar_speaks_the_wire(world, module):
    """Methods that do not exist, and calls of modules that are not there, are answered as by a real one."""
    rpc_client = module._rpc
    reply = await rpc_client.request("Nothing", {})
    assert reply.error.code == ROWS["MethodNotFound"].code
    reply = await rpc_client.request("Call", {"code": "none", "function": "f", "args": []})
    assert reply.error is not None
    reply = await rpc_client.request("ModuleStatus", {"code": "none"})
    assert b"UNKNOWN" in bytes(reply.frame.answer.result)
    reply = await rpc_client.request("UnloadModule", {"code": "none", "grace_ms": 0})
    assert reply.error is None
    reply = await rpc_client.request("Ping", {})
    assert b'"tagger":{"state":"RUNNING"' in bytes(reply.frame.answer.result)
    rpc_client.notify("Cancel", {"id": 9999})
    assert await module.call("sync", 1) == 2


async def test_a_transport_in_memory(world, module):
    """It is closed once, and takes nothing afterwards; the host ends a sidecar that has lost its connection."""
    transport = module._rpc._transport
    assert not transport.is_closing()
    transport.close()
    transport.close()
    assert transport.is_closing()
    transport.send(b"lost")
    transport.write(b"lost")
    await world.clock.turn(1)
    assert module.state is ModuleState.ERRORED
    assert "closed its connection" in str(module.error)
