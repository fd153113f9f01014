"""A host that is killed some time: `python -m tests.chaos.doomed ROOT PLUGINS ISOLATION FIRST`.

It says what it begins (`begins calling`), what its plugins try to store (`tries CODE KEY NUMBER`), what they were told
is stored (`stored …`), and what it found of hosts before it (`found …`). Left alone, it ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from coredeno import HostConfig, Limits, Module, PluginHost, RestartPolicy, Service
from coredeno.errors import CoreDenoError
from tests.chaos.invariants import text_of
from tests.chaos.plugins import INNOCENT, write_plugin
from tests.chaos.world import Echo

PHASES = ("starting", "loading", "calling", "restarting", "stopping")
CODES = ("one", "two")
_KEYS = 4
_ROUNDS = 15


def say(*words: object) -> None:
    print(*words, flush=True)


async def store(module: Module, numbers: list[int]) -> None:
    """Store on and on in all keys, whatever becomes of the module."""
    for number in numbers:
        key = f"key-{number % _KEYS}"
        say("tries", module.code, key, number)
        with contextlib.suppress(CoreDenoError):
            await module.call("set", key, text_of(number), timeout_s=5)
            say("stored", module.code, key, number)


async def main(root: Path, plugins: Path, isolation: Any, first: int) -> None:
    """Live once."""
    services: list[Service] = [Echo()]
    host = PluginHost(
        root,
        services=services,
        config=HostConfig(
            isolation=isolation,
            allow_unsigned=True,
            limits=Limits(memory_mb=64, unload_grace_s=0.5),
            restart=RestartPolicy(first_delay_s=0.02, longest_delay_s=0.1),
        ),
    )
    say("begins starting")
    await host.start()
    runs = [entry.name for entry in (root / ".core" / "run").iterdir()]
    sockets = [entry.name for entry in Path(tempfile.gettempdir()).glob("coredeno-*")]
    say("found", len(runs), len(sockets))
    say("begins loading")
    folders = [write_plugin(plugins, code, INNOCENT, "services: {echo: []}\n") for code in CODES]
    modules = await asyncio.gather(*(host.load_path(folder) for folder in folders))
    say("begins calling")
    await asyncio.gather(*(store(module, [*range(first, first + _ROUNDS)]) for module in modules))
    say("begins restarting")
    for sidecar in (await host.health()).sidecars:
        if sidecar.modules:
            os.kill(sidecar.pid, signal.SIGKILL)
    second = first + _ROUNDS
    await asyncio.gather(*(store(module, [*range(second, second + _ROUNDS)]) for module in modules))
    say("begins stopping")
    await host.stop()
    say("ends")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
