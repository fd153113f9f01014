"""The folders of one host on the disk: the app root, what the host keeps beneath it, and its sockets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from coredeno.errors import ManifestError, UsageError
from coredeno.manifest import LIMIT_BYTES, Manifest, parse_manifest
from coredeno.permissions import HOST_FOLDER
from coredeno.policy import Policy

_SOCKET_PREFIX = "coredeno-"
_SWEEP_ATTEMPTS, _SWEEP_PAUSE_S = 10, 0.02  # what is left after them is swept at the next start
# A host that is killed while it starts a process leaves a copy of itself, which holds the lock until it becomes that.
_FORKED_S = 1.0
# sun_path holds 104 bytes on macOS and 108 on Linux, with the NUL; the longest name that we put into the
# folder is "sidecar-" and a number of up to 10 digits, and ".sock".
_LIMIT_SOCKET_FOLDER_BYTES = 103 - len("/sidecar-0123456789.sock")


class RootFolder:
    """Owns `<root>/.core` while a host runs. All methods block; call them in a thread.

    ```
    <root>/.core/view.yml       the app's own manifest, if it has one
                 lock           held by the one host that runs on this root
                 store.db       the store; store.db.corrupt-* are damaged ones that were set aside
                 audit.db       the audit log
                 plugins/       what is installed; see `install/folders.py`
                 run/*/         stages of sidecars, a folder for each life of a host; swept at each start
                 deno-cache/    our own runtime, compiled
    ```
    """

    def __init__(self, root: Path) -> None:
        """Plan for `root`; nothing is touched."""
        self.path: Path = root
        self.sockets: Path | None = None
        self.run: Path | None = None
        self._lock: int | None = None

    @property
    def host(self) -> Path:
        """What the host keeps."""
        return self.path / HOST_FOLDER

    @property
    def plugins(self) -> Path:
        """What is installed."""
        return self.host / "plugins"

    @property
    def core_socket(self) -> Path:
        """Where the gateway listens; only while the root is open."""
        assert self.sockets is not None
        return self.sockets / "core.sock"

    @property
    def deno_cache(self) -> Path:
        """Our own runtime, compiled."""
        return self.host / "deno-cache"

    def open(self) -> None:
        """Make what is missing, take the lock, sweep what a host that was killed left behind.

        Raises:
            UsageError: another host runs on this root, or the folders cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path = self.path.resolve()
            self.host.mkdir(mode=0o700, exist_ok=True)
            self._take_lock()
            self._sweep()
            # A sidecar of a host that was killed may write for a moment more, into the folder that it knows.
            self._runs.mkdir(mode=0o700, exist_ok=True)
            self.run = Path(tempfile.mkdtemp(dir=self._runs))
            self.sockets = _short_folder()
            (self.run / "sockets").write_text(str(self.sockets))
        except OSError as error:
            self.close()
            raise UsageError(f"start: the root {str(self.path)!r} cannot be used: {error}") from error
        except BaseException:
            self.close()
            raise

    def manifest(self) -> Manifest | None:
        """The app's own manifest, or None if it has none.

        Raises:
            ManifestError: it is not valid.
        """
        file = self.host / "view.yml"
        try:
            with file.open("rb") as stream:
                data = stream.read(LIMIT_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ManifestError(
                file=str(file), field="", problem=f"cannot be read: {error.strerror}"
            ) from error
        return parse_manifest(data, file=str(file))

    def close(self) -> None:
        """Remove the sockets and what sidecars used, and let the lock go. Harmless twice."""
        if self._lock is None:
            return
        if self.sockets is not None:
            shutil.rmtree(self.sockets, ignore_errors=True)
            self.sockets = None
        shutil.rmtree(self._runs, ignore_errors=True)
        os.close(self._lock)
        self._lock = None

    def _take_lock(self) -> None:
        lock = os.open(self.host / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        until = time.monotonic() + _FORKED_S
        while not _is_taken(lock):
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
            if _may_live(holder) or time.monotonic() > until:
                os.close(lock)
                raise UsageError(
                    f"start: root {str(self.path)!r} is in use by another host (process {holder or '?'}), "
                    "wanted one host a root"
                )
            time.sleep(0.01)
        self._lock = lock
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    @property
    def _runs(self) -> Path:
        return self.host / "run"

    def _sweep(self) -> None:
        for note in self._runs.glob("*/sockets"):
            with contextlib.suppress(OSError, ValueError):
                left = Path(note.read_text())
                if left.name.startswith(_SOCKET_PREFIX) and _is_own_folder(left):
                    shutil.rmtree(left, ignore_errors=True)
        # A sidecar of a killed host may still be ending, and make a file in a folder that is just being removed.
        for _attempt in range(_SWEEP_ATTEMPTS):
            shutil.rmtree(self._runs, ignore_errors=True)
            if not self._runs.exists():
                return
            time.sleep(_SWEEP_PAUSE_S)


def _is_taken(lock: int) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _may_live(process_id: str) -> bool:
    """Whether there may be such a process; one that is no number has not been written yet."""
    try:
        os.kill(int(process_id), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, PermissionError):
        return True
    return True


def _short_folder() -> Path:
    """A private folder with a path that is short enough for a Unix socket."""
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108  # mkdtemp is safe there
        if not base or not os.path.isdir(base) or "," in base or not base.isprintable():  # noqa: PTH112
            continue
        if len(os.fsencode(base)) + 1 + len(_SOCKET_PREFIX) + 8 <= _LIMIT_SOCKET_FOLDER_BYTES:
            return Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=base))
    raise UsageError(
        "start: no folder with a path short enough for a Unix socket, wanted one in TMPDIR or /tmp"
    )


def _is_own_folder(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def narrowed(policy: Policy, manifest: Manifest | None) -> Policy:
    """The app's policy, under the ceiling of its own manifest where it has one."""
    return policy if manifest is None else policy.narrowed_by(Policy.from_manifest(manifest))
