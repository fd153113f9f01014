"""`walk`: every file and folder of a plugin, open, in order, and nothing followed out of it."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coredeno.errors import FetchLimitExceeded, InstallError, PluginError, UnsafePath
from coredeno.install.faults import install_errors
from coredeno.install.paths import check_name
from coredeno.plugin_files import FolderFault, FolderTooLarge, OddEntry, walk
from coredeno.services.descriptors import opened_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "plugin"
    for name in (".core/view.yml", "a/b/c.ts", "a/b.ts", "a-b.ts", "main.ts"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "empty").mkdir()
    return folder


def paths(folder: Path | int, **options) -> list[str]:
    with closing(walk(folder, **options)) as files:
        return [file.path + "/" * file.is_folder for file in files]


EVERYTHING = [".core/", ".core/view.yml", "a/", "a/b/", "a/b/c.ts", "a/b.ts", "a-b.ts", "empty/", "main.ts"]


def test_order(folder: Path):
    """A folder before what is in it, and in each folder by name."""
    assert paths(folder) == EVERYTHING


def test_what_is_given_is_open(folder: Path):
    """The descriptor is of the file that `status` describes, and `pieces` reads it to its end."""
    for file in walk(folder):
        assert os.path.samestat((folder / file.path).stat(), file.status)
        assert os.path.samestat(os.fstat(file.descriptor), file.status)
        if not file.is_folder:
            assert b"".join(file.pieces()).decode() == file.path


def test_large_files_come_in_pieces(folder: Path):
    """A file is never in memory as a whole."""
    (folder / "main.ts").write_bytes(bytes(2_500_000))
    sizes = []
    for file in walk(folder):
        if file.path == "main.ts":
            sizes = [len(piece) for piece in file.pieces()]
    assert max(sizes) <= 1 << 20
    assert sum(sizes) == 2_500_000


def test_an_open_folder(folder: Path):
    """A descriptor will do, reached as the caller likes; it stays the caller's."""
    with opened_folder(folder.parent, [folder.name]) as descriptor:
        assert paths(descriptor) == EVERYTHING
        os.fstat(descriptor)
        (folder / "odd").symlink_to("main.ts")
        with pytest.raises(OddEntry, match=r"^odd: is a symlink"):
            paths(descriptor)


def test_what_is_passed_over(folder: Path):
    """Paths with all in them, or names in every folder; whatever they are, and they do not count."""
    (folder / ".git").symlink_to("/etc")
    (folder / "a" / ".git").mkdir()
    (folder / "a" / ".git" / "config").write_text("x")
    assert paths(folder, skip_names=frozenset({".git"}), entries_limit=9) == EVERYTHING
    skip = frozenset({".git", "a/.git", "a/b", "empty"})
    assert paths(folder, skip=skip) == [".core/", ".core/view.yml", "a/", "a/b.ts", "a-b.ts", "main.ts"]
    with pytest.raises(OddEntry):
        paths(folder, skip=frozenset({"a/.git"}))


@pytest.mark.parametrize("kind", ["symlink", "symlink to folder", "dangling symlink", "fifo", "socket"])
def test_what_is_neither_file_nor_folder(short_folder: Path, kind: str):
    """Is named, relative to the folder too, and never opened."""
    odd = short_folder / "in" / "odd"
    odd.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(odd))
    else:
        odd.symlink_to({"symlink": "/etc/passwd", "symlink to folder": "/etc"}.get(kind, "nowhere"))
    with pytest.raises(OddEntry, match=f"^{short_folder}/in/odd: is a") as caught:
        paths(short_folder)
    assert caught.value.path == "in/odd"


@pytest.mark.parametrize("name", [b"back\\slash", b"new\nline", b"latin-\xe9", b".coredeno-tmp-00"])
def test_names_that_no_path_can_name(folder: Path, name: bytes):
    """Are refused, and shown escaped."""
    (folder / "a" / os.fsdecode(name)).write_bytes(b"")
    with pytest.raises(OddEntry, match="its name has") as caught:
        paths(folder)
    assert str(caught.value).isprintable()
    assert os.fsencode(caught.value.path) == b"a/" + name


def test_bounds(folder: Path):
    """So many entries and levels, and not one more; the error says which bound it was."""
    assert len(paths(folder, entries_limit=9, depth_limit=2)) == 9
    with pytest.raises(FolderTooLarge, match="more than 8 files and folders") as caught:
        paths(folder, entries_limit=8)
    assert (caught.value.path, caught.value.bound, caught.value.allowed) == ("", "entries", 8)
    with pytest.raises(FolderTooLarge, match="more than 1 folders within one another") as caught:
        paths(folder, depth_limit=1)
    assert (caught.value.path, caught.value.bound, caught.value.allowed) == ("a/b", "depth", 1)


def test_no_folder_at_all(folder: Path):
    """Missing, or a file: it cannot be read, and the plugin is at fault."""
    for path in (folder / "nowhere", folder / "main.ts"):
        with pytest.raises(FolderFault, match=f"^{path}: cannot be read") as caught:
            paths(path)
        assert isinstance(caught.value, PluginError)
        assert caught.value.path == ""


def test_a_file_that_goes_away(folder: Path):
    """What was listed and is gone when its turn comes is an error, not a gap."""
    files = walk(folder)
    for file in files:
        if file.path == "a":
            break
        (folder / "main.ts").unlink(missing_ok=True)
    with closing(files), pytest.raises(FolderFault, match=r"main\.ts: cannot be read"):
        list(files)


def test_a_file_that_cannot_be_read():
    """An error while reading names the file, as one while opening does."""
    process = Path("/proc/self")  # `mem` opens, and cannot be read at 0
    others = frozenset(entry.name for entry in process.iterdir()) - {"mem"}
    with closing(walk(process, skip_names=others)) as files:
        file = next(files)
        with pytest.raises(FolderFault, match=r"^/proc/self/mem: cannot be read"):
            list(file.pieces())


def test_nothing_stays_open_when_a_loop_ends_early(folder: Path):
    """Closing the generator closes every descriptor, however deep it was."""
    with closing(walk(folder)) as files:
        opened = []
        for file in files:
            opened.append(file.descriptor)
            if file.path == "a/b/c.ts":
                break
        os.fstat(opened[-1])
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_swapped_for_a_link_is_never_followed(folder: Path, tmp_path: Path, kind: str):
    """While a file or folder becomes a link out of the folder and back, nothing of outside is read."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "c.ts").write_text("of the host")
    victim = folder / "a" / "b" / "c.ts" if kind == "file" else folder / "a" / "b"
    target = secrets / "c.ts" if kind == "file" else secrets
    spare = tmp_path / "spare"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            victim.rename(spare)
            victim.symlink_to(target)
            victim.unlink()
            spare.rename(victim)

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes = set()
    try:
        for _ in range(300):
            try:
                with closing(walk(folder)) as files:
                    outcomes |= {b"".join(file.pieces()) for file in files if file.path == "a/b/c.ts"}
            except FolderFault:
                outcomes.add(b"refused")
    finally:
        stop.set()
        swapper.join()
    assert outcomes <= {b"a/b/c.ts", b"refused"}
    with closing(walk(folder)) as files:  # and at rest it is read
        assert b"a/b/c.ts" in [b"".join(file.pieces()) for file in files if not file.is_folder]


def test_as_errors_of_installing(folder: Path, tmp_path: Path):
    """Whoever installs or signs gets errors of that tree, with the same facts."""
    (folder / "a" / "odd").symlink_to("x")
    with pytest.raises(UnsafePath, match="path 'a/odd': is a symlink") as unsafe, install_errors():
        paths(folder)
    assert unsafe.value.path == "a/odd"
    with pytest.raises(FetchLimitExceeded) as large, install_errors():
        paths(folder, entries_limit=3)
    assert (large.value.limit, large.value.allowed) == ("files", 3)
    with pytest.raises(FetchLimitExceeded) as large, install_errors():
        paths(folder, depth_limit=0)
    assert (large.value.limit, large.value.allowed) == ("depth", 0)
    with pytest.raises(InstallError, match="cannot be read"), install_errors():
        paths(tmp_path / "nowhere")
    with install_errors():
        assert paths(folder / "empty") == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=20))
def test_accepted_names_are_taken_byte_for_byte(tmp_path: Path, name: str):
    """What `check_name` accepts is a file of exactly that name here, and the walk gives it back."""
    try:
        check_name(name)
    except UnsafePath:
        return
    (tmp_path / name).write_text("x")
    try:
        assert [os.fsencode(entry.name) for entry in tmp_path.iterdir()] == [name.encode()]
        assert paths(tmp_path) == [name]
    finally:
        (tmp_path / name).unlink()
