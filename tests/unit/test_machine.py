"""The life of one sidecar: the table by example, then whatever happens in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import DenoNotFound, InternalError, ProtocolError, SidecarExited
from coredeno.interfaces import SidecarExit, SidecarReady
from coredeno.sidecar.machine import (
    LIMIT_REASON,
    LINK_LOST_WAIT_S,
    AnnounceEnd,
    AnnounceReady,
    AskShutdown,
    AwaitReady,
    Broken,
    Connect,
    Connected,
    Exited,
    Kill,
    Launched,
    LinkLost,
    ReadySaid,
    SetTimer,
    SidecarMachine,
    State,
    StepFailed,
    StopAsked,
    TimePassed,
    Watch,
    exit_reason,
)

READY = ReadySaid(SidecarReady(protocol=1, deno="2.9.8", pid=5))
GONE = Exited(SidecarExit(-9, "last words"))
FAULT = ProtocolError("it lied")
BUG = InternalError("a bug")
NO_DENO = DenoNotFound("none")
OWN_END = SidecarExited(reason="it ended before it was ready", exit_code=None)

TO_READY = [Launched(), READY, Connected()]
# A way into each state.
PATHS = {
    State.LAUNCHING: [],
    State.HANDSHAKING: TO_READY[:1],
    State.CONNECTING: TO_READY[:2],
    State.READY: TO_READY,
    State.STOPPING: [*TO_READY, StopAsked(3)],
    State.DYING: [*TO_READY, Broken(FAULT)],
    State.ENDED: [*TO_READY, GONE],
}


def machine(*events, **options):
    made = SidecarMachine(name="s-1", start_timeout_s=20, allow_untested_deno=False, **options)
    made.begin()
    for event in events:
        made.handle(event)
    return made


def end_of(instructions):
    (end,) = (each for each in instructions if isinstance(each, AnnounceEnd))
    return end.error


def test_it_begins_with_a_timer():
    """The whole start has one deadline."""
    made = SidecarMachine(name="s-1", start_timeout_s=20, allow_untested_deno=False)
    assert made.state is State.LAUNCHING
    assert made.begin() == [SetTimer(20)]


WANTED_NO_MORE = "s-1 was not wanted any more ({})"


def die(cause, reason):
    return [SetTimer(None), Kill(cause, reason)]


def late(state):
    return f"sidecar: s-1 was not ready after 20 s ({state})"


# What the table says: state, event, new state, instructions.
ROWS = [
    (State.LAUNCHING, Launched(), State.HANDSHAKING, [Watch(), AwaitReady()]),
    (State.HANDSHAKING, READY, State.CONNECTING, [Connect()]),
    (State.CONNECTING, Connected(), State.READY, [SetTimer(None), AnnounceReady()]),
    (State.CONNECTING, LinkLost(), State.DYING, [SetTimer(LINK_LOST_WAIT_S)]),
    (State.READY, LinkLost(), State.DYING, [SetTimer(LINK_LOST_WAIT_S)]),
    (State.READY, StopAsked(3), State.STOPPING, [SetTimer(3), AskShutdown(3)]),
    (State.STOPPING, TimePassed(), State.DYING, die("stop", "s-1 did not end when it was asked to")),
    (State.STOPPING, Broken(FAULT), State.DYING, die("protocol", str(FAULT))),
    (State.DYING, TimePassed(), State.DYING, [Kill("protocol", str(FAULT))]),
    *(
        (state, Broken(FAULT), State.DYING, die("protocol", str(FAULT)))
        for state in State
        if state.value in "launching handshaking connecting ready"
    ),
    *(
        (state, TimePassed(), State.DYING, die("start", late(state.value)))
        for state in (State.LAUNCHING, State.HANDSHAKING, State.CONNECTING)
    ),
    *(
        (state, StepFailed(BUG), State.DYING, die("start", str(BUG)))
        for state in (State.LAUNCHING, State.HANDSHAKING, State.CONNECTING)
    ),
    *(
        (state, StopAsked(3), State.DYING, die("stop", WANTED_NO_MORE.format(state.value)))
        for state in (State.LAUNCHING, State.HANDSHAKING, State.CONNECTING)
    ),
]


@pytest.mark.parametrize(
    ("state", "event", "after", "instructions"),
    ROWS,
    ids=lambda case: getattr(case, "name", type(case).__name__),
)
def test_the_table(state, event, after, instructions):
    """Each row: in this state, on this event, this state and these instructions."""
    made = machine(*PATHS[state])
    assert made.state is state
    assert made.handle(event) == instructions
    assert made.state is after


EVENTS = [
    Launched(),
    READY,
    Connected(),
    StepFailed(BUG),
    Broken(FAULT),
    LinkLost(),
    TimePassed(),
    StopAsked(3),
]
NAMED = {(state, type(event)) for state, event, _after, _instructions in ROWS}
UNNAMED = [(state, event) for state in State for event in EVENTS if (state, type(event)) not in NAMED]


@pytest.mark.parametrize(
    ("state", "event"), UNNAMED, ids=lambda case: getattr(case, "name", type(case).__name__)
)
def test_what_the_table_does_not_name_changes_nothing(state, event):
    """An event that means nothing in a state gives no instruction."""
    made = machine(*PATHS[state])
    assert made.handle(event) == []
    assert made.state is state


@pytest.mark.parametrize("state", [state for state in State if state is not State.ENDED])
def test_its_exit_ends_it_from_every_state(state):
    """Once the process has ended there is no more to do, and everybody is told."""
    made = machine(*PATHS[state])
    instructions = made.handle(GONE)
    assert instructions[0] == SetTimer(None)
    assert [type(each) for each in instructions[1:]] == [AnnounceEnd]
    assert made.state is State.ENDED
    assert made.handle(GONE) == []


def test_a_process_that_comes_up_while_it_is_dying_is_killed():
    """A launch that could not be called off any more is watched and killed."""
    made = machine(StopAsked(1))
    assert made.handle(Launched()) == [Watch(), Kill("stop", WANTED_NO_MORE.format("launching"))]
    assert end_of(made.handle(GONE)) is None


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (SidecarExited(reason="r", exit_code=None, cause="memory"), "memory"),
        (SidecarExited(reason="r", exit_code=None, cause="hang"), "hang"),
        (SidecarExited(reason="r", exit_code=None, cause="unload"), "unload"),
        (SidecarExited(reason="r", exit_code=None), "other"),
        (ProtocolError("\x1b[2J" + "\n" * 900), "protocol"),
        (BUG, "other"),
    ],
)
def test_each_kill_has_a_cause_and_a_reason(error, cause):
    """The cause is by the error; the reason is bounded, printable and one line, whoever had a say in it."""
    (kill,) = (each for each in machine(*TO_READY).handle(Broken(error)) if isinstance(each, Kill))
    assert kill.cause == cause
    assert kill.reason.isprintable()
    assert 0 < len(kill.reason) <= LIMIT_REASON
    assert not kill.has_ended


@pytest.mark.parametrize(
    ("error", "cause", "has_ended"),
    [
        (SidecarExited(reason="r", exit_code=1), "start", True),
        (SidecarExited(reason="r", exit_code=None), "start", False),
        (FAULT, "protocol", False),
    ],
)
def test_a_start_that_failed_says_whether_there_is_anything_to_kill(error, cause, has_ended):
    """What had ended by itself was not killed by the host."""
    kill = machine(Launched()).handle(StepFailed(error))[-1]
    assert kill == Kill(cause, str(error), has_ended)


def test_one_that_lives_on_without_its_connection_is_killed():
    """It has a moment to end by itself, then it is the host who ends it."""
    made = machine(*TO_READY, LinkLost())
    assert made.handle(TimePassed()) == die("lost", "sidecar: s-1 closed its connection")


@pytest.mark.parametrize(
    ("before", "error"), [([], NO_DENO), ([StopAsked(1)], None), ([Broken(FAULT)], FAULT)]
)
def test_a_launch_that_left_no_process(before, error):
    """There is nothing to kill or to wait for: it is the end, for the reason that was first."""
    made = machine(*before)
    assert made.handle(StepFailed(NO_DENO, alive=False)) == [SetTimer(None), AnnounceEnd(error)]
    assert made.state is State.ENDED


@pytest.mark.parametrize("before", [PATHS[State.HANDSHAKING], PATHS[State.CONNECTING]])
def test_a_process_that_was_seen_is_never_taken_for_none(before):
    """Once launched it is killed, even if a step says that there is no process."""
    made = machine(*before)
    assert made.handle(StepFailed(BUG, alive=False)) == die("start", str(BUG))
    assert made.handle(StepFailed(BUG, alive=False)) == []
    assert end_of(made.handle(GONE)) is BUG


@pytest.mark.parametrize(
    ("ready", "error", "message"),
    [
        (SidecarReady(protocol=2, deno="2.9.8", pid=5), ProtocolError, "s-1: speaks protocol 2, wanted 1"),
        (SidecarReady(protocol=1, deno="2.8.0", pid=5), DenoNotFound, "wanted at least 2.9"),
        (SidecarReady(protocol=1, deno="2.10.0", pid=5), DenoNotFound, "wanted at most 2.9"),
        (SidecarReady(protocol=1, deno="?", pid=5), DenoNotFound, "its version is '?'"),
    ],
)
def test_a_sidecar_that_is_not_ours(ready, error, message):
    """Another protocol or an unsafe Deno is killed, and the error says what is and what was wanted."""
    made = machine(Launched())
    instructions = made.handle(ReadySaid(ready))
    reason = end_of(made.handle(GONE))
    assert isinstance(reason, error)
    assert instructions == die("start", str(reason))
    assert message in str(reason)


def test_an_app_may_take_an_untested_deno():
    """Where the app accepts the risk a newer Deno is connected to."""
    made = SidecarMachine(name="s", start_timeout_s=1, allow_untested_deno=True)
    made.handle(Launched())
    assert made.handle(ReadySaid(SidecarReady(protocol=1, deno="3.0.0", pid=1))) == [Connect()]


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        (TO_READY, "s-1: it was killed"),
        ([*TO_READY, LinkLost()], "s-1: it was killed"),
        ([*TO_READY, LinkLost(), TimePassed()], "s-1 closed its connection"),
        ([TimePassed()], "s-1 was not ready after 20 s (launching)"),
        ([Launched(), TimePassed()], "s-1 was not ready after 20 s (handshaking)"),
        ([Launched(), READY, TimePassed()], "s-1 was not ready after 20 s (connecting)"),
        ([Launched(), StepFailed(OWN_END)], "it ended before it was ready"),
    ],
)
def test_why_a_process_ended(events, reason):
    """The error has the exit code and the last words, and says why: what the host did, else the exit itself."""
    error = end_of(machine(*events).handle(GONE))
    assert isinstance(error, SidecarExited)
    assert (error.reason, error.exit_code, error.stderr_tail) == (reason, -9, "last words")


@pytest.mark.parametrize(
    "events", [[Broken(FAULT)], [*TO_READY, Broken(FAULT)], [*TO_READY, Broken(FAULT), TimePassed()]]
)
def test_what_a_sidecar_broke_is_the_reason(events):
    """An error of another kind is told as it is, also if more happens on the way."""
    assert end_of(machine(*events).handle(GONE)) is FAULT


@pytest.mark.parametrize(
    "events",
    [
        [StopAsked(1)],
        [Launched(), StopAsked(1)],
        [*TO_READY, StopAsked(1)],
        [*TO_READY, StopAsked(1), TimePassed()],
        [*TO_READY, StopAsked(1), Broken(FAULT)],
        [*TO_READY, StopAsked(1), LinkLost(), StopAsked(9)],
    ],
)
def test_a_stop_that_was_asked_for_is_no_error(events):
    """Whatever it does while it stops, its end has no error."""
    assert machine(*events).handle(GONE)[-1] == AnnounceEnd(None)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (0, "it ended by itself"),
        (1, "an error that nobody caught"),
        (70, "does not know --unstable-worker-options"),
        (-5, "out of memory"),
        (-9, "it was killed"),
        (-11, "segmentation fault"),
        (-31, "signal 31 ended it"),
        (3, "it ended by itself"),
    ],
)
def test_exit_codes_in_words(code, reason):
    """The codes that are known to mean something say so."""
    assert reason in exit_reason(code)


# --- any order

ANY_EVENT = st.sampled_from([*EVENTS, StepFailed(NO_DENO, alive=False), StopAsked(0), GONE])


@given(st.lists(ANY_EVENT, max_size=20))
def test_any_order_of_events(events):
    """Whatever happens: watched once at most, ready once, ended once, and nothing after the end."""
    made = SidecarMachine(name="s", start_timeout_s=5, allow_untested_deno=False)
    given_out = list(made.begin())
    for event in events:
        was = made.state
        now = made.handle(event)
        if was is State.ENDED:
            assert (now, made.state) == ([], State.ENDED)
        if AnnounceReady() in now:
            assert (was, made.state) == (State.CONNECTING, State.READY)
        given_out += now
    kinds = [type(each) for each in given_out]
    assert kinds.count(Watch) <= 1
    assert kinds.count(AwaitReady) <= 1
    assert kinds.count(Connect) <= 1
    assert kinds.count(AskShutdown) <= 1
    assert kinds.count(AnnounceReady) <= 1
    assert kinds.count(AnnounceEnd) == (made.state is State.ENDED)
    if made.state is State.ENDED:
        assert kinds[-1] is AnnounceEnd
    if Watch in kinds and made.state is State.ENDED:
        assert GONE in events  # a process that was seen is waited for, whatever else was said


class World:
    """Carries out what the machine says, and knows what can happen and what must."""

    def __init__(self):
        self.machine = SidecarMachine(name="s", start_timeout_s=5, allow_untested_deno=False)
        self.launching = True
        self.running = False
        self.watched = False
        self.timer = False
        self.told = 0
        self.awaits = set()
        self.carry_out(self.machine.begin())

    def carry_out(self, instructions):
        for each in instructions:
            match each:
                case Watch():
                    self.watched = True
                case SetTimer(delay_s):
                    self.timer = delay_s is not None
                case Kill() if self.running:
                    self.awaits = {"exit"}
                case Kill():
                    self.awaits = {"no launch"}
                case AwaitReady():
                    self.awaits |= {"ready"}
                case Connect():
                    self.awaits |= {"connected"}
                case AnnounceEnd():
                    self.told += 1

    def must_happen(self):
        """What is sure to come, if nothing else does."""
        events = []
        if self.timer:
            events.append("time")
        if "exit" in self.awaits and self.watched:
            events.append("exit")
        if "no launch" in self.awaits and self.launching:
            events.append("no launch")
        return events

    def can_happen(self):
        events = {*self.must_happen(), "stop", "broken"}
        if self.launching:
            events |= {"launched", "no launch"}
        if self.running:
            events |= {"exit", "link lost"}
            events |= {name for name in ("ready", "connected") if name in self.awaits}
            if events & {"ready", "connected"}:
                events.add("failed")
        return sorted(events)

    def happen(self, name):
        if name == "time":
            self.timer = False
        if name in ("launched", "no launch"):
            self.launching, self.running = False, name == "launched"
        if name == "exit":
            self.running = False
        self.awaits.discard(name)
        event = {
            "time": TimePassed(),
            "launched": Launched(),
            "no launch": StepFailed(NO_DENO, alive=False),
            "exit": GONE,
            "ready": READY,
            "connected": Connected(),
            "failed": StepFailed(BUG),
            "link lost": LinkLost(),
            "stop": StopAsked(1),
            "broken": Broken(FAULT),
        }[name]
        self.carry_out(self.machine.handle(event))


@given(st.data())
def test_it_never_waits_for_ever_and_leaves_no_process(data):
    """In every state but READY something is sure to come, and it leads to the end, with no process left."""
    world = World()
    for _ in range(data.draw(st.integers(0, 15))):
        world.happen(data.draw(st.sampled_from(world.can_happen())))
        state = world.machine.state
        assert world.machine.state in (State.READY, State.ENDED) or world.must_happen(), state
        assert world.watched or not world.running
    if world.machine.state is State.READY:
        world.happen("stop")
    for _ in range(6):
        if world.machine.state is State.ENDED:
            break
        world.happen(data.draw(st.sampled_from(world.must_happen())))
    assert world.machine.state is State.ENDED
    assert world.told == 1
    assert not world.running
    assert not world.launching
    assert not world.timer
