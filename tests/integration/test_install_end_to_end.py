"""From a real repository, over HTTP and from a path, to a module that runs in a real Deno, and back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coredeno import Hooks, HostConfig, ModuleState, PluginHost, PluginRaised, TrustStore, UpdateUndone
from coredeno.errors import ConsentRequired, IntegrityError
from coredeno.install.signing import SigningKey, sign_folder
from tests.git.repositories import commit, make_repository
from tests.git.server import GitServer
from tests.hosts import compiled_before, nothing_left
from tests.shops import Files, damage, plugin_files, read_files, signed, write_files

FIRST = """
import { words } from "./lib/words.ts";
let core;
export async function init(c) { core = c; await core.store.set("visits", "0"); }
export async function greet(name) {
  const visits = Number(await core.store.get("visits")) + 1;
  await core.store.set("visits", String(visits));
  return `${words} ${name}, visit ${visits}`;
}
export async function read(path) { return await core.files.readText(path); }
export function version() { return "1.0.0"; }
"""
SECOND = FIRST.replace('"1.0.0"', '"2.0.0"')
BROKEN = "export function init() { throw new Error('not today'); }\n"


def version(number: str, source: str, key: SigningKey, *, seq: int, manifest: str = "") -> Files:
    files = plugin_files(
        version=number,
        manifest=manifest,
        **{"main.ts": source, "lib/words.ts": "export const words = 'Hello';\n"},
    )
    return signed(files, key, seq)


@pytest.fixture(params=["http", "path", "file"])
def published(request: pytest.FixtureRequest, tmp_path: Path):
    """A repository with three versions; gives where it is, its folder, and the key."""
    key = SigningKey.generate()
    repository = tmp_path / "published" / "tagger.git"
    make_repository(repository, version("1.0.0", FIRST, key, seq=1), tag="v1.0.0")
    if request.param == "http":
        with GitServer(tmp_path / "published") as server:
            yield server.url("tagger.git"), repository, key
    else:
        yield (repository.as_uri() if request.param == "file" else str(repository)), repository, key


class Consents(Hooks):
    def __init__(self) -> None:
        self.answer: bool | None = None

    async def update_widens(self, plan):
        return self.answer


async def test_the_whole_way(published, tmp_path: Path, compiled: Path):
    """Plan, apply, load, call, update, consent, a version that fails, rollback, restart with auto-load, remove."""
    url, repository, key = published
    root = tmp_path / "app"
    (root / "notes").mkdir(parents=True)
    (root / "notes" / "today.txt").write_text("a note")
    compiled_before(root, compiled)
    hooks = Consents()

    def host() -> PluginHost:
        return PluginHost(root, hooks=[hooks], trust=TrustStore(), config=HostConfig())

    def publish(files: Files, tag: str) -> None:
        commit(repository, files, tag=tag)

    async with nothing_left(root):
        async with host() as app:
            plan = await app.plan_install(url, ref="v1.0.0", signer=key.public_hex)
            assert (plan.code, plan.version, plan.signer) == ("tagger", "1.0.0", key.public_hex)
            assert len(plan.revision) == 40
            assert {file.path for file in plan.files} == {".core/view.yml", "main.ts", "lib/words.ts"}
            await plan.apply()
            assert app.modules == {}
            module = await app.load("tagger")
            assert await module.call("greet", "Ada", returns=str) == "Hello Ada, visit 1"
            with pytest.raises(PluginRaised, match=r"permissions\.read"):
                await module.call("read", "notes/today.txt")

            wider = version("2.0.0", SECOND, key, seq=2, manifest="permissions: {read: [notes]}\n")
            await asyncio.to_thread(publish, wider, "v2.0.0")
            with pytest.raises(ConsentRequired, match="read notes"):
                await app.update("tagger", ref="v2.0.0")
            assert module.state is ModuleState.RUNNING
            assert await module.call("version") == "1.0.0"
            hooks.answer = True
            await app.update("tagger", ref="v2.0.0")
            module = app.modules["tagger"]
            assert await module.call("version") == "2.0.0"
            assert await module.call("read", "notes/today.txt", returns=str) == "a note"

            await asyncio.to_thread(publish, version("3.0.0", BROKEN, key, seq=3), "v3.0.0")
            with pytest.raises(UpdateUndone, match=r"not today.*2\.0\.0 runs again"):
                await app.update("tagger", ref="v3.0.0")
            assert await app.modules["tagger"].call("version") == "2.0.0"

            assert (await app.rollback("tagger")).version == "1.0.0"
            assert await app.modules["tagger"].call("version") == "1.0.0"
        async with host() as app:
            assert await app.modules["tagger"].call("version") == "1.0.0"
            await app.rollback("tagger", "2.0.0")
            assert await app.modules["tagger"].call("version") == "2.0.0"
            await app.remove("tagger")
            assert dict(app.modules) == {}
        async with host() as app:
            assert await app.installed() == []
            assert dict(app.modules) == {}


async def test_a_folder_that_its_author_signed(tmp_path: Path, compiled: Path):
    """`sign_folder` in a checkout, `git commit`, install: what the README tells an author to do."""
    key = SigningKey.generate()
    checkout = tmp_path / "checkout"

    def publish() -> None:
        write_files(checkout, plugin_files(manifest="name: Tagger\n"))
        sign_folder(checkout, key, seq=1)
        make_repository(tmp_path / "tagger.git", read_files(checkout))

    await asyncio.to_thread(publish)
    root = tmp_path / "app"
    compiled_before(root, compiled)
    async with PluginHost(root, trust=TrustStore([key.public_base64])) as app:
        await app.install(tmp_path / "tagger.git")
        assert await (await app.load("tagger")).call("version") == "1.0.0"


async def test_what_was_tampered_with_never_runs(tmp_path: Path, compiled: Path):
    """A changed file of an installed plugin: the next load and the next start refuse it, with a real Deno too."""
    key = SigningKey.generate()
    await asyncio.to_thread(
        make_repository, tmp_path / "tagger.git", version("1.0.0", FIRST, key, seq=1), tag="v1"
    )
    root = tmp_path / "app"
    compiled_before(root, compiled)
    async with PluginHost(root, trust=TrustStore([key.public_hex])) as app:
        await app.install(str(tmp_path / "tagger.git"), ref="v1")
        [folder] = (root / ".core" / "plugins" / "tagger").iterdir()
        damage(
            folder, lambda folder: (folder / "lib" / "words.ts").write_text("export const words = 'Evil';")
        )
        with pytest.raises(IntegrityError, match=r"lib/words\.ts"):
            await app.load("tagger")
    async with PluginHost(root, trust=TrustStore([key.public_hex])) as app:
        assert app.modules["tagger"].state is ModuleState.QUARANTINED
