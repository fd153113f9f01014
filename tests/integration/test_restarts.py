"""Modules that come back, with real Deno: crashes, hangs past a deadline, and whose fault they were."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from coredeno import (
    ModuleState,
    PluginCrashed,
    PluginTimeout,
    RestartLimitReached,
    RestartPolicy,
    SidecarExited,
)

CONFIG = {
    "restart": RestartPolicy(first_delay_s=0.05, longest_delay_s=0.1, budget=2, stable_s=60),
    "heartbeat_s": 0.2,
}
PLUGIN = """
let count = 0;
export async function init(core) { await core.store.set("loads", String(Number(await core.store.get("loads")) + 1)); }
export function echo(value) { count += 1; return value; }
export function calls() { return count; }
export function loop() { for (;;); }
export async function deaf() { await new Promise((resolve) => setTimeout(resolve, 600)); return "late"; }
export function heap() { const kept = []; for (;;) kept.push(new Array(1e6).fill(Math.random())); }
"""


@pytest.fixture
async def start(boot):
    async def start(**limits):
        return await boot(config=CONFIG, **limits)

    return start


async def pid_of(host, code: str) -> int:
    (pid,) = [each.pid for each in (await host.health()).sidecars if code in each.modules]
    return pid


async def test_a_module_that_crashed_is_up_again(start, write, eventually):
    """It is loaded anew, from `init` on; a call that comes meanwhile waits for it."""
    host = await start()
    module = await host.load_path(write("a", PLUGIN))
    await module.call("echo", 1)
    os.kill(await pid_of(host, "a"), signal.SIGKILL)
    await eventually(lambda: module.state is ModuleState.RESTARTING)
    assert await module.call("calls") == 0
    assert (module.state, module.restarts) == (ModuleState.RUNNING, 1)
    assert await host.store.get("a", "loads") == "2"


async def test_a_call_that_hangs_costs_its_sidecar_soon(start, write, isolation, eventually):
    """Past its deadline and the grace, not only after `hang_s`; the guilty module and its neighbour come back."""
    host = await start(cancel_grace_s=0.3, hang_s=60)
    bad, good = await host.load_path(write("bad", PLUGIN)), await host.load_path(write("good", PLUGIN))
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(PluginTimeout):
        await bad.call("loop", timeout_s=0.3)
    assert loop.time() - began < 0.6
    await eventually(lambda: bad.restarts == 1)
    assert await bad.call("echo", 1) == 1
    assert await good.call("echo", 2) == 2
    assert good.restarts == (1 if isolation == "worker" else 0)
    (row,) = [row async for row in host.audit.entries(kind="SidecarKilled")]
    assert "module 'bad' has been busy without a pause, past the deadline of a call, for 0.3 s" in row.fields


async def test_a_late_answer_costs_nothing(start, write):
    """A module that only awaits past its deadline can hear that it was cancelled, and is left alone."""
    host = await start(cancel_grace_s=0.2)
    module = await host.load_path(write("a", PLUGIN))
    with pytest.raises(PluginTimeout):
        await module.call("deaf", timeout_s=0.1)
    await asyncio.sleep(0.7)  # what would be done, would be done by now
    assert (module.state, module.restarts) == (ModuleState.RUNNING, 0)
    assert await module.call("echo", 1) == 1


async def test_a_frozen_process_is_found_by_a_call(start, write, eventually):
    """SIGSTOP: whoever waits for an answer is told at the deadline, and the module is back soon after."""
    host = await start(cancel_grace_s=0.3, hang_s=60)
    module = await host.load_path(write("a", PLUGIN))
    os.kill(await pid_of(host, "a"), signal.SIGSTOP)
    with pytest.raises(PluginTimeout):
        await module.call("echo", 1, timeout_s=0.2)
    await eventually(lambda: module.restarts == 1)
    assert await module.call("echo", 1) == 1


async def test_one_that_goes_down_again_and_again(start, write, eventually):
    """It is put in quarantine with the reason; in a shared sidecar it is found, and the innocent one lives on."""
    host = await start(memory_mb=64)
    bad, good = await host.load_path(write("bad", PLUGIN)), await host.load_path(write("good", PLUGIN))

    async def attack() -> None:
        while bad.state is not ModuleState.QUARANTINED:
            try:
                await bad.call("heap", timeout_s=10)
            except PluginCrashed:
                await asyncio.sleep(0.01)

    await asyncio.wait_for(attack(), 60)
    assert isinstance(bad.error, RestartLimitReached)
    assert isinstance(bad.error.__cause__, PluginCrashed)
    assert isinstance(bad.error.__cause__.__cause__, SidecarExited)
    await eventually(lambda: good.state is ModuleState.RUNNING)
    assert await good.call("echo", 1) == 1
    assert good.restarts <= 1
    released = await host.release("bad")
    assert await released.call("echo", 3) == 3
