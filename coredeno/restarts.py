"""When a module that went down is started again, and when it is given up. Pure: no I/O.

Events in, instructions out; `revival.py` carries them out. ARCHITECTURE.md has the table in words.
"""

# ruff: noqa: SLF001 - the table at the end names the methods of the class above it

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Collection
from enum import Enum

import msgspec

from coredeno.config import RestartPolicy
from coredeno.errors import CoreDenoError, InstallError, SidecarError, SidecarExited

_SHORT_OF = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_MOST_DOUBLINGS = 64  # far above any delay that can be meant, and far below what a float holds


class State(Enum):
    """Where a module is, as far as restarts go."""

    UP = "up"
    BACKING_OFF = "backing off"
    LOADING = "loading"
    QUARANTINED = "quarantined"
    GONE = "gone"


class WentDown(msgspec.Struct, frozen=True):
    """It ran or was being loaded, and went down at `now` (seconds). `is_to_blame`: no other module was the reason.

    One that was being loaded has yet to say `LoadFailed`.
    """

    now: float
    is_to_blame: bool


class TimePassed(msgspec.Struct, frozen=True):
    """The time of the last `Wait` is over."""


class Loaded(msgspec.Struct, frozen=True):
    """The load that was ordered has succeeded, at `now`."""

    now: float


class LoadFailed(msgspec.Struct, frozen=True):
    """The load that was ordered has failed, at `now`.

    `is_final`: another attempt would come to the same. `had_place`: the machine had a sidecar for it, and
    all else that it takes to look at its files.
    """

    now: float
    is_final: bool
    had_place: bool = True


class Removed(msgspec.Struct, frozen=True):
    """The app wants it no more, or the host stops."""


Event = WentDown | TimePassed | Loaded | LoadFailed | Removed


class Wait(msgspec.Struct, frozen=True):
    """Say `TimePassed` after so long. `attempt` counts since the module ran stably."""

    delay_s: float
    attempt: int


class StopWaiting(msgspec.Struct, frozen=True):
    """Forget the last `Wait`."""


class Load(msgspec.Struct, frozen=True):
    """Load it, once nothing of its former life is left; say `Loaded` or `LoadFailed`."""


class GiveUp(msgspec.Struct, frozen=True):
    """Put it into quarantine. `is_spent`: for it has used up its budget of restarts."""

    is_spent: bool


Instruction = Wait | StopWaiting | Load | GiveUp


class RestartMachine:
    """The restarts of one module that has come up."""

    def __init__(self, policy: RestartPolicy, *, now: float, random: Callable[[], float]) -> None:
        """Begin with a module that is up.

        Args:
            policy: the app's.
            now: when it came up, in seconds, by the clock of all events.
            random: gives numbers from 0 to below 1, for the jitter.
        """
        self.state: State = State.UP
        self._policy = policy
        self._up_since = now
        self._random = random
        self._restarts: deque[float] = deque()  # when, within the window
        self._attempt = 0
        self._is_lost_by_itself: bool | None = None  # the load under way; None while it is not lost

    def handle(self, event: Event) -> list[Instruction]:
        """What is to be done. An event that means nothing in this state changes nothing."""
        handler = _TABLE.get((self.state, type(event)))
        return [] if handler is None else handler(self, event)

    def _went_down(self, event: Event) -> list[Instruction]:
        assert isinstance(event, WentDown)
        if event.now - self._up_since >= self._policy.stable_s:
            self._restarts.clear()
            self._attempt = 0
        return self._again(event.now) if event.is_to_blame else self._spared()

    def _waited(self, _event: Event) -> list[Instruction]:
        self.state = State.LOADING
        self._is_lost_by_itself = None
        return [Load()]

    def _lost(self, event: Event) -> list[Instruction]:
        assert isinstance(event, WentDown)
        if self._is_lost_by_itself is None:  # what comes after the first is what that has led to
            self._is_lost_by_itself = event.is_to_blame
        return []

    def _loaded(self, event: Event) -> list[Instruction]:
        assert isinstance(event, Loaded)
        self.state = State.UP
        self._up_since = event.now
        return []

    def _load_failed(self, event: Event) -> list[Instruction]:
        assert isinstance(event, LoadFailed)
        if event.is_final:
            self.state = State.QUARANTINED
            return [GiveUp(is_spent=False)]
        if self._is_lost_by_itself is False:
            return self._spared()
        # What the machine lacks, such as room on its disk, may be missing for long: that wants patience, and no budget.
        return self._again(event.now) if event.had_place else self._back_off()

    def _spared(self) -> list[Instruction]:
        """Another one's fault costs neither budget nor time."""
        self.state = State.BACKING_OFF
        return [Wait(0, self._attempt)]

    def _again(self, now: float) -> list[Instruction]:
        policy = self._policy
        while self._restarts and now - self._restarts[0] >= policy.window_s:
            self._restarts.popleft()
        if len(self._restarts) >= policy.budget:
            self.state = State.QUARANTINED
            return [GiveUp(is_spent=True)]
        self._restarts.append(now)
        return self._back_off()

    def _back_off(self) -> list[Instruction]:
        self._attempt += 1
        self.state = State.BACKING_OFF
        return [Wait(self._delay_s(), self._attempt)]

    def _delay_s(self) -> float:
        """Doubled each time, and cut short by chance, so that many that went down together do not come back so."""
        policy = self._policy
        longest = policy.longest_delay_s
        doublings = min(self._attempt - 1, _MOST_DOUBLINGS)
        return min(policy.first_delay_s * 2.0**doublings, longest) * (1 - policy.jitter * self._random())

    def _removed(self, _event: Event) -> list[Instruction]:
        was_waiting = self.state is State.BACKING_OFF
        self.state = State.GONE
        return [StopWaiting()] if was_waiting else []


def guilty_of(error: CoreDenoError | None, codes: Collection[str]) -> str:
    """Whose fault it was that a sidecar ended with these modules in it; empty if nobody can say.

    Args:
        error: why it ended; it may name a module, which may have left by now.
        codes: the modules that are or were in it.
    """
    if isinstance(error, SidecarExited) and error.module:
        return error.module
    return next(iter(codes)) if len(codes) == 1 else ""


def failed(error: CoreDenoError, now: float) -> LoadFailed:
    """What the end of a load by `error` means.

    What is not there any more as it was installed will not be so the next time either; but a machine that was short of
    descriptors or memory could not look, and does not know.
    """
    is_install = isinstance(error, InstallError)
    is_short = is_install and _is_of_a_short_machine(error)
    had_place = not (isinstance(error, SidecarError) or is_short)
    return LoadFailed(now, is_final=is_install and not is_short, had_place=had_place)


def _is_of_a_short_machine(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _SHORT_OF:
            return True
        error = error.__cause__
    return False


_Handler = Callable[[RestartMachine, Event], list[Instruction]]

# The whole table. What it does not name changes nothing.
_TABLE: dict[tuple[State, type[Event]], _Handler] = {
    (State.UP, WentDown): RestartMachine._went_down,
    (State.BACKING_OFF, TimePassed): RestartMachine._waited,
    (State.LOADING, WentDown): RestartMachine._lost,
    (State.LOADING, Loaded): RestartMachine._loaded,
    (State.LOADING, LoadFailed): RestartMachine._load_failed,
    **{(state, Removed): RestartMachine._removed for state in State if state is not State.GONE},
}
