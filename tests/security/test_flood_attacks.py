"""Floods of HTTP/2 frames on the host's gRPC socket, by processes with a token and with none."""

from __future__ import annotations

import pytest

from tests.security.arena import Arena
from tests.security.test_grpc_attacks import client

pytestmark = pytest.mark.isolation("process")


@pytest.mark.parametrize("known", [False, True], ids=["no_token", "token"])
async def test_h2_ping_flood(arena: Arena, *, known: bool):
    """Who floods pings is dropped, whoever it is; the others' calls go on."""
    token = arena.host.gateway.issue_token("bystander") if known else ""
    assert await client(arena, "ping", token) == ["dropped"]


@pytest.mark.parametrize("known", [False, True], ids=["no_token", "token"])
async def test_h2_rapid_reset(arena: Arena, *, known: bool):
    """Who opens calls and resets them at once, without end, is dropped."""
    token = arena.host.gateway.issue_token("bystander") if known else ""
    assert await client(arena, "reset", token) == ["dropped"]


@pytest.mark.parametrize("how", ["settings", "empty", "priority"])
async def test_h2_control_flood(arena: Arena, how: str):
    """Floods of other frames that cost their sender nothing end the same way."""
    token = arena.host.gateway.issue_token("bystander")
    assert await client(arena, how, token) == ["dropped"]


async def test_h2_window_flood(arena: Arena):
    """WINDOW_UPDATEs without end, of which an honest client sends many, cost no more than a slice of each loop turn."""
    token = arena.host.gateway.issue_token("bystander")
    assert await client(arena, "window", token) in (["dropped"], ["served"])  # by how fast this machine is
