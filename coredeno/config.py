"""How a host is set up: bounds, isolation, what the app approves. Pure: no I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from coredeno.errors import UsageError
from coredeno.policy import Policy

Isolation = Literal["process", "worker"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one module. All are positive; `UsageError` at construction otherwise.

    Attributes:
        memory_mb: the JavaScript heap, in MiB; at least 16. V8 ends a process that goes over it.
        call_timeout_s: deadline of a call that names none of its own, in seconds.
        load_timeout_s: deadline of a load, `init` included, in seconds.
        unload_grace_s: what `dispose` gets before the module is ended, in seconds.
        calls_in_flight: the host's calls that the module has at once; more wait in the host until their deadline.
        requests_in_flight: the module's own requests at once; more wait in the module's `await`.
        message_bytes: the largest message on either wire, its binary values included; at least 4,096.
        log_line_bytes: longer lines of a log are cut.
    """

    memory_mb: int = 128
    call_timeout_s: float = 30.0
    load_timeout_s: float = 30.0
    unload_grace_s: float = 2.0
    calls_in_flight: int = 1024
    requests_in_flight: int = 1024
    message_bytes: int = 16 * 1024 * 1024
    log_line_bytes: int = 8192

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name.endswith("_s"):
                _check_time("Limits", name, value)
            elif type(value) is not int or value < _FLOORS.get(name, 1):
                raise UsageError(
                    f"Limits: {name} is {value!r}, wanted a whole number of at least {_FLOORS.get(name, 1)}"
                )


_FLOORS = {"memory_mb": 16, "message_bytes": 4096}  # below, not even our own part of a sidecar works


def _check_time(owner: str, name: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:  # type: ignore[operator]
        raise UsageError(f"{owner}: {name} is {value!r}, wanted a number of seconds more than 0")


class HostConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a `PluginHost` behaves. Immutable, and checked at construction (`UsageError`).

    Attributes:
        isolation: `process` gives each module a process of its own, the only boundary against hostile code;
            `worker` lets the modules of one trust group share one process.
        limits: bounds of every module.
        policy: what the app grants at most; a `.core/view.yml` in the app root narrows it further.
        programs: program names that modules with a `run` permission may start, and their absolute paths.
        allow_unsigned: whether plugins without a signature may be loaded (for development).
        deno: path of the Deno program; None takes the one that `pip` installed with coredeno.
        allow_untested_deno: run with a Deno newer than those that coredeno's attack suite has passed.
        start_timeout_s: what a sidecar may take to be ready, in seconds.
        stop_timeout_s: deadline of each step of stopping, in seconds.
    """

    isolation: Isolation = "process"
    limits: Limits = Limits()
    policy: Policy = Policy()
    programs: Mapping[str, str | Path] = {}
    allow_unsigned: bool = False
    deno: str | Path | None = None
    allow_untested_deno: bool = False
    start_timeout_s: float = 20.0
    stop_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        if self.isolation not in ("process", "worker"):
            raise UsageError(f"HostConfig: isolation is {self.isolation!r}, wanted 'process' or 'worker'")
        for name, kind in (("limits", Limits), ("policy", Policy), ("programs", Mapping)):
            if not isinstance(getattr(self, name), kind):
                raise UsageError(f"HostConfig: {name} is {getattr(self, name)!r}, wanted a {kind.__name__}")
        programs: Mapping[str, Any] = self.programs  # what the hints say is not checked at construction
        for name, path in programs.items():
            if not (isinstance(path, str | Path) and Path(path).is_absolute()):
                raise UsageError(f"HostConfig: programs[{name!r}] is {str(path)!r}, wanted an absolute path")
        for name in ("start_timeout_s", "stop_timeout_s"):
            _check_time("HostConfig", name, getattr(self, name))
