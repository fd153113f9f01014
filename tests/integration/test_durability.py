"""What reaches the disk in which order, and what a full disk at each step leaves.

SIGKILL cannot show a missing fsync, since the kernel keeps what was written. So the calls themselves are watched,
and for a full disk they fail: that is why `os` is patched here.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from coredeno import ModuleState
from coredeno.errors import InstallError
from coredeno.interfaces import StoreChange
from coredeno.store.sqlite import SqliteStore
from tests.shops import URL, Shop, plugin_files


class Watched(SqliteStore):
    """A store that says when it is written to."""

    def __init__(self, calls: list[tuple[str, str]]) -> None:
        super().__init__()
        self._calls = calls

    async def write(self, changes, *, quota=None):
        await super().write(changes)
        self._calls.append(("commit", " ".join(map(_shown, changes))))


def _shown(change: StoreChange) -> str:
    return f"{change.group}/{change.key}{'' if change.value else ' deleted'}"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    shop.publish("1.0.0", plugin_files(**{"lib/deep/words.ts": "x", "empty.ts": ""}))
    shop.publish("2.0.0", seq=2)
    return shop


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, shop: Shop) -> list[tuple[str, str]]:
    """What is done to the disk beneath the folder of plugins, in order; paths are relative to it."""
    done: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def relative(path: str | Path) -> str:
        return os.path.relpath(path, shop.plugin_folder)

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        done.append(("fsync", relative(Path(f"/proc/self/fd/{descriptor}").readlink())))

    def watched_rename(source, target, **options) -> None:
        rename(source, target, **options)
        if not options:
            done.append(("rename", f"{relative(source)} -> {relative(target)}"))

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    return done


async def test_an_install_is_on_the_disk_before_a_record_names_it(shop: Shop, calls):
    """Every file and folder, then the rename, then the folders above, and only then the transaction."""
    async with shop.host(store=Watched(calls)) as host:
        calls.clear()
        plugin = await host.install(URL, ref="1.0.0")
    target = f"tagger/{plugin.digest}"
    [moved] = [i for i, (call, what) in enumerate(calls) if call == "rename" and what.endswith(target)]
    tree = calls[moved][1].partition(" -> ")[0]
    synced = [what for call, what in calls[:moved] if call == "fsync"]
    files = {f"{tree}/{path}" for path in shop.published["1.0.0"]}
    folders = {tree, *(f"{tree}/{path}" for path in (".core", "lib", "lib/deep"))}
    assert files | folders <= set(synced)
    after = calls[moved + 1 :]
    [committed] = [i for i, (call, _what) in enumerate(after) if call == "commit"]
    assert {("fsync", "tagger"), ("fsync", ".")} <= set(after[:committed])
    assert after[committed][1] == f"_plugins/tagger _plugin_seqs/tagger {shop.key.public_hex}"


async def test_a_removal_is_recorded_before_anything_is_touched(shop: Shop, calls):
    """First the record forgets it, then it is moved out of the way at one stroke, then deleted."""
    async with shop.host(store=Watched(calls)) as host:
        await host.install(URL, ref="1.0.0")
        calls.clear()
        await host.remove("tagger")
    assert calls[0] == ("commit", "_plugins/tagger deleted")
    assert calls[1][0] == "rename"
    assert calls[1][1].startswith("tagger -> .staging/dead-")


@pytest.mark.parametrize("step", ["fsync", "rename", "fchmod"])
async def test_a_full_disk(shop: Shop, monkeypatch: pytest.MonkeyPatch, step: str):
    """At whichever step: a typed error, the old version runs on, staging is empty, and the next try succeeds."""
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")
        module = await host.load("tagger")
        before = shop.releases()

        def full(*_args, **_options):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            with pytest.raises(InstallError, match="No space left on device"):
                await host.update("tagger", ref="2.0.0")
        assert module.state is ModuleState.RUNNING
        assert (await host.installed())[0].version == "1.0.0"
        assert shop.releases() == before
        await host.update("tagger", ref="2.0.0")
        assert host.modules["tagger"].version == "2.0.0"


async def test_a_disk_that_is_full_when_something_is_removed(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    """It is removed all the same, for the records; what could not be moved is swept at the next start."""
    async with shop.host() as host:
        await host.install(URL, ref="1.0.0")

        def full(*_args, **_options):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", full)
            await host.remove("tagger")
        assert await host.installed() == []
        assert len(shop.releases()) == 1
    async with shop.host():
        assert shop.releases() == set()
