"""Attacks on the host's gRPC socket, by processes that are no sidecars: with a token, a foreign one, or none."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from pathlib import Path

import pytest

from coredeno import ModuleState
from coredeno.gateway.gateway import UnknownToken
from tests.security.arena import Arena

CLIENT = Path(__file__).with_name("hostile_client.py")
UNAUTHENTICATED, RESOURCE_EXHAUSTED = "status 16", "status 8"
NOBODY = 65534

pytestmark = pytest.mark.isolation("process")


async def client(arena: Arena, how: str, *tokens: str) -> list[str]:
    """What a client in a process of its own says that came of its attack, with each of these tokens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CLIENT), str(arena.host.socket), how, *tokens, stdout=-1, stderr=-1
    )
    said, problem = await process.communicate()
    assert process.returncode == 0, problem.decode()
    return said.decode().splitlines()


async def test_grpc_length_bomb(arena: Arena):
    """A message that says it is huge is refused by its length, and of what follows only a little is ever held."""
    token = arena.host.gateway.issue_token("bystander")
    for size in (0xFFFFFFFF, 2 * 1024 * 1024):
        outcomes = await client(arena, f"bomb {size}", *[token] * 20, "forged")
        assert outcomes == [*[RESOURCE_EXHAUSTED] * 20, UNAUTHENTICATED]


async def test_connect_host_socket(arena: Arena):
    """Nobody is let in without a token of this host, from another process than it was given to, or as another user."""
    gateway, socket = arena.host.gateway, arena.host.socket
    theirs = arena.host._parts.loader._placement._places[arena.host.modules["bystander"]].token
    issued = gateway.issue_token("bystander")
    outcomes = await client(arena, "knock", "", "forged", theirs, theirs[:-1], theirs.swapcase(), issued)
    assert outcomes == [*[UNAUTHENTICATED] * 5, "status 0"]
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    for user in {NOBODY, os.geteuid() + 1} - {os.geteuid()}:  # nobody may run this
        with pytest.raises(UnknownToken):
            gateway.peer(issued, None, user)
    if os.geteuid() == 0:  # only root can become another user, to try it in earnest
        await as_nobody(arena, issued)
    gateway.revoke_token(issued)
    assert await client(arena, "knock", issued) == [UNAUTHENTICATED]
    assert arena.host.modules["bystander"].state is ModuleState.RUNNING


async def as_nobody(arena: Arena, token: str) -> None:
    """Another user does not reach the socket; and where its folders were opened to all, the token does not help."""
    socket = arena.host.socket
    assert await client(arena, f"as {NOBODY}", token) == ["refused"]
    folders = [
        folder for folder in socket.parents if folder.owner() == socket.owner() and len(folder.parts) > 2
    ]
    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in folders]
    try:
        for folder in folders:
            folder.chmod(0o711)
        socket.chmod(0o666)
        assert await client(arena, f"as {NOBODY}", token) == [UNAUTHENTICATED]
    finally:
        for folder, mode in zip(folders, modes, strict=True):
            folder.chmod(mode)
