"""Work that must be finished, whoever stops waiting for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def outlast(task: asyncio.Task[Any]) -> None:
    """Wait until a task is done, however often whoever waits is cancelled meanwhile; its outcome is not raised."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # nobody else may look at it


async def uninterrupted(work: Coroutine[Any, Any, _T]) -> _T:
    """Carry `work` out to its end; a cancellation that came meanwhile goes on then, whatever the outcome.

    Raises:
        CancelledError: the caller was cancelled meanwhile.
        BaseException: what `work` raises.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await outlast(task)
        raise
    return task.result()


async def all_or_none(*steps: Coroutine[Any, Any, None]) -> None:
    """Run all steps at once. If one fails the others are cancelled, and the first that failed is raised."""
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
