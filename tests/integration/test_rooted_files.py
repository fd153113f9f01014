"""`RootedFiles` on a real disk: nothing leads out of the root, nothing blocks, nothing is half done."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import resource
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import (
    CoreDenoError,
    FailedPrecondition,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    RequestError,
    UsageError,
)
from coredeno.interfaces import FileEntry, Files
from coredeno.services import beneath
from coredeno.services.beneath import Opening, best_opening, open_by_openat2, open_by_walk
from coredeno.services.rooted_files import RootedFiles, _as_request_errors
from coredeno.services.threads import DiskThreads, in_thread
from coredeno.testing.memory_files import MemoryFiles

LOTS = 1 << 24
OPENINGS = [open_by_walk, open_by_openat2] if sys.platform.startswith("linux") else [open_by_walk]
SECRET = b"of the host"


class Case:
    """A root, and beside it what no module may reach."""

    def __init__(self, folder: Path, opening: Opening) -> None:
        self.root = folder / "app"
        self.outside = folder / "app-secret"
        self.root.mkdir()
        self.outside.mkdir()
        self.secret = self.outside / "secret"
        self.secret.write_bytes(SECRET)
        self.files = RootedFiles(self.root, opening=opening)

    def untouched(self) -> bool:
        return os.listdir(self.outside) == ["secret"] and self.secret.read_bytes() == SECRET  # noqa: PTH208


@pytest.fixture(params=OPENINGS)
def opening(request: pytest.FixtureRequest) -> Opening:
    """Each way by which a path is resolved: what holds, holds by both."""
    return request.param


@pytest.fixture
def case(tmp_path: Path, opening: Opening) -> Case:
    return Case(tmp_path, opening)


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


async def test_symlink_file(case: Case):
    """A link to a file outside is not there, for reading, listing and deleting, and stays what it is."""
    link = case.root / "link"
    link.symlink_to(case.secret)
    with pytest.raises(NotFound):
        await case.files.read("link", limit_bytes=LOTS)
    with pytest.raises(NotFound):
        await case.files.list("link")
    with pytest.raises(NotFound):
        await case.files.delete("link")
    assert await case.files.list(".") == []
    assert link.is_symlink()
    assert case.untouched()


async def test_symlink_dir(case: Case):
    """A link to a folder outside leads nowhere, as the last component and as one in between."""
    (case.root / "link").symlink_to(case.outside)
    with pytest.raises(NotFound):
        await case.files.read("link/secret", limit_bytes=LOTS)
    with pytest.raises(NotFound):
        await case.files.list("link")
    with pytest.raises(NotFound):
        await case.files.delete("link/secret")
    with pytest.raises(NotFound):
        await case.files.delete("link")
    assert await case.files.list(".") == []
    assert case.untouched()


async def test_symlink_in_the_middle(case: Case):
    """A link far above the last component leads nowhere either."""
    (case.root / "link").symlink_to(case.root.parent)
    with pytest.raises(NotFound):
        await case.files.read("link/app-secret/secret", limit_bytes=LOTS)
    with pytest.raises(NotFound):
        await case.files.list("link/app-secret")
    with pytest.raises(NotFound):
        await case.files.delete("link/app-secret/secret")
    for path in ("link/app-secret/secret", "link/app-secret/new", "link/new/new"):
        with pytest.raises(FailedPrecondition):
            await case.files.write(path, b"x")
    assert case.untouched()
    assert names_in(case.root.parent) == ["app", "app-secret"]


@pytest.mark.parametrize("target", ["inside", "inside/file", "missing", "/proc/self/cwd", "."])
async def test_symlinks_that_stay_inside_are_not_followed_either(case: Case, target: str):
    """Wherever a link leads, it counts as not found."""
    await case.files.write("inside/file", b"x")
    (case.root / "link").symlink_to(target)
    for path in ("link", "link/file"):
        with pytest.raises(NotFound):
            await case.files.read(path, limit_bytes=LOTS)
    with pytest.raises(NotFound):
        await case.files.list("link")
    assert [entry.name for entry in await case.files.list(".")] == ["inside"]


async def test_write_through_link(case: Case):
    """A write neither follows a link nor replaces it, as a file or as a folder on the way."""
    (case.root / "file").symlink_to(case.secret)
    (case.root / "folder").symlink_to(case.outside)
    (case.root / "dangling").symlink_to(case.outside / "new")
    for path in ("file", "folder", "folder/secret", "folder/new", "folder/new/x", "dangling", "dangling/x"):
        with pytest.raises(FailedPrecondition):
            await case.files.write(path, b"written")
    assert case.untouched()
    assert names_in(case.root) == ["dangling", "file", "folder"]


@pytest.mark.parametrize("above", [False, True])
async def test_symlink_swap(case: Case, *, above: bool):
    """While a folder is swapped for a link to the outside again and again, nothing outside is reached."""
    to, path = (case.outside.parent, "d/app-secret") if above else (case.outside, "d")
    folder, away, link = case.root / "d", case.root / "away", case.root / "link"

    def set_up() -> None:
        for path in (folder, away, link):
            if path.is_symlink():
                path.unlink()
            shutil.rmtree(path, ignore_errors=True)
        (folder / "app-secret").mkdir(parents=True, exist_ok=True)
        (folder / "app-secret" / "secret").write_bytes(b"inside")
        (folder / "secret").write_bytes(b"inside")
        link.symlink_to(to)

    def swap() -> None:
        folder.rename(away)
        link.rename(folder)
        folder.rename(link)
        away.rename(folder)

    outcomes: set[str] = set()
    with racing(set_up, swap):
        for _ in for_a_while():
            outcomes.add(await outcome(case.files.read(f"{path}/secret", limit_bytes=LOTS)))
            outcomes.add(await outcome(case.files.list(path)))
            await outcome(case.files.write(f"{path}/secret", b"inside"))
            await outcome(case.files.write(f"{path}/new", b"inside"))
            await outcome(case.files.delete(f"{path}/new"))
    assert case.untouched()
    assert repr(SECRET) not in outcomes
    assert repr(b"inside") in outcomes


async def test_symlink_swap_of_a_file(case: Case):
    """While a file is swapped for a link to the outside, only the file is ever read or replaced."""
    file, link = case.root / "f", case.root / "link"

    def swap() -> None:
        link.unlink(missing_ok=True)
        link.symlink_to(case.secret)
        link.rename(file)
        link.write_bytes(b"inside")
        link.rename(file)

    outcomes: set[str] = set()
    with racing(lambda: None, swap):
        for _ in for_a_while():
            outcomes.add(await outcome(case.files.read("f", limit_bytes=LOTS)))
            await outcome(case.files.write("f", b"inside"))
    assert case.untouched()
    assert repr(SECRET) not in outcomes
    assert repr(b"inside") in outcomes


def for_a_while(seconds: float = 2) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


@contextmanager
def racing(set_up: Callable[[], None], step: Callable[[], None]) -> Iterator[None]:
    """Repeat `step` in a thread; what the other side does may make it fail, then `set_up` is tried again."""
    stop = threading.Event()

    def run() -> None:
        ready = False
        while not stop.is_set():
            try:
                if not ready:
                    set_up()
                step()
                ready = True
            except OSError:
                ready = False

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def outcome(operation: Awaitable[object]) -> str:
    try:
        return repr(await operation)
    except RequestError as error:
        return type(error).__name__


async def test_hardlink(case: Case):
    """A hard link that the app made is read; a write replaces that name only."""
    (case.root / "hard").hardlink_to(case.secret)
    assert await case.files.read("hard", limit_bytes=LOTS) == SECRET
    await case.files.write("hard", b"mine")
    assert await case.files.read("hard", limit_bytes=LOTS) == b"mine"
    assert case.untouched()


@pytest.mark.parametrize(
    "path",
    [
        "../app-secret/secret",
        "..",
        "x/../../app-secret/secret",
        "/etc/passwd",
        "..\\app-secret",
        "a\0b",
        "a\nb",
    ],
)
async def test_path_prefix(case: Case, path: str):
    """A sibling whose name begins like the root's is as far away as any other folder."""
    for operation in (
        case.files.read(path, limit_bytes=LOTS),
        case.files.list(path),
        case.files.write(path, b"x"),
        case.files.delete(path),
    ):
        with pytest.raises(InvalidArgument):
            await operation
    assert case.untouched()


@given(
    st.lists(
        st.sampled_from(["..", ".", "", "app-secret", "secret", "a", "link", "\\", "\0", "x" * 256])
        | st.text(),
        max_size=6,
    ).map("/".join),
    st.sampled_from(OPENINGS),
)
def test_no_path_leads_out(path: str, opening: Opening):
    """Whatever the path, reading gives no secret, and writing and deleting change nothing outside."""
    with short_lived_folder() as folder:
        case = Case(folder, opening)
        (case.root / "link").symlink_to(case.outside)

        async def attack() -> None:
            assert await outcome(case.files.read(path, limit_bytes=LOTS)) != repr(SECRET)
            assert "secret" not in await outcome(case.files.list(path))
            await outcome(case.files.write(path, b"x"))
            await outcome(case.files.delete(path))

        asyncio.run(attack())
        assert names_in(folder) == ["app", "app-secret"]
        assert case.untouched()


@pytest.fixture(params=["fifo", "socket"])
def odd(request: pytest.FixtureRequest, short_folder: Path) -> Iterator[Path]:
    path = short_folder / "odd"
    if request.param == "fifo":
        os.mkfifo(path)
        yield path
        return
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        yield path
    path.unlink()


async def test_what_is_no_plain_file_neither_blocks_nor_changes(odd: Path, opening: Opening):
    """A fifo without a writer, or a socket: not read, written, listed or deleted, and no waiting."""
    files = RootedFiles(odd.parent, opening=opening)
    async with asyncio.timeout(5):
        for operation in (
            files.read("odd", limit_bytes=LOTS),
            files.write("odd", b"x"),
            files.list("odd"),
            files.delete("odd"),
        ):
            with pytest.raises(FailedPrecondition):
                await operation
        assert await files.list(".") == []
    assert names_in(odd.parent) == ["odd"]


async def test_a_device_is_no_plain_file(opening: Opening):
    """A device that lies beneath a root is not read."""
    with pytest.raises(FailedPrecondition):
        await RootedFiles(Path("/dev"), opening=opening).read("null", limit_bytes=LOTS)


async def test_names_that_no_path_can_name_are_not_listed(case: Case):
    """What a list shows can be read: names with a backslash or newline, or not in UTF-8, are left out."""
    for name in (b"good", b"back\\slash", b"new\nline", b"latin-\xe9"):
        (case.root / os.fsdecode(name)).write_bytes(b"x")
    assert await case.files.list(".") == [FileEntry(name="good", is_dir=False, size=1)]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_modes_of_new_files_and_folders(case: Case):
    """A new file has 0644 and a new folder 0755, each minus the umask."""
    with umask(0o022):
        await case.files.write("a/b", b"x")
    with umask(0o077):
        await case.files.write("c/d", b"x")
    assert [mode_of(case.root / name) for name in ("a", "a/b", "c", "c/d")] == [0o755, 0o644, 0o700, 0o600]


@pytest.mark.parametrize(
    ("before", "after"), [(0o600, 0o600), (0o664, 0o664), (0o755, 0o644), (0o6755, 0o644)]
)
async def test_modes_of_replaced_files(case: Case, before: int, after: int):
    """Who could read and write a file still can, nobody else; it is never executable, nor runs as another."""
    (case.root / "a").write_bytes(b"old")
    (case.root / "a").chmod(before)
    await case.files.write("a", b"new")
    assert mode_of(case.root / "a") == after


async def test_order_of_a_write(case: Case, monkeypatch: pytest.MonkeyPatch):
    """A power cut finds the old file or all of the new one: data to disk, then the name, then the folder."""
    calls: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        calls.append(f"fsync {kind} of {os.fstat(descriptor).st_size if kind == 'file' else 'names'}")
        real_fsync(descriptor)

    def rename(*args, **kwargs) -> None:
        calls.append("rename")
        real_rename(*args, **kwargs)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    await case.files.write("folder/a", b"12345")
    # The first is the root, which got the new folder.
    assert calls == ["fsync folder of names", "fsync file of 5", "rename", "fsync folder of names"]
    calls.clear()
    await case.files.delete("folder/a")
    assert calls == ["fsync folder of names"]


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_write_without_room_changes_nothing(case: Case):
    """When the system takes a part only, the old file stays and no temporary file is left."""
    await case.files.write("a", b"old")
    with largest_file(100_000), pytest.raises(LimitExceeded):
        await case.files.write("a", b"x" * 200_000)
    assert names_in(case.root) == ["a"]
    assert await case.files.read("a", limit_bytes=LOTS) == b"old"


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "fchmod"])
async def test_a_write_that_fails_at_any_step_changes_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch, call: str
):
    """Whichever step the disk refuses, the old file stays and no temporary file is left."""
    await case.files.write("a", b"old")

    def refuse(*args, **kwargs):
        raise OSError(errno.ENOSPC, "refused")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(LimitExceeded, match="write 'a': No space left"):
        await case.files.write("a", b"new")
    monkeypatch.undo()
    assert names_in(case.root) == ["a"]
    assert await case.files.read("a", limit_bytes=LOTS) == b"old"


async def test_what_a_crash_left_is_neither_seen_nor_in_the_way(case: Case):
    """The temporary file of a write that was cut off cannot be named, and its folder can be deleted."""
    left = case.root / "folder" / ".coredeno-tmp-0123"
    left.parent.mkdir()
    left.write_bytes(b"half")
    assert await case.files.list("folder") == []
    with pytest.raises(InvalidArgument):
        await case.files.read("folder/.coredeno-tmp-0123", limit_bytes=LOTS)
    await case.files.write("folder/a", b"x")
    with pytest.raises(FailedPrecondition):
        await case.files.delete("folder")
    assert left.exists()
    await case.files.delete("folder/a")
    await case.files.delete("folder")
    assert names_in(case.root) == []


async def test_a_file_larger_than_it_says_is_held_to_the_limit(case: Case, monkeypatch: pytest.MonkeyPatch):
    """What counts is what is read: a file that grows after it was looked at is whole, or over the limit."""
    (case.root / "log").write_bytes(b"begun")
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        if stat.S_ISREG(status.st_mode):
            with (case.root / "log").open("ab") as file:
                file.write(b", grown")
        return status

    monkeypatch.setattr(os, "fstat", fstat)
    assert await case.files.read("log", limit_bytes=LOTS) == b"begun, grown"
    with pytest.raises(LimitExceeded, match="grown"):
        await case.files.read("log", limit_bytes=12)


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("/proc", "self/environ"),
        ("/proc/self", "environ"),
        ("/proc", "self"),
        ("/proc", "1/environ"),
        ("/proc", "self/fd/0"),
        ("/proc", "self/root/etc/passwd"),
        ("/sys", "kernel/osrelease"),
    ],
)
async def test_proc_environ(opening: Opening, root: str, path: str):
    """What the kernel makes up is not there, even where the app's root has it in it."""
    files = RootedFiles(Path(root), opening=opening)
    with pytest.raises(NotFound):
        await files.read(path, limit_bytes=LOTS)
    with pytest.raises(NotFound):
        await files.list(".")
    with pytest.raises(FailedPrecondition):
        await files.write("comm", b"x")


@pytest.mark.parametrize("root", ["/", "//", "/usr/.."])
def test_the_root_of_the_machine_is_refused(root: str):
    """A root in which all is would be no bound."""
    with pytest.raises(UsageError, match="whole machine"):
        RootedFiles(Path(root))


async def test_what_is_hidden_is_known_by_what_it_is(tmp_path: Path, opening: Opening):
    """The hidden folder is not there by any name: what is compared is the folder that was opened."""
    files = RootedFiles(tmp_path, hidden=".core", opening=opening)
    await files.write("a/b", b"x")  # also as long as there is nothing to hide
    (tmp_path / ".core" / "plugins").mkdir(parents=True)
    (tmp_path / ".core" / "store.db").write_bytes(SECRET)
    for path in (".core/store.db", ".core/plugins/x", ".core/missing"):
        with pytest.raises(NotFound):
            await files.read(path, limit_bytes=LOTS)
        with pytest.raises(FailedPrecondition):
            await files.write(path, b"x")
        with pytest.raises(NotFound):
            await files.delete(path)
    for path in (".core", ".core/plugins"):
        with pytest.raises(NotFound):
            await files.list(path)
    assert names_in(tmp_path / ".core") == ["plugins", "store.db"]
    assert await files.read("a/b", limit_bytes=LOTS) == b"x"
    assert await files.list("a") == [FileEntry(name="b", is_dir=False, size=1)]


@pytest.mark.parametrize(
    "parts", [("..",), ("a", "..", "..", "out"), ("../out",), ("a/../../out",), ("/etc",)]
)
def test_no_way_leads_above_the_folder(tmp_path: Path, opening: Opening, parts: tuple[str, ...]):
    """Whatever the parts are: who checks paths is one fence, this is the other."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    above = os.open(tmp_path / "in", beneath.ROOT)
    try:
        with pytest.raises(OSError, match=r"cross-device|Cross-device|Invalid"):
            os.close(opening(above, parts, beneath.FOLDER))
    finally:
        os.close(above)


def test_the_best_way_is_chosen_by_what_the_kernel_does(monkeypatch: pytest.MonkeyPatch):
    """openat2 is taken where it is seen to resolve beneath; where it is missing or lies, it is the walk."""
    if sys.platform.startswith("linux"):
        assert best_opening() is open_by_openat2

    def missing(above: int, parts: Sequence[str], flags: int) -> int:
        raise OSError(errno.ENOSYS, "no such call")

    for broken in (missing, lambda above, parts, flags: os.open("/", flags)):
        monkeypatch.setattr(beneath, "open_by_openat2", broken)
        assert best_opening() is open_by_walk
    monkeypatch.setattr(os, "uname", lambda: type("Machine", (), {"machine": "alpha"}))
    assert best_opening() is open_by_walk


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR])
async def test_openat2_that_is_disturbed(case: Case, monkeypatch: pytest.MonkeyPatch, number: int):
    """Where the kernel could not be sure, or a signal came in, the file is opened all the same, and safely."""
    await case.files.write("a/b", b"x")
    (case.root / "link").symlink_to(case.outside)
    left = 0

    class Libc:
        def syscall(self, *arguments: object) -> int:
            nonlocal left
            left -= 1
            if left < 0:
                return real().syscall(*arguments)
            ctypes.set_errno(number)
            return -1

        def fstatfs(self, *arguments: object) -> int:
            return real().fstatfs(*arguments)

    real = beneath._libc
    monkeypatch.setattr(beneath, "_libc", Libc)
    left = 1
    assert await case.files.read("a/b", limit_bytes=LOTS) == b"x"
    left = 1
    with pytest.raises(NotFound):
        await case.files.read("link/secret", limit_bytes=LOTS)


async def test_a_folder_of_the_root_stays_open_while_it_is_moved_out(case: Case):
    """Who holds a folder that is moved elsewhere may still write into that folder, and into no other."""
    away = case.outside.parent / "away"

    def swap() -> None:
        (case.root / "d").rename(away)
        away.rename(case.root / "d")

    outcomes: set[str] = set()
    with racing(lambda: (case.root / "d").mkdir(exist_ok=True), swap):
        for _ in range(100):
            outcomes.add(await outcome(case.files.write("d/x", b"inside")))
    assert case.untouched()
    assert outcomes <= {"None", "FailedPrecondition"}


async def test_a_folder_with_too_many_entries(case: Case):
    """A list has at most so many entries; one more is an error and no list."""
    files = RootedFiles(case.root, entries_limit=3)
    for number in range(3):
        (case.root / str(number)).write_bytes(b"")
    assert len(await files.list(".")) == 3
    (case.root / "3").write_bytes(b"")
    with pytest.raises(LimitExceeded):
        await files.list(".")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, NotFound),
        (errno.ELOOP, NotFound),
        (errno.ENOSPC, LimitExceeded),
        (errno.EDQUOT, LimitExceeded),
        (errno.EMFILE, LimitExceeded),
        (errno.EACCES, FailedPrecondition),
        (errno.EROFS, FailedPrecondition),
        (errno.EIO, FailedPrecondition),
        (None, FailedPrecondition),
    ],
)
def test_every_error_of_the_system_becomes_one_of_ours(number: int | None, kind: type[CoreDenoError]):
    """No OSError comes out; its number decides, and the message has the action and the path, not the root."""
    error = OSError("odd") if number is None else OSError(number, "text", "/var/app/root/a")
    with pytest.raises(RequestError) as caught, _as_request_errors("read", "a"):
        raise error
    assert type(caught.value) is kind
    assert str(caught.value).startswith("read 'a': ")
    assert "/var/app" not in str(caught.value)


async def test_a_missing_root(tmp_path: Path):
    """It is looked for at each operation: first not there, or a file, then a folder."""
    root = tmp_path / "later"
    files = RootedFiles(root)
    for make in (lambda: None, lambda: root.write_bytes(b"")):
        make()
        with pytest.raises(NotFound):
            await files.list(".")
        with pytest.raises(NotFound):
            await files.read("a", limit_bytes=LOTS)
        with pytest.raises(FailedPrecondition):
            await files.write("a", b"x")
    root.unlink()
    root.mkdir()
    assert await files.list(".") == []


async def test_a_root_behind_a_symlink(tmp_path: Path):
    """The way to the root is the app's own and may lead through links."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    await RootedFiles(tmp_path / "link").write("a", b"x")
    assert (tmp_path / "real" / "a").read_bytes() == b"x"


def test_a_relative_root_is_refused():
    """A root that would move with the working directory is a mistake of the app."""
    with pytest.raises(UsageError):
        RootedFiles(Path("relative"))


async def test_folders_made_by_two_writers_at_once(case: Case):
    """Writers that need the same folders do not get into each other's way."""
    await asyncio.gather(*(case.files.write(f"a/b/c/{number}", b"x") for number in range(12)))
    assert len(await case.files.list("a/b/c")) == 12


async def test_work_that_has_begun_is_waited_for():
    """However often it is cancelled, `in_thread` comes back when the thread has done its work."""
    begun, go = threading.Event(), threading.Event()
    done: list[str] = []

    def work() -> None:
        begun.set()
        go.wait()
        done.append("work")
        raise RuntimeError("of no interest any more")

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(begun.wait)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["work"]


async def test_work_that_has_not_begun_is_dropped(case: Case):
    """A write that still waits for a thread when it is cancelled never happens, and nobody waits for it."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="asyncio"))
    begun, go = threading.Event(), threading.Event()
    blocking = asyncio.create_task(in_thread(lambda: (begun.set(), go.wait())))
    await asyncio.sleep(0)
    begun.wait()
    task = asyncio.create_task(case.files.write("a", b"x"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    dropped = task.done() and not blocking.done()
    go.set()
    await blocking
    assert dropped
    assert task.cancelled()
    assert await case.files.list(".") == []


async def test_work_without_a_thread_never_runs(monkeypatch: pytest.MonkeyPatch):
    """A pool that cannot start a thread keeps what it was given, for the next one that it can."""
    done: list[str] = []
    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patched:

        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            await in_thread(lambda: done.append("first"), pool=pool)
        patched.undo()
        await in_thread(lambda: done.append("second"), pool=pool)
    assert done == ["second"]


async def test_disk_threads_are_so_many_and_end(case: Case):
    """Work is done by threads of the host's own, so many at most; none is left when they are closed."""
    threads = DiskThreads(most=2)
    files = RootedFiles(case.root, run=threads.run)
    await asyncio.gather(*(files.write(str(number), b"x") for number in range(8)))
    own = [thread for thread in threading.enumerate() if thread.name.startswith("coredeno disk")]
    assert len(own) == 2
    under_way = asyncio.create_task(files.write("last", b"x"))
    await asyncio.sleep(0)
    await threads.aclose()
    await threads.aclose()
    await under_way
    assert not any(thread.is_alive() for thread in own)
    assert await case.files.read("last", limit_bytes=1) == b"x"


async def test_the_loop_goes_on_while_the_disk_works(case: Case):
    """Files of many megabytes are written and read while the loop turns."""
    data = os.urandom(1 << 20) * 12
    worst_s = 0.0

    async def watch() -> None:
        nonlocal worst_s
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            worst_s = max(worst_s, time.monotonic() - before)

    watching = asyncio.create_task(watch())
    await case.files.write("a", data)
    assert await case.files.read("a", limit_bytes=LOTS) == data
    watching.cancel()
    assert worst_s < 0.5


PATHS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join) | st.just(".")
OPERATIONS: st.SearchStrategy[Callable[[Files], Awaitable[object]]] = st.one_of(
    st.builds(lambda path: lambda files: files.read(path, limit_bytes=2), PATHS),
    st.builds(lambda path, data: lambda files: files.write(path, data), PATHS, st.binary(max_size=3)),
    st.builds(lambda path: lambda files: files.list(path), PATHS),
    st.builds(lambda path: lambda files: files.delete(path), PATHS),
)


@contextmanager
def short_lived_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@given(st.lists(OPERATIONS, max_size=25), st.sampled_from(OPENINGS))
def test_the_disk_does_what_the_dictionary_does(
    operations: list[Callable[[Files], Awaitable[object]]], opening: Opening
):
    """Any row of operations has the same results and errors on `RootedFiles` and on `MemoryFiles`."""
    with short_lived_folder() as folder:
        rooted, memory = RootedFiles(folder, opening=opening), MemoryFiles()

        async def compare() -> None:
            for operation in operations:
                assert await outcome(operation(rooted)) == await outcome(operation(memory))

        asyncio.run(compare())
        on_disk = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
        assert {path for path, entry in on_disk.items() if entry.is_dir()} == memory.folders
        assert {path: e.read_bytes() for path, e in on_disk.items() if e.is_file()} == memory.files
