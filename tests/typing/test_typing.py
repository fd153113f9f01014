"""What a type checker sees of the public face. `scripts/check` runs mypy on this folder too.

The functions below are never called: mypy judges them. A line with `type: ignore` is one that must be an error,
for mypy complains about an ignore that nothing needs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, assert_type

import coredeno
from coredeno import (
    Context,
    Hooks,
    IndexEntry,
    InstalledPlugin,
    InstallPlan,
    Module,
    ModuleState,
    PlanDifference,
    PluginHost,
    Service,
    ServiceRegistry,
    rpc,
)
from coredeno.events import Event
from coredeno.testing import FakeLauncher, MemorySource, fake_host


async def calls(module: Module) -> None:
    assert_type(await module.call("f"), Any)
    assert_type(await module.call("f", 1, "a", returns=int), int)
    assert_type(await module.call("f", returns=list[str]), list[str])
    assert_type(
        await module.call("f", returns=dict[str, tuple[int, bytes]], timeout_s=2),
        dict[str, tuple[int, bytes]],
    )
    assert_type(await module.call("f", trace="t"), Any)
    await module.call(function="f")  # type: ignore[call-overload]
    await module.call("f", timeout_s="2")  # type: ignore[call-overload]
    await module.call("f", trace=5)  # type: ignore[call-overload]


async def modules(module: Module) -> None:
    assert_type(module.state, ModuleState)
    assert_type(module.error, coredeno.CoreDenoError | None)
    assert_type(module.exports, frozenset[str])
    assert_type(await module.status(), str)
    assert_type(await module.unload(), None)


async def hosts(root: Path) -> None:
    async with PluginHost(root) as host:
        assert_type(host, PluginHost)
        assert_type(await host.load_path("plugin"), Module)
        assert_type(await host.load_source(MemorySource("code: a"), config={"a": 1}), Module)
        assert_type(host.modules, Mapping[str, Module])
        assert_type(host.gateway.issue_token("a"), str)
        assert_type(host.events(), AsyncIterator[Event])
        assert_type(await host.store.get("g", "k"), str | None)
        assert_type(await host.store.get("g", "k", "default"), str)
        assert_type(await host.store.get("g", "k", None), str | None)
        assert_type(await host.store.get_all("g"), dict[str, str])
        assert_type(await host.store.count("g"), int)
        host.modules["a"] = await host.load_path("b")  # type: ignore[index]
    PluginHost(root, launcher=FakeLauncher({}))
    PluginHost(root, launcher=object())  # type: ignore[arg-type]
    assert_type(fake_host(root, {}), PluginHost)


async def installing(host: PluginHost, entry: IndexEntry, plan: InstallPlan) -> None:
    assert_type(await host.plan_install("https://git.example/a.git", ref="v1", signer="k"), InstallPlan)
    assert_type(await host.install(entry), InstalledPlugin)
    assert_type(await plan.apply(consent=True), InstalledPlugin)
    assert_type(plan.signer, str | None)
    assert_type(plan.difference, PlanDifference | None)
    async with plan as same:
        assert_type(same, InstallPlan)
    assert_type(await host.load("a", config={"b": 1}), Module)
    assert_type(await host.update("a"), InstalledPlugin)
    assert_type(await host.rollback("a"), InstalledPlugin)
    assert_type(await host.remove("a"), None)
    assert_type(await host.installed(), list[InstalledPlugin])
    assert_type((await host.installer.read_index(Path("index.json"))).search("b"), list[IndexEntry])
    await host.install(3)  # type: ignore[arg-type]


class Weather(Service, name="weather"):
    @rpc(permission="weather:read")
    async def forecast(self, ctx: Context, city: str, days: int = 3) -> list[str]:
        return [city] * days

    @rpc
    async def now(self, ctx: Context) -> str:
        return ctx.module


class Registering(Hooks):
    async def register_services(self, services: ServiceRegistry) -> None:
        services.add(Weather())
        services.add(Weather)  # type: ignore[arg-type]


async def services(weather: Weather, ctx: Context) -> None:
    # A decorated method is as it was.
    assert_type(await weather.forecast(ctx, "Oslo"), list[str])
    assert_type(await weather.now(ctx), str)
    await weather.forecast(ctx, 5)  # type: ignore[arg-type]
    rpc("weather:read")  # type: ignore[call-overload]


def test_mypy_agrees(project: Path) -> None:
    """Each `assert_type` above holds, and each misuse above is an error."""
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--cache-dir=/dev/null", str(Path(__file__))]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
