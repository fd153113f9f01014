"""Reads what processor time processes have taken, where the system tells it (Linux, in `/proc`)."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import TypeVar

from coredeno.sidecar.vitals import cpu_ticks

_STAT_BYTES = 2048  # it has some 330
_K = TypeVar("_K", bound=Hashable)


class ProcessTime:
    """Reads `<folder>/<pid>/stat`.

    Args:
        folder: where the system tells of its processes.
    """

    def __init__(self, folder: str = "/proc") -> None:
        self._folder = folder
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")

    def read(self, pids: Mapping[_K, int]) -> dict[_K, float]:
        """The processor time of these processes, of all their threads, in seconds. It reads: call it in a thread.

        Nobody is judged by it, so one that cannot be read is just left out.
        """
        times_s: dict[_K, float] = {}
        for key, pid in pids.items():
            try:
                # Without Python's files, which cost twice as much as the reading itself: there may be hundreds.
                file = os.open(f"{self._folder}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                ticks = cpu_ticks(os.read(file, _STAT_BYTES))
            except OSError:  # it has just ended
                continue
            finally:
                os.close(file)
            if ticks is not None:
                times_s[key] = ticks / self._ticks_per_s
        return times_s
