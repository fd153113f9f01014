"""`ProcessTable` with real processes: what they get, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from coredeno.errors import (
    FailedPrecondition,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    RequestError,
    UsageError,
)
from coredeno.interfaces import ProcessResult
from coredeno.services.process_table import _LEASH, ProcessTable, _start_error
from coredeno.testing.turned_clock import TurnedClock

SH = Path("/bin/sh")
Eventually = Callable[..., Awaitable[None]]


@pytest_asyncio.fixture
async def table() -> AsyncIterator[ProcessTable]:
    table = ProcessTable()
    yield table
    await table.stop_all()


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest_asyncio.fixture
async def turned(clock: TurnedClock) -> AsyncIterator[ProcessTable]:
    """A table whose graces the test lets pass."""
    table = ProcessTable(clock=clock)
    yield table
    await table.stop_all()
    assert clock.waiting == 0


async def run(table: ProcessTable, cwd: Path, script: str, *args: str) -> ProcessResult:
    return await table.wait(await start(table, cwd, script, *args))


async def start(table: ProcessTable, cwd: Path, script: str, *args: str) -> str:
    return await table.start(SH, ["-c", script, "sh", *args], owner="m", cwd=cwd)


def pid_in(file: Path) -> int | None:
    text = file.read_text() if file.exists() else ""
    return int(text) if text.endswith("\n") else None


def is_gone(pid: int) -> bool:
    """Whether it runs no more; whoever is in charge of orphans may not have reaped it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_environment_is_built_from_nothing(
    table: ProcessTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nothing of the host's environment is handed on, and HOME is no folder that a plugin could write to."""
    for name in ("SECRET", "LD_PRELOAD", "NODE_OPTIONS", "PATH"):
        monkeypatch.setenv(name, "")
    process_id = await table.start(Path("/usr/bin/env"), [], owner="m", cwd=tmp_path)
    lines = (await table.wait(process_id)).stdout.splitlines()
    assert sorted(lines) == ["HOME=/nonexistent", "LANG=C.UTF-8", "PATH=/usr/bin:/bin"]


async def test_folder_stdin_and_descriptors(table: ProcessTable, tmp_path: Path):
    """It works in the folder that was named, has an empty stdin, and no descriptor beside the three."""
    leaky, other = os.pipe()
    os.set_inheritable(leaky, True)  # noqa: FBT003
    try:
        result = await run(table, tmp_path, f"pwd; cat; test -e /proc/self/fd/{leaky} || echo closed")
    finally:
        os.close(leaky)
        os.close(other)
    assert result == ProcessResult(exit_code=0, stdout=f"{tmp_path}\nclosed\n", stderr="")


async def test_what_each_program_is_started_with(table: ProcessTable, tmp_path: Path):
    """It can gain no rights, dumps no core, ignores no signal even if its host does, and makes files as that does."""
    script = "grep -E '^(NoNewPrivs|SigIgn|SigBlk):' /proc/self/status; ulimit -c; ulimit -Hc; umask"
    umask = os.umask(0o027)
    quitting = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        result = await run(table, tmp_path, script)
    finally:
        signal.signal(signal.SIGQUIT, quitting)
        os.umask(umask)
    words = result.stdout.split()
    assert words == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16, "NoNewPrivs:", "1", "0", "0", "0027"]
    assert result.stderr == ""


VICTIM = """
import asyncio, sys
from pathlib import Path
from coredeno import HostConfig
from coredeno.services.process_table import ProcessTable
from coredeno.testing import MemorySource, fake_host

class Plugin:
    async def init(self, core):
        for name in ("tool", "escaped"):
            await core.processes.start(name)

async def main():
    config = HostConfig(programs={"tool": sys.argv[2], "escaped": sys.argv[3]})
    manifest = "code: a\\nversion: 1.0\\npermissions: {run: [tool, escaped]}\\n"
    root = Path(sys.argv[1])
    async with fake_host(root, {"a": Plugin}, processes=ProcessTable(), config=config) as host:
        await host.load_source(MemorySource(manifest))
        print(host.socket.parent, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_programs_die_with_a_host_that_is_killed(tmp_path: Path, eventually: Eventually):
    """Within a second of the host's SIGKILL, though one ignores all signals that it can and has closed its pipes."""
    for name, line in (
        ("tool", "exec sleep 60"),
        ("escaped", "trap '' TERM HUP INT PIPE; exec sleep 60 >&- 2>&-"),
    ):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/{name}.pid\n{line}\n")
        script.chmod(0o755)
    arguments = [str(tmp_path / "app"), str(tmp_path / "tool"), str(tmp_path / "escaped")]
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, *arguments, stdout=asyncio.subprocess.PIPE, cwd=Path.cwd()
    )
    try:
        assert host.stdout is not None
        sockets = Path((await host.stdout.readline()).decode().strip())
        files = [tmp_path / "tool.pid", tmp_path / "escaped.pid"]
        await eventually(lambda: all(pid_in(file) for file in files))
        pids = [pid_in(file) or 0 for file in files]
        assert not any(is_gone(pid) for pid in pids)
    finally:
        host.kill()
        await host.wait()
    await eventually(lambda: all(is_gone(pid) for pid in pids), within_s=1)
    await asyncio.to_thread(shutil.rmtree, sockets)


async def test_a_program_whose_host_has_gone_before_it_began_does_not_begin(tmp_path: Path):
    """The leash looks whether its host is still there, for of an end before that no signal comes."""
    ours, theirs = os.pipe()
    try:
        leash = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-B", str(_LEASH), "1", str(theirs)),
            *("/bin/touch", str(tmp_path / "began")),
            pass_fds=[theirs],
        )
        assert await leash.wait() == 1
    finally:
        os.close(ours)
        os.close(theirs)
    assert not (tmp_path / "began").exists()


async def test_a_frozen_app_starts_programs_without_a_leash(
    table: ProcessTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It has no Python to run one with: its `sys.executable` is the app."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", "/nonexistent/app")
    assert (await run(table, tmp_path, "echo runs")).stdout == "runs\n"
    with pytest.raises(NotFound):
        await table.start(tmp_path / "none", [], owner="m", cwd=tmp_path)


async def test_without_a_descriptor_there_is_no_start(
    table: ProcessTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The machine's shortage is told as one, and nothing is kept of the attempt."""

    def none_left() -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pipe", none_left)
        with pytest.raises(LimitExceeded, match="Too many open files"):
            await table.start(SH, [], owner="m", cwd=tmp_path)
    assert (await run(table, tmp_path, "echo runs")).stdout == "runs\n"


async def test_a_session_of_its_own(table: ProcessTable, tmp_path: Path):
    """Its session and its group are its own, so a signal to the group reaches nothing of the host."""
    script = "import os; print(os.getpid() == os.getsid(0) == os.getpgid(0))"
    process_id = await table.start(Path(sys.executable), ["-ISc", script], owner="m", cwd=tmp_path)
    assert (await table.wait(process_id)).stdout == "True\n"


async def test_the_last_of_each_stream_is_kept(table: ProcessTable, tmp_path: Path):
    """64 KiB of the end, of stdout and of stderr; a program that writes more is not held up."""
    script = "head -c 300000 /dev/zero | tr '\\0' $1; echo $2"
    result = await run(table, tmp_path, f"{script}; set -- b err; {{ {script}; }} >&2", "a", "out")
    assert result == ProcessResult(exit_code=0, stdout="a" * 65532 + "out\n", stderr="b" * 65532 + "err\n")


async def test_output_is_text_whatever_it_is(table: ProcessTable, tmp_path: Path):
    """Bytes that are no UTF-8 become U+FFFD."""
    assert (await run(table, tmp_path, r"printf '\377\376 ok'")).stdout == "\ufffd\ufffd ok"


async def test_a_flood_is_slowed_down(turned: ProcessTable, clock: TurnedClock, tmp_path: Path):
    """About a MiB is read in 50 ms of the clock's time, so a flood leaves the loop time for others."""
    process_id = await turned.start(Path("/usr/bin/head"), ["-c", "8M", "/dev/zero"], owner="m", cwd=tmp_path)
    waiting = asyncio.create_task(turned.wait(process_id))
    turns = 0
    async with asyncio.timeout(30):
        while not waiting.done():
            await asyncio.sleep(0.002)
            if clock.waiting:
                await clock.turn(0.05)
                turns += 1
    assert (await waiting).exit_code == 0
    assert turns >= 5


async def test_a_flood_ends_with_its_program(table: ProcessTable, tmp_path: Path):
    """A program that writes for ever is stopped like any other."""
    process_id = await table.start(Path("/usr/bin/yes"), [], owner="m", cwd=tmp_path)
    await asyncio.sleep(0.05)
    await table.stop(process_id)
    result = await table.wait(process_id)
    assert result.exit_code == -signal.SIGTERM
    assert len(result.stdout) == 65536


async def test_stop_asks_first(table: ProcessTable, tmp_path: Path, eventually: Eventually):
    """A program that handles SIGTERM ends as it likes."""
    script = "trap 'echo bye; exit 3' TERM; touch ready; while :; do sleep 9 & wait; done"
    process_id = await start(table, tmp_path, script)
    await eventually((tmp_path / "ready").exists)
    await table.stop(process_id)
    result = await table.wait(process_id)
    assert (result.exit_code, result.stdout) == (3, "bye\n")


STUBBORN = "trap '' TERM; echo $$ > new; mv new pid; while :; do sleep 9; done"


async def test_stop_kills_after_the_grace(
    turned: ProcessTable, clock: TurnedClock, tmp_path: Path, eventually: Eventually
):
    """A program that ignores SIGTERM has two seconds, and not more."""
    process_id = await start(turned, tmp_path, STUBBORN)
    await eventually((tmp_path / "pid").exists)
    stopping = asyncio.create_task(turned.stop(process_id))
    await clock.turn(1.9)
    await asyncio.sleep(0.02)
    assert not stopping.done()
    await clock.turn(0.1)
    await asyncio.wait([stopping], timeout=5)
    assert stopping.done()
    assert (await turned.wait(process_id)).exit_code == -signal.SIGKILL


async def test_a_cancelled_stop_kills_all_the_same(
    turned: ProcessTable, clock: TurnedClock, tmp_path: Path, eventually: Eventually
):
    """Who asked to stop it may go; the grace goes on and SIGKILL comes."""
    process_id = await start(turned, tmp_path, STUBBORN)
    await eventually((tmp_path / "pid").exists)
    stopping = asyncio.create_task(turned.stop(process_id))
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert stopping.cancelled()
    await clock.turn(2)
    async with asyncio.timeout(5):
        assert (await turned.wait(process_id)).exit_code == -signal.SIGKILL


async def test_stop_takes_the_whole_group(table: ProcessTable, tmp_path: Path, eventually: Eventually):
    """What the program started ends with it, also where only the child ignores SIGTERM."""
    child = "trap '' TERM; echo $$ > child; sleep 1000"
    process_id = await start(table, tmp_path, 'sh -c "$1" & wait', child)
    await eventually(lambda: pid_in(tmp_path / "child"))
    pid = pid_in(tmp_path / "child")
    assert pid is not None
    assert not is_gone(pid)
    await table.stop(process_id)
    await eventually(lambda: is_gone(pid))


async def test_what_the_leader_leaves_is_killed(table: ProcessTable, tmp_path: Path, eventually: Eventually):
    """When the program has ended by itself, its children in the group do not run on or hold up the result."""
    result = await run(table, tmp_path, "sleep 1000 & echo $! > child; echo done")
    assert result == ProcessResult(exit_code=0, stdout="done\n", stderr="")
    pid = pid_in(tmp_path / "child")
    assert pid is not None
    await eventually(lambda: is_gone(pid))


async def test_who_escapes_the_group_does_not_hold_up_the_result(
    turned: ProcessTable, clock: TurnedClock, tmp_path: Path, eventually: Eventually
):
    """A daemon that keeps the pipes open is waited for a second; then the pipes are closed."""
    script = """
import os, time
if os.fork():
    while not os.path.exists("pid"):
        time.sleep(0.001)
    os._exit(0)
os.setsid()
with open("new", "w") as file:
    file.write(f"{os.getpid()}\\n")
os.rename("new", "pid")
time.sleep(1000)
"""
    process_id = await turned.start(Path(sys.executable), ["-ISc", script], owner="m", cwd=tmp_path)
    waiting = asyncio.create_task(turned.wait(process_id))
    try:
        await eventually(lambda: clock.waiting)
        await clock.turn(0.9)
        assert not waiting.done()
        await clock.turn(0.1)
        assert (await waiting).exit_code == 0
    finally:
        if pid := pid_in(tmp_path / "pid"):
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: is_gone(pid))


async def test_stop_all_does_not_ask(turned: ProcessTable, tmp_path: Path, eventually: Eventually):
    """The whole group is killed at once, without a grace."""
    process_id = await start(turned, tmp_path, STUBBORN)
    await eventually((tmp_path / "pid").exists)
    waiting = asyncio.create_task(turned.wait(process_id))
    await asyncio.sleep(0)
    await turned.stop_all("m")
    assert (await waiting).exit_code == -signal.SIGKILL


async def test_a_cancelled_stop_all_can_be_repeated(table: ProcessTable, tmp_path: Path):
    """The processes are killed and forgotten; the second call waits until they have ended."""
    process_id = await start(table, tmp_path, "sleep 1000")
    stopping = asyncio.create_task(table.stop_all())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert table.owner_of(process_id) is None
    await table.stop_all()
    assert psutil.Process().children() == []


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancelled_start_leaves_nothing(table: ProcessTable, tmp_path: Path, turns: int):
    """Wherever the cancellation comes in, no process is there when it comes out."""
    task = asyncio.create_task(start(table, tmp_path, "sleep 1000 & sleep 1000"))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if task.cancelled():
        assert psutil.Process().children() == []
    else:
        assert table.owner_of(task.result()) == "m"


async def test_a_cancelled_start_of_a_missing_program(table: ProcessTable, tmp_path: Path):
    """There is nothing to kill, and nobody is told of the missing program."""
    task = asyncio.create_task(table.start(tmp_path / "missing", [], owner="m", cwd=tmp_path))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_stop_all_reaches_what_is_just_being_started(table: ProcessTable, tmp_path: Path):
    """A start that `stop_all` meets half way ends, and its caller learns why."""
    task = asyncio.create_task(start(table, tmp_path, "sleep 1000"))
    await asyncio.sleep(0)
    await table.stop_all("m")
    with pytest.raises(FailedPrecondition, match="stopped meanwhile"):
        await task
    assert psutil.Process().children() == []


async def test_starts_at_once_are_counted(tmp_path: Path):
    """The bound holds for starts that run at the same time."""
    table = ProcessTable(running_limit=2)
    results = await asyncio.gather(
        *(start(table, tmp_path, "sleep 1000") for _ in range(5)), return_exceptions=True
    )
    assert [type(result) for result in results] == [str, str, LimitExceeded, LimitExceeded, LimitExceeded]
    await table.stop_all()


async def test_what_cannot_be_run_is_not_found(table: ProcessTable, tmp_path: Path):
    """No file, no right to run it, a folder, and no known format are all the same to who asks."""
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "garbage").write_bytes(b"\0\1\2\3")
    (tmp_path / "garbage").chmod(0o755)
    for name in ("missing", "plain", ".", "garbage", "plain/x"):
        with pytest.raises(NotFound):
            await table.start(tmp_path / name, [], owner="m", cwd=tmp_path)


async def test_a_working_folder_that_is_none(table: ProcessTable, tmp_path: Path):
    """It is the folder that is wrong then, not the program; and the message does not tell where it is."""
    (tmp_path / "file").write_bytes(b"")
    for name in ("missing", "file"):
        with pytest.raises(FailedPrecondition, match="in its working folder") as caught:
            await table.start(SH, [], owner="m", cwd=tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


async def test_relative_paths_are_refused(table: ProcessTable, tmp_path: Path):
    """No search in PATH, and no folder that depends on where the host happens to be."""
    for program, cwd in ((Path("sh"), tmp_path), (SH, Path())):
        with pytest.raises(UsageError):
            await table.start(program, [], owner="m", cwd=cwd)


async def test_arguments_that_are_too_much_together(table: ProcessTable, tmp_path: Path):
    """Each may be within its bound and all together beyond the system's: that is a limit too."""
    with pytest.raises(LimitExceeded):
        await table.start(SH, ["x" * 131_071] * 40, owner="m", cwd=tmp_path)
    process_id = await table.start(Path("/bin/echo"), ["x" * 131_071], owner="m", cwd=tmp_path)
    assert (await table.wait(process_id)).exit_code == 0


async def test_a_refused_argument_starts_nothing(table: ProcessTable, tmp_path: Path):
    """The arguments are looked at before anything else happens."""
    with pytest.raises(InvalidArgument, match=r"args\[1\]"):
        await table.start(SH, ["ok", "no\0"], owner="m", cwd=tmp_path)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EAGAIN, LimitExceeded),
        (errno.EMFILE, LimitExceeded),
        (errno.EIO, FailedPrecondition),
        (None, FailedPrecondition),
    ],
)
def test_every_error_of_a_start_becomes_one_of_ours(number: int | None, kind: type[RequestError]):
    """No OSError comes out, and no path of the host."""
    error = OSError("odd") if number is None else OSError(number, "text", b"/opt/secret/tool")
    told = _start_error(error, Path("/opt/secret/tool"), Path("/var/app"))
    assert type(told) is kind
    assert "/opt/secret" not in str(told)
