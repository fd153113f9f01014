"""A host that installs, removes and denies until it is killed: `python -m tests.crash.logging_victim ROOT`.

After each change it prints how many rows of its audit log must be on the disk by then.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from coredeno.audit.sqlite import SqliteAudit
from coredeno.errors import PluginRaised
from coredeno.store.sqlite import SqliteStore
from coredeno.testing import MemoryFetcher, fake_host
from tests.shops import plugin_files


class Asker:
    """A plugin that asks for what it was not granted."""

    async def init(self, core):
        self._core = core

    async def ask(self, path: str):
        await self._core.files.read(path)


async def main(root: str) -> None:
    """Work until the end."""
    fetcher = MemoryFetcher({"tagger": {"v1": plugin_files()}})
    # fake_host lets unsigned plugins be installed; the disk and the database are real.
    host = fake_host(Path(root), {"tagger": Asker}, audit=SqliteAudit(), store=SqliteStore(), fetcher=fetcher)
    async with host:
        print("ready", flush=True)
        for round_ in itertools.count():
            if not await host.installed():
                await host.install("tagger")
                print(host.audit._head.seq, flush=True)
            if "tagger" not in host.modules:
                await host.load("tagger")
            for number in range(5):
                try:
                    await host.modules["tagger"].call("ask", f"secret-{round_}-{number}")
                except PluginRaised:
                    continue
            await host.remove("tagger")
            print(host.audit._head.seq, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
