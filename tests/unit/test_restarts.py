"""The machine that decides on restarts: any order of events, any times, and the rules of its policy."""

from __future__ import annotations

import errno
import re
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.config import RestartPolicy
from coredeno.errors import (
    CoreDenoError,
    InstallError,
    LimitExceeded,
    PluginError,
    SidecarError,
    SidecarExited,
)
from coredeno.restarts import (
    Event,
    GiveUp,
    Instruction,
    Load,
    Loaded,
    LoadFailed,
    Removed,
    RestartMachine,
    State,
    StopWaiting,
    TimePassed,
    Wait,
    WentDown,
    failed,
    guilty_of,
)

POLICY = RestartPolicy(first_delay_s=1, longest_delay_s=8, jitter=0, budget=3, window_s=100, stable_s=50)


CRASH = WentDown(1, is_to_blame=True)


def machine(policy: RestartPolicy = POLICY, random: float = 0.0) -> RestartMachine:
    return RestartMachine(policy, now=0, random=lambda: random)


def crash(subject: RestartMachine, now: float, *, is_to_blame: bool = True) -> list[Instruction]:
    return subject.handle(WentDown(now, is_to_blame))


def back_up(subject: RestartMachine, now: float) -> None:
    assert subject.handle(TimePassed()) == [Load()]
    assert subject.handle(Loaded(now)) == []


def test_a_module_comes_back():
    """Wait, load, up: then it may go down again."""
    subject = machine()
    assert crash(subject, 1) == [Wait(1, 1)]
    assert subject.state is State.BACKING_OFF
    assert subject.handle(TimePassed()) == [Load()]
    assert subject.state is State.LOADING
    assert subject.handle(Loaded(3)) == []
    assert subject.state is State.UP
    assert crash(subject, 4) == [Wait(2, 2)]


def test_delays_double_up_to_the_longest():
    """However often it goes down; chance only ever makes them shorter."""
    policy = RestartPolicy(
        first_delay_s=1, longest_delay_s=5, jitter=0.5, budget=5000, window_s=1e9, stable_s=1e9
    )
    for random, factor in ((0.0, 1.0), (0.5, 0.75)):
        subject = machine(policy, random)
        delays = []
        for _ in range(1200):
            (wait,) = crash(subject, 0)
            assert isinstance(wait, Wait)
            delays.append(wait.delay_s)
            back_up(subject, 0)
        assert delays[:5] == [factor * each for each in (1, 2, 4, 5, 5)]
        assert set(delays[4:]) == {factor * 5}


def test_a_budget_that_is_spent():
    """One more than there may be, and it is given up."""
    subject = machine()
    for now in (1, 2, 3):
        assert isinstance(crash(subject, now)[0], Wait)
        back_up(subject, now)
    assert crash(subject, 4) == [GiveUp(is_spent=True)]
    assert subject.state is State.QUARANTINED


def test_a_budget_of_nothing():
    """The first time is the last."""
    assert crash(machine(RestartPolicy(budget=0)), 1) == [GiveUp(is_spent=True)]


def test_what_is_long_ago_counts_no_more():
    """At the end of the window a restart is forgotten, not before."""
    policy = RestartPolicy(first_delay_s=1, budget=1, window_s=100, stable_s=1e9)
    for later, outcome in ((99.9, GiveUp), (100, Wait)):
        subject = machine(policy)
        crash(subject, 1)
        back_up(subject, 2)
        assert isinstance(crash(subject, 1 + later)[0], outcome)


def test_a_module_that_was_stable_begins_anew():
    """With the first delay and all its budget; one that ran a moment less does not."""
    for ran_s, wait in ((50, Wait(1, 1)), (49.9, Wait(4, 3))):
        subject = machine()
        for now in (1, 2):
            crash(subject, now)
            back_up(subject, now)
        assert crash(subject, 2 + ran_s) == [wait]


def test_another_ones_fault_costs_nothing():
    """Neither budget nor time, however often."""
    subject = machine()
    for now in range(100):
        assert crash(subject, now % 7, is_to_blame=False) == [Wait(0, 0)]
        back_up(subject, now % 7)
    assert crash(subject, 8) == [Wait(1, 1)]


def test_a_load_that_fails():
    """It counts as going down; one that would always fail so is the end."""
    subject = machine()
    crash(subject, 1)
    for now, wait in ((2, Wait(2, 2)), (3, Wait(4, 3))):
        subject.handle(TimePassed())
        assert subject.handle(LoadFailed(now, is_final=False)) == [wait]
    subject.handle(TimePassed())
    assert subject.handle(LoadFailed(4, is_final=False)) == [GiveUp(is_spent=True)]

    subject = machine()
    crash(subject, 1)
    subject.handle(TimePassed())
    assert subject.handle(LoadFailed(2, is_final=True)) == [GiveUp(is_spent=False)]
    assert subject.state is State.QUARANTINED


def test_a_load_for_which_there_is_no_place():
    """It is tried for ever, less and less often, and all of the budget is left when it is up."""
    subject = machine()
    crash(subject, 1)
    waits = []
    for now in range(2, 22):
        subject.handle(TimePassed())
        waits += subject.handle(LoadFailed(now, is_final=False, had_place=False))
    assert [wait.delay_s for wait in waits] == [2, 4, *[8] * 18]
    back_up(subject, 22)
    for _ in range(POLICY.budget - 1):
        assert isinstance(crash(subject, 23)[0], Wait)
        back_up(subject, 23)
    assert crash(subject, 24) == [GiveUp(is_spent=True)]


@pytest.mark.parametrize(("is_to_blame", "wait"), [(False, Wait(0, 1)), (True, Wait(2, 2))])
def test_a_load_that_is_lost(is_to_blame, wait):
    """By another one's fault it costs nothing; what is heard first counts, and for this load only."""
    subject = machine()
    crash(subject, 1)
    subject.handle(TimePassed())
    assert crash(subject, 2, is_to_blame=is_to_blame) == []
    assert crash(subject, 2, is_to_blame=not is_to_blame) == []
    assert subject.state is State.LOADING
    assert subject.handle(LoadFailed(2, is_final=False)) == [wait]
    subject.handle(TimePassed())
    assert subject.handle(LoadFailed(3, is_final=False)) == [Wait(2 * wait.delay_s or 2, wait.attempt + 1)]


def test_a_lost_load_of_what_would_always_fail():
    """It is given up, whoever was to blame for this one."""
    subject = machine()
    crash(subject, 1)
    subject.handle(TimePassed())
    crash(subject, 2, is_to_blame=False)
    assert subject.handle(LoadFailed(2, is_final=True)) == [GiveUp(is_spent=False)]


def transitions() -> set[tuple[str, str, str]]:
    """Every step that the machine can take, found by taking it."""
    ways: dict[State, list[tuple[Event, ...]]] = {
        State.UP: [(), (CRASH, TimePassed(), Loaded(1))],
        State.BACKING_OFF: [(CRASH,)],
        State.LOADING: [
            (CRASH, TimePassed()),
            (CRASH, TimePassed(), LoadFailed(1, is_final=False), TimePassed()),
        ],
        State.QUARANTINED: [(CRASH, TimePassed(), LoadFailed(1, is_final=True))],
        State.GONE: [(Removed(),)],
    }
    each = [
        *(WentDown(2, is_to_blame=blame) for blame in (True, False)),
        TimePassed(),
        Loaded(2),
        *(LoadFailed(2, is_final=final) for final in (True, False)),
        LoadFailed(2, is_final=False, had_place=False),
        Removed(),
    ]
    found = set()
    for (state, roads), event, budget in product(ways.items(), each, (1, 3)):
        for road in roads:
            subject = machine(RestartPolicy(budget=budget))
            for step in road:
                subject.handle(step)
            if subject.state is state:
                subject.handle(event)
                if subject.state is not state:
                    found.add((state.value, type(event).__name__, subject.state.value))
    return found


def test_the_picture_in_the_architecture(project: Path):
    """Each arrow is a step that the machine takes, and no step lacks its arrow."""
    text = (project / "ARCHITECTURE.md").read_text()
    (picture,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", text, re.DOTALL)
    arrows = re.findall(r"^ +(\w+) --> (\w+): (\w+)", picture, re.MULTILINE)
    drawn = {(begin.replace("_", " "), event, end.replace("_", " ")) for begin, end, event in arrows}
    assert drawn == transitions()


EVENTS = st.one_of(
    st.builds(WentDown, st.floats(0, 1000), st.booleans()),
    st.just(TimePassed()),
    st.builds(Loaded, st.floats(0, 1000)),
    st.builds(LoadFailed, st.floats(0, 1000), st.booleans(), st.booleans()),
    st.just(Removed()),
)


@given(
    events=st.lists(EVENTS, max_size=60),
    budget=st.integers(0, 5),
    random=st.floats(0, 1, exclude_max=True),
)
def test_any_order_of_events(events, budget, random):
    """It is never loaded twice at once, never waits without a timer, and is never again what it was once gone."""
    policy = RestartPolicy(budget=budget, first_delay_s=0.5, longest_delay_s=60, jitter=1)
    subject = RestartMachine(policy, now=0, random=lambda: random)
    timers, loads = 0, 0
    is_gone = False
    for event in events:
        before = subject.state
        if isinstance(event, TimePassed) and before is State.BACKING_OFF:
            timers -= 1
        if isinstance(event, Loaded | LoadFailed) and before is State.LOADING:
            loads -= 1
        if isinstance(event, Removed) and before is State.LOADING:
            loads -= 1  # whoever says so ends it
        for instruction in subject.handle(event):
            assert not is_gone
            if isinstance(instruction, Wait):
                timers += 1
                assert 0 <= instruction.delay_s <= policy.longest_delay_s
            elif isinstance(instruction, StopWaiting):
                timers -= 1
            elif isinstance(instruction, Load):
                loads += 1
        assert timers == (subject.state is State.BACKING_OFF)
        assert loads == (subject.state is State.LOADING)
        if before is State.QUARANTINED:
            assert subject.state in (State.QUARANTINED, State.GONE)
        is_gone = is_gone or subject.state is State.GONE
        assert is_gone == (subject.state is State.GONE)


@given(
    gaps=st.lists(st.floats(0, 200), min_size=1, max_size=60),
    budget=st.integers(0, 5),
    window_s=st.floats(1, 500),
)
def test_no_window_has_more_restarts_than_the_budget(gaps, budget, window_s):
    """Whatever the times: of any `budget + 1` restarts in a row, the last is at least a window after the first."""
    policy = RestartPolicy(budget=budget, window_s=window_s, stable_s=1e9)
    subject = machine(policy)
    now, at = 0.0, []
    for gap in gaps:
        now += gap
        (instruction,) = crash(subject, now)
        if isinstance(instruction, GiveUp):
            assert len(at) >= budget
            assert budget == 0 or now - at[-budget] < window_s
            return
        at.append(now)
        back_up(subject, now)
    assert all(later - earlier >= window_s for earlier, later in zip(at, at[budget:], strict=False))
    assert all(earlier <= later for earlier, later in pairwise(at))


@pytest.mark.parametrize(
    ("error", "codes", "guilty"),
    [
        (None, ["a"], "a"),
        (None, ["a", "b"], ""),
        (None, [], ""),
        (PluginError("x"), ["a"], "a"),
        (SidecarExited(reason="x", exit_code=-5), ["a", "b"], ""),
        (SidecarExited(reason="x", exit_code=None, module="b"), ["a", "b"], "b"),
        (SidecarExited(reason="x", exit_code=None, module="gone"), ["a", "b"], "gone"),
        (SidecarExited(reason="x", exit_code=None, module="gone"), ["a"], "gone"),
    ],
)
def test_who_is_to_blame(error, codes, guilty):
    """The one that the error names, there still or not; or the only one; else nobody can say."""
    assert guilty_of(error, codes) == guilty


def caused_by(error: CoreDenoError, *causes: BaseException) -> CoreDenoError:
    last: BaseException = error
    for cause in causes:
        last.__cause__ = cause
        last = cause
    return error


@pytest.mark.parametrize(
    ("error", "final", "had_place"),
    [
        (PluginError("x"), False, True),
        (caused_by(PluginError("x"), OSError(errno.EMFILE, "x")), False, True),
        (SidecarError("x"), False, False),
        (InstallError("x"), True, True),
        (caused_by(InstallError("x"), FileNotFoundError(errno.ENOENT, "x")), True, True),
        (caused_by(InstallError("x"), OSError(errno.EMFILE, "x")), False, False),
        (caused_by(InstallError("x"), LimitExceeded("x"), OSError(errno.ENFILE, "x")), False, False),
    ],
)
def test_what_a_failed_load_means(error, final, had_place):
    """What was installed is not there any more as it was; a machine that could not look does not know that."""
    assert failed(error, 7) == LoadFailed(7, is_final=final, had_place=had_place)
