"""What the fetching process says of errors, whom it blames, and what it takes from itself."""

from __future__ import annotations

import errno
import json
import os
import resource
import threading
from collections.abc import Iterator

import pytest

from coredeno.config import FetchLimits
from coredeno.errors import (
    FetchLimitExceeded,
    InstallError,
    SourceInvalid,
    SourceRefused,
    SourceUnavailable,
    UnsafePath,
)
from coredeno.install.git_child.answers import Answers, failure
from coredeno.install.git_child.blame import of_disk, of_repository, of_source
from coredeno.install.git_child.bounds import Bounds
from coredeno.install.git_child.confine import limits, watch


class Panic(BaseException):
    """As pyo3's, which is no `Exception`."""


def test_bounds_are_the_limits_of_a_fetch():
    """Every field of `FetchLimits` reaches the process, by its name."""
    assert set(Bounds._fields) == set(FetchLimits.__struct_fields__)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UnsafePath("a\nb", "is bad"), {"kind": "UnsafePath", "text": "is bad", "path": r"a\nb"}),
        (
            FetchLimitExceeded("pack: has 7 objects", limit="objects", allowed=6),
            {"kind": "FetchLimitExceeded", "text": "pack: has 7 objects", "limit": "objects"},
        ),
        (SourceInvalid("x"), {"kind": "SourceInvalid", "text": "x"}),
        (SourceUnavailable("x"), {"kind": "SourceUnavailable", "text": "x"}),
        (SourceRefused("x"), {"kind": "InstallError", "text": "x"}),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            {"kind": "InstallError", "text": "folder of the fetch: the disk is full"},
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            {"kind": "InstallError", "text": "folder of the fetch: the disk quota is used up"},
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            {"kind": "InstallError", "text": "folder of the fetch: cannot be written: Permission denied"},
        ),
        (Panic("boo"), {"kind": "SourceInvalid", "text": "source: cannot be read: Panic: boo"}),
    ],
)
def test_each_error_is_said_with_its_fields(error, said):
    """What the host makes an error of again; a full disk is called that."""
    assert failure(error) == said


def test_too_little_memory_is_a_limit():
    """The memory of the process is measured by the largest file."""
    assert failure(MemoryError())["limit"] == "file_bytes"


def test_what_is_said_is_cut():
    """However long what the source made of it is."""
    assert len(failure(SourceInvalid("x" * 10_000))["text"]) == 1000
    assert len(failure(UnsafePath("x" * 10_000, ""))["path"]) == 1000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_progress_is_said_as_often_as_people_read(pipe):
    """A new phase at once, and within one phase no more than ten a second."""
    answers = Answers(pipe[1])
    for done in range(1000):
        answers.progress("receiving", done)
    answers.progress("checking", 1, 2)
    answers.fetched("a" * 40)
    answers.failed(SourceInvalid("x"))
    said = [json.loads(line) for line in os.read(pipe[0], 1 << 16).splitlines()]
    assert said[0] == {"type": "progress", "phase": "receiving", "done": 0, "total": None}
    assert [each["type"] for each in said[-3:]] == ["progress", "fetched", "failed"]
    assert len(said) < 20


def blamed(error: BaseException, cause: BaseException | None = None) -> InstallError:
    with pytest.raises(InstallError) as raised, of_source():
        raise error from cause
    return raised.value


def test_the_source_is_blamed_for_what_a_library_raises():
    """For every exception, down to a panic, on one line; the network's are those of a source that is not there."""
    for error in (ValueError("odd\nvalue"), AssertionError(), Panic("boo"), RecursionError()):
        found = blamed(error)
        assert isinstance(found, SourceInvalid)
        assert type(error).__name__ in str(found)
        assert "\n" not in str(found)
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    for found in (blamed(refused), blamed(ValueError("wrapped"), refused)):
        assert isinstance(found, SourceUnavailable)
        assert "Connection refused" in str(found)
    assert "silent" in str(blamed(TimeoutError()))


@pytest.mark.parametrize("error", [SourceUnavailable("x"), MemoryError(), SystemExit(), KeyboardInterrupt()])
def test_what_says_itself_whose_fault_it_is_passes(error):
    """Errors of coredeno, of memory, and the end of the process."""
    for blaming in (of_source, of_repository):
        with pytest.raises(type(error)), blaming():
            raise error


def test_what_a_library_says_of_a_file_on_this_machine_is_not_repeated():
    """Only what kind of error it was; the system's own words are none of the file's."""
    with pytest.raises(SourceInvalid, match=r"not understood: ValueError$"), of_repository():
        raise ValueError("what does b'root:x:0:0' mean?")
    with pytest.raises(SourceUnavailable, match=r"cannot be read: Permission denied$"), of_repository():
        raise PermissionError(errno.EACCES, "Permission denied", "/etc/shadow")


def test_the_disk_is_not_the_source():
    """A full disk in the middle of a transfer is none of the network, though libraries think so."""
    full = OSError(errno.ENOSPC, "No space left on device")

    def library() -> None:
        try:
            with of_disk():
                raise full
        except OSError:
            raise ValueError("it took that for the network's") from None

    with pytest.raises(OSError, match="No space") as raised, of_source():
        library()
    assert raised.value is full


def test_the_limits_of_the_process():
    """Memory for a few copies of the largest object, files no larger than all there may be, no core dumps."""
    bounds = Bounds(
        timeout_s=1.5,
        transfer_bytes=100,
        objects=1,
        file_bytes=32 << 20,
        total_bytes=200,
        files=10_000,
        depth=1,
    )
    found = limits(bounds)
    assert found[resource.RLIMIT_DATA] < 200_000_000
    assert found[resource.RLIMIT_FSIZE] == 200 + (1 << 20)
    assert found[resource.RLIMIT_CPU] == 4
    assert found[resource.RLIMIT_CORE] == 0


def test_the_end_of_the_host_is_noticed(pipe):
    """What is written to the pipe is nothing; its end is."""
    reading, writing = os.pipe()
    ended = threading.Event()
    watch(reading, ended.set)
    os.write(writing, b"anything\n")
    assert not ended.wait(0.05)
    os.close(writing)
    assert ended.wait(5)
    os.close(reading)
