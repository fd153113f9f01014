"""A host that installs, to be killed at any moment: `python -m tests.crash.victim ROOT REPOSITORY KEY OPERATION [ARG]`.

It says `ready` when it has started, begins when it is told to, and says `done` at the end. Disk, database and git
are real; sidecars are fakes, since what is killed here is the installing.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from coredeno import HostConfig, PluginHost, TrustStore
from coredeno.install.git import GitFetcher
from coredeno.testing import FakeLauncher, FakeProcesses, MemoryFiles, MemoryListener

KEPT = 2


class Tagger:
    """Stands for the plugin."""


def host_on(root: Path, key: str) -> PluginHost:
    """A host as the victim's, also for whoever looks at what it left."""
    return PluginHost(
        root,
        config=HostConfig(kept_releases=KEPT),
        trust=TrustStore([key]),
        fetcher=GitFetcher(),
        launcher=FakeLauncher({"tagger": Tagger}),
        listener=MemoryListener(),
        files=MemoryFiles(),
        processes=FakeProcesses({}),
    )


async def main(root: str, repository: str, key: str, operation: str, argument: str | None = None) -> None:
    """Carry out one operation."""
    async with host_on(Path(root), key) as host:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        if operation == "install":
            await host.install(repository, ref=argument)
        elif operation == "update":
            await host.update("tagger", ref=argument)
        elif operation == "rollback":
            await host.rollback("tagger", argument)
        else:
            await host.remove("tagger")
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
