"""What a host tells of real modules: their calls, and what their sidecars use."""

from __future__ import annotations

import sys

import psutil
import pytest

from coredeno import CallErrors, ModuleState, PluginCrashed, PluginRaised, RequestStats, RestartPolicy

ROUNDING_S = 0.001  # of floats; the system counts in hundredths
PLUGIN = """
let core;
const kept = [];
export function init(c) { core = c; }
export const echo = (value) => value;
export function fail() { throw new TypeError("no"); }
export const read = (path) => core.files.readText(path);
export const keep = (mib) => { kept.push(new Uint8Array(mib << 20).fill(1)); };
export function burn(ms) { for (const end = Date.now() + ms; Date.now() < end;); }
export const die = () => { Deno.exit(3); };
"""


async def test_calls_and_requests(boot, write):
    """A real module is counted as a fake one is, with times and bytes that can be."""
    boot.root.mkdir(parents=True)
    (boot.root / "a.txt").write_text("x" * 10_000)
    host = await boot()
    module = await host.load_path(write("a", PLUGIN, "permissions: {read: [a.txt]}"))
    assert host.stats().modules["a"].latency_max_s is None
    for _ in range(3):
        assert await module.call("echo", b"x" * 10_000) == b"x" * 10_000
    assert await module.call("read", "a.txt") == "x" * 10_000
    for function, path in (("fail", None), ("read", "b.txt")):
        with pytest.raises(PluginRaised):
            await module.call(function, path)
    now = host.stats().modules["a"]
    assert (now.calls, now.errors, now.cancelled) == (6, CallErrors(raised=2), 0)
    assert (now.in_flight, now.waiting, now.requests) == (0, 0, RequestStats(count=2, denied=1))
    assert 0 < now.latency_p50_s <= now.latency_p90_s <= now.latency_p99_s == now.latency_max_s < 10
    # Four times 10,000 bytes in answers; three times in calls, and once in the answer to a request.
    assert 40_000 < now.bytes_in < 45_000
    assert 40_000 < now.bytes_out < 45_000


async def test_what_a_sidecar_uses(boot, write, isolation, eventually):
    """Memory and processor time are the process's, and grow with what a module takes; two may share one."""
    host = await boot()
    module = await host.load_path(write("a", PLUGIN))
    await host.load_path(write("b", PLUGIN))
    before = host.stats().modules
    shared = isolation == "worker"
    assert (before["a"].sidecar == before["b"].sidecar) == shared
    assert {each.sidecar_modules for each in before.values()} == {2 if shared else 1}
    sidecars = {each.name: each.pid for each in (await host.health()).sidecars}
    process = psutil.Process(sidecars[before["a"].sidecar])
    if sys.platform != "linux":
        assert before["a"].cpu_s is None
        return
    await module.call("keep", 32)
    await module.call("burn", 400)
    taken_s = sum(process.cpu_times()[:2]) - ROUNDING_S
    grown = before["a"].memory_bytes + 30 * 1024 * 1024

    def is_told():
        now = host.stats().modules["a"]
        return now.memory_bytes > grown and now.cpu_s >= taken_s

    await eventually(is_told)
    now = host.stats().modules["a"]
    assert now.cpu_s >= before["a"].cpu_s + 0.1
    assert now.cpu_s <= sum(process.cpu_times()[:2]) + ROUNDING_S
    if shared:
        assert host.stats().modules["b"].memory_bytes == now.memory_bytes
    else:
        assert host.stats().modules["b"].memory_bytes < grown


async def test_counts_outlast_a_crash(boot, write, eventually):
    """The module that came back is told of with all that was before; its process is another one."""
    host = await boot(config={"restart": RestartPolicy(first_delay_s=0.05, longest_delay_s=0.1)})
    module = await host.load_path(write("a", PLUGIN))
    assert await module.call("echo", 1) == 1
    former = host.stats().modules["a"]
    with pytest.raises(PluginCrashed):
        await module.call("die")
    await eventually(lambda: module.restarts == 1 and module.state is ModuleState.RUNNING)
    assert await module.call("echo", 2) == 2
    now = host.stats().modules["a"]
    assert (now.calls, now.errors, now.restarts) == (3, CallErrors(crashed=1), 1)
    assert now.sidecar != former.sidecar
