"""Modules of a host on fakes: how they come up, and everything that can go wrong meanwhile."""

from __future__ import annotations

import asyncio
import logging

import pytest

from coredeno import (
    ModuleState,
    events,
)
from coredeno.errors import (
    InternalError,
    ManifestError,
    PermissionDenied,
    PluginCrashed,
    PluginError,
    PluginRaised,
    PluginTimeout,
    ProtocolError,
    SidecarExited,
    UsageError,
)
from coredeno.testing import (
    MemorySource,
)
from tests.worlds import BOTH, NET

# --- load


@BOTH
async def test_a_module_that_runs(world_of, isolation):
    """`init` has returned, its functions are known, and everybody is told."""
    world = await world_of(isolation)
    module = await world.load()
    assert module.state is ModuleState.RUNNING
    assert (module.code, module.version, module.error) == ("a", "1.0", None)
    assert repr(module) == "<Module a 1.0 RUNNING>"
    assert world.host.modules == {"a": module}
    assert await module.status() == "RUNNING"
    assert "echo" in module.exports
    assert not module.exports & {"init", "dispose"}
    assert world.hook.heard == [("started", "a", "RUNNING")]
    assert [(type(event), event.module) for event in await world.heard()] == [(events.ModuleStarted, "a")]
    with pytest.raises(TypeError):
        world.host.modules["a"] = None


@BOTH
async def test_settings_reach_the_module(world_of, isolation):
    """`config` is what the plugin finds in `core.config`, binary values too; what cannot cross fails the load."""
    world = await world_of(isolation)
    module = await world.load(config={"level": 3, "key": b"\0"})
    assert await module.call("settings") == {"level": 3, "key": b"\0"}
    with pytest.raises(UsageError, match=r"params\.config\.bad"):
        await world.load("b", config={"bad": {1}})
    assert world.host.modules["b"].state is ModuleState.ERRORED


@BOTH
async def test_a_spare_follows_each_load(world_of, isolation):
    """After a load there is a spare again, before anybody asks for it."""
    world = await world_of(isolation)
    await world.load("a")
    await asyncio.shield(world.host._parts.loader._supervisor._spare)
    assert len(world.alive) == 2
    await world.load("b", NET)
    assert len(world.alive) == 3


@BOTH
@pytest.mark.parametrize(
    ("manifest", "error", "message"),
    [
        ("colour: red", ManifestError, "colour"),
        ("permissions: {net: ['127.0.0.1']}", PermissionDenied, "127.0.0.1"),
    ],
)
async def test_a_manifest_that_is_refused(world_of, isolation, manifest, error, message):
    """Nothing was started for it, and there is no module."""
    world = await world_of(isolation)
    with pytest.raises(error, match=message):
        await world.load(more=manifest)
    assert world.host.modules == {}
    assert len(world.alive) == 1
    assert world.plugins == []


@BOTH
async def test_an_init_that_throws(world_of, isolation):
    """The load raises it; the module stays, ERRORED, and can be replaced."""
    world = await world_of(isolation)
    world.faults["init"] = ValueError("bad weather")
    with pytest.raises(PluginRaised, match="a: ValueError: bad weather") as caught:
        await world.load()
    module = world.host.modules["a"]
    assert (module.state, module.error) == (ModuleState.ERRORED, caught.value)
    assert world.hook.heard == [("crashed", "a", "PluginRaised")]
    assert [type(event) for event in await world.heard()] == [events.ModuleCrashed]
    with pytest.raises(PluginCrashed, match="it is down"):
        await module.call("echo")
    with pytest.raises(UsageError, match="status"):
        await module.status()
    world.faults.clear()
    again = await world.load()
    assert world.host.modules == {"a": again}
    assert await again.call("echo", 1) == [1]


@BOTH
async def test_an_init_that_never_returns(world_of, isolation):
    """After the time for loading it is ended, and its sidecar with it."""
    world = await world_of(isolation, load_timeout_s=3)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load(more=NET))
    await reached.wait()
    await world.clock.turn(2.9)
    assert world.host.modules["a"].state is ModuleState.LOADING
    await world.clock.turn(2)
    with pytest.raises(PluginTimeout, match="load: not done after 3 s"):
        await loading
    assert world.host.modules["a"].state is ModuleState.ERRORED
    assert len(world.alive) == 1


@BOTH
async def test_a_sidecar_that_ends_while_it_loads(world_of, isolation):
    """The load raises `PluginCrashed`, with the sidecar's own error as its cause."""
    world = await world_of(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load())
    await reached.wait()
    world.launcher.sidecars[0].kill(-5)
    with pytest.raises(PluginCrashed, match="out of memory") as caught:
        await loading
    assert isinstance(caught.value.__cause__, SidecarExited)
    assert world.host.modules["a"].error is caught.value


@BOTH
@pytest.mark.parametrize("turns", range(8))
async def test_a_sidecar_that_ends_as_its_module_comes_up(world_of, isolation, turns):
    """In whatever turn: the load raises why, or the module was there and is ERRORED; it is never half of both."""
    world = await world_of(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load())
    await reached.wait()
    module = world.host.modules["a"]
    world.release("init")
    for _ in range(turns):
        await asyncio.sleep(0)
    world.launcher.sidecars[0].kill(-5)
    (result,) = await asyncio.gather(loading, return_exceptions=True)
    await world.settle()
    assert result is module or isinstance(result, PluginCrashed)
    assert module.state is ModuleState.ERRORED
    assert isinstance(module.error, PluginCrashed)
    assert "out of memory" in str(module.error)
    assert [type(event) for event in await world.heard()].count(events.ModuleCrashed) == 1
    with pytest.raises(PluginCrashed):
        await module.call("echo")


@BOTH
async def test_a_sidecar_that_ends_while_the_files_are_copied(world_of, isolation):
    """The load raises `PluginCrashed` with the reason; there was nothing wrong with the host."""
    world = await world_of(isolation)

    class Fatal(MemorySource):
        async def copy_to(self, folder):
            world.launcher.sidecars[0].kill(-5)
            await world.settle()

    with pytest.raises(PluginCrashed, match="out of memory"):
        await world.host.load_source(Fatal("code: a"))
    assert world.host.modules["a"].state is ModuleState.ERRORED


@BOTH
async def test_a_source_that_fails(world_of, isolation):
    """Its error is told, an odd one as a bug; the place is given up."""
    world = await world_of(isolation)

    class Broken(MemorySource):
        error: BaseException = ProtocolError("")

        async def copy_to(self, folder):
            raise self.error

    for error, kind in (
        (PluginError("a file is a link"), PluginError),
        (OSError("disk full"), InternalError),
    ):
        Broken.error = error
        with pytest.raises(kind) as caught:
            await world.host.load_source(Broken("code: a"))
        assert world.host.modules["a"].error is caught.value
    await world.settle()
    assert len(world.alive) <= 1


@BOTH
@pytest.mark.parametrize("exports", ["all", ["f"] * 4097, ["f" * 257]], ids=["odd", "many", "long"])
async def test_a_load_that_is_answered_with_nonsense(world_of, isolation, exports):
    """An answer of another form is the sidecar's fault: the load fails, and the sidecar is ended."""
    world = await world_of(isolation)

    async def nonsense(_sidecar, _params):
        return {"ok": True, "exports": exports, "load_ms": 1}

    sidecar = world.launcher.sidecars[0]
    sidecar._METHODS = {**sidecar._METHODS, "LoadModule": nonsense}
    with pytest.raises(PluginError, match="exports"):
        await world.load()
    assert world.host.modules["a"].state is ModuleState.ERRORED
    assert sidecar._exit.done()


@BOTH
async def test_a_load_that_the_stop_overtakes(world_of, isolation):
    """A manifest that takes long to read is not loaded into a host that stops meanwhile."""
    world = await world_of(isolation)
    reading, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MemorySource):
        async def read_manifest(self):
            reading.set()
            await go_on.wait()
            return await super().read_manifest()

    loading = asyncio.create_task(world.host.load_source(Slow("code: a")))
    await reading.wait()
    await world.host.stop()
    go_on.set()
    with pytest.raises(UsageError, match="the host is stopping"):
        await loading
    assert world.host.modules == {}


@BOTH
async def test_one_module_of_a_code(world_of, isolation):
    """While one loads or runs a second load of its code is refused, and harms it not."""
    world = await world_of(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load())
    await reached.wait()
    with pytest.raises(UsageError, match="module 'a' is LOADING already"):
        await world.load()
    world.release("init")
    module = await loading
    with pytest.raises(UsageError, match="module 'a' is RUNNING already"):
        await world.load()
    assert await module.call("echo", 1) == [1]
    assert len(world.plugins) == 1


@BOTH
async def test_many_load_at_once(world_of, isolation):
    """Each gets its own place; of the same code one gets in."""
    world = await world_of(isolation)
    results = await asyncio.gather(*(world.load(code) for code in "abcabc"), return_exceptions=True)
    modules = [result for result in results if not isinstance(result, BaseException)]
    assert sorted(module.code for module in modules) == ["a", "b", "c"]
    assert all(isinstance(result, UsageError) for result in results if isinstance(result, BaseException))
    for module in modules:
        assert await module.call("echo", module.code) == [module.code]
    sidecars = {world.sidecar_of(module) for module in modules}
    assert len(sidecars) == (3 if isolation == "process" else 1)


@BOTH
async def test_a_load_that_is_cancelled_while_init_runs(world_of, isolation):
    """Nothing of it is left: no module, no sidecar but the spare, no process of its own."""
    world = await world_of(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load(more=NET))
    await reached.wait()
    module = world.host.modules["a"]
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert world.host.modules == {}
    assert module.state is ModuleState.STOPPED
    assert len(world.alive) == 1
    await module.unload()
    world.release("init")
    assert (await world.load()).state is ModuleState.RUNNING


@BOTH
async def test_a_load_that_is_cancelled_twice(world_of, isolation):
    """The second cancellation does not leave it half way."""
    world = await world_of(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load(more=NET))
    await reached.wait()
    stopping = world.hold("stop processes")
    loading.cancel()
    await stopping.wait()
    loading.cancel()
    await asyncio.sleep(0)
    world.release("stop processes")
    with pytest.raises(asyncio.CancelledError):
        await loading
    await world.settle()
    assert world.host.modules == {}
    assert len(world.alive) == 1


@BOTH
@pytest.mark.parametrize("turns", range(6))
async def test_a_load_that_is_cancelled_as_it_ends(world_of, isolation, turns):
    """Either it is there and runs, or nothing of it is left; never a sidecar without a module."""
    world = await world_of(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load(more=NET))
    await reached.wait()
    module = world.host.modules["a"]
    world.release("init")
    for _ in range(100):
        await asyncio.sleep(0)
        if module.state is ModuleState.RUNNING:
            break
    for _ in range(turns):
        await asyncio.sleep(0)
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    await world.settle()
    if world.host.modules:
        assert module.state is ModuleState.RUNNING
        assert await module.call("echo", 1) == [1]
    else:
        assert module.state is ModuleState.STOPPED
        assert not [sidecar for sidecar in world.alive if "a" in sidecar._modules]


# --- hooks


@BOTH
async def test_hooks_that_raise(world_of, isolation, caplog):
    """Each is logged, and fails neither a load nor an unload nor a crash."""
    world = await world_of(isolation)
    world.hook.fails = True
    with caplog.at_level(logging.ERROR, "coredeno.host"):
        module = await world.load()
        await module.unload()
        world.faults["init"] = ValueError("no")
        with pytest.raises(PluginRaised):
            await world.load()
        world.faults.clear()
        again = await world.load()
        world.sidecar_of(again).kill()
        await world.settle()
    assert [entry[0] for entry in world.hook.heard] == ["started", "stopped", "crashed", "started", "crashed"]
    assert (
        len([record for record in caplog.records if "a hook of the app failed" in record.getMessage()]) == 5
    )
    assert len(await world.heard()) == 5
