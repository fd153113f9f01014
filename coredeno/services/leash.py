"""Ties the process that it is started in to its host, and becomes a module's program: that program's first breath.

Run as `python -I -S -B leash.py HOST REPORT PROGRAM ARGUMENT…`, where HOST is the process id of the host and REPORT
the number of a descriptor. It imports nothing of coredeno: what runs here, with the host's rights, shall be read in
one sitting. It writes nothing to stdout or stderr, which are the program's.

REPORT is closed when the program runs; if it cannot be run, the `errno` is written there before. All else is best
effort: a system that has no such thing (only Linux has) runs the program without it.
"""

import ctypes
import os
import resource
import sys

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
# signal.h; to import `signal` costs as much as all else here.
_SIGKILL, _LAST_SIGNAL = 9, 31


def main(host: int, report: int, command: list[str]) -> None:
    """Take from this process what its program shall not have, and become it."""
    os.set_inheritable(report, False)  # noqa: FBT003
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard != 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None)
    if sys.platform == "linux":
        # This first: a program that gains rights would lose the signal of its host's end.
        libc.prctl(_PR_SET_NO_NEW_PRIVS, *(ctypes.c_ulong(each) for each in (1, 0, 0, 0)))
        libc.prctl(_PR_SET_PDEATHSIG, *(ctypes.c_ulong(each) for each in (_SIGKILL, 0, 0, 0)))
    if os.getppid() != host:  # it was faster
        os._exit(1)
    # What Python, or a host under nohup, ignores, the program would.
    for number in range(1, _LAST_SIGNAL + 1):
        libc.signal(number, None)
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        os.write(report, b"%d" % (error.errno or 0))
        os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
