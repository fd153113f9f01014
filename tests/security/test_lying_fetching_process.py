"""A fetching process that a source took over, or that broke: case 20 of installing."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import psutil
import pytest

from coredeno.config import FetchLimits
from coredeno.errors import (
    FetchLimitExceeded,
    FetchTimeout,
    InstallError,
    SourceInvalid,
    SourceUnavailable,
    UnsafePath,
)
from coredeno.install import git_process
from coredeno.interfaces import Fetched, FetchProgress

RESULT = json.dumps({"type": "fetched", "revision": "a" * 40})


async def answered(
    tmp_path: Path, code: str, heard: list[FetchProgress] | None = None, **limits: float
) -> Fetched:
    """Run this instead of the process; `say` writes a line."""
    head = f"import os, sys, time, signal\nRESULT = {RESULT!r}\nsay = lambda text: print(text, flush=True)\n"
    return await git_process.run(
        [sys.executable, "-I", "-S", "-c", head + code],
        b"{}\n",
        folder=tmp_path,
        environment={},
        limits=FetchLimits(**limits),
        on_progress=(heard if heard is not None else []).append,
    )


async def fault(tmp_path: Path, code: str, **limits: float) -> InstallError:
    with pytest.raises(InstallError) as raised:
        await answered(tmp_path, code, **limits)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 5000
    return raised.value


def failed(**fields: object) -> str:
    return f"say({json.dumps({'type': 'failed', **fields})!r})"


async def test_one_that_does_as_it_should(tmp_path: Path):
    """Progress, then the result; what it writes to stderr is no answer."""
    heard: list[FetchProgress] = []
    progress = json.dumps({"type": "progress", "phase": "receiving", "done": 7, "total": None})
    code = f"sys.stderr.write('hello')\nsay({progress!r})\nsay(RESULT)"
    assert await answered(tmp_path, code, heard) == Fetched("a" * 40)
    assert heard == [FetchProgress("receiving", 7)]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("say('garbage')", "answered 'garbage'"),
        (r"say('\x1b[2J\u202egarbage')", "answered"),
        ("os.write(1, bytes(range(256)))", "answered"),
        ("os.write(1, b'\\xff' * 100 + b'\\n')", "answered"),
        ("say('{}')", "answered"),
        ("say('[' * 5000)", "answered"),
        ("say('null')", "answered"),
        ("say(RESULT[:-1] + ', \"more\": 1}')", "answered"),
        ("say(RESULT.replace('aaaa', '../x'))", "answered"),
        ("say(RESULT.replace('a\"', 'a\\\\n\"'))", "answered"),
        ('say(\'{"type": "progress", "phase": "resting", "done": 0, "total": null}\')', "answered"),
        ('say(\'{"type": "progress", "phase": "writing", "done": -1, "total": null}\')', "answered"),
        ('say(\'{"type": "progress", "phase": "writing", "done": 1e99, "total": null}\')', "answered"),
        ("say(RESULT)\nsay(RESULT)", "went on after its result"),
        ("say(RESULT)\nsay('garbage')", "answered 'garbage'"),
        ("os.write(1, RESULT.encode())", "ended within a line"),
        ("say('')", "answered ''"),
        ("pass", "exit code 0 and gave no result"),
        ("sys.exit(7)", "exit code 7"),
        ("say(RESULT)\nsys.exit(7)", "exit code 7"),
        (
            "sys.stderr.write('my last\\nwords \\x1b[2J')\nsys.exit(1)",
            r"its last words: my last\\nwords \\x1b",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", "by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "by SIGSEGV"),
        ("say(RESULT)\nos.kill(os.getpid(), signal.SIGKILL)", "by SIGKILL"),
        (failed(kind="FetchLimitExceeded", text="x", limit="__class__"), "a limit that there is not"),
        (failed(kind="UsageError", text="x"), "answered"),
    ],
)
async def test_one_that_answers_what_it_should_not(tmp_path: Path, code, problem):
    """Garbage, two results, half a line, nothing, death by a signal: `SourceInvalid`, printable, with the reason."""
    error = await fault(tmp_path, code)
    assert type(error) is SourceInvalid
    with pytest.raises(SourceInvalid, match=problem):
        raise error


@pytest.mark.parametrize(
    "code",
    [
        "while True: os.write(1, b'x' * 65536)",
        "while True: os.write(1, b'\\n' * 65536)",
        "while True: os.write(2, b'x' * 65536)",
        'while True: say(\'{"type": "progress", "phase": "writing", "done": 1, "total": null}\')',
    ],
)
async def test_one_that_answers_without_end(tmp_path: Path, code):
    """A gigabyte of whatever: it is killed after the first few megabytes, which are not kept."""
    before = psutil.Process().memory_info().rss
    began = time.monotonic()
    error = await fault(tmp_path, code)
    assert type(error) is SourceInvalid
    assert time.monotonic() - began < 5
    assert psutil.Process().memory_info().rss - before < 30_000_000


@pytest.mark.parametrize("how", ["SIGXCPU", "SIGALRM"])
async def test_one_that_the_kernel_ended(tmp_path: Path, how):
    """Its own limits of time, should the host's clock not have come first, are a timeout as well."""
    error = await fault(tmp_path, f"os.kill(os.getpid(), signal.{how})")
    assert isinstance(error, FetchTimeout)


async def test_one_that_does_not_end(tmp_path: Path):
    """Also if it ignores signals, and has said its result: a timeout, and it is gone."""
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay(RESULT)\ntime.sleep(60)"
    error = await fault(tmp_path, code, timeout_s=0.5)
    assert isinstance(error, FetchTimeout)


async def test_one_that_leaves_a_child(tmp_path: Path):
    """A child that holds its pipes goes with its group, and one that left the group does not keep us."""
    code = "if os.fork() == 0: time.sleep(60)\nsay(RESULT)"
    assert await answered(tmp_path, code, timeout_s=20) == Fetched("a" * 40)
    code = "if os.fork() == 0:\n os.setsid()\n time.sleep(2)\n os._exit(0)\nsay(RESULT)"
    began = time.monotonic()
    assert await answered(tmp_path, code, timeout_s=20) == Fetched("a" * 40)
    assert time.monotonic() - began < 1.5


async def test_its_errors_are_those_that_it_may_have(tmp_path: Path):
    """Each comes with its fields, and with nothing unprintable."""
    error = await fault(tmp_path, failed(kind="UnsafePath", text="is \x1b bad", path="a\nb"))
    assert isinstance(error, UnsafePath)
    assert (error.path, error.problem) == (r"a\nb", r"is \x1b bad")
    assert str(error) == r"path 'a\nb': is \x1b bad"
    error = await fault(tmp_path, failed(kind="FetchLimitExceeded", text="x", limit="files"), files=7)
    assert isinstance(error, FetchLimitExceeded)
    assert (error.limit, error.allowed, str(error)) == ("files", 7, "x: wanted at most 7 (FetchLimits.files)")
    for kind in (SourceUnavailable, SourceInvalid, InstallError):
        assert type(await fault(tmp_path, failed(kind=kind.__name__, text="x"))) is kind


async def test_what_cannot_be_started(tmp_path: Path):
    """A program that is not there is an error of the installation, not of the source."""
    for command in ([str(tmp_path / "nothing")], [str(tmp_path)]):
        with pytest.raises(InstallError, match="cannot be started"):
            await git_process.run(
                command, b"", folder=tmp_path, environment={}, limits=FetchLimits(), on_progress=print
            )


async def test_cancelled_while_it_is_being_started(tmp_path: Path):
    """It is waited for until it is there, and then killed."""
    running = asyncio.create_task(answered(tmp_path, "time.sleep(60)"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
