"""The service behind the plugin `calls`: tells the test what happens in it, and holds back what the test holds back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coredeno import Context, Service, rpc


class App(Service, name="app"):
    """A service of the app: tells the test what happens in it, and holds back what the test holds back."""

    def __init__(self) -> None:
        self.notes: asyncio.Queue[str] = asyncio.Queue()
        self.turns = asyncio.Semaphore(0)
        self.inside = 0
        self.most_inside = 0

    @rpc(permission="app:use")
    async def note(self, ctx: Context, text: str) -> None:
        self.notes.put_nowait(text)

    @rpc(permission="app:use")
    async def block(self, ctx: Context, name: str) -> None:
        self.notes.put_nowait(f"{name} blocks")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.notes.put_nowait(f"{name} is cancelled")
            raise

    @rpc(permission="app:use")
    async def context(self, ctx: Context) -> Context:
        return ctx

    @rpc(permission="app:use")
    async def echo(self, ctx: Context, value: Any) -> Any:
        return value

    @rpc(permission="app:use")
    async def take_turn(self, ctx: Context, n: int) -> int:
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        try:
            await self.turns.acquire()
        finally:
            self.inside -= 1
        return n


async def next_note(app: App, wanted: str) -> None:
    """The next thing that is heard in the service is this."""
    async with asyncio.timeout(10):
        assert await app.notes.get() == wanted


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and see that it was."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def calls_end(tasks: list[asyncio.Task[Any]], app: App) -> list[Any]:
    """Let one turn be taken after the other until all calls have ended."""
    for _ in tasks:
        app.turns.release()
    return await asyncio.gather(*tasks)


async def first_event(events: Any, kind: type) -> Any:
    """The first event of this kind."""
    async with asyncio.timeout(10):
        async for event in events:
            if isinstance(event, kind):
                return event
    return None
