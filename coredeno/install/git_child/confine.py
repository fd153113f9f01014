"""What the fetching process takes from itself before it meets a source, and how it notices the host's end.

The limit on memory (RLIMIT_DATA) counts all that is private and writable on Linux. On macOS it counts the heap of
`brk` only, and not what is mapped without a file, which is where Python has its objects. What a server sends is held
to its sizes all the same, before it is unpacked; a repository on this machine only to the bounds that dulwich has.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import threading
from collections.abc import Callable

from coredeno.install.git_child.bounds import Bounds

_MEBIBYTE = 1024 * 1024
_OWN_MEMORY = 44 * _MEBIBYTE  # the interpreter, dulwich, TLS, and what is kept of a pack's list of objects
_COPIES = 4  # of one file, at most at once: a base, a delta, their result, and one more on the way
_DESCRIPTORS = 512  # a local repository has up to 50 packs or so, each with two files
_GRACE_S = 2.0  # by which the host's own clock comes first
_STACK_BYTES = 256 * 1024
_WATCHED_BYTES = 4096


def limits(bounds: Bounds) -> dict[int, int]:
    """The limits of the process, by resource. Pure."""
    return {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _DESCRIPTORS,
        resource.RLIMIT_CPU: math.ceil(bounds.timeout_s + _GRACE_S),
        resource.RLIMIT_FSIZE: max(bounds.transfer_bytes, bounds.total_bytes) + _MEBIBYTE,
        # Not RLIMIT_AS: what is mapped and not written to costs nothing.
        resource.RLIMIT_DATA: _OWN_MEMORY + _COPIES * bounds.object_bytes,
    }


def confine(bounds: Bounds) -> None:
    """Lower this process's limits for good, and have the kernel end it if the host's clock should not."""
    for kind, wanted in limits(bounds).items():
        _, hard = resource.getrlimit(kind)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))
    os.umask(0o077)
    signal.setitimer(signal.ITIMER_REAL, bounds.timeout_s + _GRACE_S)


def watch(fd: int, end: Callable[[], object]) -> None:
    """Call `end` when what is read from `fd` ends: nobody holds the other side any more, so the host is gone."""

    def wait() -> None:
        while os.read(fd, _WATCHED_BYTES):
            pass
        end()

    threading.stack_size(_STACK_BYTES)
    threading.Thread(target=wait, name="watch the host", daemon=True).start()
    threading.stack_size(0)
