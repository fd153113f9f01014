"""Modules of a host on fakes: how they end, by themselves or because they are told to."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coredeno import ModuleState, RestartPolicy, events
from coredeno.errors import (
    CoreDenoError,
    InternalError,
    NotFound,
    PermissionDenied,
    PluginCrashed,
    PluginRaised,
    SidecarExited,
    UsageError,
)
from tests.hosts import nothing_left
from tests.worlds import BOTH, NET, World, exited, say

# --- crashes


@BOTH
async def test_a_sidecar_that_is_killed_in_the_middle_of_calls(world_of, isolation):
    """All calls raise `PluginCrashed` at once, waiting ones too; the module is ERRORED and everybody is told."""
    world = await world_of(isolation, calls_in_flight=3)
    module = await world.load()
    other = await world.load("b", NET)
    calls = [asyncio.create_task(module.call("hang", number)) for number in range(6)]
    await world.settle()
    world.sidecar_of(module).kill(-5)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [PluginCrashed] * 6
    assert "out of memory" in str(results[0])
    assert isinstance(results[0].__cause__, SidecarExited)
    assert module.state is ModuleState.ERRORED
    assert isinstance(module.error, PluginCrashed)
    assert isinstance(module.error.__cause__, SidecarExited)
    assert world.host.modules["a"] is module
    assert world.hook.heard[-1] == ("crashed", "a", "PluginCrashed")
    assert [type(event) for event in await world.heard()][-1] is events.ModuleCrashed
    with pytest.raises(PluginCrashed, match="it is down"):
        await module.call("echo")
    assert await other.call("echo", 1) == [1]
    again = await world.load()
    assert await again.call("echo", 1) == [1]


async def test_a_shared_sidecar_takes_all_its_modules_with_it(world_of):
    """In worker isolation each of them is told; in other sidecars nobody is."""
    world = await world_of("worker")
    modules = [await world.load(code) for code in "ab"]
    other = await world.load("c", NET)
    world.sidecar_of(modules[0]).kill()
    await world.settle()
    assert [module.state for module in modules] == [ModuleState.ERRORED] * 2
    assert other.state is ModuleState.RUNNING
    again = [await world.load(code) for code in "ab"]
    assert len({world.sidecar_of(module) for module in again}) == 1


@BOTH
async def test_a_worker_that_ends_by_itself(world_of, isolation):
    """Its module is ERRORED; the sidecar goes, unless others share it. Other codes mean nothing."""
    world = await world_of(isolation)
    module, other = await world.load("a"), await world.load("b")
    sidecar = world.sidecar_of(module)
    say(sidecar, exited(b"none"))
    await world.settle()
    assert module.state is ModuleState.RUNNING
    say(sidecar, exited(b"a"))
    await world.settle()
    assert module.state is ModuleState.ERRORED
    assert str(module.error) == "a: it\\nended \\x1b"
    assert await other.call("echo", 1) == [1]
    assert sidecar._exit.done() == (isolation == "process")
    say(sidecar, exited(b"a"))
    await world.settle()
    assert [type(event) for event in await world.heard()].count(events.ModuleCrashed) == 1


@BOTH
@pytest.mark.parametrize("restart", [None, RestartPolicy(budget=0), RestartPolicy()])
async def test_a_module_that_only_says_that_it_has_ended(world_of, caplog, isolation, restart):
    """From then on it can begin nothing, and what it has begun is over; its last words are heard."""
    caplog.set_level("INFO")
    world = await world_of(isolation, restart=restart)
    module = await world.load("a", "permissions: {run: [tool]}")
    (plugin,) = world.plugins
    core, outcomes = plugin._core, []
    waiting = asyncio.create_task(core.processes.wait(await core.processes.start("tool")))

    async def dispose():
        core.log("info", "a last word")
        begun = core.processes.start("tool"), core.store.set("k", "v"), waiting
        outcomes.extend(await asyncio.gather(*begun, return_exceptions=True))

    plugin.dispose = dispose
    stopped = []
    stop_all = world.processes.stop_all

    async def noted(owner=None):
        stopped.append(len(outcomes))
        await stop_all(owner)

    world.processes.stop_all = noted
    say(world.sidecar_of(module), exited(b"a"))
    await world.settle()
    assert [type(outcome).__name__ for outcome in outcomes[:2]] == ["PermissionDenied"] * 2
    assert isinstance(outcomes[2], BaseException)
    assert stopped == [0, 3]  # at once, and when nothing of it is left
    assert not world.processes._running
    assert await world.host.store.get("a", "k") is None
    assert "a last word" in caplog.text


async def test_a_grace_of_nothing_is_none(world_of):
    """A module whose network is taken from it has no time to dispose of anything there; its thread has some to end."""
    world = await world_of()
    module = await world.load("a", NET)
    sidecar, asked = world.sidecar_of(module), []

    async def unload(_sidecar, params):
        asked.append(params)
        await asyncio.Event().wait()

    sidecar._METHODS = {**sidecar._METHODS, "UnloadModule": unload}
    revoking = asyncio.create_task(world.host.revoke("a", "net"))
    await world.clock.turn(0.99)
    assert asked == [{"code": "a", "grace_ms": 0}]
    assert not sidecar._exit.done()
    await world.clock.turn(0.01)
    await revoking
    assert sidecar._exit.done()
    assert module.state is ModuleState.STOPPED


async def test_a_module_that_is_loaded_again_while_its_former_one_goes(world_of):
    """The new one waits until the former one is out, however late that is, and is not touched by it."""
    world = await world_of("worker")
    module, other = await world.load("a"), await world.load("b")
    sidecar = world.sidecar_of(module)
    reached = world.hold("dispose")
    say(sidecar, exited(b"a"))
    await reached.wait()
    loading = asyncio.create_task(world.load("a", "permissions: {read: [data]}"))
    await world.settle()
    assert len(world.plugins) == 2
    world.release("dispose")
    again = await loading
    await world.clock.turn(2)
    assert await other.call("echo", 1) == [1]
    assert again.state is ModuleState.RUNNING
    assert await again.call("read", "data/a") == b"content"


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","method":"Unknown","params":{}}',
        b'{"jsonrpc":"2.0","method":"ModuleExited","params":{}}',
        b'{"jsonrpc":"2.0","method":"ModuleExited","params":{"code":1,"reason":""}}',
        b'{"jsonrpc":"2.0","method":"ModuleExited"}',
        b'{"jsonrpc":"2.0","method":"ModuleExited","params":{"code":"\xff"}}',
        b'{"jsonrpc":"2.0","id":77,"result":1}',
        b"no JSON",
    ],
)
@BOTH
async def test_a_sidecar_that_breaks_its_wire(world_of, isolation, line):
    """It is killed, and its modules are ERRORED, whatever it said."""
    world = await world_of(isolation)
    module = await world.load()
    call = asyncio.create_task(module.call("hang"))
    await world.settle()
    sidecar = world.sidecar_of(module)
    say(sidecar, line)
    (result,) = await asyncio.gather(call, return_exceptions=True)
    await world.settle()
    assert type(result) is PluginCrashed
    assert sidecar._exit.done()
    assert module.state is ModuleState.ERRORED
    *_, killed, crashed = await world.heard()
    assert isinstance(killed, events.SidecarKilled)
    assert (killed.module, killed.sidecar, killed.cause) == ("a", sidecar._order.name, "protocol")
    assert isinstance(crashed, events.ModuleCrashed)


async def test_a_kill_is_told_once_and_is_a_row_of_the_audit_log(world_of):
    """With the module's code where it is alone; what broke a rule again, or ended by itself, is no further kill."""
    world = await world_of("process")
    module, other = await world.load("a"), await world.load("b")
    sidecar = world.sidecar_of(module)
    for _ in range(3):
        say(sidecar, b"no JSON")
    await world.settle()
    world.sidecar_of(other).kill(1)
    await world.settle()
    (killed,) = [event for event in await world.heard() if isinstance(event, events.SidecarKilled)]
    assert killed.module == "a"
    assert killed.reason.isprintable()
    (row,) = [row async for row in world.host.audit.entries(kind="SidecarKilled")]
    assert row.module == "a"
    assert '"cause":"protocol"' in row.fields


async def test_a_kill_of_a_shared_sidecar_names_no_module(world_of):
    """Which of them it was nobody knows for certain; the reason is told all the same."""
    world = await world_of("worker")
    module, _other = await world.load("a"), await world.load("b")
    say(world.sidecar_of(module), b"no JSON")
    await world.settle()
    (killed,) = [event for event in await world.heard() if isinstance(event, events.SidecarKilled)]
    assert killed.module == ""
    assert killed.cause == "protocol"


async def test_a_forged_frame_on_the_session(world_of):
    """A sidecar that speaks for a module of another one is killed; that module is not harmed."""
    world = await world_of()
    module, other = await world.load("a"), await world.load("b")
    sidecar = world.sidecar_of(module)
    sidecar._session.notify("log.write", {"level": "info", "message": "m"}, module="b")
    await world.settle()
    assert sidecar._exit.done()
    assert module.state is ModuleState.ERRORED
    assert "not its own" in str(module.error)
    assert await other.call("echo", 1) == [1]


@BOTH
async def test_what_a_sidecar_writes_is_logged(world_of, isolation, caplog):
    """Under its module's name, where there is only one."""
    world = await world_of(isolation)
    module = await world.load()
    with caplog.at_level(logging.INFO):
        world.sidecar_of(module)._door.output("first")
        if isolation == "worker":
            await world.load("b")
            world.sidecar_of(module)._door.output("shared")
    lines = [
        (record.name, record.getMessage()) for record in caplog.records if "first" in record.getMessage()
    ]
    assert lines == [("coredeno.plugin.a", "sidecar-1: first")]
    if isolation == "worker":
        assert ("coredeno.sidecar", "sidecar-1: shared") in [(r.name, r.getMessage()) for r in caplog.records]


@BOTH
async def test_a_log_record_over_the_limit(world_of, isolation, caplog):
    """A sidecar that does not cut its records is cut short, or ended: the log of the app is no dustbin."""
    world = await world_of(isolation, log_line_bytes=1000)
    module = await world.load()
    sidecar = world.sidecar_of(module)
    with caplog.at_level(logging.DEBUG):
        sidecar._session.notify("log.write", {"level": "info", "message": "x" * 50_000}, module="a")
        await world.settle()
    lengths = [len(record.getMessage()) for record in caplog.records if record.name == "coredeno.plugin.a"]
    assert sidecar._exit.done() or lengths
    assert max(lengths, default=0) < 2000


# --- unload


@BOTH
async def test_an_unload(world_of, isolation):
    """`dispose` has run, the host forgets it, everybody is told; its code can be loaded again."""
    world = await world_of(isolation)
    module = await world.load()
    sidecar = world.sidecar_of(module)
    token = world.host.gateway.issue_token("a")
    await module.unload()
    assert module.state is ModuleState.STOPPED
    assert world.host.modules == {}
    assert world.reached["dispose"].is_set()
    assert sidecar._exit.done()
    with pytest.raises(PermissionDenied):
        world.host.gateway.peer(token)
    assert world.hook.heard[-1] == ("stopped", "a", "the app unloaded it")
    assert [type(event) for event in await world.heard()] == [events.ModuleStarted, events.ModuleStopped]
    with pytest.raises(UsageError, match="is STOPPED, wanted RUNNING"):
        await module.call("echo")
    assert (await world.load()).state is ModuleState.RUNNING


@BOTH
async def test_unloading_one_of_two(world_of, isolation):
    """The other one goes on, also where they share a sidecar."""
    world = await world_of(isolation)
    module, other = await world.load("a"), await world.load("b")
    await module.unload()
    assert await other.call("echo", 1) == [1]
    assert world.host.modules == {"b": other}


@BOTH
async def test_unloading_twice(world_of, isolation):
    """At once or after each other: it is done once."""
    world = await world_of(isolation)
    module = await world.load()
    await asyncio.gather(*(module.unload() for _ in range(3)))
    await module.unload()
    assert [entry for entry in world.hook.heard if entry[0] == "stopped"] == [
        ("stopped", "a", "the app unloaded it")
    ]


@BOTH
async def test_unloading_one_that_failed(world_of, isolation):
    """An ERRORED module is forgotten; twice is harmless, and a newer one of its code is left alone."""
    world = await world_of(isolation)
    world.faults["init"] = ValueError("no")
    with pytest.raises(PluginRaised):
        await world.load()
    first = world.host.modules["a"]
    with pytest.raises(PluginRaised):
        await world.load()
    second = world.host.modules["a"]
    await first.unload()
    assert world.host.modules == {"a": second}
    await second.unload()
    await second.unload()
    assert world.host.modules == {}
    assert second.state is ModuleState.STOPPED
    assert "stopped" not in {entry[0] for entry in world.hook.heard}


@BOTH
async def test_unloading_one_that_crashed(world_of, isolation):
    """Its place is given up once, by whoever comes first."""
    world = await world_of(isolation)
    module = await world.load(more=NET)
    world.sidecar_of(module).kill()
    await module.unload()
    await world.settle()
    assert world.host.modules == {}
    assert len(world.alive) == 1


@BOTH
async def test_unloading_one_that_loads(world_of, isolation):
    """The load ends with an error that says so; nothing is left."""
    world = await world_of(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load(more=NET))
    await reached.wait()
    module = world.host.modules["a"]
    await module.unload()
    with pytest.raises(UsageError, match="was unloaded while it was loading"):
        await loading
    assert module.state is ModuleState.STOPPED
    assert world.host.modules == {}
    assert len(world.alive) == 1
    assert "started" not in {entry[0] for entry in world.hook.heard}
    assert not [event for event in await world.heard() if isinstance(event, events.ModuleStarted)]


@BOTH
@pytest.mark.parametrize("turns", range(6))
async def test_unloading_one_that_has_just_loaded(world_of, isolation, turns):
    """In whatever turn: it ends as STOPPED, and the load never gives a module that does not run any more."""
    world = await world_of(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load(more=NET))
    await reached.wait()
    module = world.host.modules["a"]
    world.release("init")
    for _ in range(turns):
        await asyncio.sleep(0)
    was_done = loading.done()
    await module.unload()
    (result,) = await asyncio.gather(loading, return_exceptions=True)
    assert was_done or isinstance(result, UsageError)
    assert module.state is ModuleState.STOPPED
    assert world.host.modules == {}
    kinds = [entry[0] for entry in world.hook.heard]
    assert kinds in ([], ["stopped"], ["started", "stopped"])


@BOTH
async def test_calls_that_run_while_their_module_is_unloaded(world_of, isolation):
    """They raise `PluginCrashed`, those that wait too; a neighbour's go on."""
    world = await world_of(isolation, calls_in_flight=2)
    module, other = await world.load("a"), await world.load("b")
    calls = [asyncio.create_task(module.call("hang", number)) for number in range(4)]
    neighbour = asyncio.create_task(other.call("hang", "b"))
    await world.settle()
    await module.unload()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [PluginCrashed] * 4
    world.free.set()
    assert await neighbour == "b"


@BOTH
async def test_a_dispose_that_throws(world_of, isolation, caplog):
    """It is the plugin's own matter: logged, and the unload goes on; neighbours are not harmed."""
    world = await world_of(isolation)
    module, other = await world.load("a"), await world.load("b")
    world.faults["dispose"] = ValueError("no way")
    with caplog.at_level(logging.ERROR, "coredeno.plugin.a"):
        await module.unload()
    assert "no way" in caplog.text
    assert module.state is ModuleState.STOPPED
    assert await other.call("echo", 1) == [1]


@BOTH
async def test_a_dispose_that_hangs(world_of, isolation):
    """After the grace the module is ended with its process, whoever shares it: nothing else stops it for certain."""
    world = await world_of(isolation, unload_grace_s=2)
    module, other = await world.load("a"), await world.load("b")
    sidecar = world.sidecar_of(module)
    reached = world.hold("dispose")
    unloading = asyncio.create_task(module.unload())
    await reached.wait()
    await world.clock.turn(1.9)
    assert not unloading.done()
    await world.clock.turn(1)
    await unloading
    assert module.state is ModuleState.STOPPED
    assert sidecar._exit.done()
    assert other.state is (ModuleState.RUNNING if isolation == "process" else ModuleState.ERRORED)
    (killed,) = [event for event in await world.heard() if isinstance(event, events.SidecarKilled)]
    assert (killed.module, killed.cause) == ("a" if isolation == "process" else "", "unload")
    assert "module 'a' did not end by itself" in killed.reason


@BOTH
async def test_an_unload_whose_caller_gives_up(world_of, isolation):
    """It goes on without the caller."""
    world = await world_of(isolation)
    module = await world.load()
    reached = world.hold("dispose")
    unloading = asyncio.create_task(module.unload())
    await reached.wait()
    unloading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unloading
    world.release("dispose")
    await module.unload()
    assert module.state is ModuleState.STOPPED


@BOTH
async def test_processes_end_with_their_module(world_of, isolation):
    """What it started is stopped; what others started goes on."""
    world = await world_of(isolation)
    module = await world.load("a", "permissions: {run: [tool]}")
    other = await world.load("b", "permissions: {run: [tool]}")
    ids = [await module.call("start", "tool"), await other.call("start", "tool")]
    await module.unload()
    assert [world.processes.owner_of(process_id) for process_id in ids] == [None, "b"]


@BOTH
async def test_a_part_that_fails_while_a_module_is_unloaded(world_of, isolation):
    """The module is out all the same: STOPPED, forgotten, and its sidecar ended."""
    world = await world_of(isolation)
    module = await world.load(more=NET)
    sidecar = world.sidecar_of(module)
    world.faults["stop processes"] = OSError("a bug in the app's own part")
    await asyncio.gather(module.unload(), return_exceptions=True)
    await world.settle()
    assert module.state is ModuleState.STOPPED
    assert world.host.modules == {}
    assert sidecar._exit.done()


@BOTH
@pytest.mark.parametrize(
    "answer", [{"ok": "yes"}, [], {"ok": True, "clean": False}, NotFound("no such module")]
)
async def test_an_unload_that_is_answered_with_nonsense(world_of, isolation, answer):
    """Then it is not known to have ended: the process is, whoever shares it."""
    world = await world_of(isolation)
    module = await world.load()
    sidecar = world.sidecar_of(module)

    async def nonsense(_sidecar, _params):
        if isinstance(answer, Exception):
            raise answer
        return answer

    sidecar._METHODS = {**sidecar._METHODS, "UnloadModule": nonsense}
    await module.unload()
    assert module.state is ModuleState.STOPPED
    assert sidecar._exit.done()


# --- whatever happens in whatever order

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["load", "load", "load", "cancel", "unload", "kill", "exit", "call", "settle"]),
        st.sampled_from("abc"),
        st.sampled_from(["", NET]),
        st.integers(0, 12),
    ),
    max_size=14,
)


@BOTH
@settings(max_examples=25)
@given(steps=STEPS)
async def test_a_storm(tmp_path_factory, isolation, steps):
    """Afterwards each module runs or says why not, and no sidecar lives but the spare and those with modules."""
    root = tmp_path_factory.mktemp("storm") / "app"
    world = World(root, isolation)
    async with nothing_left(root), world.host:
        loader = world.host._parts.loader
        loads: list[asyncio.Task[Any]] = []
        others: list[asyncio.Task[Any]] = []
        for kind, code, more, turns in steps:
            if kind == "load":
                loads.append(asyncio.create_task(world.load(code, more)))
            elif kind == "cancel" and loads:
                loads[-1].cancel()
            elif kind == "settle":
                await asyncio.gather(*loads, return_exceptions=True)
            else:
                others += disturbed(world, kind, code)
            for _ in range(turns):
                await asyncio.sleep(0)
        results = await asyncio.gather(*loads, return_exceptions=True)
        world.free.set()
        results += await asyncio.gather(*others, return_exceptions=True)
        await everything_at_rest(world)
        for result in results:
            assert isinstance(result, CoreDenoError | asyncio.CancelledError | type(None)) or hasattr(
                result, "code"
            )
            assert not isinstance(result, InternalError | TimeoutError)
        running = {module for module in world.host.modules.values() if module.state is ModuleState.RUNNING}
        for module in world.host.modules.values():
            assert module.state in (ModuleState.RUNNING, ModuleState.ERRORED)
            assert (module.error is None) == (module in running)
        for module in running:
            assert await module.call("echo", module.code) == [module.code]
        homes = {place.home for place in loader._placement._places.values()}
        assert set(loader._placement._places) == running
        spare = loader._supervisor._spare
        assert len(world.alive) == len(homes) + (spare is not None)
        assert len(world.host.gateway._peers) == len(world.alive)
    assert world.alive == []


def disturbed(world, kind, code):
    """Do something to a module, if there is one; gives the tasks that it began."""
    module = world.host.modules.get(code)
    place = world.host._parts.loader._placement._places.get(module)
    if kind == "unload" and module:
        return [asyncio.create_task(module.unload())]
    if kind == "call" and module and module.state is ModuleState.RUNNING:
        return [asyncio.create_task(module.call("hang"))]
    if kind == "kill" and place:
        world.sidecar_of(module).kill()
    elif kind == "exit" and place and place.sidecar.alive:
        say(world.sidecar_of(module), exited(code.encode()))
    return []


async def everything_at_rest(world):
    """What goes on in the background is over: modules on their way out, spares on their way in."""
    loader, supervisor = world.host._parts.loader, world.host._parts.loader._supervisor
    while waiting := [
        task
        for task in (supervisor._spare, *supervisor._cleaning, *loader._tasks, *loader._unloading.values())
        if task is not None and not task.done()
    ]:
        await asyncio.wait(waiting)
        await world.settle()
    await world.settle()
