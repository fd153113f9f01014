"""What a host has counted of its modules. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

LATENCIES_KEPT = 1024
"""Over how many of a module's latest calls its latencies are told."""


class CallErrors(msgspec.Struct, frozen=True, kw_only=True):
    """The calls to a module that raised, by what they raised. Those that the app cancelled are none.

    Attributes:
        raised: `PluginRaised`.
        timeout: `PluginTimeout`.
        crashed: `PluginCrashed`.
        other: anything else, such as `InvalidResult`, `LimitExceeded` or `MessageTooLarge`.
    """

    raised: int = 0
    timeout: int = 0
    crashed: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.raised + self.timeout + self.crashed + self.other


class RequestStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a module asked of its host, over its Session and by gRPC calls in its name, as far as it came to the gate.

    Attributes:
        count: how many have ended, however they did; log records are none.
        denied: how many of them ended with `PermissionDenied`.
        failed: how many of them ended with any other error. A result that cannot cross, or is too large for a message,
            reaches the module as an error, and is none of these.
        cancelled: how many of them nobody waited for any more: cancelled, or past their deadline.
        in_flight: how many are under way.
    """

    count: int = 0
    denied: int = 0
    failed: int = 0
    cancelled: int = 0
    in_flight: int = 0


class ModuleStats(msgspec.Struct, frozen=True, kw_only=True):
    """One module, from its load on; its restarts change none of the counts. Later versions may add to it.

    What is refused before anything is sent or waited for (`UsageError`, a module that is down) is no call. If
    only its writing shows that an argument cannot cross (text with lone surrogates), it is one that raised.

    Attributes:
        version: the plugin's version.
        state: as `module.state`, such as `RUNNING`.
        restarts: how often it has come back after it went down.
        calls: how many calls of the app have ended, however they did.
        errors: how many of them raised.
        cancelled: how many of them the app cancelled.
        in_flight: how many calls the module has now. What was given up before the module has answered is not in it.
        waiting: how many calls wait, for a slot (`Limits.calls_in_flight`) or for the module to come back.
        latency_p50_s: how long the latest 1,024 of `calls` took, what they waited included: half of them no longer than
            this, in seconds. By the method of the nearest rank, so a call really took that long. None without any.
        latency_p90_s: 90 in a hundred of them no longer than this.
        latency_p99_s: 99 in a hundred.
        latency_max_s: the longest of them.
        requests: what the module asked of the host.
        bytes_in: what it sent, in bytes: the answers to calls that were waited for (JSON text and binary values), and
            of its requests and log records over the Session the params and binary values. Frames are not counted, nor
            what belongs to no call (its load, the heartbeat), nor unary gRPC calls of clients.
        bytes_out: what was sent to it, in bytes: calls, and answers to its requests over the Session, each as JSON text
            and binary values; with the same exceptions.
        sidecar: the sidecar in which it is, by its name in `host.health()` and in logs; empty while it is in none.
        sidecar_modules: how many modules are in that. With more than one, the next two are those of all together.
        memory_bytes: what the process of the sidecar has for itself, as it was read last, some half a second ago; None
            if it has not been read.
        cpu_s: the processor time that this process has taken since it was started, in seconds, read with the memory;
            None if it has not been read, as on systems that do not tell it in `/proc`.
    """

    version: str
    state: str
    restarts: int
    calls: int
    errors: CallErrors
    cancelled: int
    in_flight: int
    waiting: int
    latency_p50_s: float | None
    latency_p90_s: float | None
    latency_p99_s: float | None
    latency_max_s: float | None
    requests: RequestStats
    bytes_in: int
    bytes_out: int
    sidecar: str
    sidecar_modules: int
    memory_bytes: int | None
    cpu_s: float | None


class HostStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a host has counted. Later versions may add to it.

    Attributes:
        modules: by their codes, those of `host.modules`.
    """

    modules: Mapping[str, ModuleStats]


def nearest_rank(ranked: Sequence[float], percent: int) -> float | None:
    """The quantile of values in ascending order by the method of the nearest rank; None if there are none.

    It is the smallest of the values that at least `percent` in a hundred of them do not exceed.
    """
    return ranked[-(-percent * len(ranked) // 100) - 1] if ranked else None
