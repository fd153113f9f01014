"""Reads what memory processes use, where the system tells it (Linux, in `/proc`)."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from coredeno.sidecar.vitals import own_bytes

_STATUS_BYTES = 8192  # it has some 1,500
_K = TypeVar("_K", bound=Hashable)


class Readings(Generic[_K]):
    """What was read of some processes. One that is in neither had ended.

    Attributes:
        used: what each uses, in bytes.
        problems: why it could not be read.
    """

    def __init__(self) -> None:
        self.used: dict[_K, int] = {}
        self.problems: dict[_K, OSError] = {}


class ProcessMemory:
    """Reads `<folder>/<pid>/status`. All methods read the disk: they are called in a thread.

    Args:
        folder: where the system tells of its processes.
    """

    def __init__(self, folder: str = "/proc") -> None:
        self._folder = folder

    def is_told(self) -> bool:
        """Whether this system tells what memory a process uses; asked of this very process, which surely lives.

        Raises:
            OSError: that cannot be found out at present, such as where no descriptor is left.
        """
        try:
            return self._own_bytes("self") is not None
        except FileNotFoundError:
            return False

    def read(self, pids: Mapping[_K, int]) -> Readings[_K]:
        """Read what each of these processes uses."""
        readings = Readings[_K]()
        for key, pid in pids.items():
            try:
                count = self._own_bytes(str(pid))
            except (FileNotFoundError, ProcessLookupError):
                continue
            except OSError as error:
                readings.problems[key] = error
                continue
            if count is not None:  # else it has ended, and nobody has asked for its exit code yet
                readings.used[key] = count
        return readings

    def _own_bytes(self, name: str) -> int | None:
        # Without Python's files, which cost twice as much as the reading itself: there may be hundreds.
        file = os.open(f"{self._folder}/{name}/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return own_bytes(os.read(file, _STATUS_BYTES))
        finally:
            os.close(file)
