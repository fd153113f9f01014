"""Releases, manifests and folders that are made to harm whoever installs them, once they were fetched."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coredeno.disk import remove
from coredeno.errors import FetchLimitExceeded, InstallError, IntegrityError, ManifestError, SignatureError
from coredeno.install.release import (
    CONTEXT,
    RELEASE,
    SIGNATURE,
    ReleaseFile,
    SignatureFile,
    encode_signature,
)
from coredeno.install.signing import SigningKey
from coredeno.install.verifying import _copy
from coredeno.plugin_files import PluginFile
from tests.shops import URL, Files, Shop, damage, plugin_files

HASH = "ab" * 32
MARKS = "a" + "\u0300\u0323" * 100_000  # Unicode's normal forms take half a minute to put these in order


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@contextmanager
def quick(seconds: float = 1.0) -> Iterator[None]:
    """Fail if the process computes for longer meanwhile; that it waits does not count."""
    began = time.process_time()
    yield
    assert time.process_time() - began < seconds


def listing(**changes: object) -> bytes:
    """The bytes of a list of files that `encode_release` would not write."""
    fields = {"format": 1, "code": "tagger", "version": "1.0.0", "seq": 1, "entry": "main.ts", "files": []}
    return json.dumps(fields | changes, ensure_ascii=False).encode()


def signed_as_it_is(listed: bytes, key: SigningKey) -> Files:
    signature = SignatureFile(key=key.public_hex, signature=key.sign(CONTEXT + listed))
    return {**plugin_files(), RELEASE: listed, SIGNATURE: encode_signature(signature)}


@pytest.mark.parametrize(
    "changes",
    [{"files": [[MARKS, HASH, 0]]}, {"entry": MARKS}, {"code": MARKS}, {"version": MARKS}],
    ids=["path", "entry", "code", "version"],
)
async def test_endless_marks(shop: Shop, changes: dict[str, object]):
    """A text whose normal form takes hours is refused for its length, also if a trusted key signed it."""
    shop.published["HEAD"] = signed_as_it_is(listing(**changes), shop.key)
    async with shop.host() as host:
        with quick(), pytest.raises(ManifestError, match="length <= "):
            await host.install(URL)


@pytest.mark.parametrize("revoked", [False, True])
async def test_a_list_of_a_stranger(shop: Shop, *, revoked: bool):
    """It is not parsed: that the key does not count is said, not what else is wrong."""
    stranger = SigningKey.generate()
    if revoked:
        shop.trust.trust(stranger.public_hex)
        shop.trust.revoke_key(stranger.public_hex)
    shop.published["HEAD"] = signed_as_it_is(b'{"not": "a list"}', stranger)
    async with shop.host() as host:
        with pytest.raises(SignatureError, match=f"by the key {stranger.public_hex}, which"):
            await host.install(URL)


async def test_folders_without_number(shop: Shop):
    """10,000 files in 32 folders each, none of them shared, are refused once there are more than a load walks over."""
    deep = "/".join(["ΐΐ"] * 31)
    files = [[f"{number:04}/{deep}/ΐ", HASH, 0] for number in range(9_990)]
    shop.published["HEAD"] = signed_as_it_is(listing(files=files), shop.key)
    async with shop.host() as host:
        with quick(), pytest.raises(ManifestError, match="one more file or folder than 10,000"):
            await host.install(URL)


async def test_hosts_without_number(shop: Shop):
    """A manifest that asks for 4,000 hosts is refused; each would be compared with each at an update."""
    hosts = ", ".join(f"b{number:x}.io" for number in range(4_000))
    shop.publish("1.0.0", plugin_files(manifest="permissions: {net: [a.example]}"))
    async with shop.host() as host:
        await host.install(URL)
        shop.published["2.0.0"] = {
            **shop.published["1.0.0"],
            **plugin_files(version="2.0.0", manifest=f"permissions: {{net: [{hosts}]}}"),
        }
        with quick(), pytest.raises(ManifestError, match="net: has 4,000 entries, wanted at most 256"):
            await host.plan_install(URL, ref="2.0.0")


@pytest.mark.parametrize(("count", "installs"), [(9_998, True), (9_999, False)])
async def test_an_unsigned_plugin_as_large_as_may_be(shop: Shop, count: int, *, installs: bool):
    """What installs loads: there is room for the list that the host adds."""
    files = plugin_files()
    files |= {f"f{number}": b"" for number in range(count - len(files) - 1)}  # and `.core`
    shop.published["HEAD"] = files
    async with shop.host(allow_unsigned=True) as host:
        if installs:
            await host.install(URL)
            await host.load("tagger")
            return
        with pytest.raises(FetchLimitExceeded, match="more than 9,998 files and folders"):
            await host.install(URL)


async def test_a_folder_that_cannot_be_read(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """It keeps no host from starting, and what else no record names is swept nevertheless."""
    shop.publish("1.0.0")
    async with shop.host(autoload=False) as host:
        await host.install(URL)
    (shop.plugin_folder / "zzz").mkdir()
    listed = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:  # a mode would not keep root out
        if folder.name == "tagger":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(folder)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", iterdir)
        async with shop.host(autoload=False) as host:
            assert [plugin.code for plugin in await host.installed()] == ["tagger"]
    assert "'tagger' cannot be swept, it stays: Permission denied" in caplog.text
    assert not (shop.plugin_folder / "zzz").exists()


async def test_the_whole_folder_cannot_be_read(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    """Then nothing can be installed or loaded, and the start says why."""

    def iterdir(folder: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(
        InstallError, match="the folder of installed plugins cannot be read: Permission denied"
    ):
        async with shop.host():
            pass


async def test_a_damaged_release_that_may_not_be_written_to(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    """An update mends it: a folder is made writable before it is moved, as only root could move it otherwise."""
    shop.publish("1.0.0")
    renamed = os.rename
    modes: dict[str, int] = {}

    def rename(source: Path, target: Path) -> None:
        modes[Path(source).name] = stat.S_IMODE(Path(source).stat().st_mode)
        renamed(source, target)

    async with shop.host() as host:
        plugin = await host.install(URL)
        folder = shop.plugin_folder / "tagger" / plugin.digest
        damage(folder, lambda release: (release / "main.ts").write_text("evil"))
        folder.chmod(0o555)
        monkeypatch.setattr(os, "rename", rename)
        await host.update("tagger")
    assert modes[plugin.digest] == 0o700
    assert "evil" not in (folder / "main.ts").read_text()


def test_a_link_is_removed_without_what_it_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a link leads to keeps its mode, also if the link could not be removed at once."""
    victim = tmp_path / "victim"
    victim.touch(0o640)
    (tmp_path / "stage" / "inner").mkdir(parents=True)
    (tmp_path / "stage" / "link").symlink_to(victim)
    (tmp_path / "stage" / "inner" / "folder").symlink_to(tmp_path)
    unlinked = os.unlink

    def unlink(path: str, *, dir_fd: int | None = None) -> None:
        if dir_fd is not None:
            raise PermissionError(errno.EACCES, "Permission denied")  # as in a folder without the write bit
        unlinked(path)

    victim.chmod(0o640)
    tmp_path.chmod(0o750)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        remove(tmp_path / "stage")
    remove(tmp_path / "stage")
    assert (stat.S_IMODE(victim.stat().st_mode), stat.S_IMODE(tmp_path.stat().st_mode)) == (0o640, 0o750)
    assert not (tmp_path / "stage").exists()


async def test_a_file_that_was_made_huge(shop: Shop):
    """A load refuses it for its size: it is neither read nor copied."""
    shop.publish("1.0.0")
    async with shop.host() as host:
        plugin = await host.install(URL)
        folder = shop.plugin_folder / "tagger" / plugin.digest
        damage(folder, lambda release: os.truncate(release / "main.ts", 2**30))
        with quick(), pytest.raises(IntegrityError, match="is 1,073,741,824 bytes, wanted"):
            await host.load("tagger")


def test_a_file_that_grows_while_it_is_copied(tmp_path: Path):
    """The copy ends with the bytes that are listed, not with those that are there."""
    grown = tmp_path / "a.bin"
    grown.write_bytes(bytes(1000))
    status = grown.stat()
    os.truncate(grown, 2**30)
    listed = ReleaseFile("a.bin", HASH, 1000)
    (tmp_path / "copy").mkdir()
    with grown.open("rb") as file, quick(), pytest.raises(IntegrityError, match="more than 1,000 bytes"):
        _copy(listed, PluginFile("a.bin", file.fileno(), status), tmp_path / "copy")
    assert (tmp_path / "copy" / "a.bin").stat().st_size == 0
