"""A process that sets and deletes until it is killed: `python -m tests.crash.storing_victim FOLDER FIRST`.

Sixteen tasks at once share its transactions. Each says `KEY NUMBER` when the store has told it that this is done.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from coredeno.services.keyvalue import Store
from coredeno.store.sqlite import SqliteStore

TASKS = 16
GROUP = "g"


def value_of(key: str, number: int) -> str | None:
    """What a task sets as its number so and so; None is a deletion. Some fill many pages."""
    if number % 7 == 3:
        return None
    return f"{key} {number} " * (1 + number * 7919 % 23) ** 2


async def main(folder: Path, first: int) -> None:
    """Work until the end."""
    backend = SqliteStore()
    await backend.open(folder)
    store = Store(backend)
    print("ready", flush=True)

    async def work(key: str) -> None:
        for number in itertools.count(first):
            value = value_of(key, number)
            if value is None:
                await store.delete(GROUP, key)
            else:
                await store.set(GROUP, key, value)
            print(key, number, flush=True)

    await asyncio.gather(*(work(f"key-{task}") for task in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
