"""Every part that a host app may replace, on one page. Pure: no I/O.

Each interface has coredeno's default and an in-memory fake in `coredeno.testing`. Store, audit log, files, processes,
clock and fetcher have a contract suite in `coredeno.testing.contracts` too, that both pass and that an app can run on
its own part.
All methods run on the host's event loop and must not block it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from coredeno.config import FetchLimits
from coredeno.health import Layer
from coredeno.manifest import Manifest


class Clock(Protocol):
    """Time, as the host sees it. Every deadline of the host goes through it, so a test can turn it."""

    def now(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, `delay_s` seconds from now (at once in the next loop turn if 0 or less)."""
        ...


class Timer(Protocol):
    """What `Clock.call_later` gives back."""

    def cancel(self) -> None:
        """Do not call; harmless once it was called or cancelled."""
        ...


class StoreChange(msgspec.Struct, frozen=True):
    """One change to the store: with a key and a value set it; with a key only delete it; with neither, the group.

    Attributes:
        group: the group, already checked.
        key: the key, or None for the whole group.
        value: the new value, or None to delete.
    """

    group: str
    key: str | None = None
    value: str | None = None


class StoreQuota(msgspec.Struct, frozen=True):
    """The most that a group of the store may have: so many keys, and so many bytes, keys and values as UTF-8."""

    keys: int
    bytes: int


class StoreBackend(Protocol):
    """Where text lives, by group and key. `Store` checks names before it asks; `PluginHost` opens and closes it."""

    async def open(self, folder: Path) -> None:
        """Be ready, with durable data beneath `folder` (which exists). Called once, before all else.

        Raises:
            StoreError: it cannot be opened.
        """
        ...

    async def read(
        self, group: str, keys: Sequence[str] | None = None, *, limit_bytes: int | None = None
    ) -> dict[str, str]:
        """The values of those `keys` that exist, or of all; in the order of their keys (code points).

        A read sees every `write` that returned before the read was called.

        Raises:
            LimitExceeded: keys and values together have more than `limit_bytes`, as UTF-8. What is too large is
                not brought into memory first. Of more than 100 `keys`, it may be the group that is held to it.
        """
        ...

    async def count(self, group: str) -> int:
        """How many keys the group has."""
        ...

    async def write(self, changes: Sequence[StoreChange], *, quota: StoreQuota | None = None) -> None:
        """Make all changes, in order, or none; returns when they are durable.

        With a `quota`, no group may have more than that when one of these changes has set a key in it. What counts
        is what is there, whoever wrote it and when. Deleting is never refused.

        Once called it is carried out even if the caller is cancelled. A write that fails fails alone: other
        writes under way are not harmed.

        Raises:
            StoreError: it cannot be written (disk full, database locked or broken); nothing changed.
            LimitExceeded: a group would have more than the quota; nothing changed.
        """
        ...

    async def aclose(self) -> None:
        """Finish the writes under way and let go of everything. Harmless twice, or if `open` failed."""
        ...


class AuditRow(msgspec.Struct, frozen=True):
    """One row of the audit log.

    Attributes:
        seq: its number: the first row has 1, each other one more than the row before.
        at: when it was told, in UTC and ISO 8601 with microseconds.
        kind: what it tells: the name of the event's class, such as `PermissionDenied`.
        module: code of the module that it is about, or empty.
        fields: the other fields of the event, as JSON with sorted keys; `repeated` and `further` count others like it.
        before: the digest of the row before.
        digest: SHA-256 of all of that, as hex digits; `coredeno/audit/chain.py` says over which bytes.
    """

    seq: int = 0
    at: str = ""
    kind: str = ""
    module: str = ""
    fields: str = "{}"
    before: str = ""
    digest: str = ""


class AuditHead(msgspec.Struct, frozen=True):
    """The last row of an audit log: its number (0 if there is none) and its digest."""

    seq: int
    digest: str


class AuditLog(Protocol):
    """Where the rows of the audit log lie. `Audit` chains and checks them; `PluginHost` opens and closes it."""

    async def open(self, folder: Path) -> None:
        """Be ready, with durable rows beneath `folder` (which exists). Called once, before all else.

        Raises:
            StoreError: it cannot be opened; what was there is as it was.
        """
        ...

    async def append(self, rows: Sequence[AuditRow]) -> None:
        """Add all rows, or none; returns when they are durable. Their numbers go on from `last`. One call at a time.

        Once called it is carried out even if the caller is cancelled.

        Raises:
            StoreError: they cannot be written, or their numbers do not go on; nothing changed.
        """
        ...

    async def read(
        self, first: int, limit: int, *, module: str | None = None, kind: str | None = None
    ) -> list[AuditRow]:
        """At most `limit` rows from the number `first` on, as they lie there, in the order of their numbers.

        Args:
            first: the least number that is wanted.
            limit: how many at most.
            module: only those about this module; None is all.
            kind: only those of this kind; None is all.

        Raises:
            StoreError: they cannot be read.
        """
        ...

    async def last(self) -> int:
        """The highest number there is; 0 if there is no row.

        Raises:
            StoreError: it cannot be read.
        """
        ...

    async def aclose(self) -> None:
        """Finish what is under way and let go of everything. Harmless twice, or if `open` failed."""
        ...


class FileEntry(msgspec.Struct, frozen=True):
    """One entry of a folder. `size` is in bytes, 0 for a folder."""

    name: str
    is_dir: bool
    size: int


class Files(Protocol):
    """The files beneath the app root. Paths are relative, already normalised and granted by the gate.

    Whatever the path, nothing outside the root is reached: a symlink is never followed, it counts as not found.
    """

    async def read(self, path: str, *, limit_bytes: int) -> bytes:
        """The whole file.

        Raises:
            NotFound: there is no such file.
            FailedPrecondition: it is a folder, or no plain file.
            LimitExceeded: it is larger than `limit_bytes`.
        """
        ...

    async def write(self, path: str, data: bytes) -> None:
        """Replace or make the file and the folders above it: all of it or nothing (also after a power cut).

        Raises:
            FailedPrecondition: a folder stands there, or a part of the way is no folder.
            LimitExceeded: the disk is full.
        """
        ...

    async def list(self, path: str) -> list[FileEntry]:
        """The plain files and folders in a folder, by name; `path` may be `.` for the root itself.

        Raises:
            NotFound: there is no such folder.
            FailedPrecondition: it is no folder.
        """
        ...

    async def delete(self, path: str) -> None:
        """Remove a file, or an empty folder.

        Raises:
            NotFound: it does not exist.
            FailedPrecondition: the folder is not empty.
        """
        ...


class ProcessResult(msgspec.Struct, frozen=True):
    """How a process ended: `exit_code` is negative for a signal; the texts are the last 64 KiB of each stream."""

    exit_code: int
    stdout: str
    stderr: str


class Processes(Protocol):
    """Programs that modules start. Who may start or stop what is decided by the gate, before."""

    async def start(self, program: Path, args: Sequence[str], *, owner: str, cwd: Path) -> str:
        """Start `program` without a shell, with an environment built from nothing, in a group of its own.

        Returns:
            An id that cannot be guessed.

        Raises:
            NotFound: the program does not exist or cannot be run.
            LimitExceeded: the owner has too many already.
        """
        ...

    def owner_of(self, process_id: str) -> str | None:
        """Who started it, or None if there is no such process (any more)."""
        ...

    async def wait(self, process_id: str) -> ProcessResult:
        """Wait for its end. The result stays until the owner's `stop_all` (at most 64 ended ones are kept).

        Raises:
            NotFound: there is no such process.
        """
        ...

    async def stop(self, process_id: str) -> None:
        """End it and its whole group: SIGTERM, a grace of 2 seconds, SIGKILL. Harmless if it has ended.

        Raises:
            NotFound: there is no such process.
        """
        ...

    async def stop_all(self, owner: str | None = None) -> None:
        """Kill all processes of this owner (of everybody if None), with their groups, and forget them."""
        ...


class SidecarWorker(msgspec.Struct, frozen=True):
    """The Worker that a sidecar makes ahead: the folder that it may read, the hosts that it may reach."""

    root: Path
    net: tuple[str, ...] = ()


class LaunchOrder(msgspec.Struct, frozen=True):
    """All that a launcher needs to know to start one sidecar.

    Attributes:
        name: for logs, such as `sidecar-3`.
        token: the sidecar's identity for the gateway; secret.
        socket_folder: a short folder of the host's (mode 0700) in which sockets are made.
        core_socket: where the gateway listens.
        stage: the only folder, beside the runtime, that the sidecar may read.
        deno_dir: a private folder for Deno's caches.
        worker: the Worker to make ahead.
        isolation: `process` or `worker`.
        heap_mb: the limit of the JavaScript heap, in MiB.
        message_bytes: the largest message on either wire.
        calls_in_flight: bound of calls, a module.
        requests_in_flight: bound of a module's own requests.
        log_line_bytes: longer lines of logs are cut.
        log_lines_per_s: how many lines of its output a second are taken; what is more is dropped.
    """

    name: str
    token: str
    socket_folder: Path
    core_socket: Path
    stage: Path
    deno_dir: Path
    worker: SidecarWorker
    isolation: str
    heap_mb: int
    message_bytes: int
    calls_in_flight: int
    requests_in_flight: int
    log_line_bytes: int
    log_lines_per_s: int = 1000


class SessionReceiver(Protocol):
    """The host's end of one Session: what a sidecar sends goes in here."""

    def receive(self, messages: bytes, attachments: Sequence[bytes]) -> None:
        """Take one batch. A batch that breaks the wire's rules ends the Session and kills its sidecar."""
        ...

    def close(self) -> None:
        """The stream has ended: whatever was under way for it is cancelled."""
        ...


class HostDoor(Protocol):
    """How the sidecar that is being launched reaches its host, for launchers that need no socket."""

    def open_session(self, token: str, send: Callable[[bytes, Sequence[bytes]], None]) -> SessionReceiver:
        """Open the Session of the sidecar with this token; `send` is given the host's batches.

        Raises:
            PermissionDenied: no sidecar has this token, or it has a Session already.
        """
        ...

    def output(self, line: str) -> None:
        """One line of the sidecar's stdout or stderr, cut and without control characters."""
        ...


class SidecarReady(msgspec.Struct, frozen=True):
    """What a sidecar said when it was ready to be connected to.

    Attributes:
        protocol: the version of both wires that it speaks.
        deno: its version of Deno.
        pid: its process id, by itself.
        layers: what confines its process, as its launcher knows it.
    """

    protocol: int
    deno: str
    pid: int
    layers: tuple[Layer, ...] = ()


class SidecarExit(msgspec.Struct, frozen=True):
    """How a sidecar's process ended: negative `exit_code` for a signal."""

    exit_code: int
    stderr_tail: str = ""


class SidecarProcess(Protocol):
    """One running sidecar, as its launcher gives it. `pid` is its process id (0 if it has none)."""

    pid: int

    async def ready(self) -> SidecarReady:
        """Wait until it listens. Called once; the caller has a deadline and kills on failure.

        Raises:
            ProtocolError: its first line was not the one of the wire.
            SidecarExited: it ended before.
        """
        ...

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Join `protocol` to the sidecar's JSON-RPC wire. Called once, after `ready`."""
        ...

    async def wait(self) -> SidecarExit:
        """Wait until the process has ended. May be called by many, and any number of times."""
        ...

    def kill(self) -> None:
        """SIGKILL the whole process group, now. Harmless if it has ended."""
        ...


class Launcher(Protocol):
    """Starts sidecars."""

    async def launch(self, order: LaunchOrder, door: HostDoor) -> SidecarProcess:
        """Start one. If cancelled, nothing runs on.

        Raises:
            DenoNotFound: there is no Deno that can be used.
            SidecarExited: it could not be started.
        """
        ...


class PluginSource(Protocol):
    """Where a plugin's files come from: a folder, an installed release, memory."""

    @property
    def name(self) -> str:
        """For messages: the folder's path, or the plugin's code and version."""
        ...

    async def read_manifest(self) -> Manifest:
        """Read and check the manifest.

        Raises:
            ManifestError: there is none, or it is not valid.
        """
        ...

    async def copy_to(self, folder: Path) -> None:
        """Put the plugin's files into `folder`, an empty folder that exists, with plain modes, no links.

        Raises:
            PluginError: a file is not what it must be.
        """
        ...


class FetchOrder(msgspec.Struct, frozen=True):
    """What is to be fetched, and where to.

    Attributes:
        source: where from, as the app named it: a path or URL for the default fetcher.
        ref: a branch, tag or commit; None for the source's default.
        folder: an empty folder that exists, on the disk where plugins are kept.
        limits: the bounds.
    """

    source: str
    ref: str | None
    folder: Path
    limits: FetchLimits


class FetchProgress(msgspec.Struct, frozen=True):
    """How far a fetch is. `phase` is one of `connecting`, `receiving`, `checking`, `writing`.

    `done` and `total` count bytes while receiving, else objects or files; `total` is None where it is not known.
    """

    phase: str
    done: int = 0
    total: int | None = None


class Fetched(msgspec.Struct, frozen=True):
    """What was fetched. `revision` names it at the source (a git commit), for humans; it proves nothing."""

    revision: str


class Fetcher(Protocol):
    """Gets the files of a plugin, or of an index, from where they are published."""

    async def fetch(self, order: FetchOrder, on_progress: Callable[[FetchProgress], None]) -> Fetched:
        """Put the files into `order.folder`: plain files, none executable, no links, nothing else.

        Nothing that came from the source is run, or trusted: the installer verifies what lies in the folder. If
        it fails or is cancelled nothing works on in it; what is in it then is removed by the caller.

        Raises:
            SourceRefused: the source or the ref is not of a form that is fetched; nothing was contacted.
            SourceUnavailable: it cannot be reached, or has no such ref.
            SourceInvalid: what it gave is broken, or redirects elsewhere.
            FetchLimitExceeded, FetchTimeout: it gave more, or took longer, than `order.limits` allow.
            UnsafePath: a name in it is none that may be written, or not that of a plain file.
            InstallError: the folder cannot be written to (disk full).
        """
        ...


Programs = Mapping[str, Path]
"""Program names that the app approved, and the absolute paths that they stand for."""
