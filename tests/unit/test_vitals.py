"""Who may live on, by heartbeat and memory."""

from __future__ import annotations

import pytest

from coredeno.errors import SidecarExited
from coredeno.sidecar.vitals import Beat, ModuleBeat, Vitals, cpu_ticks, longest_report, own_bytes

MIB = 1024 * 1024


def vitals(idle_mb: int = 30) -> Vitals:
    made = Vitals("s-1")
    assert made.take_memory(idle_mb * MIB, allowed_bytes=64 * MIB) is None
    return made


def readings(*used_mb: int) -> list[bool]:
    made = vitals()
    return [made.take_memory(used * MIB, allowed_bytes=64 * MIB) is not None for used in used_mb]


def test_what_an_idle_sidecar_uses_is_not_its_modules():
    """The first reading is the ground; what is beneath the limit above it is nobody's fault."""
    assert readings(94, 94, 94, 20) == [False] * 4


def test_over_the_limit_once_is_forgiven_and_twice_in_a_row_is_not():
    """A collector of garbage needs more for a moment; whoever stays there does not get away with it."""
    assert readings(95, 94, 95, 94) == [False] * 4
    assert readings(95, 95) == [False, True]


def test_far_over_the_limit_is_never_forgiven():
    """More than twice as much costs it at once: a bomb would be larger still at the next reading."""
    assert readings(158) == [False]
    assert readings(159) == [True]


def test_the_verdict_names_memory():
    """The error is typed, says how much it was and what was allowed, and by which setting."""
    error = vitals().take_memory(1054 * MIB, allowed_bytes=64 * MIB)
    assert isinstance(error, SidecarExited)
    assert error.cause == "memory"
    assert "its modules use 1,024 MiB of memory, wanted at most 64 (Limits.memory_mb)" in error.reason


@pytest.mark.parametrize(("busy_ms", "dies"), [(0, False), (9_999, False), (10_000, True), (1e300, True)])
def test_a_module_that_is_busy_too_long_costs_its_sidecar(busy_ms, dies):
    """The error names the module; a module that pauses in time lives."""
    made = vitals()
    beat = Beat({"m": ModuleBeat(busy_ms), "n": ModuleBeat(0)})
    error = made.take_beat(beat, now=7.0, watched=["n", "m"], hang_s=10)
    assert made.beat_at == 7.0
    assert (error is not None) is dies
    if error is not None:
        assert error.cause == "hang"
        assert (
            "s-1: killed: module 'm' has been busy without a pause for 10 s (Limits.hang_s)" in error.reason
        )


def test_what_a_shared_sidecar_says_names_nobody():
    """Any module in it may have answered, for another one."""
    errors = [
        vitals().take_beat(
            Beat({"m": ModuleBeat(10_000)}), now=7.0, watched=["m"], hang_s=10, is_shared=is_shared
        )
        for is_shared in (False, True)
    ]
    assert [error and error.module for error in errors] == ["m", ""]
    assert "s-1: killed: it says that module 'm' has been busy" in str(errors[1])


def test_what_is_said_of_others_is_nothing():
    """A module that loads or ends has other deadlines, and one that there is not cannot be busy."""
    beat = Beat({"loading": ModuleBeat(99_999), "invented": ModuleBeat(99_999)})
    assert vitals().take_beat(beat, now=1, watched=["m"], hang_s=10) is None


@pytest.mark.parametrize(
    ("codes", "named"),
    [
        (["m"], "it, with module 'm' in it, has not answered for 10 s"),
        (["m", "n"], "killed: it has not answered for 10 s"),
        ([], "killed: it has not answered for 10 s"),
    ],
)
def test_who_does_not_answer_dies(codes: list[str], named: str):
    """A module is named where it is the only one that it can have been."""
    error = vitals().no_beat(codes=codes, hang_s=10)
    assert error.cause == "hang"
    assert named in error.reason


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (
            b"Name:\tdeno\nRssAnon:\t  100 kB\nRssFile:\t 7 kB\nRssShmem:\t 20 kB\nVmSwap:\t 3 kB\n",
            123 * 1024,
        ),
        (b"RssAnon:\t  1 kB\n", 1024),
        (b"", None),
        (b"Name:\tRssAnon:\nState:\tZ (zombie)\n", None),
        (b"RssAnon:\nRssAnon: x kB\nRssAnon: 1\n", None),
    ],
)
def test_the_memory_of_a_process_is_what_it_has_for_itself(status: bytes, wanted: int | None):
    """Anonymous, shared and swapped pages count, mapped files do not; a zombie has none to tell of."""
    assert own_bytes(status) == wanted


STAT = b"S 1 7 7 0 -1 4194304 100 0 0 0 250 50 9 9 20 0 1 0 500 1000 200"


@pytest.mark.parametrize(
    ("stat", "wanted"),
    [
        (b"7 (deno) " + STAT + b"\n", 300),
        (b"7 (a) S 1 (b) c) " + STAT, 300),  # a process names itself
        (b"7 (deno) Z 1 7 7 0 -1 4194304 100 0 0 0 250", None),
        (b"7 (deno) S 1 7 7 0 -1 4194304 100 0 0 0 250 -5", None),
        (b"7 (deno) S 1 7 7 0 -1 4194304 100 0 0 0 x 5", None),
        (b"7 (deno", None),
        (b"", None),
    ],
)
def test_the_time_of_a_process_is_its_own_and_the_kernels(stat: bytes, wanted: int | None):
    """Whatever name it has given itself."""
    assert cpu_ticks(stat) == wanted


def test_a_report_may_grow_with_the_modules():
    """A hundred bytes a module is what an honest one has."""
    assert longest_report(0) > 10_000
    assert longest_report(1000) - longest_report(0) > 1000 * 200
