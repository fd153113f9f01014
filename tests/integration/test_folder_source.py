"""`FolderSource`: a developer's folder is copied as plain files, or refused by name."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from coredeno import folder_source
from coredeno.errors import ManifestError, PluginError, SidecarError, UsageError
from coredeno.folder_source import FolderSource


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "plugin"
    (folder / ".core").mkdir(parents=True)
    (folder / ".core" / "view.yml").write_text("code: tagger\n")
    (folder / "main.ts").write_text("export function init() {}\n")
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "stage"
    folder.mkdir()
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


async def test_manifest_is_read(source: Path):
    """What `.core/view.yml` says, and the source is named by its folder."""
    plugin = FolderSource(source)
    assert (await plugin.read_manifest()).code == "tagger"
    assert plugin.name == str(source)


async def test_a_faulty_manifest_is_named(source: Path):
    """The error of the manifest's parser names the file."""
    (source / ".core" / "view.yml").write_text("colour: red\n")
    with pytest.raises(ManifestError, match=r"view\.yml"):
        await FolderSource(source).read_manifest()


@pytest.mark.parametrize("kind", ["missing", "folder", "symlink", "fifo", "large", "no plugin"])
async def test_what_is_no_manifest(source: Path, kind: str):
    """Only a plain file of at most 64 KiB is read; anything else is an error of the manifest, at once."""
    file = source / ".core" / "view.yml"
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "symlink":
        file.symlink_to("../main.ts")
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "large":
        file.write_text("code: tagger\n" + "#" * 65536)
    elif kind == "no plugin":
        source = source.parent / "nowhere"
    with pytest.raises(ManifestError) as caught:
        await FolderSource(source).read_manifest()
    assert caught.value.file == str(source / ".core" / "view.yml")
    assert caught.value.field == ""


def test_a_relative_folder_is_refused():
    """A folder that would move with the working directory is a mistake of the app."""
    with pytest.raises(UsageError):
        FolderSource("plugin")


async def test_every_file_is_copied(source: Path, target: Path):
    """All files and folders, byte for byte, empty ones too; only what is named `.git` is not."""
    (source / "lib" / "deep").mkdir(parents=True)
    (source / "lib" / "deep" / "größe.bin").write_bytes(bytes(range(256)) * 10_000)
    (source / "empty").mkdir()
    (source / "none").write_bytes(b"")
    (source / "node_modules").mkdir()
    (source / "node_modules" / "x.js").write_text("1")
    before = contents(source)
    (source / ".git").mkdir()
    (source / ".git" / "config").write_text("secret")
    (source / "lib" / ".git").write_text("gitdir: elsewhere")
    await FolderSource(source).copy_to(target)
    assert contents(target) == before


async def test_modes_of_copies(source: Path, target: Path):
    """Whatever the modes were, files can be read and no more, and folders can be deleted by the host."""
    (source / "main.ts").chmod(0o6777)
    (source / ".core").chmod(0o2777)
    await FolderSource(source).copy_to(target)
    assert stat.S_IMODE((target / "main.ts").stat().st_mode) == 0o444
    assert stat.S_IMODE((target / ".core").stat().st_mode) == 0o755


@pytest.mark.parametrize("kind", ["symlink", "symlink to folder", "dangling symlink", "fifo", "socket"])
async def test_what_is_neither_file_nor_folder_is_refused_by_name(short_folder: Path, kind: str):
    """Links, fifos and sockets, however deep, end the copying; the message says where it is."""
    source, target = short_folder / "s", short_folder / "t"
    (source / "in").mkdir(parents=True)
    target.mkdir()
    odd = source / "in" / "odd"
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(odd))
    else:
        odd.symlink_to({"symlink": "/etc/passwd", "symlink to folder": "/etc"}.get(kind, "nowhere"))
    with pytest.raises(PluginError, match="in/odd: is a"):
        await FolderSource(source).copy_to(target)


@pytest.mark.parametrize("name", [b"back\\slash", b"new\nline", b"latin-\xe9"])
async def test_names_that_no_path_can_name_are_refused(source: Path, target: Path, name: bytes):
    """A name that could not be asked for ends the copying; the message shows it escaped."""
    (source / os.fsdecode(name)).write_bytes(b"x")
    with pytest.raises(PluginError, match="its name has") as caught:
        await FolderSource(source).copy_to(target)
    assert str(caught.value).isprintable()


async def test_a_file_swapped_for_a_link_is_never_followed(source: Path, target: Path, tmp_path: Path):
    """While a file becomes a link to a secret and back, no copy has the secret."""
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    file, spare = source / "main.ts", tmp_path / "spare"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            spare.symlink_to(secret)
            spare.rename(file)
            spare.write_text("of the plugin")
            spare.rename(file)

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes: set[str] = set()
    try:
        for number in range(150):
            copy = target / str(number)
            copy.mkdir()
            try:
                await FolderSource(source).copy_to(copy)
                outcomes.add((copy / "main.ts").read_text())
            except PluginError:
                outcomes.add("refused")
    finally:
        stop.set()
        swapper.join()
    assert "of the host" not in outcomes
    assert "of the plugin" in outcomes


async def test_bound_of_entries(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch):
    """Files and folders count, together; one too many is refused."""
    monkeypatch.setattr(folder_source, "COPY_ENTRIES", 4)
    (source / "a").mkdir()
    other = target.parent / "other"
    other.mkdir()
    await FolderSource(source).copy_to(target)
    (source / "a" / "b").write_bytes(b"")
    with pytest.raises(PluginError, match="more than 4 files"):
        await FolderSource(source).copy_to(other)


async def test_bound_of_bytes(source: Path, target: Path):
    """256 MiB in all; a file that is larger is not even begun."""
    with (source / "large").open("wb") as file:
        file.truncate(256 * 1024 * 1024)
    with pytest.raises(PluginError, match="more than 268,435,456 bytes"):
        await FolderSource(source).copy_to(target)
    assert (target / "large").stat().st_size == 0


async def test_bound_of_bytes_holds_for_what_is_read(target: Path, monkeypatch: pytest.MonkeyPatch):
    """A file that turns out to be longer than it said is counted by what was read."""
    monkeypatch.setattr(folder_source, "COPY_BYTES", 10)
    with pytest.raises(PluginError, match="more than 10 bytes"):
        await FolderSource(Path("/proc/sys/kernel/random")).copy_to(target)


async def test_bound_of_depth(source: Path, target: Path):
    """32 folders within one another are copied, 33 are refused."""
    deep = source.joinpath(*["d"] * 32)
    deep.mkdir(parents=True)
    await FolderSource(source).copy_to(target)
    (deep / "d").mkdir()
    other = target.parent / "other"
    other.mkdir()
    with pytest.raises(PluginError, match="more than 32 folders"):
        await FolderSource(source).copy_to(other)


async def test_a_missing_folder(tmp_path: Path, target: Path):
    """A source that is not there is the plugin's fault."""
    with pytest.raises(PluginError, match="cannot be read"):
        await FolderSource(tmp_path / "nowhere").copy_to(target)


async def test_a_target_that_cannot_be_written(source: Path, target: Path):
    """A missing target, or one that is not empty, is the machine's fault; nothing is overwritten."""
    with pytest.raises(SidecarError, match="cannot be written"):
        await FolderSource(source).copy_to(target / "missing")
    (target / "main.ts").write_text("mine")
    with pytest.raises(SidecarError, match="cannot be written"):
        await FolderSource(source).copy_to(target)
    assert (target / "main.ts").read_text() == "mine"
