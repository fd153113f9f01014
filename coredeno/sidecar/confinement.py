"""What the process of a sidecar may have and do at most: the options of `confine.py`, and its report. Pure: no I/O."""

from __future__ import annotations

from pathlib import Path

from coredeno.errors import ProtocolError
from coredeno.health import Layer
from coredeno.interfaces import LaunchOrder
from coredeno.net_hosts import parse_net_host
from coredeno.sidecar.programs import Program
from coredeno.wire.codes import RUNTIME_FOLDER

CONFINE = Path(__file__).with_name("confine.py")

_MIB = 1024 * 1024
# RLIMIT_DATA counts what is private and writable, used or not. Deno 2.9.8 with main and one Worker has 1,076 MiB of
# it when it is ready (512 MiB for the code of each isolate), and a Worker more takes 523 MiB: a plugin may have two of
# its own, and a third ends it. The rest is for what V8 takes while it collects garbage.
_BASE_MB = 1076 + 2 * 523 + 192
_OPEN_FILES = 1024
_FILE_BYTES = 64 * _MIB  # the largest that Deno writes is what it has compiled, far below a megabyte
# Where libraries lie: read, never run. The stores are those of Nix and Guix.
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/gnu/store")
# What Deno itself looks at: the time zone, how much memory and how many processors there are, and who resolves
# names, which it reads before it asks whether it may.
_READ = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/resolv.conf",
    "/dev/urandom",
    "/proc/self",
    "/proc/meminfo",
    "/sys/devices/system/cpu/online",
)
# What the C library asks to find the address of a name; the last two are where `resolv.conf` may lead.
_NAMES = (
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/run/systemd/resolve",
    "/run/resolvconf",
)
_DNS_PORT = 53  # of the resolver: an answer that is too long for UDP comes by TCP
_LONGEST_REASON = 200

LAYERS = (
    "limits",
    "no-new-privileges",
    "capabilities",
    "files",
    "tcp",
    "signals",
    "abstract-sockets",
    "parent-death",
)
"""The names of the layers, in the order in which they are put on."""


def limits(order: LaunchOrder) -> dict[str, int]:
    """The limits of the process, by the names of `resource` without `RLIMIT_`.

    Modules that share a sidecar come and go, and each further one takes half a gigabyte of what RLIMIT_DATA counts;
    a process cannot be given more later. So a shared sidecar has none: only the watch over its memory bounds it.
    """
    wanted = {"CORE": 0, "NOFILE": _OPEN_FILES, "FSIZE": _FILE_BYTES}
    if order.isolation == "process":
        wanted["DATA"] = (_BASE_MB + order.heap_mb) * _MIB
    return wanted


def confined(
    command: list[str], order: LaunchOrder, *, program: Program, python: str, parent: int, landlock: bool
) -> list[str]:
    """The command line that confines a process and becomes `command` in it.

    Args:
        command: the command line of the sidecar.
        order: what is launched.
        program: what the kernel opens to run it.
        python: the interpreter for `confine.py`.
        parent: the process with whose end it shall end.
        landlock: whether the kernel shall allow it only what a Deno needs.
    """
    options = [f"parent={parent}", *(f"limit={name}:{value}" for name, value in limits(order).items())]
    options += _fence(order, program) if landlock else ["landlock=off"]
    return [python, "-I", "-S", "-B", str(CONFINE), *options, "--", *command]


def _fence(order: LaunchOrder, program: Program) -> list[str]:
    reads: list[str | Path] = [*_LIBRARIES, *_READ, RUNTIME_FOLDER, order.stage]
    reads += _NAMES if order.worker.net else ()
    return [
        *(f"exec={path}" for path in program.opened),
        *(f"read={path}" for path in reads),
        "device=/dev/null",
        f"write={order.deno_dir}",
        f"sockets={order.socket_folder}",
        *(f"port={port}" for port in ports(order.worker.net)),
    ]


def ports(net: tuple[str, ...]) -> list[str]:
    """To which TCP ports it may connect, or `any`, for the hosts that its Worker was granted."""
    granted = {parse_net_host(host).port for host in net}
    if None in granted:
        return ["any"]
    return [str(port) for port in sorted({port for port in granted if port} | {_DNS_PORT})] if granted else []


def read_report(line: str) -> tuple[Layer, ...]:
    """What `confine.py` said of itself.

    Raises:
        ProtocolError: it is not what it says; the process is not confined, then.
    """
    layers = [text.partition("=") for text in line.split("\t")]
    if tuple(name for name, _, _ in layers) != LAYERS:
        raise ProtocolError(
            f"launch: the report of the confining process is {line[:200]!r}, wanted its layers"
        )
    return tuple(Layer(name, on=not why, why=why[:_LONGEST_REASON]) for name, _, why in layers)


def read_exec_failure(line: str) -> int | None:
    """Why `confine.py` could not become the program, as an `errno`; None if the line says no such thing."""
    start, _, number = line.rpartition(" ")
    return int(number) if start == "cannot exec" and number.isascii() and number.isdigit() else None


def unconfined() -> tuple[Layer, ...]:
    """The layers of a process that nothing confined."""
    why = "there is no Python to confine it with: the app is frozen, or sys.executable is empty"
    return tuple(Layer(name, on=False, why=why) for name in LAYERS)
