"""Attacks on installed plugins by who can write to the disk, and on grants that last by who takes a plugin's code."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coredeno import Grant, Hooks, ModuleState, PermissionRequest, TrustStore
from coredeno.errors import InstallError
from coredeno.install.release import RELEASE, SIGNATURE
from coredeno.install.signing import SigningKey
from tests.git.repositories import commit, make_repository
from tests.security.arena import Arena
from tests.shops import Files, damage, plugin_files, signed, write_files

pytestmark = pytest.mark.isolation("process")

HONEST = """
    import { words } from "./lib/words.ts";
    export const greet = () => words;
"""
WORDS = "export const words = 'Hello';\n"
EVIL = """
    export const init = async (core) => { await core.store.set("ran", "evil"); };
    export const greet = () => "Evil!";
"""


AT_A_START = ("as many bytes", "a larger manifest", "without a signature", "another author's signature")


def published(key: SigningKey, source: str = HONEST) -> Files:
    """The release of `tagger`, signed with this key."""
    return signed(plugin_files(**{"main.ts": source, "lib/words.ts": WORDS}), key)


def rewritten(release: Path, files: Files) -> None:
    """Put these files in the place of the installed ones, and the list of them too."""
    for name in (SIGNATURE, RELEASE):
        (release / name).unlink()
    write_files(release, files)


class Tampering:
    """What somebody who can write to the disk may do to an installed release."""

    def __init__(self, folder: Path, author: SigningKey, other: SigningKey) -> None:
        self._folder = folder
        self._author = author
        self._other = other

    def ways(self) -> dict[str, Callable[[Path], object]]:
        """Each way by its name."""
        return {
            "another content": lambda release: (release / "main.ts").write_text(EVIL),
            "as many bytes": lambda release: (release / "lib/words.ts").write_text(
                WORDS.replace("Hello", "Evil!")
            ),
            "one byte more": lambda release: (release / "main.ts").write_text(HONEST + " "),
            "a file more": lambda release: (release / "lib/more.ts").write_text(EVIL),
            "a folder more": lambda release: (release / "more").mkdir(),
            "a file less": lambda release: (release / "lib/words.ts").unlink(),
            "a larger manifest": self._widen,
            "a link": lambda release: self._led_outside(release).symlink_to(self._outside()),
            "a second name": lambda release: self._led_outside(release).hardlink_to(self._outside()),
            "without a signature": self._unsigned,
            "an old signature": self._listed_anew,
            "a stranger's signature": lambda release: rewritten(
                release, published(SigningKey.generate(), EVIL)
            ),
            "another author's signature": lambda release: rewritten(release, published(self._other, EVIL)),
            "another release": lambda release: rewritten(release, published(self._author, EVIL)),
        }

    def _outside(self) -> Path:
        outside = self._folder / "outside.ts"
        outside.write_text(WORDS)
        return outside

    @staticmethod
    def _led_outside(release: Path) -> Path:
        (release / "lib/words.ts").unlink()
        return release / "lib/words.ts"

    @staticmethod
    def _widen(release: Path) -> None:
        view = release / ".core/view.yml"
        view.write_text(view.read_text() + "permissions: {read: [.], write: [.]}\n")

    def _unsigned(self, release: Path) -> None:
        rewritten(release, published(self._author, EVIL))
        (release / SIGNATURE).unlink()

    def _listed_anew(self, release: Path) -> None:
        signature = (release / SIGNATURE).read_bytes()
        rewritten(release, published(self._other, EVIL) | {SIGNATURE: signature})


async def test_tampered_install(unopened_arena: Arena):
    """What was changed of an installed plugin is found at its next load, and at the next start; it never runs."""
    arena = unopened_arena
    author, other = SigningKey.generate(), SigningKey.generate()
    arena.parts["trust"] = TrustStore([author.public_hex, other.public_hex])
    repository, intact = arena.folder / "tagger.git", arena.folder / "intact"
    await asyncio.to_thread(make_repository, repository, published(author))
    ways = Tampering(arena.folder, author, other).ways()
    async with arena.open():
        host = arena.host
        plugin = await host.install(repository)
        release = arena.root / ".core" / "plugins" / "tagger" / plugin.digest
        await asyncio.to_thread(shutil.copytree, release, intact)

        def mend() -> None:
            shutil.rmtree(release)
            shutil.copytree(intact, release)

        for way, change in ways.items():
            module = await host.load("tagger")
            await asyncio.to_thread(damage, release, change)
            assert await module.call("greet") == "Hello", way  # what runs is what was verified
            await module.unload()
            with pytest.raises(InstallError):
                await host.load("tagger")
            assert host.modules["tagger"].state is ModuleState.QUARANTINED, way
            await host.modules["tagger"].unload()
            await asyncio.to_thread(mend)
    for way in AT_A_START:
        await asyncio.to_thread(damage, release, ways[way])
        async with arena.open():
            assert arena.host.modules["tagger"].state is ModuleState.QUARANTINED, way
            assert await arena.host.store.get("tagger", "ran") is None
        await asyncio.to_thread(mend)
    async with arena.open():
        assert (
            await arena.host.modules["tagger"].call("greet") == "Hello"
        )  # only the changes kept it from running


class Granting(Hooks):
    """Grants whatever is asked for, until it is revoked."""

    async def permission_requested(self, request: PermissionRequest) -> Grant:
        return Grant.until_revoked()


ASKS = """
    let core;
    export function init(c) { core = c; }
    export const ask = () => core.permissions.request({ read: ["data"] });
    export const query = () => core.permissions.query({ read: ["data"] });
    export const read = () => core.files.readText("data/a.txt").catch((error) => error.name);
"""
OPTIONAL = "permissions: {optional: {read: [data]}}"


async def test_inherited_grant(unopened_arena: Arena):
    """What was granted for good to one author's plugin is not had by another's under its code, signed or not."""
    arena = unopened_arena
    author, other = SigningKey.generate(), SigningKey.generate()
    arena.parts["trust"] = TrustStore([author.public_hex, other.public_hex])
    arena.hooks = [Granting()]
    (arena.root / "data").mkdir(parents=True)
    (arena.root / "data" / "a.txt").write_text("secret")

    def version(number: str, key: SigningKey, seq: int) -> Files:
        return signed(plugin_files(version=number, manifest=OPTIONAL, **{"main.ts": ASKS}), key, seq)

    repository = arena.folder / "tagger.git"
    await asyncio.to_thread(make_repository, repository, version("1.0.0", author, 1))
    async with arena.open():
        host = arena.host
        await host.install(repository)
        honest = await host.load("tagger")
        assert await honest.call("ask") == {"granted": True, "reason": ""}
        assert await honest.call("read") == "secret"
        await honest.unload()
        unsigned = await arena.attacker(ASKS, OPTIONAL, code="tagger")
        assert (await unsigned.call("query"), await unsigned.call("read")) == ("prompt", "PermissionDenied")
        await unsigned.unload()
        await asyncio.to_thread(commit, repository, version("2.0.0", other, 2))
        await host.update("tagger", signer=other.public_hex)
        foreign = await host.load("tagger")
        assert (await foreign.call("query"), await foreign.call("read")) == ("prompt", "PermissionDenied")
        await host.rollback("tagger", "1.0.0")
        again = host.modules["tagger"]
        assert (await again.call("query"), await again.call("read")) == (
            "granted",
            "secret",
        )  # it was there all along
