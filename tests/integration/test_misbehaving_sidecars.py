"""Sidecars that break the rules, each in one way: its own module pays, in time, and nobody else.

They are the files in `sidecars/`, programs in Python that a host is told to take for Deno. They need what a Deno
does not, such as the whole of Python, so their launcher leaves Landlock off; all else is as with Deno.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coredeno import (
    CoreDenoError,
    HostConfig,
    Limits,
    ModuleState,
    PluginCrashed,
    PluginHost,
    PluginTimeout,
    ProtocolError,
    SidecarExited,
    UsageError,
)
from coredeno.sidecar.launcher import DenoLauncher
from tests.hosts import is_gone, nothing_left

Eventually = Callable[..., Awaitable[None]]
Write = Callable[..., Path]

SIDECARS = Path(__file__).parent / "sidecars"
LIMITS = Limits(message_bytes=65536, unload_grace_s=0.3, requests_in_flight=64)


@pytest.fixture
def sidecar(tmp_path: Path) -> Callable[[str], Path]:
    """Makes one of the files in `sidecars/` a program."""

    def make(name: str) -> Path:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{SIDECARS / name}.py' \"$@\"\n")
        program.chmod(0o755)
        return program

    return make


# --- those that never become ready

TIMED_OUT = (
    r"sidecar-1 was not ready after 0\.4 s \({}\) \(exit code -9\)"  # killed by the host, hence the code
)

NOT_READY: list[tuple[str, type[CoreDenoError], str]] = [
    ("never_shakes_hands", SidecarExited, TIMED_OUT.format("handshaking")),
    ("half_a_first_line", SidecarExited, TIMED_OUT.format("handshaking")),
    ("closes_stdin_at_once", SidecarExited, TIMED_OUT.format("handshaking")),
    (
        "wrong_first_line",
        ProtocolError,
        r"its first line is '[^\x1b\x07]*Hello, I am Deno[^\x1b\x07]*', wanted",
    ),
    ("endless_first_line", ProtocolError, r"its first line is '\{{10,200}', wanted"),
    ("protocol_99", ProtocolError, r"speaks protocol 99, wanted 1"),
    ("refuses_to_start", ProtocolError, r"it speaks protocol 7\): boot line: protocol 1,[^\x1b\n]*speaks 7"),
    ("exits_with_70", SidecarExited, r"exit code 70.*--unstable-worker-options: unknown"),
    ("traps", SidecarExited, r"exit code -5"),
    ("does_not_listen", SidecarExited, r"its socket cannot be joined: No such file"),
    ("has_no_token", SidecarExited, r"exit code 3.*status 16"),
    ("lends_its_token", SidecarExited, r"exit code 3.*status 16"),
]


@pytest.mark.parametrize(("name", "error", "message"), NOT_READY, ids=[name for name, _, _ in NOT_READY])
async def test_a_start_fails_in_time_and_leaves_nothing(
    tmp_path: Path, sidecar: Callable[[str], Path], name: str, error: type[CoreDenoError], message: str
):
    """The error is typed and says what the sidecar did; the deadline of the start is kept."""
    start_timeout_s = 0.4 if "was not ready" in message else 10
    config = HostConfig(start_timeout_s=start_timeout_s)
    launcher = DenoLauncher(sidecar(name), landlock=False)
    async with nothing_left(tmp_path / "app"):
        began = time.monotonic()
        with pytest.raises(error) as caught:
            await PluginHost(tmp_path / "app", config=config, launcher=launcher).start()
        took_s = time.monotonic() - began
    assert re.search(message, str(caught.value)), str(caught.value)
    assert type(caught.value) is error
    assert str(caught.value).isprintable()
    if start_timeout_s < 1:
        assert 0.4 <= took_s < 2


async def test_what_a_sidecar_leaves_running_is_killed_with_it(
    tmp_path: Path, sidecar: Callable[[str], Path], eventually: Eventually
):
    """A sidecar that has ended takes its whole group along, and nobody waits for pipes that others hold."""
    launcher = DenoLauncher(sidecar("leaves_a_child"), landlock=False)
    began = time.monotonic()
    with pytest.raises(SidecarExited) as caught:
        await PluginHost(tmp_path / "app", launcher=launcher).start()
    assert time.monotonic() - began < 3
    assert caught.value.exit_code == 4
    child = re.search(r"child (\d+)", caught.value.stderr_tail)
    assert child is not None
    await eventually(lambda: is_gone(int(child[1])), within_s=2)


async def test_last_words_are_few_and_plain(tmp_path: Path, sidecar: Callable[[str], Path]):
    """Of a flood of last words the error holds a bounded end, without control characters."""
    launcher = DenoLauncher(sidecar("floods_stderr_and_ends"), landlock=False)
    with pytest.raises(SidecarExited) as caught:
        await PluginHost(tmp_path, launcher=launcher).start()
    assert caught.value.exit_code == 1
    assert "www" in caught.value.stderr_tail
    assert len(caught.value.stderr_tail) < 4096
    assert caught.value.stderr_tail.isprintable()


async def test_a_flood_of_log_is_drained_and_cut(
    tmp_path: Path, write: Write, sidecar: Callable[[str], Path], caplog: pytest.LogCaptureFixture
):
    """A sidecar that writes 16 MiB of text starts all the same; lines are cut, and the host keeps none of it."""
    caplog.set_level(logging.CRITICAL)  # the test must not keep it either
    config = HostConfig(allow_unsigned=True)
    launcher = DenoLauncher(sidecar("floods_stderr"), landlock=False)
    tracemalloc.start()
    try:
        async with PluginHost(tmp_path / "app", config=config, launcher=launcher) as host:
            _now, peak = tracemalloc.get_traced_memory()
            assert peak < 8 * 1024 * 1024
            module = await host.load_path(write("good", ""))
            assert await module.call("echo", "dry") == "dry"
    finally:
        tracemalloc.stop()


# --- those that break a rule when they are called


class Pair:
    """A host with two modules, in a sidecar each: `bad.call("misbehave")` breaks a rule, `good` never does."""

    def __init__(self, host: PluginHost, write: Write) -> None:
        self.host = host
        self._write = write

    async def load(self, code: str):
        return await self.host.load_path(self._write(code, ""))

    async def check(self) -> None:
        """The other module and the host are well, and the bad one can be loaded again."""
        assert await self.host.modules["good"].call("echo", "well") == "well"
        await self.host.store.set("g", "k", "v")
        if self.host.modules["bad"].state is ModuleState.ERRORED:
            await self.load("bad")
        assert await self.host.modules["bad"].call("echo", "anew") == "anew"


@asynccontextmanager
async def pair(root: Path, deno: Path, write: Write) -> AsyncIterator[Pair]:
    config = HostConfig(allow_unsigned=True, restart=None, limits=LIMITS)
    launcher = DenoLauncher(deno, landlock=False)
    async with nothing_left(root), PluginHost(root, config=config, launcher=launcher) as host:
        both = Pair(host, write)
        await both.load("good")
        await both.load("bad")
        yield both


BREAKS: list[tuple[str, type[CoreDenoError], str]] = [
    ("garbage_on_rpc", ProtocolError, "invalid start byte|UTF-8"),
    ("unknown_ids", ProtocolError, r"not under way \(4711\)"),
    ("no_result", ProtocolError, "neither result nor error"),
    ("unknown_notification", ProtocolError, "notification 'HostShutdown'"),
    ("endless_line_on_rpc", ProtocolError, "message over 65536 bytes"),
    ("session_garbage", ProtocolError, "a batch with"),
    ("session_no_json", ProtocolError, "malformed"),
    ("session_oversize", ProtocolError, "a message of 4294967295 bytes, wanted at most 131072"),
    ("session_compressed", ProtocolError, "a compressed message"),
    ("session_cut_off", ProtocolError, "cut off"),
    ("session_foreign_module", ProtocolError, "names module 'good', which is not its own"),
    ("session_duplicate_ids", ProtocolError, "an id that is in use"),
    ("session_false_attachments", ProtocolError, "attachments are not those it names"),
    ("session_too_many", ProtocolError, "more requests in flight than it may have"),
    ("session_bad_notification", ProtocolError, "'store.delete_group' as a notification"),
    ("closes_rpc", SidecarExited, "closed its connection"),
    ("exits_in_a_call", SidecarExited, r"exit code 3\); its last words: I quit"),
]


@pytest.mark.parametrize(("name", "error", "message"), BREAKS, ids=[name for name, _, _ in BREAKS])
async def test_a_broken_rule_costs_the_module_and_nobody_else(
    tmp_path: Path,
    write: Write,
    sidecar: Callable[[str], Path],
    name: str,
    error: type[CoreDenoError],
    message: str,
):
    """The call fails at once, with the cause, the module is ERRORED, all others live, and it can come back."""
    async with pair(tmp_path / "app", sidecar(name), write) as both:
        bad = both.host.modules["bad"]
        async with asyncio.timeout(5):
            with pytest.raises(PluginCrashed, match=message) as caught:
                await bad.call("misbehave", timeout_s=30)
        assert isinstance(caught.value.__cause__, error)
        assert bad.state is ModuleState.ERRORED
        assert re.search(message, str(bad.error))
        with pytest.raises(PluginCrashed, match=message):
            await bad.call("echo", 1)
        await both.check()


@pytest.mark.parametrize("name", ["half_a_line_on_rpc", "stops_itself"])
async def test_a_sidecar_that_falls_silent_is_bounded_by_the_deadline(
    tmp_path: Path, write: Write, sidecar: Callable[[str], Path], name: str
):
    """The call ends at its deadline, and unloading the module kills what no longer answers."""
    async with pair(tmp_path / "app", sidecar(name), write) as both:
        bad = both.host.modules["bad"]
        with pytest.raises(PluginTimeout, match=r"not done after 0\.2 s"):
            await bad.call("misbehave", timeout_s=0.2)
        async with asyncio.timeout(3):
            await bad.unload()
        assert bad.state is ModuleState.STOPPED
        await both.load("bad")
        await both.check()


async def test_a_second_session_is_refused_and_the_first_lives(
    tmp_path: Path, write: Write, sidecar: Callable[[str], Path]
):
    """One Session a token: the second gets PERMISSION_DENIED (7), and the module goes on."""
    async with pair(tmp_path / "app", sidecar("connects_twice"), write) as both:
        bad = both.host.modules["bad"]
        assert await bad.call("misbehave", timeout_s=5) == 7
        assert await bad.call("misbehave", timeout_s=5) == 7
        assert bad.state is ModuleState.RUNNING
        await both.check()


async def test_a_closed_stdin_is_the_sidecars_own_affair(
    tmp_path: Path, write: Write, sidecar: Callable[[str], Path]
):
    """Only the sidecar would have needed it; the host neither fails nor hangs by it."""
    async with pair(tmp_path / "app", sidecar("closes_stdin"), write) as both:
        await both.check()


async def test_a_sidecar_that_ignores_everything_is_killed_within_the_grace(
    tmp_path: Path, write: Write, sidecar: Callable[[str], Path]
):
    """Asked, waited for, killed: one module takes its grace, and a whole host takes it once, not once for each."""
    root = tmp_path / "app"
    config = HostConfig(allow_unsigned=True, restart=None, limits=LIMITS)
    launcher = DenoLauncher(sidecar("ignores_shutdown"), landlock=False)
    async with nothing_left(root):
        async with PluginHost(root, config=config, launcher=launcher) as host:
            for number in range(4):
                await host.load_path(write(f"m{number}", ""))
            began = time.monotonic()
            await host.modules["m0"].unload()
            assert 0.3 <= time.monotonic() - began < 2
            began = time.monotonic()
        assert time.monotonic() - began < 3


async def test_an_answer_of_another_form_fails_the_load(
    tmp_path: Path, write: Write, sidecar: Callable[[str], Path]
):
    """What a sidecar says of a load is checked like everything else that comes from it."""
    root = tmp_path / "app"
    config = HostConfig(allow_unsigned=True, restart=None, limits=LIMITS)
    launcher = DenoLauncher(sidecar("loads_wrongly"), landlock=False)
    async with nothing_left(root), PluginHost(root, config=config, launcher=launcher) as host:
        with pytest.raises(ProtocolError, match="load: Expected `bool`"):
            await host.load_path(write("bad", ""))
        assert host.modules["bad"].state is ModuleState.ERRORED


async def test_a_good_sidecar_in_another_language_is_as_good_as_ours(
    tmp_path: Path, write: Write, sidecar: Callable[[str], Path]
):
    """The program that the bad ones are made from works: what fails elsewhere fails by their one difference."""
    async with pair(tmp_path / "app", sidecar("playing"), write) as both:
        await both.check()
        with pytest.raises(UsageError, match="exports no function 'other'"):
            await both.host.modules["bad"].call("other")


async def test_a_machine_that_is_full_is_not_a_missing_deno(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No process or descriptor left: the error says that, and does not send anybody to install Deno."""
    for number in (errno.EAGAIN, errno.EMFILE, errno.ENOMEM):

        async def fail(*_args: object, number: int = number, **_options: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(asyncio.get_running_loop(), "subprocess_exec", fail)
        async with nothing_left(tmp_path / "app"):
            with pytest.raises(SidecarExited, match=f"cannot be started: {re.escape(os.strerror(number))}"):
                await PluginHost(tmp_path / "app").start()


# --- launchers of the app's own


async def test_a_launcher_that_fails_oddly_fails_the_start_at_once(
    tmp_path: Path, sidecar: Callable[[str], Path]
):
    """Whatever a launcher of the app's own raises, in whichever step, the host says so and is not left waiting."""
    from coredeno.sidecar.launcher import DenoProcess  # noqa: PLC0415

    class Odd(DenoLauncher):
        def __init__(self, step: str) -> None:
            super().__init__(sidecar("playing"), landlock=False)
            self.step = step

        async def launch(self, order, door) -> DenoProcess:
            async def fail(*args: object) -> None:
                raise LookupError(f"a bug in {self.step}")

            if self.step == "launch":
                await fail()
            process = await super().launch(order, door)
            if self.step != "launch":
                setattr(process, self.step, fail)
            return process

    for step in ("launch", "ready", "connect"):
        async with nothing_left(tmp_path / "app"), asyncio.timeout(5):
            with pytest.raises(CoreDenoError, match=f"LookupError: a bug in {step}"):
                await PluginHost(tmp_path / "app", launcher=Odd(step)).start()
