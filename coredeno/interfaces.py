"""Every part that a host app may replace, on one page. Pure: no I/O.

Each interface has coredeno's default and an in-memory fake in `coredeno.testing`. Store, files, processes and clock
have a contract suite in `coredeno.testing.contracts` too, that both pass and that an app can run on its own part.
All methods run on the host's event loop and must not block it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

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


class StoreBackend(Protocol):
    """Where text lives, by group and key. `Store` checks names before it asks; `PluginHost` opens and closes it."""

    async def open(self, folder: Path) -> None:
        """Be ready, with durable data beneath `folder` (which exists). Called once, before all else.

        Raises:
            StoreError: it cannot be opened.
        """
        ...

    async def read(self, group: str, keys: Sequence[str] | None = None) -> dict[str, str]:
        """The values of those `keys` that exist, or of all; in the order of their keys (code points).

        A read sees every `write` that returned before the read was called.
        """
        ...

    async def count(self, group: str) -> int:
        """How many keys the group has."""
        ...

    async def write(self, changes: Sequence[StoreChange]) -> None:
        """Make all changes, in order, or none; returns when they are durable.

        Once called it is carried out even if the caller is cancelled. A write that fails fails alone: other
        writes under way are not harmed.

        Raises:
            StoreError: it cannot be written (disk full, database locked or broken); nothing changed.
        """
        ...

    async def aclose(self) -> None:
        """Finish the writes under way and let go of everything. Harmless twice, or if `open` failed."""
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
    """What a sidecar said when it was ready to be connected to."""

    protocol: int
    deno: str
    pid: int


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


Programs = Mapping[str, Path]
"""Program names that the app approved, and the absolute paths that they stand for."""
