"""What the fetching process writes on its stdout: lines of JSON, the last of which is a result or a failure.

```
{"type": "progress", "phase": "receiving", "done": 4096, "total": null}
{"type": "fetched", "revision": "<40 hexadecimal digits>"}
{"type": "failed", "kind": "UnsafePath", "text": "is a link", "path": "main.ts"}
{"type": "failed", "kind": "FetchLimitExceeded", "text": "pack: has 60,000 objects", "limit": "objects"}
```
"""

from __future__ import annotations

import errno
import json
import os
import time
from typing import Any

from coredeno.errors import (
    FetchLimitExceeded,
    InstallError,
    SourceInvalid,
    SourceUnavailable,
    UnsafePath,
)

_PAUSE_S = 0.1  # between two lines of progress; people do not read faster
_LIMIT_TEXT = 1000
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_KINDS = (SourceUnavailable, SourceInvalid)


class Answers:
    """Writes them to a descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._phase = ""
        self._said_at = 0.0

    def progress(self, phase: str, done: int = 0, total: int | None = None) -> None:
        """Say how far it is: at once if the phase is new, else not more often than people read."""
        now = time.monotonic()
        if phase == self._phase and now - self._said_at < _PAUSE_S:
            return
        self._phase, self._said_at = phase, now
        self._write({"type": "progress", "phase": phase, "done": done, "total": total})

    def fetched(self, revision: str) -> None:
        """Say that it is done."""
        self._write({"type": "fetched", "revision": revision})

    def failed(self, error: BaseException) -> None:
        """Say why it failed."""
        self._write({"type": "failed", **failure(error)})

    def _write(self, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode() + b"\n"
        while data:
            data = data[os.write(self._fd, data) :]


def failure(error: BaseException) -> dict[str, Any]:
    """What is said of an error: its kind, its text, and the fields that its class has. Pure."""
    match error:
        case UnsafePath():
            return {"kind": "UnsafePath", "text": error.problem, "path": error.path[:_LIMIT_TEXT]}
        case FetchLimitExceeded():
            text = str(error).rpartition(": wanted at most")[0]
            return {"kind": "FetchLimitExceeded", "text": text[:_LIMIT_TEXT], "limit": error.limit}
        case MemoryError():
            text = "source: takes more memory than a file of that size may take"
            return {"kind": "FetchLimitExceeded", "text": text, "limit": "file_bytes"}
        case InstallError():
            kind = next((kind.__name__ for kind in _KINDS if isinstance(error, kind)), "InstallError")
            return {"kind": kind, "text": str(error)[:_LIMIT_TEXT]}
        case OSError():
            problem = _FULL.get(error.errno or 0, f"cannot be written: {error.strerror}")
            return {"kind": "InstallError", "text": f"folder of the fetch: {problem}"}
        case _:  # by whatever library, and by what the source made of it
            text = f"source: cannot be read: {type(error).__name__}: {error}"
            return {"kind": "SourceInvalid", "text": text[:_LIMIT_TEXT]}
