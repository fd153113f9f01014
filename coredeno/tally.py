"""What is counted of one module while it goes on; `stats` has what is shown of it. Pure: no I/O."""

from __future__ import annotations

from collections import deque

from coredeno.errors import PermissionDenied, PluginCrashed, PluginRaised, PluginTimeout
from coredeno.stats import LATENCIES_KEPT, CallErrors, ModuleStats, RequestStats, nearest_rank


class Tally:
    """The counts of one module, over all its restarts. It is on the path of every call: whoever counts adds to these.

    Attributes:
        begun: calls of the host that began.
        ended: those that ended.
        waiting: those that wait for their turn.
        took_s: what the latest of them took.
        raised, timeout, crashed, other, cancelled: how those ended that gave no result.
        requests: requests of the module that ended at the gate.
        denied, failed, dropped: how those ended that gave no result.
        asking: those that are under way.
        bytes_in: bytes that the module sent.
        bytes_out: bytes that were sent to it.
    """

    __slots__ = (
        "asking",
        "begun",
        "bytes_in",
        "bytes_out",
        "cancelled",
        "crashed",
        "denied",
        "dropped",
        "ended",
        "failed",
        "other",
        "raised",
        "requests",
        "timeout",
        "took_s",
        "waiting",
    )

    def __init__(self) -> None:
        self.took_s: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self.begun: int = 0
        self.ended: int = 0
        self.waiting: int = 0
        self.raised: int = 0
        self.timeout: int = 0
        self.crashed: int = 0
        self.other: int = 0
        self.cancelled: int = 0
        self.requests: int = 0
        self.denied: int = 0
        self.failed: int = 0
        self.dropped: int = 0
        self.asking: int = 0
        self.bytes_in: int = 0
        self.bytes_out: int = 0

    def call_failed(self, error: BaseException) -> None:
        """A call ends with this."""
        if isinstance(error, PluginRaised):
            self.raised += 1
        elif isinstance(error, PluginTimeout):
            self.timeout += 1
        elif isinstance(error, PluginCrashed):
            self.crashed += 1
        elif isinstance(error, Exception):
            self.other += 1
        else:  # CancelledError
            self.cancelled += 1

    def request_failed(self, error: BaseException) -> None:
        """A request ends with this."""
        if isinstance(error, PermissionDenied):
            self.denied += 1
        elif isinstance(error, Exception):
            self.failed += 1
        else:  # CancelledError
            self.dropped += 1

    def stats(
        self,
        *,
        version: str,
        state: str,
        restarts: int,
        sidecar: str,
        sidecar_modules: int,
        memory_bytes: int | None,
        cpu_s: float | None,
    ) -> ModuleStats:
        """What is shown of it, with what others know."""
        ranked = sorted(self.took_s)
        return ModuleStats(
            version=version,
            state=state,
            restarts=restarts,
            calls=self.ended,
            errors=CallErrors(
                raised=self.raised, timeout=self.timeout, crashed=self.crashed, other=self.other
            ),
            cancelled=self.cancelled,
            in_flight=self.begun - self.ended - self.waiting,
            waiting=self.waiting,
            latency_p50_s=nearest_rank(ranked, 50),
            latency_p90_s=nearest_rank(ranked, 90),
            latency_p99_s=nearest_rank(ranked, 99),
            latency_max_s=nearest_rank(ranked, 100),
            requests=RequestStats(
                count=self.requests,
                denied=self.denied,
                failed=self.failed,
                cancelled=self.dropped,
                in_flight=self.asking,
            ),
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            sidecar=sidecar,
            sidecar_modules=sidecar_modules,
            memory_bytes=memory_bytes,
            cpu_s=cpu_s,
        )
