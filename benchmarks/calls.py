"""Calls in both directions and both isolations, beside bare floors: `python -m benchmarks.calls [--short]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Literal

from benchmarks import floors
from benchmarks.floors import Figures, measured
from coredeno import Context, HostConfig, PluginHost, Service, rpc

PLUGIN = Path(__file__).parent / "plugin"
IN_FLIGHT = 64


class Echo(Service, name="echo"):
    """The app's service that is asked."""

    @rpc
    async def echo(self, _ctx: Context, value: int) -> int:
        """Give back what came."""
        return value


async def main(*, alone: int, together: int, as_json: bool) -> None:
    """Measure everything and print a table."""
    size = {"alone": alone, "together": together, "in_flight": IN_FLIGHT}
    rows: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        rows["host → module   floor"] = call_floor = await floors.calls(Path(folder), **size)
        rows["module → host   floor"] = request_floor = await floors.requests(Path(folder), **size)
    for isolation in ("process", "worker"):
        await _coredeno(isolation, size, rows)
    if as_json:
        print(
            json.dumps(
                {name: {"alone_us": f.alone_us, "per_second": f.per_second} for name, f in rows.items()}
            )
        )
        return
    print(f"{'':36} {'one at a time':>14} {f'{IN_FLIGHT} in flight':>16} {'× floor':>16}")
    for name, figures in rows.items():
        floor = call_floor if name.startswith("host") else request_floor
        ratio = f"{figures.alone_us / floor.alone_us:.2f} / {figures.per_second / floor.per_second:.2f}"
        print(f"{name:36} {figures.alone_us:11.0f} µs {figures.per_second:13,.0f}/s {ratio:>16}")


async def _coredeno(
    isolation: Literal["process", "worker"], size: dict[str, int], rows: dict[str, Figures]
) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        config = HostConfig(allow_unsigned=True, isolation=isolation)
        async with PluginHost(root, services=[Echo()], config=config) as host:
            module = await host.load_path(PLUGIN)
            rows[f"host → module   {isolation}"] = await measured(
                lambda i: module.call("echo", i, returns=int), **size
            )
            for title, function in (("", "requests"), ("  store.get", "reads"), ("  store.set", "writes")):
                rows[f"module → host   {isolation}{title}"] = await module.call(
                    function,
                    size["alone"],
                    size["together"],
                    size["in_flight"],
                    returns=Figures,
                    timeout_s=300,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a tenth of the calls")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    scale = 10 if options.short else 1
    asyncio.run(main(alone=2000 // scale, together=40000 // scale, as_json=options.json))
