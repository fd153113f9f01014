"""`CodeLocks`: what changes one plugin is done one after the other, and never waits for itself.

The host waits for its app's hooks while it holds a plugin's lock. A hook that changes the same plugin, and waits for
that, would wait for ever: here it is told so. In a task of its own, which nobody waits for, it has its turn later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from coredeno.errors import UsageError
from coredeno.tasks import uninterrupted

_T = TypeVar("_T")
_Held = tuple["asyncio.Task[Any] | None", frozenset[str]]

# A new task copies it from the one that makes it; so the task for which it was set stands in it too.
_held: ContextVar[_Held] = ContextVar("coredeno held plugins", default=(None, frozenset()))


class CodeLocks:
    """Two locks a plugin, by its code: one for changing it, one for updates, which wait long before they change it."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def turn(self, code: str) -> AsyncIterator[None]:
        """Have one's turn among the updates of this code; what else changes the plugin need not wait for it.

        Raises:
            UsageError: whoever asks is waited for by who holds the plugin.
        """
        _require_not_held_above(code)
        async with self._turns.setdefault(code, asyncio.Lock()):
            yield

    @asynccontextmanager
    async def held(self, code: str) -> AsyncIterator[None]:
        """Hold this plugin.

        Raises:
            UsageError: whoever asks is waited for by who holds it.
        """
        _require_not_held_above(code)
        async with self._locks.setdefault(code, asyncio.Lock()):
            mark = _held.set((asyncio.current_task(), _held_here() | {code}))
            try:
                yield
            finally:
                _held.reset(mark)


def _require_not_held_above(code: str) -> None:
    if code in _held_here():
        raise UsageError(
            f"install: plugin {code!r} is being changed or loaded by whoever waits for this hook, wanted the call in a "
            "task of its own: asyncio.create_task(...)"
        )


def waited_for(work: Callable[[], Coroutine[Any, Any, _T]]) -> Coroutine[Any, Any, _T]:
    """`work`, for a task that the caller makes and waits for: what is held here counts as held there too."""
    above = _held_here()

    async def inside() -> _T:
        _held.set((asyncio.current_task(), above))
        return await work()

    return inside()


async def uninterrupted_here(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """As `uninterrupted`, with what is held here."""
    return await uninterrupted(waited_for(work))


def _held_here() -> frozenset[str]:
    task, codes = _held.get()
    return codes if task is asyncio.current_task() else frozenset()
