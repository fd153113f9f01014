"""Installing, updating, rolling back and removing on a real disk and database; the sidecars are fakes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from pathlib import Path

import pytest

from coredeno import Hooks, ModuleState, Policy
from coredeno.errors import (
    ConsentRequired,
    DowngradeRefused,
    IndexInvalid,
    InstallError,
    IntegrityError,
    ManifestError,
    PermissionDenied,
    SignatureError,
    SourceUnavailable,
    StoreError,
    UnsafePath,
    UpdateUndone,
    UsageError,
)
from coredeno.install.index import Index
from coredeno.install.release import CONTEXT, SignatureFile, encode_signature
from coredeno.install.signing import SigningKey
from coredeno.install.trust import TrustedKey, TrustStore
from coredeno.interfaces import FetchProgress
from coredeno.store.sqlite import SqliteStore
from coredeno.testing import FakeLauncher, FaultyStore, MemoryFetcher
from tests.shops import URL, Shop, Tagger, damage, plugin_files, signed, write_files


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    shop.publish("1.0.0")
    return shop


async def versions(host) -> dict[str, str]:
    return {plugin.code: plugin.version for plugin in await host.installed()}


def release_folder(shop: Shop, version: str = "1.0.0") -> Path:
    """Where this version of the tagger lies."""
    for folder in (shop.plugin_folder / "tagger").iterdir():
        if json.loads((folder / ".core" / "release.json").read_text())["version"] == version:
            return folder
    raise AssertionError(f"no version {version}")


class Told(Hooks):
    """What a hook was told, and what it answers."""

    def __init__(self, *, consents: bool | None = None) -> None:
        self.consents = consents
        self.asked: list[tuple[str, ...]] = []
        self.quarantined: list[tuple[str, str]] = []

    async def update_widens(self, plan):
        self.asked.append(plan.difference.added_permissions)
        return self.consents

    async def module_quarantined(self, module, error):
        self.quarantined.append((module.code, str(error)))


# --- the way it is meant


async def test_a_plan_says_everything_and_changes_nothing(shop: Shop):
    """Code, version, signer, files with sizes and permissions in words; and nothing is live before `apply`."""
    files = plugin_files(manifest="permissions: {read: [photos]}\nservices: {weather: [read]}\n")
    shop.publish("1.0.0", files, seq=7)
    progress: list[FetchProgress] = []
    async with shop.host() as host:
        plan = await host.plan_install(URL, ref="1.0.0", on_progress=progress.append)
        assert (plan.code, plan.version, plan.seq) == ("tagger", "1.0.0", 7)
        assert (plan.signature, plan.signer) == ("release", shop.key.public_hex)
        assert {file.path: file.size for file in plan.files} == {p: len(data) for p, data in files.items()}
        assert plan.size_bytes == sum(map(len, files.values()))
        assert plan.permissions == (
            "read photos beneath the app's folder",
            "use the app's service weather (read)",
        )
        assert (plan.refused, plan.difference, plan.needs_consent) == ((), None, False)
        assert await host.installed() == []
        assert host.modules == {}
        assert not list(shop.plugin_folder.glob("tagger/*"))

        plugin = await plan.apply()
        assert (plugin.code, plugin.version, plugin.digest) == ("tagger", "1.0.0", plan.digest)
        assert await host.installed() == [plugin]
        assert host.modules == {}, "a first install loads nothing"
        assert shop.releases() == {f"tagger/{plan.digest}"}
        with pytest.raises(UsageError, match="was applied or discarded before"):
            await plan.apply()
    assert progress


async def test_a_discarded_plan_leaves_nothing(shop: Shop):
    """`discard`, and the end of `async with`, remove what was staged; twice is harmless."""
    async with shop.host() as host:
        async with await host.plan_install(URL, ref="1.0.0") as plan:
            pass
        await plan.discard()
        assert shop.releases() == set()
        with pytest.raises(UsageError):
            await plan.apply()


async def test_what_is_staged_ends_with_the_host(shop: Shop):
    """A plan that nobody applied is gone when the host has stopped, and cannot be applied then."""
    async with shop.host() as host:
        plan = await host.plan_install(URL, ref="1.0.0")
    assert shop.releases() == set()
    with pytest.raises(UsageError, match="does not run"):
        await plan.apply()


async def test_installed_plugins_load_at_every_start(shop: Shop):
    """Installed by one host, loaded by `load` and by the next host, with the app's settings for it."""
    got = []

    class Configured(Tagger):
        async def init(self, core):
            got.append(dict(core.config))

    shop.plugins["tagger"] = Configured
    settings = {"tagger": {"size": 3}}
    async with shop.host(settings=settings) as host:
        await host.install(URL, ref="1.0.0")
        module = await host.load("tagger")
        assert module.state is ModuleState.RUNNING
        with pytest.raises(UsageError, match="RUNNING already"):
            await host.load("tagger")
    async with shop.host(settings=settings) as host:
        assert host.modules["tagger"].state is ModuleState.RUNNING
        await host.modules["tagger"].unload()
        await host.load("tagger", config={"size": 4})
    async with shop.host(autoload=False) as host:
        assert host.modules == {}
    assert got == [{"size": 3}, {"size": 3}, {"size": 4}]


async def test_update_reloads_and_rollback_goes_back(shop: Shop):
    """An update of a loaded plugin runs as the new version; the former ones are kept, and can be gone back to."""
    shop.publish("2.0.0", seq=2)
    shop.publish("3.0.0", seq=3)
    async with shop.host() as host:
        stream = host.events()
        await host.install(URL, ref="1.0.0")
        await host.load("tagger")
        assert (await host.update("tagger", ref="2.0.0")).kept == ("1.0.0",)
        assert (await host.update("tagger", ref="3.0.0")).kept == ("1.0.0", "2.0.0")
        assert host.modules["tagger"].version == "3.0.0"
        assert (await host.rollback("tagger")).version == "2.0.0"
        assert (await host.rollback("tagger")).version == "1.0.0"
        assert host.modules["tagger"].version == "1.0.0"
        with pytest.raises(UsageError, match="no former version"):
            await host.rollback("tagger")
        with pytest.raises(UsageError, match=r"no version '9' .* it has 1\.0\.0, 2\.0\.0, 3\.0\.0"):
            await host.rollback("tagger", "9")
        assert (await host.rollback("tagger", "3.0.0")).version == "3.0.0"
    names = [type(event).__name__ async for event in stream]
    told = [name for name in names if name.startswith("Plugin")]
    assert told == ["PluginInstalled", "PluginUpdated", "PluginUpdated", *["PluginRolledBack"] * 3]


async def test_former_releases_are_kept_as_many_as_wanted(shop: Shop):
    """`kept_releases` former ones stay on the disk; what falls out is removed."""
    for number in range(2, 5):
        shop.publish(f"{number}.0.0", seq=number)
    async with shop.host(kept_releases=1) as host:
        await host.install(URL, ref="1.0.0")
        for number in range(2, 5):
            await host.update("tagger", ref=f"{number}.0.0")
        [plugin] = await host.installed()
        assert plugin.kept == ("3.0.0",)
        assert len(shop.releases()) == 2


async def test_update_after_a_rollback(shop: Shop):
    """Going back is the app's right and does not lower the mark: the newest release is accepted again."""
    shop.publish("2.0.0", seq=2)
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        await host.update("tagger", ref="2.0.0")
        await host.rollback("tagger")
        assert (await host.update("tagger", ref="1.0.0")).version == "1.0.0", "it is the active one"
        assert (await host.update("tagger", ref="2.0.0")).version == "2.0.0"
        with pytest.raises(DowngradeRefused, match="older than 2"):
            await host.update("tagger", ref="1.0.0")
        assert len(shop.releases()) == 2


async def test_an_update_to_the_same_release_changes_nothing(shop: Shop):
    """The module is not reloaded, and nothing new lies on the disk."""
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        module = await host.load("tagger")
        before = shop.releases()
        await host.update("tagger")
        assert host.modules["tagger"] is module
        assert module.state is ModuleState.RUNNING
        assert shop.releases() == before


async def test_a_pinned_plugin_is_not_updated(shop: Shop):
    """`pin` holds it, also against a plan; letting it go lets it be updated again."""
    shop.publish("2.0.0", seq=2)
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        plan = await host.plan_install(URL, ref="2.0.0")
        assert (await host.pin("tagger")).pinned
        with pytest.raises(UsageError, match=r"pinned at 1\.0\.0"):
            await host.update("tagger", ref="2.0.0")
        with pytest.raises(UsageError):
            await plan.apply()
        assert not (await host.pin("tagger", pinned=False)).pinned
        assert (await host.update("tagger", ref="2.0.0")).version == "2.0.0"


async def test_remove(shop: Shop):
    """It is unloaded and gone, from records and disk, with its grants; its data only if wanted. Its marks stay."""
    shop.publish("2.0.0", seq=2)
    async with shop.host() as host:
        await host.install(URL, ref="2.0.0")
        module = await host.load("tagger")
        await host.store.set("tagger", "key", "value")
        for key in ("tagger unsigned", "tagger " + "a" * 64, "tagger.other unsigned"):
            await host.store.set("_grants", key, '{"format":1,"permits":[]}')
        await host.remove("tagger")
        assert list(await host.store.get_all("_grants")) == ["tagger.other unsigned"]
        assert module.state is ModuleState.STOPPED
        assert await host.installed() == []
        assert shop.releases() == set()
        assert await host.store.get("tagger", "key") == "value"
        with pytest.raises(UsageError, match="no plugin 'tagger' is installed; installed: none"):
            await host.remove("tagger")
        with pytest.raises(DowngradeRefused):
            await host.install(URL, ref="1.0.0")
        await host.install(URL, ref="2.0.0")
        await host.remove("tagger", data=True)
        assert await host.store.get("tagger", "key") is None
    async with shop.host() as host:
        assert host.modules == {}


async def test_what_is_not_installed(shop: Shop):
    """Each method says that, and names what is."""
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        for ask in (host.load, host.update, host.rollback, host.remove, host.pin):
            with pytest.raises(UsageError, match="no plugin 'nope' is installed; installed: tagger"):
                await ask("nope")


async def test_the_difference_of_an_update(shop: Shop):
    """A plan for an installed plugin says what changes: files, version, permissions in words."""
    files = plugin_files(manifest="permissions: {read: [a, b]}\n", **{"lib/old.ts": "", "same.ts": "x"})
    shop.publish("1.0.0", files)
    files = plugin_files(
        version="2.0.0",
        manifest="permissions: {read: [a/x], net: [a.example]}\n",
        **{"new.ts": "", "same.ts": "x"},
    )
    shop.publish("2.0.0", files, seq=2)
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        plan = await host.plan_install(URL, ref="2.0.0")
        assert plan.difference is not None
        assert plan.difference.version == "1.0.0"
        assert plan.difference.added_permissions == ("reach a.example over the network",)
        assert plan.difference.dropped_permissions == (
            "read a beneath the app's folder",
            "read b beneath the app's folder",
        )
        assert plan.difference.added_files == ("new.ts",)
        assert plan.difference.changed_files == (".core/view.yml", "main.ts")
        assert plan.difference.removed_files == ("lib/old.ts",)


# --- permissions and consent


async def test_what_the_policy_does_not_allow(shop: Shop):
    """The plan names it, `apply` and `install` refuse it, and nothing is installed."""
    shop.publish("1.0.0", plugin_files(manifest="permissions: {net: [a.example], read: [x]}\n"))
    async with shop.host(policy=Policy(net=())) as host:
        plan = await host.plan_install(URL, ref="1.0.0")
        assert plan.refused == ("reach a.example over the network",)
        with pytest.raises(PermissionDenied, match=r"a\.example"):
            await plan.apply()
        with pytest.raises(PermissionDenied):
            await host.install(URL, ref="1.0.0")
        assert await host.installed() == []
        assert shop.releases() == set()


@pytest.mark.parametrize("answers", [(), (None,), (False,), (True, False), ("raises", True)])
async def test_an_update_that_asks_for_more_needs_consent(shop: Shop, answers):
    """Without a True, with a False or a hook that fails, it is refused, and the old version runs on."""

    class Raises(Told):
        async def update_widens(self, plan):
            raise RuntimeError("no")

    hooks = [Raises() if answer == "raises" else Told(consents=answer) for answer in answers]
    shop.publish("2.0.0", plugin_files(version="2.0.0", manifest="permissions: {write: [x]}\n"), seq=2)
    async with shop.host(hooks=hooks) as host:
        await host.install(URL, ref="1.0.0")
        module = await host.load("tagger")
        with pytest.raises(ConsentRequired, match="change x beneath the app's folder") as caught:
            await host.update("tagger", ref="2.0.0")
        assert caught.value.added == ("change x beneath the app's folder",)
        assert module.state is ModuleState.RUNNING
        assert await versions(host) == {"tagger": "1.0.0"}
        assert len(shop.releases()) == 1


async def test_consent(shop: Shop):
    """A hook that agrees, or `consent=True` on the plan, lets the update through."""
    shop.publish("2.0.0", plugin_files(version="2.0.0", manifest="permissions: {write: [x]}\n"), seq=2)
    shop.publish("3.0.0", plugin_files(version="3.0.0", manifest="permissions: {write: [x, y]}\n"), seq=3)
    told = Told(consents=True)
    async with shop.host(hooks=[told, Told()]) as host:
        await host.install(URL, ref="1.0.0")
        await host.update("tagger", ref="2.0.0")
        assert told.asked == [("change x beneath the app's folder",)]
        told.consents = False
        plan = await host.plan_install(URL, ref="3.0.0")
        assert plan.needs_consent
        await plan.apply(consent=True)
        plan = await host.plan_install(URL, ref="3.0.0")
        assert not plan.needs_consent
        assert len(told.asked) == 1


# --- who signed it


async def test_unsigned_plugins(shop: Shop):
    """They need the app's opt-in, at install and at each load; then they are held to what was installed."""
    shop.published["1.0.0"] = plugin_files()
    async with shop.host() as host:
        with pytest.raises(SignatureError, match=r"not signed; wanted \.core/release\.sig, or HostConfig"):
            await host.install(URL, ref="1.0.0")
        assert shop.releases() == set()
    async with shop.host(allow_unsigned=True) as host:
        with pytest.raises(SignatureError, match="not signed, wanted a signature by"):
            await host.install(URL, ref="1.0.0", signer=shop.key.public_hex)
        plugin = await host.install(URL, ref="1.0.0")
        assert (plugin.signature, plugin.signer) == ("none", None)
        await host.load("tagger")
    async with shop.host() as host:
        assert host.modules["tagger"].state is ModuleState.QUARANTINED
        assert isinstance(host.modules["tagger"].error, SignatureError)
    damage(release_folder(shop), lambda folder: (folder / "main.ts").write_text("changed"))
    async with shop.host(allow_unsigned=True) as host:
        assert isinstance(host.modules["tagger"].error, IntegrityError)


ORIGINAL = b"""code: tagger
name: Tagger
version: 1.0.0
sign: ""
layout: ""
slots: {}
permissions:
    read: []
    write: []
    net: []
    run: []
modules: []
"""


def as_the_original_signs(shop: Shop, manifest: bytes = ORIGINAL) -> dict[str, bytes]:
    signature = base64.b64encode(shop.key.sign(manifest))
    view = manifest.replace(b'sign: ""', b"sign: " + signature)
    return {**plugin_files(), ".core/view.yml": view}


async def test_a_manifest_that_the_original_signed(shop: Shop):
    """It is said to be authentic, but its code is not signed: it counts only if the app says that it is enough."""
    shop.published["1.0.0"] = as_the_original_signs(shop)
    async with shop.host() as host:
        with pytest.raises(SignatureError, match=r"its manifest is, by .*manifest_signatures=True") as caught:
            await host.install(URL, ref="1.0.0")
        assert shop.key.public_hex in str(caught.value)
        assert shop.releases() == set()
    shop.trust.manifest_signatures = True
    async with shop.host() as host:
        with pytest.raises(SignatureError, match="wanted"):
            await host.install(URL, ref="1.0.0", signer=SigningKey.generate().public_hex)
        plugin = await host.install(URL, ref="1.0.0")
        assert (plugin.signature, plugin.signer) == ("manifest", shop.key.public_hex)
        await host.load("tagger")
        shop.published["2.0.0"] = plugin_files(version="2.0.0")
        with pytest.raises(SignatureError):
            await host.update("tagger", ref="2.0.0")
        shop.published["2.0.0"] = as_the_original_signs(shop, ORIGINAL.replace(b"1.0.0", b"2.0.0"))
        await host.update("tagger", ref="2.0.0")
    shop.trust.manifest_signatures = False
    async with shop.host() as host:
        assert isinstance(host.modules["tagger"].error, SignatureError)


async def test_a_key_added_to_a_manifest_that_the_original_signed(shop: Shop):
    """The original would still verify it; here an unknown field is named, and a known one breaks the signature."""
    shop.trust.manifest_signatures = True
    files = as_the_original_signs(shop)
    async with shop.host() as host:
        shop.published["1.0.0"] = edited(files, ".core/view.yml", files[".core/view.yml"] + b"colour: red\n")
        with pytest.raises(ManifestError, match="colour: is not a known field"):
            await host.install(URL, ref="1.0.0")
        shop.published["1.0.0"] = edited(
            files, ".core/view.yml", files[".core/view.yml"] + b"services: {w: []}\n"
        )
        with pytest.raises(SignatureError, match="it is not signed"):
            await host.install(URL, ref="1.0.0")


async def test_a_key_that_is_not_trusted(shop: Shop):
    """The error names the key and what would allow it; naming the key with `signer=` does."""
    async with shop.host(trust=TrustStore()) as host:
        with pytest.raises(SignatureError, match=rf"name it with signer='{shop.key.public_hex}'"):
            await host.install(URL, ref="1.0.0")
        with pytest.raises(SignatureError, match="wanted"):
            await host.install(URL, ref="1.0.0", signer=SigningKey.generate().public_hex)
        with pytest.raises(UsageError, match="public key"):
            await host.install(URL, ref="1.0.0", signer="nonsense")
        assert shop.releases() == set()
        await host.install(URL, ref="1.0.0", signer=shop.key.public_base64)
        await host.load("tagger")
    async with shop.host(trust=TrustStore()) as host:
        assert host.modules["tagger"].state is ModuleState.RUNNING


async def test_a_key_for_some_plugins_only(shop: Shop):
    """A key that is trusted for one code cannot sign another."""
    trust = TrustStore([TrustedKey(shop.key.public_hex, codes=("other",))])
    async with shop.host(trust=trust) as host:
        with pytest.raises(SignatureError, match="not trusted for 'tagger'"):
            await host.install(URL, ref="1.0.0")


async def test_an_update_by_another_key(shop: Shop):
    """A plugin stays with the key that the app named, until the app names another; then its numbers begin anew."""
    stranger = SigningKey.generate()
    shop.publish("1.0.0", seq=2**60)
    shop.publish("2.0.0", seq=1, key=stranger)
    async with shop.host(trust=TrustStore([stranger.public_hex])) as host:
        await host.install(URL, ref="1.0.0", signer=shop.key.public_hex)
        with pytest.raises(SignatureError, match=f"wanted {shop.key.public_hex}"):
            await host.update("tagger", ref="2.0.0")
        with pytest.raises(SignatureError):
            await host.plan_install(URL, ref="2.0.0")
        assert await versions(host) == {"tagger": "1.0.0"}
        await host.update("tagger", ref="2.0.0", signer=stranger.public_hex)
        assert await versions(host) == {"tagger": "2.0.0"}


async def test_a_leaked_key_is_revoked_and_replaced(shop: Shop):
    """The app revokes the old key and trusts a new one: the new key's first release is accepted."""
    new = SigningKey.generate()
    shop.publish("1.0.0", seq=2**60)
    shop.publish("2.0.0", seq=1, key=new)
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        await host.load("tagger")
        with pytest.raises(SignatureError, match="not trusted"):
            await host.update("tagger", ref="2.0.0")
        shop.trust.revoke_key(shop.key.public_hex)
        shop.trust.trust(new.public_hex)
        await host.update("tagger", ref="2.0.0")
        assert host.modules["tagger"].version == "2.0.0"
        with pytest.raises(SignatureError, match="revoked"):
            await host.rollback("tagger")


@pytest.mark.parametrize("what", ["key", "release"])
async def test_what_was_revoked_is_neither_installed_nor_run(shop: Shop, what: str):
    """A revoked key or release: refused at install, at load, and at the next start."""
    told = Told()
    async with shop.host() as host:
        plugin = await host.install(URL, ref="1.0.0")
        if what == "key":
            shop.trust.revoke_key(shop.key.public_hex)
        else:
            shop.trust.revoke_release(plugin.digest)
        with pytest.raises(SignatureError, match="revoked"):
            await host.load("tagger")
        assert host.modules["tagger"].state is ModuleState.QUARANTINED
        await host.remove("tagger")
        with pytest.raises(SignatureError, match="revoked"):
            await host.install(URL, ref="1.0.0")
    shop.trust = TrustStore([shop.key.public_hex])
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
    shop.trust = TrustStore(
        [shop.key.public_hex],
        revoked_keys=[shop.key.public_hex] if what == "key" else [],
        revoked_releases=[plugin.digest] if what == "release" else [],
    )
    async with shop.host(hooks=[told]) as host:
        assert host.modules["tagger"].state is ModuleState.QUARANTINED
        assert [code for code, _ in told.quarantined] == ["tagger"]
        [listed] = await host.installed()
        assert "revoked" in (listed.problem or "")


async def test_older_and_other_releases(shop: Shop):
    """A lower sequence number than seen is refused, and so is the same one with other files."""
    shop.publish("2.0.0", seq=2)
    shop.publish("2.0.1", seq=2)
    async with shop.host() as host:
        await host.install(URL, ref="2.0.0")
        with pytest.raises(DowngradeRefused, match="release 1 of 'tagger' is older than 2") as caught:
            await host.update("tagger", ref="1.0.0")
        assert (caught.value.seq, caught.value.highest) == (1, 2)
        with pytest.raises(DowngradeRefused, match="seen before with other files"):
            await host.update("tagger", ref="2.0.1")
        assert await versions(host) == {"tagger": "2.0.0"}
        assert len(shop.releases()) == 1


async def test_a_signed_plugin_does_not_become_an_unsigned_one(shop: Shop):
    """Also where unsigned plugins are allowed: an update has a signature that is no weaker."""
    shop.published["2.0.0"] = plugin_files(version="2.0.0")
    async with shop.host(allow_unsigned=True) as host:
        await host.install(URL, ref="1.0.0")
        with pytest.raises(SignatureError, match="weaker signature"):
            await host.update("tagger", ref="2.0.0")
        assert await versions(host) == {"tagger": "1.0.0"}


def edited(files, path, data):
    return {**files, path: data}


def without(files, path):
    return {name: data for name, data in files.items() if name != path}


WRONG = {
    "a file changed": (lambda f: edited(f, "main.ts", b"changed"), IntegrityError, "main.ts"),
    "of equal size": (lambda f: edited(f, "main.ts", bytes(len(f["main.ts"]))), IntegrityError, "main.ts"),
    "an extra file": (lambda f: edited(f, "extra.ts", b""), IntegrityError, "extra.ts: is a file that"),
    "a missing file": (lambda f: without(f, "main.ts"), IntegrityError, "main.ts: is missing"),
    "the manifest changed": (
        lambda f: edited(f, ".core/view.yml", b"code: tagger\n"),
        IntegrityError,
        "view.yml",
    ),
    "a byte appended": (
        lambda f: edited(f, ".core/release.json", f[".core/release.json"] + b" "),
        SignatureError,
        "is not the signature of",
    ),
    "no signature": (
        lambda f: without(f, ".core/release.sig"),
        SignatureError,
        r"without \.core/release\.sig",
    ),
    "no release": (
        lambda f: without(f, ".core/release.json"),
        SignatureError,
        r"without \.core/release\.json",
    ),
    "no manifest": (lambda f: without(f, ".core/view.yml"), ManifestError, "is missing"),
    "bad base64": (
        lambda f: edited(f, ".core/release.sig", b'{"format":1,"key":"!","signature":"!"}'),
        SignatureError,
        "key",
    ),
    "no JSON": (lambda f: edited(f, ".core/release.sig", b"\x00"), SignatureError, "release.sig"),
    "a huge signature": (lambda f: edited(f, ".core/release.sig", bytes(2000)), InstallError, "release.sig"),
    "a folder as signature": (
        lambda f: edited(without(f, ".core/release.sig"), ".core/release.sig/x", b""),
        InstallError,
        "release.sig",
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_not_what_was_signed(shop: Shop, name: str):
    """Each is refused by name, at install and at update; the old version still runs, and nothing is left."""
    change, kind, words = WRONG[name]
    good = shop.publish("2.0.0", seq=2)
    shop.published["bad"] = change(good)
    async with shop.host() as host:
        with pytest.raises(kind, match=words):
            await host.install(URL, ref="bad")
        assert shop.releases() == set()
        await host.install(URL, ref="1.0.0")
        await host.load("tagger")
        with pytest.raises(kind, match=words):
            await host.update("tagger", ref="bad")
        assert await versions(host) == {"tagger": "1.0.0"}
        assert await host.modules["tagger"].call("version") == "fake"
        assert len(shop.releases()) == 1


async def test_the_signature_of_another_plugin(shop: Shop):
    """A good release with its good signature, put into another repository: what is wanted is another code."""
    other = signed(plugin_files("other"), shop.key)
    shop.published["other"] = other
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        with pytest.raises(SignatureError, match="is the plugin 'other', wanted 'tagger'"):
            await host.update("tagger", ref="other")
        mixed = {**shop.published["1.0.0"], ".core/release.sig": other[".core/release.sig"]}
        shop.published["mixed"] = mixed
        with pytest.raises(SignatureError, match="is not the signature of"):
            await host.update("tagger", ref="mixed")


def _resigned(shop: Shop, **changes) -> dict[str, bytes]:
    """Version 2.0.0 with other words in its signed list: what only the author could do."""
    files = shop.publish("2.0.0", seq=2)
    listed = json.loads(files[".core/release.json"]) | changes
    data = json.dumps(listed).encode()
    signature = SignatureFile(key=shop.key.public_hex, signature=shop.key.sign(CONTEXT + data))
    return {**files, ".core/release.json": data, ".core/release.sig": encode_signature(signature)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"code": "other"}, r"view\.yml: code: is 'tagger', wanted 'other' as in"),
        ({"version": "3.0.0"}, r"view\.yml: version: is '2\.0\.0', wanted '3\.0\.0'"),
        ({"entry": "nope.ts"}, r"release\.json: entry"),
        ({"entry": "../main.ts"}, r"release\.json: entry"),
        ({"entry": "."}, r"release\.json: entry"),
        ({"seq": 0}, r"release\.json: seq"),
        ({"format": 2}, r"release\.json: format"),
        ({"files": []}, r"release\.json"),
        ({"colour": "red"}, r"release\.json"),
    ],
)
async def test_a_signed_list_that_contradicts_itself(shop: Shop, changes, words: str):
    """Even with a good signature: the list must fit the manifest, and be a list of this plugin's files."""
    shop.published["bad"] = _resigned(shop, **changes)
    async with shop.host() as host:
        with pytest.raises(ManifestError, match=words):
            await host.install(URL, ref="bad")
        assert shop.releases() == set()


@pytest.mark.parametrize("code", ["../x", "a/b", ".staging", "", "UPPER", "x" * 70, "-a", "mod\n"])
async def test_codes_that_are_none(shop: Shop, code: str):
    """A code that is no code is refused as a manifest's field, and nothing of it comes near the disk."""
    view = f"code: {json.dumps(code)}\n".encode()
    shop.published["bad"] = {".core/view.yml": view, "main.ts": b""}
    async with shop.host(allow_unsigned=True) as host:
        with pytest.raises(ManifestError, match="code"):
            await host.install(URL, ref="bad")
        for ask in (host.load, host.update, host.remove):
            with pytest.raises(UsageError):
                await ask(code)
        assert shop.releases() == set()


async def test_unsafe_names_in_an_unsigned_plugin(shop: Shop):
    """What no list names is held to the rules for paths too."""
    shop.published["bad"] = plugin_files(**{"nul.ts": ""})
    async with shop.host(allow_unsigned=True) as host:
        with pytest.raises(UnsafePath, match="nul"):
            await host.install(URL, ref="bad")
        assert shop.releases() == set()


# --- what was changed on the disk since


def _linked(folder: Path) -> None:
    (folder.parents[3] / "elsewhere").hardlink_to(folder / "main.ts")


def _swapped(folder: Path) -> None:
    moved = folder.parents[3] / "moved"
    folder.rename(moved)
    folder.symlink_to(moved)


TAMPERED = {
    "edited": lambda folder: (folder / "main.ts").write_text("changed"),
    "same size": lambda folder: (folder / "main.ts").write_bytes(bytes((folder / "main.ts").stat().st_size)),
    "added": lambda folder: (folder / "extra.ts").write_text(""),
    "a folder added": lambda folder: (folder / "empty").mkdir(),
    "removed": lambda folder: (folder / "main.ts").unlink(),
    "a link": lambda folder: ((folder / "main.ts").unlink(), (folder / "main.ts").symlink_to("/etc/passwd")),
    "hard link": _linked,
    "the release": lambda folder: (folder / ".core" / "release.json").write_text("{}"),
    "the signature": lambda folder: (folder / ".core" / "release.sig").unlink(),
    "the manifest": lambda folder: (folder / ".core" / "view.yml").write_text("code: tagger\n"),
    "everything": lambda folder: [path.unlink() for path in folder.rglob("*") if path.is_file()],
    "swapped for a link": _swapped,
}


@pytest.mark.parametrize("name", [*TAMPERED, "chmod", "gone"])
async def test_tampering_is_caught_at_the_next_start_and_at_the_next_load(shop: Shop, name: str):
    """It is not run: QUARANTINED, with the reason, and the app is told; the next update puts it right."""
    told = Told()
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        folder = release_folder(shop)
        if name == "chmod":
            (folder / "main.ts").chmod(0o755)
        elif name == "gone":
            folder.rename(shop.root / "gone")
        else:
            damage(folder, TAMPERED[name])
        with pytest.raises(IntegrityError):
            await host.load("tagger")
        assert host.modules["tagger"].state is ModuleState.QUARANTINED
    async with shop.host(hooks=[told]) as host:
        module = host.modules["tagger"]
        assert module.state is ModuleState.QUARANTINED
        assert isinstance(module.error, IntegrityError)
        assert told.quarantined == [("tagger", str(module.error))]
        [plugin] = await host.installed()
        assert plugin.problem == str(module.error)
        with pytest.raises(IntegrityError):
            await host.load("tagger")
        await host.update("tagger")
        assert host.modules["tagger"].state is ModuleState.RUNNING
        assert (await host.installed())[0].problem is None


async def test_a_tampered_former_version(shop: Shop):
    """A rollback to it is refused before anything changes."""
    shop.publish("2.0.0", seq=2)
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        await host.update("tagger", ref="2.0.0")
        module = await host.load("tagger")
        damage(release_folder(shop), lambda folder: (folder / "main.ts").write_text("changed"))
        with pytest.raises(IntegrityError, match=r"main\.ts"):
            await host.rollback("tagger")
        assert module.state is ModuleState.RUNNING
        assert await versions(host) == {"tagger": "2.0.0"}


# --- what goes wrong on the way


async def test_a_new_version_that_does_not_load(shop: Shop):
    """The former one is put back and loaded, the error says so, and nothing of the new one is left."""

    class Sulks(Tagger):
        sulking = False

        async def init(self, core):
            if Sulks.sulking:
                raise RuntimeError("not today")

    class SulksOnce(Sulks):
        async def init(self, core):
            if Sulks.sulking:
                Sulks.sulking = False
                raise RuntimeError("not today")

    shop.plugins["tagger"] = SulksOnce
    shop.publish("2.0.0", seq=2)
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        await host.load("tagger", config={"a": 1})
        Sulks.sulking = True
        with pytest.raises(
            UpdateUndone, match=r"2\.0\.0 did not load: .*not today.*1\.0\.0 runs again"
        ) as caught:
            await host.update("tagger", ref="2.0.0")
        assert caught.value.reloaded
        assert host.modules["tagger"].state is ModuleState.RUNNING
        assert host.modules["tagger"].version == "1.0.0"
        assert await versions(host) == {"tagger": "1.0.0"}
        assert len(shop.releases()) == 1
        shop.plugins["tagger"] = Sulks
        Sulks.sulking = True
        with pytest.raises(UpdateUndone, match="could not be loaded either") as caught:
            await host.update("tagger", ref="2.0.0")
        assert not caught.value.reloaded
        assert await versions(host) == {"tagger": "1.0.0"}
        assert host.modules["tagger"].state is ModuleState.ERRORED
        Sulks.sulking = False
        await host.update("tagger", ref="2.0.0")
        assert host.modules["tagger"].version == "2.0.0"


async def test_two_updates_of_one_plugin_at_once(shop: Shop):
    """One after the other; both succeed, and the plugin has what the second one found."""
    shop.publish("2.0.0", seq=2)
    shop.publish("3.0.0", seq=3)
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        await host.load("tagger")
        await asyncio.gather(host.update("tagger", ref="2.0.0"), host.update("tagger", ref="3.0.0"))
        assert host.modules["tagger"].version == "3.0.0"
        assert len(shop.releases()) == 3


async def test_a_slow_update_holds_up_nothing_else(shop: Shop):
    """While it fetches, the plugin can be loaded, pinned and removed; the update then finds it removed."""
    shop.publish("2.0.0", seq=2)
    fetcher = HeldFetcher({URL: shop.published})
    async with shop.host(fetcher=fetcher) as host:
        fetcher.go_on.set()
        await host.install(URL, ref="1.0.0")
        fetcher.go_on.clear()
        fetcher.reached.clear()
        task = asyncio.create_task(host.update("tagger", ref="2.0.0"))
        await fetcher.reached.wait()
        await host.load("tagger")
        await host.remove("tagger")
        fetcher.go_on.set()
        with pytest.raises(UsageError, match="removed meanwhile"):
            await task
        assert shop.releases() == set()


async def test_two_installs_of_one_plugin_at_once(shop: Shop):
    """One is installed, the other finds it there."""
    async with shop.host() as host:
        results = await asyncio.gather(
            host.install(URL, ref="1.0.0"), host.install(URL, ref="1.0.0"), return_exceptions=True
        )
        assert sorted(type(result).__name__ for result in results) == ["InstalledPlugin", "UsageError"]
        with pytest.raises(UsageError, match=r"installed already \(1\.0\.0\)"):
            await host.install(URL, ref="1.0.0")
        assert len(shop.releases()) == 1


async def test_a_plan_that_is_out_of_date(shop: Shop):
    """What was changed since the plan was made is not changed by it."""
    shop.publish("2.0.0", seq=2)
    async with shop.host() as host:
        first, second = [await host.plan_install(URL, ref="1.0.0") for _ in range(2)]
        await first.apply()
        with pytest.raises(UsageError, match="changed since the plan was made"):
            await second.apply()
        assert len(shop.releases()) == 1


async def test_two_hosts_on_one_root(shop: Shop):
    """The second one refuses to start, so nobody else changes what is installed."""
    async with shop.host():
        with pytest.raises(UsageError, match="in use by another host"):
            await shop.host().start()


class HeldFetcher(MemoryFetcher):
    """Waits in the middle of a fetch."""

    def __init__(self, published) -> None:
        super().__init__(published)
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def fetch(self, order, on_progress):
        fetched = await super().fetch(order, on_progress)
        self.reached.set()
        await self.go_on.wait()
        return fetched


async def test_cancelled_while_it_fetches(shop: Shop):
    """Nothing is left, and a second install works."""
    fetcher = HeldFetcher({URL: shop.published})
    async with shop.host(fetcher=fetcher) as host:
        task = asyncio.create_task(host.install(URL, ref="1.0.0"))
        await fetcher.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert shop.releases() == set()
        fetcher.go_on.set()
        await host.install(URL, ref="1.0.0")


async def test_stopped_while_it_fetches(shop: Shop):
    """Whoever waits for it is told, and nothing is left."""
    fetcher = HeldFetcher({URL: shop.published})
    async with shop.host(fetcher=fetcher) as host:
        task = asyncio.create_task(host.install(URL, ref="1.0.0"))
        await fetcher.reached.wait()
    with pytest.raises(UsageError, match="stopped meanwhile"):
        await task
    assert shop.releases() == set()


class HeldStore(SqliteStore):
    """Says when it is written to, and waits then if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def write(self, changes, *, quota=None):
        self.reached.set()
        await self.go_on.wait()
        await super().write(changes)


async def test_cancelled_while_it_commits(shop: Shop):
    """What has begun to count is finished: the new version is active and runs, and the cancellation goes on."""
    shop.publish("2.0.0", seq=2)
    store = HeldStore()
    async with shop.host(store=store) as host:
        await host.install(URL, ref="1.0.0")
        await host.load("tagger")
        plan = await host.plan_install(URL, ref="2.0.0")
        store.reached.clear()
        store.go_on.clear()
        task = asyncio.create_task(plan.apply())
        await store.reached.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        store.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await versions(host) == {"tagger": "2.0.0"}
        assert host.modules["tagger"].version == "2.0.0"


@pytest.mark.parametrize("loaded", [False, True])
async def test_the_store_fails_to_commit(shop: Shop, loaded):
    """A full disk at the last step: refused, the old version runs on, and nothing of the new one is left."""
    shop.publish("2.0.0", seq=2)
    store = FaultyStore(SqliteStore())
    async with shop.host(store=store) as host:
        store.fail_writes(StoreError("store: the disk is full"))
        with pytest.raises(StoreError, match="full"):
            await host.install(URL, ref="1.0.0")
        assert shop.releases() == set()
        await host.install(URL, ref="1.0.0")
        if loaded:
            await host.load("tagger")
        store.fail_writes(StoreError("store: the disk is full"))
        with pytest.raises(StoreError, match="full"):
            await host.update("tagger", ref="2.0.0")
        assert await versions(host) == {"tagger": "1.0.0"}
        assert len(shop.releases()) == 1
        assert not loaded or host.modules["tagger"].version == "1.0.0"
        store.fail_writes(StoreError("store: the disk is full"))
        with pytest.raises(StoreError, match="full"):
            await host.remove("tagger")
        assert await versions(host) == {"tagger": "1.0.0"}
        assert not loaded or host.modules["tagger"].state is ModuleState.RUNNING


async def test_the_store_fails_to_go_back(shop: Shop):
    """The new version does not load, and that cannot be undone either: what the record names stays on the disk."""
    shop.publish("2.0.0", seq=2)
    store = FaultyStore(SqliteStore())

    class Breaks(Tagger):
        is_new = False

        async def init(self, core):
            if Breaks.is_new:
                store.fail_writes(StoreError("store: the disk is full"))
                raise RuntimeError("not today")

    shop.plugins["tagger"] = Breaks
    async with shop.host(store=store) as host:
        await host.install(URL, ref="1.0.0")
        await host.load("tagger")
        Breaks.is_new = True
        with pytest.raises(UpdateUndone, match=r"the next start will try it again: store: the disk is full"):
            await host.update("tagger", ref="2.0.0")
        [plugin] = await host.installed()
        assert f"tagger/{plugin.digest}" in shop.releases()
        Breaks.is_new = False
        assert (await host.load("tagger")).version == plugin.version


async def test_a_plan_survives_a_refused_consent(shop: Shop):
    """Ask the user after `ConsentRequired`, and apply the same plan; refused again, it can still be discarded."""
    shop.publish("2.0.0", plugin_files(version="2.0.0", manifest="permissions: {write: [x]}\n"), seq=2)
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        plan = await host.plan_install(URL, ref="2.0.0")
        for consent in (None, False):
            with pytest.raises(ConsentRequired):
                await plan.apply(consent=consent)
        assert (await plan.apply(consent=True)).version == "2.0.0"
        plan = await host.plan_install(URL, ref="2.0.0")
        await plan.discard()
        assert len(shop.releases()) == 2


async def test_what_is_installed_can_be_put_right_whatever_was_seen_since(shop: Shop):
    """A newer release did not load, and then the good one is damaged: an update to the good one mends it."""

    class Sulks(Tagger):
        sulking = False

        async def init(self, core):
            if Sulks.sulking:
                Sulks.sulking = False
                raise RuntimeError("not today")

    shop.plugins["tagger"] = Sulks
    shop.publish("2.0.0", seq=2)
    shop.publish("3.0.0", seq=3)
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        await host.load("tagger")
        Sulks.sulking = True
        with pytest.raises(UpdateUndone):
            await host.update("tagger", ref="3.0.0")
        await host.update("tagger")
        damage(release_folder(shop), lambda folder: (folder / "main.ts").write_text("changed"))
    async with shop.host() as host:
        assert host.modules["tagger"].state is ModuleState.QUARANTINED
        await host.update("tagger")
        assert host.modules["tagger"].state is ModuleState.RUNNING
        marks = await host.store.get_all("_plugin_seqs")
        assert [json.loads(mark)["seq"] for mark in marks.values()] == [3], (
            "what was seen is not forgotten by that"
        )
        with pytest.raises(DowngradeRefused):
            await host.update("tagger", ref="2.0.0")


async def test_a_plan_for_an_older_release(shop: Shop):
    """It is refused where it is planned, before a user is asked."""
    shop.publish("2.0.0", seq=2)
    async with shop.host() as host:
        await host.install(URL, ref="2.0.0")
        with pytest.raises(DowngradeRefused, match="older than 2"):
            await host.plan_install(URL, ref="1.0.0")


async def test_an_update_to_what_an_index_names(shop: Shop):
    """An entry says the code, where it is now and at which ref; that is followed from then on."""
    elsewhere = "https://git.example/moved/tagger.git"
    shop.publish("2.0.0", seq=2)
    fetcher = MemoryFetcher({URL: shop.published, elsewhere: shop.published})
    async with shop.host(trust=TrustStore(), fetcher=fetcher) as host:
        await host.install(Index.parse(index_of(shop), origin="test").find("tagger"))
        await host.load("tagger")
        entry = Index.parse(index_of(shop, source=elsewhere, ref="2.0.0"), origin="test").find("tagger")
        plugin = await host.update(entry)
        assert (plugin.version, plugin.source, plugin.ref) == ("2.0.0", elsewhere, "2.0.0")
        assert host.modules["tagger"].version == "2.0.0"
        other = Index.parse(index_of(shop, code="other"), origin="test").find("other")
        with pytest.raises(UsageError, match="no plugin 'other' is installed"):
            await host.update(other)


async def test_arguments_of_another_type(shop: Shop):
    """Each is named, with what was wanted; the database never sees it."""
    async with shop.host() as host:
        plugin = await host.install(URL, ref="1.0.0")
        for ask in (host.load, host.update, host.rollback, host.remove, host.pin):
            with pytest.raises(UsageError, match="code is a InstalledPlugin, wanted text such as 'tagger'"):
                await ask(plugin)
        with pytest.raises(UsageError, match="read_index: source is None"):
            await host.installer.read_index(None)


async def test_what_the_app_does_while_its_host_starts(shop: Shop, eventually):
    """A plugin that is updated or removed before its turn to be loaded is loaded as it is then, or not at all."""
    codes = [f"slow{number}" for number in range(4)]
    for code in [*codes, "gone"]:
        shop.published[code] = signed(plugin_files(code), shop.key)
        shop.plugins[code] = Tagger
    shop.publish("2.0.0", seq=2)
    async with shop.host() as host:
        for ref in [*codes, "gone", "1.0.0"]:
            await host.install(URL, ref=ref)
    go_on = asyncio.Event()
    waiting = []

    class Slow(Tagger):
        async def init(self, core):
            waiting.append(core)
            await go_on.wait()

    shop.plugins |= dict.fromkeys(codes, Slow)
    host = shop.host()
    starting = asyncio.create_task(host.start())
    try:
        await eventually(lambda: len(waiting) == len(codes))
        await host.update("tagger", ref="2.0.0")
        await host.remove("gone")
    finally:
        go_on.set()
        await starting
    try:
        assert host.modules["tagger"].version == "2.0.0"
        assert set(host.modules) == {*codes, "tagger"}
    finally:
        await host.stop()


@pytest.mark.parametrize("method", ["update", "remove", "load", "rollback", "pin"])
async def test_a_hook_that_changes_its_own_plugin(shop: Shop, method: str):
    """Waiting for it would wait for ever, so it is refused; in a task of its own it has its turn."""
    hosts, errors, later = [], [], []

    class Eager(Hooks):
        async def module_started(self, module):
            if errors:
                return
            try:
                await getattr(hosts[0], method)(module.code)
            except UsageError as error:
                errors.append(str(error))
            later.append(asyncio.create_task(hosts[0].pin(module.code)))

    async with shop.host(hooks=[Eager()]) as host:
        hosts.append(host)
        await host.install(URL, ref="1.0.0")
        await host.load("tagger")
        assert len(errors) == 1
        assert "plugin 'tagger' is being changed or loaded" in errors[0]
        assert (await later[0]).pinned


async def test_a_hook_and_an_update_that_wait_for_each_other(shop: Shop):
    """The hook of a load wants an update while another one waits for that load: the hook is refused, both go on."""
    shop.publish("2.0.0", seq=2)
    fetcher = HeldFetcher({URL: shop.published})
    hosts, errors = [], []
    may_ask = asyncio.Event()

    class Eager(Hooks):
        async def module_started(self, module):
            if module.version == "1.0.0":
                await may_ask.wait()
                with pytest.raises(UsageError, match="plugin 'tagger' is being changed") as caught:
                    await hosts[0].update(module.code)
                errors.append(caught.value)

    async with shop.host(fetcher=fetcher, hooks=[Eager()]) as host:
        hosts.append(host)
        fetcher.go_on.set()
        await host.install(URL, ref="1.0.0")
        fetcher.reached.clear()
        loading = asyncio.create_task(host.load("tagger"))
        updating = asyncio.create_task(host.update("tagger", ref="2.0.0"))
        await fetcher.reached.wait()
        may_ask.set()
        await asyncio.gather(loading, updating)
        assert len(errors) == 1
        assert host.modules["tagger"].version == "2.0.0"


async def test_a_hook_that_changes_its_plugin_in_an_update(shop: Shop):
    """The same while an update is carried out to its end, whoever is cancelled."""
    shop.publish("2.0.0", seq=2)
    hosts, errors = [], []

    class Eager(Hooks):
        async def module_started(self, module):
            if module.version == "2.0.0":
                with contextlib.suppress(UsageError):
                    await hosts[0].remove(module.code)
                    return
                errors.append(1)

    async with shop.host(hooks=[Eager()]) as host:
        hosts.append(host)
        await host.install(URL, ref="1.0.0")
        await host.load("tagger")
        await host.update("tagger", ref="2.0.0")
        assert errors == [1]


async def test_a_plan_that_is_discarded_while_it_is_applied(shop: Shop):
    """The stage belongs to `apply` then: all of the plugin is installed."""
    async with shop.host() as host:
        plan = await host.plan_install(URL, ref="1.0.0")
        applying = asyncio.create_task(plan.apply())
        for _ in range(3):
            await asyncio.sleep(0)
            await plan.discard()
        await applying
        await host.load("tagger")
        assert len(shop.releases()) == 1


async def test_a_stage_that_was_changed_since_the_plan(shop: Shop):
    """What was put into its place is verified there, before any record names it and before any is given up."""
    shop.publish("2.0.0", seq=2)
    async with shop.host(kept_releases=0) as host:
        await host.install(URL, ref="1.0.0")
        module = await host.load("tagger")
        plan = await host.plan_install(URL, ref="2.0.0")
        [stage] = (shop.plugin_folder / ".staging").iterdir()
        damage(stage / "tree", lambda folder: (folder / "main.ts").write_text("changed"))
        with pytest.raises(IntegrityError, match=r"main\.ts"):
            await plan.apply()
        assert module.state is ModuleState.RUNNING
        assert await versions(host) == {"tagger": "1.0.0"}
        assert len(shop.releases()) == 1


async def test_a_key_that_is_revoked_while_consent_is_asked(shop: Shop):
    """Trust is judged again after the app has answered."""
    shop.publish("2.0.0", plugin_files(version="2.0.0", manifest="permissions: {write: [x]}\n"), seq=2)

    class Revokes(Hooks):
        async def update_widens(self, plan):
            shop.trust.revoke_key(plan.signer)
            return True

    async with shop.host(hooks=[Revokes()]) as host:
        await host.install(URL, ref="1.0.0")
        with pytest.raises(SignatureError, match="revoked"):
            await host.update("tagger", ref="2.0.0")
        assert await versions(host) == {"tagger": "1.0.0"}


async def test_a_signed_manifest_gives_no_place_among_the_signers_modules(shop: Shop):
    """Anybody can put other code beside it, so its module shares no sidecar with code that the key signed."""
    launcher = FakeLauncher(shop.plugins)
    shop.trust.manifest_signatures = True
    shop.published["2.0.0"] = as_the_original_signs(shop, ORIGINAL.replace(b"tagger", b"other"))
    async with shop.host(launcher=launcher, isolation="worker") as host:
        await host.install(URL, ref="1.0.0")
        await host.install(URL, ref="2.0.0")
        first, second = await host.load("tagger"), await host.load("other")
        places = host._parts.loader._placement._places
        assert places[first].home is not places[second].home


async def test_another_trusted_key_takes_no_plugin_over(shop: Shop):
    """Though the trust store has both: unless the app names the new key, or revokes the old one."""
    other = SigningKey.generate()
    shop.trust.trust(other.public_hex)
    shop.publish("1.0.0", seq=50)
    shop.publish("0.9.0", seq=1, key=other)
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        with pytest.raises(SignatureError, match=f"signed by {other.public_hex}, the installed version by"):
            await host.update("tagger", ref="0.9.0")
        plan = await host.plan_install(URL, ref="0.9.0", signer=other.public_hex)
        assert plan.difference is not None
        assert (plan.difference.signer, plan.signer) == (shop.key.public_hex, other.public_hex)
        await plan.discard()
        shop.trust.revoke_key(shop.key.public_hex)
        assert (await host.update("tagger", ref="0.9.0")).signer == other.public_hex


async def test_an_index_does_not_change_a_pin(shop: Shop):
    """A plugin stays with the key that the app named for it, whatever an index says; the source shows."""
    evil = SigningKey.generate()
    shop.publish("2.0.0", seq=2, key=evil)
    elsewhere = "https://evil.example/tagger.git"
    fetcher = MemoryFetcher({URL: shop.published, elsewhere: shop.published})
    async with shop.host(trust=TrustStore(), fetcher=fetcher) as host:
        await host.install(URL, ref="1.0.0", signer=shop.key.public_hex)
        entry = Index.parse(index_of(shop, ref="2.0.0", key=evil.public_hex), origin="test").find("tagger")
        with pytest.raises(SignatureError, match=f"wanted {shop.key.public_hex}"):
            await host.plan_install(entry)
        shop.publish("2.0.0", seq=2)
        plan = await host.plan_install(elsewhere, ref="2.0.0")
        assert plan.difference is not None
        assert (plan.difference.source, plan.source) == (URL, elsewhere)


async def test_what_is_kept_can_be_gone_back_to_after_the_key_changed(shop: Shop):
    """A kept release is held to the key that was named for it; revoking that key ends it."""
    new = SigningKey.generate()
    shop.publish("2.0.0", seq=1, key=new)
    trust = TrustStore()
    async with shop.host(trust=trust) as host:
        await host.install(URL, ref="1.0.0", signer=shop.key.public_hex)
        await host.update("tagger", ref="2.0.0", signer=new.public_hex)
        assert (await host.rollback("tagger")).version == "1.0.0"
        await host.load("tagger")
        assert (await host.rollback("tagger", "2.0.0")).version == "2.0.0"
        trust.revoke_key(shop.key.public_hex)
        with pytest.raises(SignatureError, match="revoked"):
            await host.rollback("tagger")


async def test_going_back_again_goes_further_back(shop: Shop):
    """An update to a release that is there already does not change their order."""
    for number in (2, 3):
        shop.publish(f"{number}.0.0", seq=number)
    async with shop.host() as host:
        for ref in ("2.0.0", "3.0.0"):
            if ref == "2.0.0":
                await host.install(URL, ref="1.0.0")
            await host.update("tagger", ref=ref)
        await host.rollback("tagger", "1.0.0")
        await host.update("tagger", ref="3.0.0")
        assert (await host.rollback("tagger")).version == "2.0.0"
        assert (await host.rollback("tagger")).version == "1.0.0"


async def test_a_removal_that_cannot_forget_all_data(shop: Shop):
    """The plugin and its data go in one transaction; what is written meanwhile goes after, or the error says so."""
    store = FaultyStore(SqliteStore())

    class Writes(Tagger):
        async def init(self, core):
            self.core = core

        async def dispose(self):
            await self.core.store.set("last", "words")

    shop.plugins["tagger"] = Writes
    async with shop.host(store=store) as host:
        await host.install(URL, ref="1.0.0")
        await host.load("tagger")
        await host.store.set("tagger", "key", "value")
        await host.remove("tagger", data=True)
        assert await host.store.get_all("tagger") == {}
        assert shop.releases() == set()


async def test_what_could_not_begin_to_load_is_shown(shop: Shop):
    """A plugin that asks for more than the app grants by now: ERRORED at the next start, with the reason."""
    shop.publish("1.0.0", plugin_files(manifest="permissions: {read: [photos]}\n"))
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
    async with shop.host(policy=Policy(read=())) as host:
        module = host.modules["tagger"]
        assert module.state is ModuleState.ERRORED
        assert isinstance(module.error, PermissionDenied)
        with pytest.raises(PermissionDenied):
            await host.load("tagger")
        await host.modules["tagger"].unload()
        assert host.modules == {}


async def test_a_disk_that_is_full_while_it_fetches(shop: Shop):
    """What the fetcher says comes out; the old version runs on, and the next try succeeds."""
    shop.publish("2.0.0", seq=2)
    fetcher = MemoryFetcher({URL: shop.published})
    async with shop.host(fetcher=fetcher) as host:
        await host.install(URL, ref="1.0.0")
        module = await host.load("tagger")
        fetcher.fail_next(InstallError("fetch: the disk is full"))
        with pytest.raises(InstallError, match="the disk is full"):
            await host.update("tagger", ref="2.0.0")
        assert module.state is ModuleState.RUNNING
        assert len(shop.releases()) == 1
        await host.update("tagger", ref="2.0.0")


async def test_a_source_that_cannot_be_reached(shop: Shop):
    """Its error comes out as it is; nothing is left."""
    async with shop.host() as host:
        for source, ref in (("https://nowhere.example/x.git", None), (URL, "no-such-ref")):
            with pytest.raises(SourceUnavailable):
                await host.install(source, ref=ref)
        with pytest.raises(UsageError, match="wanted a URL"):
            await host.install(3)  # type: ignore[arg-type]
        assert shop.releases() == set()


async def test_cancelled_at_any_turn_of_the_loop(shop: Shop):
    """Nothing or all of it is installed, nothing is staged, and whoever is cancelled hears of that alone."""
    outcomes = set()
    async with shop.host() as host:
        for turns in [
            *range(16),
            *(2**power for power in range(4, 15)),
            *(3 * 2**power for power in range(3, 13)),
        ]:
            task = asyncio.create_task(host.install(URL, ref="1.0.0"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()  # harmless if it has ended by then
            with contextlib.suppress(asyncio.CancelledError):
                await task
            installed = await host.installed()
            assert len(shop.releases()) == len(installed)
            outcomes.add(len(installed))
            if installed:
                await host.load("tagger")
                await host.remove("tagger")
        await host.install(URL, ref="1.0.0")
    assert 0 in outcomes


# --- indexes


def index_of(shop: Shop, **entry) -> bytes:
    plugin = {
        "code": "tagger",
        "name": "Tagger",
        "description": "Tags photos.",
        "version": "1.0.0",
        "categories": ["photos"],
        "source": URL,
        "ref": "1.0.0",
        "key": shop.key.public_base64,
        **entry,
    }
    return json.dumps({"format": 1, "name": "Acme", "plugins": [plugin]}).encode()


async def test_an_index_from_everywhere(shop: Shop, tmp_path: Path):
    """From a file, a repository and the app's own source it is the same index."""
    data = index_of(shop)
    file = tmp_path / "index.json"
    file.write_bytes(data)
    fetcher = MemoryFetcher(
        {URL: shop.published, "https://git.example/index.git": {"main": {"a/i.json": data}}}
    )

    async def own() -> bytes:
        return data

    async with shop.host(fetcher=fetcher) as host:
        read = host.installer.read_index
        indexes = [
            await read(file),
            await read(str(file)),
            await read("https://git.example/index.git", ref="main", file="a/i.json"),
            await read(own),
        ]
        assert len({index.entries for index in indexes}) == 1
        assert [entry.code for entry in indexes[0].search("photos")] == ["tagger"]
        assert shop.releases() == set()


async def test_installing_an_entry_of_an_index(shop: Shop):
    """Source, ref, key, code and digest are as the entry says; it may not be another plugin or release."""
    async with shop.host(trust=TrustStore()) as host:
        entry = Index.parse(index_of(shop), origin="test").find("tagger")
        plan = await host.plan_install(entry)
        digest = plan.digest
        await plan.discard()
        entry = Index.parse(index_of(shop, digest=digest), origin="test").find("tagger")
        plugin = await host.install(entry)
        assert (plugin.source, plugin.ref, plugin.signer) == (URL, "1.0.0", shop.key.public_hex)
        await host.remove("tagger")
        for wrong, words in (
            ({"code": "other"}, "is the plugin 'tagger', wanted 'other'"),
            ({"digest": "0" * 64}, "its digest is"),
            ({"key": SigningKey.generate().public_hex}, "signed by the key"),
        ):
            other = Index.parse(index_of(shop, **wrong), origin="test").entries[0]
            with pytest.raises(SignatureError, match=words):
                await host.install(other)
        assert shop.releases() == set()


async def test_an_index_that_cannot_be_had(shop: Shop, tmp_path: Path):
    """No such file in the repository, no such repository, and one that is not valid: typed errors, nothing left."""
    (tmp_path / "bad.json").write_bytes(index_of(shop, key=""))
    async with shop.host() as host:
        read = host.installer.read_index
        with pytest.raises(SourceUnavailable, match=r"its index: read 'index\.json'"):
            await read(URL, ref="1.0.0")
        with pytest.raises(SourceUnavailable):
            await read("https://nowhere.example/index.git")
        with pytest.raises(IndexInvalid, match=r"plugins\[0\] \('tagger'\)"):
            await read(tmp_path / "bad.json")
        assert shop.releases() == set()
    with pytest.raises(UsageError, match="does not run"):
        await read(tmp_path / "bad.json")


# --- records and folders that do not fit


async def records_of(shop: Shop) -> dict[str, str]:
    async with shop.host(autoload=False) as host:
        return await host.store.get_all("_plugins")


@pytest.mark.parametrize("text", ["", "{", '{"format":2}', '{"format":1,"plugin":{}}', "[]"])
async def test_a_record_that_cannot_be_read(shop: Shop, text: str):
    """It is reported by name, its files stay, the others load, and it can be removed."""
    shop.published["other"] = signed(plugin_files("other"), shop.key)
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        await host.install(URL, ref="other")
        await host.store.set("_plugins", "tagger", text)
    before = shop.releases()
    async with shop.host() as host:
        assert host.modules["other"].state is ModuleState.RUNNING
        assert host.modules["tagger"].state is ModuleState.QUARANTINED
        listed = {plugin.code: plugin.problem for plugin in await host.installed()}
        assert listed["other"] is None
        assert "record of installed plugin 'tagger'" in (listed["tagger"] or "")
        assert shop.releases() == before
        await host.remove("tagger")
        assert await versions(host) == {"other": "1.0.0"}
        assert {name.partition("/")[0] for name in shop.releases()} == {"other"}


@pytest.mark.parametrize("code", ["../../photos", "..", ".staging", "a/b", "UPPER"])
async def test_a_record_of_a_code_that_is_none(shop: Shop, code: str):
    """It is reported and can be removed, and nothing on the disk is taken for its files."""
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        text = await host.store.get("_plugins", "tagger", "")
        await host.store.set("_plugins", code, text.replace('"code":"tagger"', f'"code":{json.dumps(code)}'))
    (shop.root / "photos").mkdir()
    (shop.root / "photos" / "cat.png").write_text("meow")
    before = shop.releases()
    async with shop.host() as host:
        assert "is that of no plugin" in str(host.modules[code].error)
        assert {plugin.code for plugin in await host.installed()} == {code, "tagger"}
        await host.remove(code)
        assert {plugin.code for plugin in await host.installed()} == {"tagger"}
    assert shop.releases() == before
    assert (shop.root / "photos" / "cat.png").exists()


async def test_a_module_from_elsewhere_is_left_alone(shop: Shop, tmp_path: Path):
    """What the app loaded from a folder under an installed plugin's code is not that plugin's module."""
    shop.publish("2.0.0", seq=2)
    write_files(tmp_path / "own", plugin_files(version="9.9.9"))
    async with shop.host(autoload=False, allow_unsigned=True) as host:
        await host.install(URL, ref="1.0.0")
        own = await host.load_path(tmp_path / "own")
        await host.update("tagger", ref="2.0.0")
        await host.rollback("tagger")
        await host.remove("tagger")
        assert host.modules["tagger"] is own
        assert own.state is ModuleState.RUNNING


async def test_a_record_of_a_release_that_is_none(shop: Shop):
    """A digest is a digest: no record makes the host look elsewhere."""
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        text = await host.store.get("_plugins", "tagger", "")
        [plugin] = await host.installed()
        await host.store.set("_plugins", "tagger", text.replace(plugin.digest, "../../../etc"))
    async with shop.host() as host:
        assert "cannot be read" in str(host.modules["tagger"].error)


async def test_a_folder_that_no_record_names(shop: Shop):
    """What a crash left before the commit is swept at the next start; so is what was being staged."""
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        kept = shop.releases()
        for name in ("tagger/" + "0" * 64, "unknown/" + "1" * 64, ".staging/abc/tree"):
            (shop.plugin_folder / name).mkdir(parents=True)
        (shop.plugin_folder / "stray").write_text("")
    (shop.plugin_folder / ".staging" / "more").mkdir()
    async with shop.host() as host:
        assert shop.releases() == kept
        assert host.modules["tagger"].state is ModuleState.RUNNING


async def test_a_corrupt_mark(shop: Shop):
    """What cannot be judged is refused, by name."""
    async with shop.host() as host:
        await host.store.set("_plugin_seqs", f"tagger {shop.key.public_hex}", "nonsense")
        with pytest.raises(InstallError, match="record of installed plugin 'tagger': its mark"):
            await host.install(URL, ref="1.0.0")
        assert shop.releases() == set()
