"""Attacks on the two wires of a sidecar by whoever has the whole of it: every byte is the attacker's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from coredeno import (
    LimitExceeded,
    Module,
    ModuleState,
    PluginCrashed,
    PluginError,
    PluginTimeout,
    ProtocolError,
)
from tests.security.arena import Arena
from tests.security.hostile_sidecar import BATCHES, LINES, NESTS

ALONE = pytest.mark.isolation("process")
"""A sidecar that is the attacker's is one in either isolation; only what a plugin does is tried in both."""


@asynccontextmanager
async def taken_over(arena: Arena) -> AsyncIterator[Module]:
    """A running host, and a module whose sidecar is the attacker's; at the end nothing of it runs any more."""
    arena.take_over()
    async with arena.open():
        module = await arena.hostile()
        pid = arena.pid_of(module)
        yield module
        await module.unload()
        await arena.until_gone(pid)


async def killed(arena: Arena, module: Module, why: str, *attack: Any) -> None:
    """The attack ends the module at once, for that reason, and its process with it."""
    pid = arena.pid_of(module)
    with pytest.raises(PluginCrashed, match=why) as caught:
        await module.call("attack", *attack, timeout_s=20)
    assert isinstance(caught.value.__cause__, ProtocolError)
    assert module.state is ModuleState.ERRORED
    await arena.until_gone(pid)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("rpc_huge", "message over 1048576 bytes"),
        ("rpc_huge_attachment", "message over 1048576 bytes"),
        ("session_huge", "a message of 524288000 bytes, wanted at most"),
        ("plugin_text", ""),
        ("plugin_bytes", ""),
        ("plugin_request", ""),
    ],
)
async def test_oversize_frame(unopened_arena: Arena, how: str, why: str):
    """500 MB in one message: a sidecar is killed as soon as the bound is passed, a plugin is told or goes down."""
    arena = unopened_arena
    if not how.startswith("plugin"):
        async with taken_over(arena) as hostile:
            await killed(arena, hostile, why, how)
        return
    async with arena.open():
        attacker = await arena.attacker(
            """
            let core;
            export function init(c) { core = c; }
            const huge = () => new Uint8Array(500 * 1024 * 1024);
            export const plugin_text = () => "x".repeat(500 * 1024 * 1024);
            export const plugin_bytes = () => huge();
            export const plugin_request = () => core.services.echo.echo(huge());
            """,
            "services: {echo: []}",
        )
        with pytest.raises((PluginError, LimitExceeded)):
            await attacker.call(how, timeout_s=1)


@ALONE
@pytest.mark.parametrize("how", ["rpc_half", "rpc_drip", "session_half"])
async def test_slow_frame(unopened_arena: Arena, how: str):
    """Half a message and then silence holds up its own call only, until the deadline; to unload it is to kill it."""
    async with taken_over(unopened_arena) as hostile:
        with pytest.raises(PluginTimeout):
            await hostile.call("attack", how, timeout_s=0.5)
        began = time.monotonic()
        await hostile.unload()
        assert time.monotonic() - began < 3
        assert hostile.state is ModuleState.STOPPED


@ALONE
@pytest.mark.parametrize("nest", NESTS)
@pytest.mark.parametrize(("how", "places"), [("rpc_deep", LINES), ("session_deep", BATCHES)])
async def test_depth_bomb(unopened_arena: Arena, how: str, places: dict[str, bytes], nest: str):
    """JSON that is 100,000 levels deep, wherever in a message of either wire, is the end of its sender."""
    async with taken_over(unopened_arena) as hostile:
        for number, place in enumerate(places):
            sender = await unopened_arena.hostile() if number else hostile
            await killed(unopened_arena, sender, "JSON deeper than 128 levels", how, place, nest)
        assert unopened_arena.host.modules["bystander"].state is ModuleState.RUNNING


ITEM = {"jsonrpc": "2.0", "method": "StreamItem", "params": {"stream": 1, "item": "x"}}


@ALONE
@pytest.mark.parametrize("wire", ["rpc", "session"])
async def test_stream_no_credit(unopened_arena: Arena, wire: str):
    """An item of a stream that nobody asked for ends its sender, on either wire."""
    async with taken_over(unopened_arena) as hostile:
        if wire == "rpc":
            attack: list[Any] = ["rpc_notify", "StreamItem", ITEM["params"], 1000]
            await killed(unopened_arena, hostile, "notification 'StreamItem'", *attack)
        else:
            items = [{**ITEM, "module": "hostile"}] * 1000
            await killed(unopened_arena, hostile, "'StreamItem' as a notification", "session_send", items)


GET = {"jsonrpc": "2.0", "method": "store.get", "params": {"key": "k"}}
FORGED: dict[str, tuple[str, list[Any]]] = {
    "request": ("names module 'bystander'", ["session_send", [{**GET, "id": 1, "module": "bystander"}]]),
    "later": (
        "names module 'bystander'",
        ["session_send", [{**GET, "id": 1, "module": "hostile"}, {**GET, "id": 2, "module": "bystander"}]],
    ),
    "nobody": ("names module ''", ["session_send", [{**GET, "id": 1, "module": ""}]]),
    "spelling": ("names module 'Hostile'", ["session_send", [{**GET, "id": 1, "module": "Hostile"}]]),
    "log": (
        "names module 'bystander'",
        [
            "session_send",
            [
                {
                    "jsonrpc": "2.0",
                    "method": "log.write",
                    "params": {"level": "info", "message": "x"},
                    "module": "bystander",
                }
            ],
        ],
    ),
    "unary": ("names module 'bystander'", ["unary_as", "bystander"]),
}


@ALONE
@pytest.mark.parametrize("name", FORGED)
async def test_forge_identity(unopened_arena: Arena, name: str):
    """Who speaks is known by the connection: to name another module in a frame is to be killed for it."""
    async with taken_over(unopened_arena) as hostile:
        why, attack = FORGED[name]
        await killed(unopened_arena, hostile, why, *attack)
        assert unopened_arena.host.modules["bystander"].state is ModuleState.RUNNING


@ALONE
async def test_forge_exit(unopened_arena: Arena):
    """That another module has ended is not believed of a sidecar in which it does not live."""
    async with taken_over(unopened_arena) as hostile:
        forged = {"code": "bystander", "reason": "forged"}
        with pytest.raises(PluginTimeout):
            await hostile.call("attack", "rpc_notify", "ModuleExited", forged, 100, timeout_s=0.5)
        assert unopened_arena.host.modules["bystander"].state is ModuleState.RUNNING


@ALONE
async def test_forge_answers(unopened_arena: Arena):
    """An answer that nobody waits for, of another form, or twice is the end of its sender, and nothing is believed."""
    lies: dict[str, list[Any]] = {
        "not under way": ["rpc_lines", '{"jsonrpc":"2.0","id":4711,"result":1}', 1],
        "without an id": ["rpc_lines", '{"jsonrpc":"2.0","id":null,"result":1}', 1],
        "Expected|malformed|invalid": ["rpc_lines", '{"jsonrpc":"2.0","id":"1","result":1}', 1],
        "neither result nor error": ["rpc_answer", {}],
        "notification": ["rpc_notify", "HostShutdown", {}],
    }
    async with taken_over(unopened_arena):
        for why, attack in lies.items():
            again = unopened_arena.host.modules["hostile"]
            if again.state is not ModuleState.RUNNING:
                again = await unopened_arena.hostile()
            await killed(unopened_arena, again, why, *attack)


@ALONE
async def test_cancel_storm(unopened_arena: Arena):
    """Requests that are cancelled as they come, and cancels of what never was: each is answered, nothing is left."""
    async with taken_over(unopened_arena) as hostile:
        assert await hostile.call("attack", "cancels", 40, timeout_s=20) == 40 * 32
        assert hostile.state is ModuleState.RUNNING
        calls = [asyncio.create_task(hostile.call("echo", number)) for number in range(500)]
        await asyncio.sleep(0)
        for call in calls[1:]:
            call.cancel()
        assert await calls[0] == 0
        await asyncio.gather(*calls[1:], return_exceptions=True)
        assert await hostile.call("echo", "well") == "well"


@ALONE
async def test_foreign_token(unopened_arena: Arena):
    """A token is good in the hands of its sidecar only: another sidecar, or a child, that has it is not let in."""
    async with taken_over(unopened_arena) as hostile:
        places = unopened_arena.host._parts.loader._placement._places
        theirs = places[unopened_arena.host.modules["bystander"]].token
        for token in (theirs, theirs[:-1], "", "forged"):
            assert await hostile.call("attack", "session_with", token) == 16
        assert await hostile.call("attack", "lend") == 16
        assert await hostile.call("attack", "session_with", places[hostile].token) == 7
        assert hostile.state is ModuleState.RUNNING
