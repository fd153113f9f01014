"""The watch over real sidecars: what is busy, frozen or greedy ends, and nothing else does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from coredeno import HostConfig, HostHealth, Limits, ModuleState, PluginCrashed, PluginHost, SidecarExited
from coredeno.sidecar.confinement import LAYERS
from tests.hosts import RememberingLauncher

Eventually = Callable[..., Awaitable[None]]
Write = Callable[..., Path]

CONFIG = HostConfig(
    restart=None,
    allow_unsigned=True,
    heartbeat_s=0.2,
    limits=Limits(hang_s=1.0, memory_mb=64, unload_grace_s=0.5),
)
PLUGIN = """
export function echo(value) { return value; }
export function loop() { for (;;); }
export function loop_in_a_timer() { setTimeout(() => { for (;;); }, 50); }
export function wait() { return new Promise((resolve) => setTimeout(() => resolve("done"), 2500)); }
const kept = [];
async function slowly(make) {
  for (let i = 0; i < 400; i++) { kept.push(make()); await new Promise((resolve) => setTimeout(resolve, 5)); }
  return kept.length;
}
export function buffers() { return slowly(() => new Uint8Array(1 << 22).fill(1)); }
export function wasm() {
  return slowly(() => {
    const memory = new WebAssembly.Memory({ initial: 64 });
    new Uint8Array(memory.buffer).fill(1);
    return memory;
  });
}
export function much() { kept.push(new Uint8Array(40 << 20).fill(1)); return kept.length; }
export function flood(lines) { for (let i = 0; i < lines; i++) console.info(i); }
"""


async def ends_by(host: PluginHost, module, cause: str, eventually: Eventually) -> SidecarExited:
    await eventually(lambda: module.state is ModuleState.ERRORED, within_s=15)
    assert isinstance(module.error, PluginCrashed)
    reason = module.error.__cause__
    assert isinstance(reason, SidecarExited)
    assert reason.cause == cause
    assert await host.modules["good"].call("echo", 1) == 1
    (row,) = [row async for row in host.audit.entries(kind="SidecarKilled")]
    assert row.module == module.code
    fields = json.loads(row.fields)
    assert fields["cause"] == cause
    assert reason.reason in fields["reason"]
    return reason


@pytest.mark.parametrize("function", ["loop", "loop_in_a_timer"])
async def test_a_busy_module_is_found(tmp_path: Path, write: Write, eventually: Eventually, function: str):
    """Also in a timer, with no call under way that would end at its deadline; the other module is not disturbed."""
    async with PluginHost(tmp_path / "app", config=CONFIG) as host:
        await host.load_path(write("good", PLUGIN))
        bad = await host.load_path(write("bad", PLUGIN))
        call = asyncio.create_task(bad.call(function))
        reason = await ends_by(host, bad, "hang", eventually)
        assert "module 'bad' has been busy without a pause for 1 s" in reason.reason
        await asyncio.wait([call])
        assert isinstance(call.exception(), PluginCrashed | None)


async def test_a_frozen_sidecar_is_found(tmp_path: Path, write: Write, eventually: Eventually):
    """One that stopped itself (SIGSTOP) answers nothing, and SIGKILL reaches it all the same."""
    async with PluginHost(tmp_path / "app", config=CONFIG) as host:
        await host.load_path(write("good", PLUGIN))
        bad = await host.load_path(write("bad", PLUGIN))
        (pid,) = [each.pid for each in (await host.health()).sidecars if each.modules == ("bad",)]
        os.kill(pid, signal.SIGSTOP)
        reason = await ends_by(host, bad, "hang", eventually)
        assert "with module 'bad' in it, has not answered for 1 s" in reason.reason


async def test_waiting_is_not_being_busy(tmp_path: Path, write: Write):
    """A call that awaits something for longer than `hang_s` is left alone."""
    async with PluginHost(tmp_path / "app", config=CONFIG) as host:
        module = await host.load_path(write("good", PLUGIN))
        assert await module.call("wait") == "done"


@pytest.mark.parametrize("isolation", ["process", "worker"])
@pytest.mark.parametrize("function", ["buffers", "wasm"])
async def test_memory_outside_the_heap_counts(
    tmp_path: Path, write: Write, eventually: Eventually, function: str, isolation: str
):
    """Buffers and WebAssembly, which V8 bounds not at all, are held to `memory_mb`, and the error names it."""
    config = HostConfig(
        restart=None,
        allow_unsigned=True,
        isolation=isolation,
        limits=Limits(memory_mb=64, hang_s=60, unload_grace_s=0.5),
    )
    async with PluginHost(tmp_path / "app", config=config) as host:
        await host.load_path(write("good", PLUGIN), group="g")
        bad = await host.load_path(write("bad", PLUGIN), group="h")
        with pytest.raises(PluginCrashed, match=r"MiB of memory, wanted at most 64 \(Limits\.memory_mb\)"):
            await bad.call(function)
        await ends_by(host, bad, "memory", eventually)


async def test_memory_within_the_limit_is_the_modules_own(tmp_path: Path, write: Write):
    """What a module may use it may keep."""
    async with PluginHost(tmp_path / "app", config=CONFIG) as host:
        module = await host.load_path(write("good", PLUGIN))
        assert await module.call("much") == 1
        await asyncio.sleep(1.2)
        assert await module.call("echo", 1) == 1


async def test_health_tells_what_there_is(tmp_path: Path, write: Write, eventually: Eventually):
    """The layers, the store, each sidecar with its memory and its last sign of life, and the modules' states."""
    async with PluginHost(tmp_path / "app", config=CONFIG) as host:
        await host.load_path(write("good", PLUGIN))

        async def asked() -> HostHealth:
            return await host.health()

        health = await asked()
        while len(health.sidecars) < 2 or any(each.heartbeat_age_s is None for each in health.sidecars):
            await asyncio.sleep(0.05)
            health = await asked()
        assert health.deno.startswith("2.9.")
        assert health.platform == sys.platform
        assert [layer.name for layer in health.layers if layer.on] == list(LAYERS)
        assert health.store.ok
        assert health.modules == {"good": ModuleState.RUNNING.value}
        first, spare = health.sidecars
        assert (first.name, first.modules, first.state) == ("sidecar-1", ("good",), "ready")
        assert (spare.modules, spare.state) == ((), "ready")
        for each in health.sidecars:
            assert each.pid > 0
            assert each.memory_bytes is not None
            assert 5_000_000 < each.memory_bytes < 100_000_000
            assert each.heartbeat_age_s is not None
            assert 0 <= each.heartbeat_age_s < 5


async def test_a_flood_of_output_is_thinned(tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture):
    """So many lines a second reach the log, and one line says how many did not."""
    caplog.set_level("INFO", logger="coredeno.plugin.good")
    source = (
        PLUGIN
        + """
        import process from "node:process";
        export function write(lines) {
          for (let i = 0; i < lines; i++) process.stdout.write(`line ${i}\\n`);
        }
    """
    )
    config = HostConfig(allow_unsigned=True, limits=Limits(log_lines_per_s=50))
    launcher = RememberingLauncher()
    async with PluginHost(tmp_path / "app", config=config, launcher=launcher) as host:
        module = await host.load_path(write("good", source))
        began = time.monotonic()
        await module.call("write", 5000)
        await asyncio.sleep(1.5)
        seconds = time.monotonic() - began
    lines = [record.getMessage() for record in caplog.records if "sidecar-" in record.getMessage()]
    assert any("lines were dropped: more than 50 a second" in line for line in lines)
    assert 50 <= len([line for line in lines if ": line " in line]) <= 50 * (seconds + 2)
