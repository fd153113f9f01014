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
CorruptStore = Literal["refuse", "set_aside"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one module. All are positive; `UsageError` at construction otherwise.

    Attributes:
        memory_mb: what the module really uses of memory, in MiB, its heap and all outside it, such as buffers,
            strings and WebAssembly; at least 16. It is what the sidecar's process has grown by since it was ready, read
            twice a second (on systems without `/proc` at each heartbeat); modules that share a sidecar share the sum of
            theirs. A sidecar that is over it twice in a row, or once by twice as much, is killed. V8 itself ends a
            process whose heap alone goes over it. Garbage counts until it is collected: with less than 32, a module
            that is called without a pause may be over it.
        hang_s: how long the module may compute without a pause, and its sidecar not answer, in seconds. Whatever takes
            longer costs the sidecar; while it loads or ends, the module has `load_timeout_s` or `unload_grace_s`.
        call_timeout_s: deadline of a call that names none of its own, in seconds.
        load_timeout_s: deadline of a load, `init` included, in seconds.
        cancel_grace_s: what a call whose deadline has passed gets to end, in seconds. If the module then still computes
            without a pause, so that it cannot even hear that the call was cancelled, it costs the sidecar.
        unload_grace_s: what `dispose` gets before the module is ended, in seconds.
        calls_in_flight: the host's calls that the module has at once; more wait in the host until their deadline.
        requests_in_flight: the module's own requests at once; more wait in the module's `await`.
        message_bytes: the largest message on either wire, its binary values included; at least 4,096.
        log_line_bytes: longer lines of a log are cut.
        log_lines_per_s: log records and lines of output a second, and as many at once after a silence; what is more is
            dropped, and one record tells how many.
        disk_in_flight: the module's requests for files at once; more wait in the host for one of them to end.
        list_entries: a folder with more entries cannot be listed.
        store_bytes: what a store group that the module sets a key in may have by then, keys and values as UTF-8.
        store_keys: how many keys such a group may have by then.
        processes: the programs of the module that run at once.
    """

    memory_mb: int = 128
    hang_s: float = 10.0
    call_timeout_s: float = 30.0
    load_timeout_s: float = 30.0
    cancel_grace_s: float = 2.0
    unload_grace_s: float = 2.0
    calls_in_flight: int = 1024
    requests_in_flight: int = 1024
    message_bytes: int = 16 * 1024 * 1024
    log_line_bytes: int = 8192
    log_lines_per_s: int = 1000
    disk_in_flight: int = 4
    list_entries: int = 10_000
    store_bytes: int = 64 * 1024 * 1024
    store_keys: int = 100_000
    processes: int = 16

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name.endswith("_s") and not name.endswith("_per_s"):
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


LIMIT_FILES = 10_000
"""The most files and folders of one plugin; what is installed is walked over by it at each load."""
LIMIT_DEPTH = 32
"""How many folders of a plugin may lie within one another."""


class FetchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one fetch, whatever the source sends. All are positive; `UsageError` at construction otherwise.

    `files` and `depth` may only be lower than their defaults, since loading has the same bounds; bytes may be more.

    Attributes:
        timeout_s: the whole fetch, in seconds.
        transfer_bytes: all that is received over the network: of HTTP every byte, of TLS what is within it.
        objects: git objects in the pack.
        file_bytes: one file; deltas are held to it before they are applied.
        total_bytes: all files together.
        files: files and folders together; at most 10,000.
        depth: how many folders may lie within one another; at most 32.
    """

    timeout_s: float = 120.0
    transfer_bytes: int = 256 * 1024 * 1024
    objects: int = 50_000
    file_bytes: int = 32 * 1024 * 1024
    total_bytes: int = 256 * 1024 * 1024
    files: int = LIMIT_FILES
    depth: int = LIMIT_DEPTH

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name.endswith("_s"):
                _check_time("FetchLimits", name, value)
            elif type(value) is not int or value < 1:
                raise UsageError(f"FetchLimits: {name} is {value!r}, wanted a whole number of at least 1")
        for name, most in (("files", LIMIT_FILES), ("depth", LIMIT_DEPTH)):
            if getattr(self, name) > most:
                raise UsageError(f"FetchLimits: {name} is {getattr(self, name):,}, wanted at most {most:,}")


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a module that went down comes back, and when it is given up. Checked at construction (`UsageError`).

    The first restart waits `first_delay_s`, each further one twice as long as the one before, up to `longest_delay_s`.
    A module that went down more than `budget` times within `window_s`, failed restarts included, is QUARANTINED until
    the app releases it (`PluginHost.release`), loads it anew, or changes to another release of it. What went down by
    another module's fault counts nothing, and comes back at once. A restart for which the machine had no sidecar, such
    as on a full disk, counts nothing either: that is tried for as long as it takes.

    Attributes:
        first_delay_s: before the first restart, in seconds.
        longest_delay_s: the most that one is waited for, in seconds; at least `first_delay_s`.
        jitter: the part of each delay that is left to chance, from 0 to 1: 0.2 cuts it by up to a fifth.
        budget: how many restarts there may be within the window; 0 quarantines a module when it goes down first.
        window_s: in seconds; a restart that is longer ago counts no more. A module whose restarts are so far apart that
            less than `budget` fit in (by `longest_delay_s`, or by a long `Limits.load_timeout_s`) is never given up.
        stable_s: a module that has run for so long, in seconds, begins anew: with the first delay, and all its budget.
    """

    first_delay_s: float = 0.25
    longest_delay_s: float = 30.0
    jitter: float = 0.2
    budget: int = 5
    window_s: float = 300.0
    stable_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("first_delay_s", "longest_delay_s", "window_s", "stable_s"):
            _check_time("RestartPolicy", name, getattr(self, name))
        if self.longest_delay_s < self.first_delay_s:
            raise UsageError(
                f"RestartPolicy: longest_delay_s is {self.longest_delay_s!r}, wanted at least first_delay_s "
                f"({self.first_delay_s!r})"
            )
        jitter: object = self.jitter  # what the hints say is not checked at construction
        if not isinstance(jitter, int | float) or isinstance(jitter, bool) or not 0 <= jitter <= 1:
            raise UsageError(f"RestartPolicy: jitter is {jitter!r}, wanted a number from 0 to 1")
        if type(self.budget) is not int or self.budget < 0:
            raise UsageError(f"RestartPolicy: budget is {self.budget!r}, wanted a whole number, 0 or more")


class Program(msgspec.Struct, frozen=True):
    """A program that the app approves for modules; checked at construction (`UsageError`).

    It runs with the rights of the host, in no sandbox: what it can be made to do by its arguments, a module with the
    permission can do. A name of a file is an argument, `/etc/passwd` too. So approve what does one thing.

    On Linux it is killed when the host ends, however that does (what it has started itself may live on then), and it
    never gains rights that the host has not: set-uid programs and those with file capabilities (sudo, ping) run as
    ordinary ones. A host that is root gives it root's rights.

    Attributes:
        path: where it is, an absolute path.
        args: what it is always given first; what the module gives comes after.
        allow_options: whether the module may give arguments that begin with `-`. Many programs do what one asks for
            by an option (`tar --to-command`, `find -exec`), and some have other signs than `-` for that.
    """

    path: str | Path
    args: tuple[str, ...] = ()
    allow_options: bool = False

    def __post_init__(self) -> None:
        path: object = self.path  # what the hints say is not checked at construction
        args: object = self.args
        if not (isinstance(path, str | Path) and Path(path).is_absolute()):
            raise UsageError(f"Program: path is {str(path)!r}, wanted an absolute path")
        if not (isinstance(args, tuple) and all(isinstance(arg, str) for arg in args)):
            raise UsageError(f"Program: args is {args!r}, wanted a tuple of str")
        if type(self.allow_options) is not bool:
            raise UsageError(f"Program: allow_options is {self.allow_options!r}, wanted True or False")

    @classmethod
    def of(cls, program: str | Path | Program) -> Program:
        """What a value of `HostConfig.programs` means: a path alone is a program that is given no options."""
        return program if isinstance(program, Program) else cls(program)


class HostConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a `PluginHost` behaves. Immutable, and checked at construction (`UsageError`).

    Attributes:
        isolation: `process` gives each module a process of its own, the only boundary against hostile code;
            `worker` lets the modules of one trust group share one process.
        limits: bounds of every module.
        restart: when a module that went down comes back; None leaves it down, ERRORED.
        policy: what the app grants at most; a `.core/view.yml` in the app root narrows it further.
        programs: program names that modules with a `run` permission may start, and what they stand for: a `Program`,
            or its absolute path alone; then a module gives it no arguments that begin with `-`.
        allow_unsigned: whether plugins without a signature may be loaded (for development).
        fetch: bounds of fetching a plugin or an index.
        kept_releases: how many former releases of an installed plugin are kept for `rollback`; 0 or more.
        autoload: whether the start of the host loads what is installed.
        corrupt_store: what a start does when it finds the host's own store damaged. `refuse` raises `StoreCorrupt` and
            leaves everything as it is. `set_aside` renames the file, with what lies beside it, to
            `store.db.corrupt-<UTC time>` and goes on with an empty store: that is told as a `StoreSetAside` event, by
            the audit log, the log and `host.health()`. Think twice: nothing is installed then, and what lies of plugins
            on the disk is swept away. Nor is it known any more which sequence number of a plugin was the highest, so
            that an older release can be installed once again; permissions that were kept are gone. A store of another
            program or a newer coredeno is refused either way. A store that the app brings decides for itself.
        settings: by the code of an installed plugin, what it finds in `core.config`, unless `load` is told otherwise.
        deno: path of the Deno program; None takes the one that `pip` installed with coredeno.
        allow_untested_deno: run with a Deno newer than those that coredeno's attack suite has passed.
        heartbeat_s: how often each sidecar is asked for a sign of life, in seconds.
        start_timeout_s: what a sidecar may take to be ready, in seconds.
        stop_timeout_s: deadline of each step of stopping, in seconds.
        ask_timeout_s: how long the app may think about a module's request for a permission, in seconds; the request
            also ends with the call in which it is made.
        ask_again_s: how long after a refusal the app is not asked for the same again, in seconds; each further
            refusal doubles it, up to a day.
    """

    isolation: Isolation = "process"
    limits: Limits = Limits()
    restart: RestartPolicy | None = RestartPolicy()
    policy: Policy = Policy()
    programs: Mapping[str, str | Path | Program] = {}
    allow_unsigned: bool = False
    fetch: FetchLimits = FetchLimits()
    kept_releases: int = 2
    autoload: bool = True
    corrupt_store: CorruptStore = "refuse"
    settings: Mapping[str, Mapping[str, Any]] = {}
    deno: str | Path | None = None
    allow_untested_deno: bool = False
    heartbeat_s: float = 5.0
    start_timeout_s: float = 20.0
    stop_timeout_s: float = 5.0
    ask_timeout_s: float = 120.0
    ask_again_s: float = 60.0

    def __post_init__(self) -> None:
        if self.isolation not in ("process", "worker"):
            raise UsageError(f"HostConfig: isolation is {self.isolation!r}, wanted 'process' or 'worker'")
        if self.corrupt_store not in ("refuse", "set_aside"):
            raise UsageError(
                f"HostConfig: corrupt_store is {self.corrupt_store!r}, wanted 'refuse' or 'set_aside'"
            )
        for name, kind in (
            ("limits", Limits),
            ("policy", Policy),
            ("programs", Mapping),
            ("fetch", FetchLimits),
            ("settings", Mapping),
            ("restart", RestartPolicy | None),
        ):
            if not isinstance(getattr(self, name), kind):
                wanted = kind.__name__ if isinstance(kind, type) else "RestartPolicy or None"
                raise UsageError(f"HostConfig: {name} is {getattr(self, name)!r}, wanted a {wanted}")
        programs: Mapping[str, Any] = self.programs  # what the hints say is not checked at construction
        for name, path in programs.items():
            if isinstance(path, Program):
                continue
            if not (isinstance(path, str | Path) and Path(path).is_absolute()):
                raise UsageError(
                    f"HostConfig: programs[{name!r}] is {str(path)!r}, wanted an absolute path or a Program"
                )
        for code, settings in self.settings.items():
            if not isinstance(settings, Mapping):
                raise UsageError(f"HostConfig: settings[{code!r}] is {settings!r}, wanted a mapping")
        if type(self.kept_releases) is not int or self.kept_releases < 0:
            raise UsageError(
                f"HostConfig: kept_releases is {self.kept_releases!r}, wanted a whole number, 0 or more"
            )
        for name in ("heartbeat_s", "start_timeout_s", "stop_timeout_s", "ask_timeout_s", "ask_again_s"):
            _check_time("HostConfig", name, getattr(self, name))
