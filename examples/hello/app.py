"""An app that runs a plugin: `python examples/hello/app.py`.

It boots a host on a temporary root, loads the plugin beside this file, calls it, and shows what is refused.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from pathlib import Path

import coredeno
from coredeno import Context, Hooks, HostConfig, PluginHost, Service, ServiceRegistry, rpc

PLUGIN = Path(__file__).parent / "plugin"


class Weather(Service, name="weather"):
    """A service of the app. A plugin may call it if its manifest says `services: {weather: [read]}`."""

    @rpc(permission="weather:read")
    async def forecast(self, ctx: Context, city: str, days: int = 1) -> str:
        """What the weather will be; `ctx.module` says who asks."""
        return f"{city} will be sunny for {days} days (said to {ctx.module})."


class App(Hooks):
    """What the app tells its host."""

    async def register_services(self, services: ServiceRegistry) -> None:
        """Offer the weather."""
        services.add(Weather())


async def greet(host: PluginHost, name: str) -> str:
    """What this app is for: let its plugin greet somebody."""
    return await host.modules["hello"].call("greet", name, returns=str, timeout_s=5)


async def main(root: Path) -> None:
    """Run the app once, and say what happens."""
    (root / "notes").mkdir()
    (root / "notes" / "today.txt").write_text("The app says hi.\n")
    (root / "secrets").mkdir()
    (root / "secrets" / "key.txt").write_text("nobody may read this\n")

    async with PluginHost(root, hooks=[App()], config=HostConfig(allow_unsigned=True)) as host:
        print(f"host      started on {root}, coredeno {coredeno.__version__}")
        module = await host.load_path(PLUGIN)
        print(
            f"loaded    {module.code} {module.version}: {module.state.value}, exports {sorted(module.exports)}"
        )
        print(f"called    {await greet(host, 'Ada')}")
        print(f"called    {await greet(host, 'Grace')}")
        print(f"store     hello/visits = {await host.store.get('hello', 'visits')}")
        try:
            await module.call("pry")
        except coredeno.PluginRaised as error:
            print(f"refused   {error.name} ({error.code}): {error.message}")
    print("host      stopped, nothing left behind")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="log       %(name)s: %(message)s", stream=sys.stdout)
    logging.getLogger("grpclib").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))
