"""The life of one sidecar: events in, instructions out. Pure: no I/O.

```
LAUNCHING ─Launched─▶ HANDSHAKING ─ReadySaid─▶ CONNECTING ─Connected─▶ READY ─StopAsked─▶ STOPPING
    └──────────── StepFailed, TimePassed, Broken, LinkLost, StopAsked ──────▶ DYING ◀─TimePassed─┘
                                       Exited: from any of them ─▶ ENDED
```
"""

# ruff: noqa: SLF001 - the table at the end names the methods of the class above it

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import msgspec

from coredeno.errors import CoreDenoError, ProtocolError, SidecarExited
from coredeno.events import KillCause
from coredeno.interfaces import SidecarExit, SidecarReady
from coredeno.sidecar.command import PROTOCOL
from coredeno.sidecar.deno import check_version
from coredeno.wire.text import printable

# A process that dies closes its sockets a moment before its exit can be seen; its exit says more.
LINK_LOST_WAIT_S = 0.5
LIMIT_REASON = 500
"""Characters of the reason of a kill, to which a plugin may have its say."""

_EXIT_REASONS = {
    0: "it ended by itself",
    1: "an error that nobody caught ended it, or it lost its host",
    70: "its Deno does not know --unstable-worker-options",
    -5: "V8 ended it: out of memory, most likely (Limits.memory_mb)",
    -6: "it aborted",
    -9: "it was killed",
    -11: "it crashed (segmentation fault)",
}


class State(Enum):
    """Where a sidecar is in its life."""

    LAUNCHING = "launching"
    HANDSHAKING = "handshaking"
    CONNECTING = "connecting"
    READY = "ready"
    STOPPING = "stopping"
    DYING = "dying"
    ENDED = "ended"


class Launched(msgspec.Struct, frozen=True):
    """The process runs."""


class ReadySaid(msgspec.Struct, frozen=True):
    """It said that it listens."""

    ready: SidecarReady


class Connected(msgspec.Struct, frozen=True):
    """Both wires stand and both were tried."""


class StepFailed(msgspec.Struct, frozen=True):
    """What an instruction tried has failed. `alive` says whether there may be a process."""

    error: CoreDenoError
    alive: bool = True


class Broken(msgspec.Struct, frozen=True):
    """It broke the rules of a wire, or someone wants it dead for another reason."""

    error: CoreDenoError


class LinkLost(msgspec.Struct, frozen=True):
    """The JSON-RPC connection ended."""


class TimePassed(msgspec.Struct, frozen=True):
    """The time of the last `SetTimer` has passed."""


class StopAsked(msgspec.Struct, frozen=True):
    """It is no longer needed."""

    grace_s: float


class Exited(msgspec.Struct, frozen=True):
    """The process has ended."""

    exit: SidecarExit


Event = Launched | ReadySaid | Connected | StepFailed | Broken | LinkLost | TimePassed | StopAsked | Exited


class Watch(msgspec.Struct, frozen=True):
    """Wait for its end, and say `Exited` then."""


class AwaitReady(msgspec.Struct, frozen=True):
    """Wait for its first line."""


class Connect(msgspec.Struct, frozen=True):
    """Join the JSON-RPC wire and try both wires."""


class SetTimer(msgspec.Struct, frozen=True):
    """Say `TimePassed` in so many seconds; None takes the former timer back. There is only one."""

    delay_s: float | None


class AskShutdown(msgspec.Struct, frozen=True):
    """Ask it to end by itself."""

    grace_s: float


class Kill(msgspec.Struct, frozen=True):
    """SIGKILL its process group (or stop launching it).

    `reason` is one line, bounded and printable. `has_ended` says that it had ended by itself, as far as is known.
    """

    cause: KillCause
    reason: str
    has_ended: bool = False


class AnnounceReady(msgspec.Struct, frozen=True):
    """It can be used."""


class AnnounceEnd(msgspec.Struct, frozen=True):
    """It is gone; `error` is why, None if it was asked to."""

    error: CoreDenoError | None


Instruction = Watch | AwaitReady | Connect | SetTimer | AskShutdown | Kill | AnnounceReady | AnnounceEnd


class SidecarMachine:
    """Decides what is to be done with one sidecar, whatever happens in whatever order."""

    def __init__(self, *, name: str, start_timeout_s: float, allow_untested_deno: bool) -> None:
        """A sidecar that is being launched. `begin` gives the first instructions."""
        self.state: State = State.LAUNCHING
        self._name = name
        self._start_timeout_s = start_timeout_s
        self._allow_untested = allow_untested_deno
        self._error: CoreDenoError | None = None
        self._asked = False
        self._has_process = False
        self._kill: Kill | None = None

    def begin(self) -> list[Instruction]:
        """What to do besides launching it."""
        return [SetTimer(self._start_timeout_s)]

    def handle(self, event: Event) -> list[Instruction]:
        """Take what happened and give what is to be done. An event that means nothing now gives nothing."""
        if isinstance(event, Exited):
            return self._exited(event)
        handler = _TABLE.get((self.state, type(event)))
        return handler(self, event) if handler else []

    # --- the transitions, as the table below names them

    def _launched(self, _event: Event) -> list[Instruction]:
        self.state = State.HANDSHAKING
        self._has_process = True
        return [Watch(), AwaitReady()]

    def _launched_too_late(self, _event: Event) -> list[Instruction]:
        if self._has_process:
            return []
        self._has_process = True
        assert self._kill is not None
        return [Watch(), self._kill]

    def _ready_said(self, event: Event) -> list[Instruction]:
        assert isinstance(event, ReadySaid)
        ready = event.ready
        if ready.protocol != PROTOCOL:
            return self._die(
                ProtocolError(
                    f"{self._name}: speaks protocol {ready.protocol}, wanted {PROTOCOL}: is its runtime ours?"
                ),
                "start",
            )
        try:
            check_version(ready.deno, allow_untested=self._allow_untested)
        except CoreDenoError as error:
            return self._die(error, "start")
        self.state = State.CONNECTING
        return [Connect()]

    def _connected(self, _event: Event) -> list[Instruction]:
        self.state = State.READY
        return [SetTimer(None), AnnounceReady()]

    def _failed(self, event: Event) -> list[Instruction]:
        assert isinstance(event, StepFailed)
        if event.alive or self._has_process:
            cause: KillCause = "protocol" if isinstance(event.error, ProtocolError) else "start"
            has_ended = isinstance(event.error, SidecarExited) and event.error.exit_code is not None
            return self._die(event.error, cause, has_ended=has_ended)
        self._error = event.error
        return self._end()

    def _not_launched(self, event: Event) -> list[Instruction]:
        assert isinstance(event, StepFailed)
        return [] if event.alive or self._has_process else self._end()

    def _broken(self, event: Event) -> list[Instruction]:
        assert isinstance(event, Broken)
        return self._die(event.error, cause_of(event.error))

    def _start_timed_out(self, _event: Event) -> list[Instruction]:
        where = self.state.value
        return self._die(
            SidecarExited(
                reason=f"{self._name} was not ready after {self._start_timeout_s:g} s ({where})",
                exit_code=None,
            ),
            "start",
        )

    def _link_lost(self, _event: Event) -> list[Instruction]:
        self.state = State.DYING
        return [SetTimer(LINK_LOST_WAIT_S)]

    def _stop(self, event: Event) -> list[Instruction]:
        assert isinstance(event, StopAsked)
        self._asked = True
        if self.state is not State.READY:
            return self._die(None, "stop", f"{self._name} was not wanted any more ({self.state.value})")
        self.state = State.STOPPING
        return [SetTimer(event.grace_s), AskShutdown(event.grace_s)]

    def _stop_timed_out(self, _event: Event) -> list[Instruction]:
        return self._die(None, "stop", f"{self._name} did not end when it was asked to")

    def _broken_while_stopping(self, event: Event) -> list[Instruction]:
        assert isinstance(event, Broken)
        return self._die(None, cause_of(event.error), str(event.error))

    def _kill_unlinked(self, _event: Event) -> list[Instruction]:
        if self._kill is not None:
            return [self._kill]
        lost = SidecarExited(reason=f"{self._name} closed its connection", exit_code=None)
        return self._die(lost, "lost")

    def _exited(self, event: Exited) -> list[Instruction]:
        if self.state is State.ENDED:
            return []
        if not self._asked and (self._error is None or isinstance(self._error, SidecarExited)):
            code = event.exit.exit_code
            reason = self._error.reason if self._error else f"{self._name}: {exit_reason(code)}"
            self._error = SidecarExited(
                reason=reason,
                exit_code=code,
                stderr_tail=event.exit.stderr_tail,
                cause=self._error.cause if self._error else "other",
                module=self._error.module if self._error else "",
            )
        return self._end()

    def _die(
        self, error: CoreDenoError | None, cause: KillCause, reason: str = "", *, has_ended: bool = False
    ) -> list[Instruction]:
        self._error = error
        self.state = State.DYING
        self._kill = Kill(cause, _shown(reason or str(error)), has_ended)
        return [SetTimer(None), self._kill]

    def _end(self) -> list[Instruction]:
        self.state = State.ENDED
        return [SetTimer(None), AnnounceEnd(None if self._asked else self._error)]


def exit_reason(code: int) -> str:
    """What an exit code means, in words."""
    return _EXIT_REASONS.get(code) or (f"signal {-code} ended it" if code < 0 else "it ended by itself")


def cause_of(error: CoreDenoError) -> KillCause:
    """For what a sidecar is killed, by the error that says why."""
    if isinstance(error, SidecarExited):
        return error.cause
    return "protocol" if isinstance(error, ProtocolError) else "other"


def _shown(reason: str) -> str:
    return printable(reason[:LIMIT_REASON], one_line=True)[:LIMIT_REASON]


_Handler = Callable[[SidecarMachine, Event], list[Instruction]]
_M = SidecarMachine
_BEFORE_READY = (State.LAUNCHING, State.HANDSHAKING, State.CONNECTING)
_ALIVE = (*_BEFORE_READY, State.READY)

# The whole table. What it does not name changes nothing; `Exited` ends it from every state.
_TABLE: dict[tuple[State, type[Event]], _Handler] = {
    (State.LAUNCHING, Launched): _M._launched,
    (State.HANDSHAKING, ReadySaid): _M._ready_said,
    (State.CONNECTING, Connected): _M._connected,
    **{(state, LinkLost): _M._link_lost for state in (State.CONNECTING, State.READY)},
    (State.STOPPING, TimePassed): _M._stop_timed_out,
    (State.STOPPING, Broken): _M._broken_while_stopping,
    (State.DYING, TimePassed): _M._kill_unlinked,
    (State.DYING, Launched): _M._launched_too_late,
    (State.DYING, StepFailed): _M._not_launched,
    **{(state, StepFailed): _M._failed for state in _BEFORE_READY},
    **{(state, TimePassed): _M._start_timed_out for state in _BEFORE_READY},
    **{(state, Broken): _M._broken for state in _ALIVE},
    **{(state, StopAsked): _M._stop for state in _ALIVE},
}
