"""An app that watches its plugins: `python examples/observed/app.py`.

One plugin works, the other hangs and crashes until the host gives it up. The app prints each event as it happens, and
now and then how its host and modules are; then it lets the bad plugin out of quarantine.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from coredeno import CoreDenoError, HostConfig, Limits, Module, PluginHost, RestartPolicy, events

PLUGINS = Path(__file__).parent / "plugins"
CONFIG = HostConfig(
    allow_unsigned=True,
    limits=Limits(call_timeout_s=1, cancel_grace_s=0.5),
    restart=RestartPolicy(first_delay_s=0.1, budget=2),
)


async def tell_events(host: PluginHost) -> None:
    """Print what happens, as it happens; ends with the host."""
    async for event in host.events():
        match event:
            case events.ModuleStarted(module=code, load_s=load_s):
                print(f"event     {code} runs, loaded in {load_s * 1000:.0f} ms")
            case events.ModuleCrashed(module=code, error=error):
                print(f"event     {code} went down: {error}")
            case events.ModuleRestarting(module=code, delay_s=delay_s, attempt=attempt):
                print(f"event     {code} is started again in {delay_s * 1000:.0f} ms (attempt {attempt})")
            case events.ModuleQuarantined(module=code):
                print(f"event     {code} is in quarantine")
            case events.SidecarKilled(sidecar=name, reason=reason):
                print(f"event     the host killed {name}: {reason}")
            case events.ModuleStopped(module=code, reason=reason):
                print(f"event     {code} stopped: {reason}")


async def show(host: PluginHost) -> None:
    """Print how the host and its modules are."""
    health = await host.health()
    layers = sum(layer.on for layer in health.layers)
    print(
        f"health    store {'ok' if health.store.ok else health.store.why}, {len(health.sidecars)} sidecars, ",
        end="",
    )
    print(f"confined by {layers} of {len(health.layers)} layers")
    for code, stats in host.stats().modules.items():
        latency = "-" if stats.latency_p50_s is None else f"{stats.latency_p50_s * 1000:.1f} ms"
        memory = "-" if stats.memory_bytes is None else f"{stats.memory_bytes >> 20} MiB"
        print(
            f"stats     {code:<7} {stats.state:<11} {stats.calls} calls, {stats.errors.total} errors, p50 {latency}, "
            f"{stats.restarts} restarts, {memory}"
        )


async def visit_until(steady: Module, leaving: asyncio.Event) -> int:
    """What goes on all the while, whatever the other plugin does; how many visits there were."""
    while True:
        count = await steady.call("visit", "Ada", returns=int)
        try:
            async with asyncio.timeout(0.02):
                await leaving.wait()
        except TimeoutError:
            continue
        return count


async def misbehave(host: PluginHost, shaky: Module) -> None:
    """Let the bad plugin do its worst, until the host has given it up."""
    happenings = host.events()
    print(f"called    shaky.work: {await shaky.call('work')}")
    for mood in ("fail", "hang", "crash", "hang"):
        try:
            await shaky.call(mood)
        except CoreDenoError as error:
            print(f"called    shaky.{mood}: {type(error).__name__}: {error}")
        if mood != "fail":  # that is an error of the call alone; the others cost the module its process
            await up_again_or_given_up(happenings, shaky)


async def up_again_or_given_up(happenings: AsyncIterator[events.Event], module: Module) -> None:
    """Wait until the host has decided on a module that went down."""
    async for event in happenings:
        if event.module == module.code and isinstance(event, events.ModuleStarted | events.ModuleQuarantined):
            return


async def main(root: Path) -> None:
    """Run the app once."""
    async with PluginHost(root, config=CONFIG) as host:
        telling = asyncio.create_task(tell_events(host))
        steady = await host.load_path(PLUGINS / "steady")
        shaky = await host.load_path(PLUGINS / "shaky")
        leaving = asyncio.Event()
        visiting = asyncio.create_task(visit_until(steady, leaving))
        await misbehave(host, shaky)
        print(f"given up  {shaky.state.value}: {shaky.error}")
        await show(host)
        released = await host.release("shaky")
        print(f"released  shaky.work: {await released.call('work')}")
        leaving.set()
        print(f"all along {await visiting} visits, {steady.restarts} restarts of steady")
    await telling
    print("host      stopped, nothing left behind")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, format="log       %(name)s: %(message)s", stream=sys.stdout)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))
