"""Attacks on the moment in which a permission is taken back."""

from __future__ import annotations

import asyncio
from pathlib import Path

from coredeno import Context, Grant, Hooks, PermissionRequest, Service, rpc
from tests.security.arena import Arena

ATTACKER = """
    let core, denied = 0, done = 0;
    const wrote = () => { if (++done === 10) core.services.vault.tell(); };
    const outcome = (asked) => asked.then(wrote, ({ name }) => { denied += name === "PermissionDenied"; });
    export function init(c) { core = c; }
    export const request = (permissions) => core.permissions.request(permissions);
    /** Writes as fast as it can, until it has been refused often. */
    export async function write() {
        let number = 0;
        const writer = async () => {
            while (denied < 40) await outcome(core.files.write(`drop/${number++}`, "x"));
        };
        await Promise.all(Array.from({ length: 4 }, writer));
        return done;
    }
    export const hold = () => core.services.vault.hold().then(() => "held", (error) => error.name);
"""


class Vault(Service, name="vault"):
    """A service that is under way for as long as nobody cancels it."""

    def __init__(self) -> None:
        self.is_entered = asyncio.Event()
        self.is_told = asyncio.Event()
        self.holds = 0

    @rpc
    async def tell(self, ctx: Context) -> None:
        self.is_told.set()

    @rpc
    async def hold(self, ctx: Context) -> None:
        self.holds += 1
        self.is_entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.holds -= 1


class Granting(Hooks):
    """Grants everything."""

    async def permission_requested(self, request: PermissionRequest) -> Grant:
        return Grant.until_unloaded()


def dropped(root: Path) -> set[str]:
    folder = root / "drop"
    return {entry.name for entry in folder.iterdir()} if folder.exists() else set()


async def test_grant_race(unopened_arena: Arena):
    """What is revoked while it is used ends then: after `revoke` nothing is written, and no service is under way."""
    vault = Vault()
    unopened_arena.services.append(vault)
    unopened_arena.hooks = [Granting()]
    optional = "permissions: {optional: {write: [drop], services: {vault: []}}}"
    async with unopened_arena.open(call_timeout_s=20) as arena:
        evil = await arena.attacker(ATTACKER, optional)
        assert (await evil.call("request", {"write": ["drop"], "services": {"vault": []}}))["granted"]
        holding = asyncio.create_task(evil.call("hold"))
        writing = asyncio.create_task(evil.call("write"))
        await vault.is_entered.wait()
        await vault.is_told.wait()
        await arena.host.revoke("attacker", "files.write")
        left = await asyncio.to_thread(dropped, arena.root)
        assert all(name.isdecimal() for name in left), "a file that was half written is gone"
        assert await writing >= 10
        assert await asyncio.to_thread(dropped, arena.root) == left
        assert vault.holds == 1  # it relied on something else
        await arena.host.revoke("attacker", "services.vault")
        assert vault.holds == 0
        assert await holding == "PermissionDenied"
