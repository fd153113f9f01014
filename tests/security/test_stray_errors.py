"""Attacks by errors that nobody catches."""

from __future__ import annotations

from coredeno import ModuleState
from tests.security.arena import Arena


async def lives_on(arena: Arena, stray: str) -> None:
    attacker = await arena.attacker(f"""
        export const go = () => {{ {stray} }};
        export const alive = () => new Promise((resolve) => setTimeout(() => resolve(true), 20));
    """)
    for _ in range(3):
        await attacker.call("go")
        assert await attacker.call("alive") is True
    assert attacker.state is ModuleState.RUNNING


async def test_async_throw(arena: Arena):
    """An error that is thrown in a timer is logged, and the module lives on."""
    await lives_on(arena, "setTimeout(() => { throw new Error('stray'); });")


async def test_reject(arena: Arena):
    """A rejection that nobody handles is logged, and the module lives on."""
    await lives_on(arena, "Promise.reject(new Error('stray'));")


async def test_throw_null(arena: Arena):
    """Whatever is thrown, be it no error at all: the module lives on."""
    await lives_on(arena, "setTimeout(() => { throw null; }); Promise.reject(undefined);")
