"""Judges by its heartbeat and its memory whether a sidecar may live on. Pure: no I/O.

Nothing that a sidecar says is believed: it can end itself by what it says, and nobody else.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Literal

import msgspec

from coredeno.errors import SidecarExited

_KIB, _MIB = 1024, 1024 * 1024
# What the process has for itself and nobody else has a copy of, by `man 5 proc_pid_status`, in KiB.
_OWN_PAGES = re.compile(rb"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB$", re.MULTILINE)
# While V8 collects garbage it needs more for a moment, so being over the limit counts when it is seen twice; being
# over it by so much counts at once.
_AT_ONCE_FACTOR = 2
_OWN_TIME = 11  # the index of `utime` among the fields after the name, of which `state` is the first
_REPORT_BYTES, _MODULE_REPORT_BYTES = 65_536, 1024  # a report has about a hundred bytes a module

HangLimit = Literal["hang_s", "cancel_grace_s"]
"""What of `Limits` says how long a module may not answer: at any time, or once a call is past its deadline."""

_Count = Annotated[int, msgspec.Meta(ge=0)]


class ModuleBeat(msgspec.Struct):
    """What main knows of one module. `busy_ms` is how long its Worker has not answered main's own ping."""

    busy_ms: Annotated[float, msgspec.Meta(ge=0)] = 0


class Beat(msgspec.Struct):
    """The answer to a Ping, as far as it is used."""

    modules: dict[str, ModuleBeat] = {}
    rss_bytes: _Count = 0


class Vitals:
    """What is known of one sidecar's health, and the verdicts on it.

    Attributes:
        beat_at: when it answered last, by the host's clock; None if it has not been asked yet.
        used_bytes: its memory as it was read last; None where it was not.
        cpu_s: the processor time that it had taken when that was read last, in seconds; None where it was not.
    """

    def __init__(self, name: str) -> None:
        self.beat_at: float | None = None
        self.used_bytes: int | None = None
        self.cpu_s: float | None = None
        self._name = name
        self._idle_bytes: int | None = None
        self._was_over = False

    def take_memory(self, used_bytes: int, *, allowed_bytes: int) -> SidecarExited | None:
        """Note what it uses now. The first reading is taken before any plugin runs in it: what is more is theirs.

        Returns:
            Why it must die, or None.
        """
        self.used_bytes = used_bytes
        if self._idle_bytes is None:
            self._idle_bytes = used_bytes
        grown = used_bytes - self._idle_bytes
        was_over, self._was_over = self._was_over, grown > allowed_bytes
        if not self._was_over or not (was_over or grown > _AT_ONCE_FACTOR * allowed_bytes):
            return None
        return SidecarExited(
            reason=f"{self._name}: killed: its modules use {grown // _MIB:,} MiB of memory, wanted at most "
            f"{allowed_bytes // _MIB:,} (Limits.memory_mb)",
            exit_code=None,
            cause="memory",
        )

    def take_beat(
        self,
        beat: Beat,
        *,
        now: float,
        watched: Collection[str],
        hang_s: float,
        limit: HangLimit = "hang_s",
        is_shared: bool = False,
    ) -> SidecarExited | None:
        """Note that it answered.

        Args:
            beat: the answer.
            now: by the host's clock, in seconds.
            watched: the modules in it that are held to `hang_s`; what it says of others is nothing.
            hang_s: how long one may be busy.
            limit: the attribute of `Limits` that says so.
            is_shared: whether several modules are or were in it: any of them may be who answers, for another one.

        Returns:
            Why it must die, or None. It names the module only if that is the only one that it can be.
        """
        self.beat_at = now
        for code in sorted(watched):
            module = beat.modules.get(code)
            if module is not None and module.busy_ms >= hang_s * 1000:
                what = f"{'it says that ' if is_shared else ''}module {code!r} has been busy without a pause"
                if limit == "cancel_grace_s":
                    what += ", past the deadline of a call,"
                return self._hangs(what, hang_s, limit, "" if is_shared else code)
        return None

    def no_beat(self, *, codes: Collection[str], hang_s: float, limit: HangLimit = "hang_s") -> SidecarExited:
        """Why it must die: it did not answer within `hang_s`. Only a module that is alone in it can be named."""
        lone = next(iter(codes)) if len(codes) == 1 else ""
        alone = f", with module {lone!r} in it," if lone else ""
        return self._hangs(f"it{alone} has not answered", hang_s, limit, lone)

    def _hangs(self, what: str, hang_s: float, limit: HangLimit, code: str) -> SidecarExited:
        reason = f"{self._name}: killed: {what} for {hang_s:g} s (Limits.{limit})"
        return SidecarExited(reason=reason, exit_code=None, cause="hang", module=code)


def own_bytes(status: bytes) -> int | None:
    """How much memory a process has for itself, by its `/proc/<pid>/status`; None if that does not tell."""
    counts = _OWN_PAGES.findall(status)
    return sum(map(int, counts)) * _KIB if counts else None


def cpu_ticks(stat: bytes) -> int | None:
    """The processor time of a process in ticks, by its `/proc/<pid>/stat`; None if that does not tell.

    After the name, which may hold anything and stands in brackets, these are the fields 12 and 13: the time in its own
    code and in the kernel (`man 5 proc_pid_stat`).
    """
    fields = stat.rpartition(b") ")[2].split()
    own_and_kernel = fields[_OWN_TIME : _OWN_TIME + 2]
    if len(own_and_kernel) < 2 or not all(map(bytes.isdigit, own_and_kernel)):  # noqa: PLR2004 - both
        return None
    return sum(map(int, own_and_kernel))


def longest_report(places: int) -> int:
    """The most bytes that the answer to a Ping may have, with so many modules in the sidecar."""
    return _REPORT_BYTES + _MODULE_REPORT_BYTES * places
