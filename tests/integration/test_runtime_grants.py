"""`core.permissions` in a real Deno: asking, being granted, and losing it again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coredeno import Grant, Hooks, ModuleState, PermissionRequest, PluginRaised, Policy

ASKS = """
    let core;
    export function init(c) { core = c; }
    export const request = (permissions, reason) => core.permissions.request(permissions, reason);
    export const query = (permissions) => core.permissions.query(permissions);
    export const read = (path) => core.files.readText(path);
    let program;
    export const start = async () => { program = await core.processes.start("sleep", ["100"]); };
    export const wait = async () => (await program.wait()).exitCode;
    export const reach = (port) => Deno.connect({ hostname: "127.0.0.1", port })
        .then((conn) => (conn.close(), "open"), (error) => error.name);
    export const frozen = () => Object.isFrozen(core.permissions);
"""


class Answering(Hooks):
    """Answers as it is told."""

    def __init__(self, answer: Grant) -> None:
        self.answer = answer
        self.requests: list[PermissionRequest] = []

    async def permission_requested(self, request: PermissionRequest) -> Grant:
        self.requests.append(request)
        return self.answer


def photos(root: Path) -> None:
    (root / "photos").mkdir(parents=True)
    (root / "photos" / "a.txt").write_text("a")


async def test_a_file_by_a_grant(boot, write):
    """A plugin asks, is granted it, uses it, and has it no more once it is revoked."""
    answering = Answering(Grant.until_unloaded())
    photos(boot.root)
    host = await boot(hooks=[answering])
    module = await host.load_path(write("asks", ASKS, "permissions: {optional: {read: [photos]}}"))
    wanted = {"read": ["photos/a.txt"]}
    assert await module.call("frozen") is True
    assert await module.call("query", wanted) == "prompt"
    assert await module.call("request", wanted, "to tag") == {"granted": True, "reason": ""}
    assert answering.requests[0].reason == "to tag"
    assert await module.call("read", "photos/a.txt") == "a"
    assert await module.call("query", wanted) == "granted"
    assert await host.revoke("asks", "files.read") == ("photos/a.txt",)
    with pytest.raises(PluginRaised, match=r"files\.read") as caught:
        await module.call("read", "photos/a.txt")
    assert caught.value.code == "PERMISSION_DENIED"
    assert await module.call("query", {"read": ["elsewhere"]}) == "denied"


async def test_a_program_by_a_grant(boot, write):
    """A program that runs by a grant is stopped when it is revoked."""
    host = await boot(hooks=[Answering(Grant.once())], config={"programs": {"sleep": "/bin/sleep"}})
    module = await host.load_path(write("asks", ASKS, "permissions: {optional: {run: [sleep]}}"))
    assert (await module.call("request", {"run": ["sleep"]}))["granted"]
    await module.call("start")
    waiting = asyncio.create_task(module.call("wait"))
    await host.revoke("asks", "processes.start", "sleep")
    assert await waiting == -15


async def test_a_host_by_a_grant(boot, write):
    """A host that is granted is reached after the next load; when it is revoked, the module is stopped at once."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    name = f"127.0.0.1:{port}"
    try:
        policy = Policy(net=("public", name))
        host = await boot(hooks=[Answering(Grant.until_revoked())], config={"policy": policy})
        folder = write("asks", ASKS, f"permissions: {{optional: {{net: ['{name}']}}}}")
        module = await host.load_path(folder)
        assert (await module.call("request", {"net": [name]}))["granted"]
        assert await module.call("reach", port) == "NotCapable"
        await module.unload()
        module = await host.load_path(folder)
        assert await module.call("reach", port) == "open"
        assert await host.revoke("asks", "net") == (name,)
        assert module.state is ModuleState.STOPPED
        module = await host.load_path(folder)
        assert await module.call("reach", port) == "NotCapable"
    finally:
        server.close()
        await server.wait_closed()
