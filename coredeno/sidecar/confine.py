"""Confines the process that it is started in, and becomes the program that it is given: a sidecar's first breath.

Run as `python -I -S confine.py OPTION… -- PROGRAM ARGUMENT…`; `confinement.py` makes the options. It imports nothing
of coredeno: what runs here, with the host's rights, shall be read in one sitting, and started in a few milliseconds.

Before it becomes the program it writes one line to stdout: each layer, `=`, and why it is off, or nothing if it is
on; tabs between them. Nothing that was not trusted has run in this process by then, so the first line cannot be
forged. A second one, `cannot exec` and a number, follows only if the program cannot be run.

Each layer is best effort. What fails leaves its layer off, and the line says why.
"""

import ctypes
import os
import resource
import sys

TYPE_CHECKING = False  # as `typing` has it, which costs a third of the whole start
if TYPE_CHECKING:
    from collections.abc import Callable

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 1, 38, 47, 4
_SIGKILL, _SIGXFSZ, _LAST_SIGNAL = 9, 25, 31
# linux/capability.h. A root that may not even read what others own could not start a Deno beneath somebody's home;
# what it then reads is Landlock's affair.
_CAPABILITY_VERSION_3, _CAP_DAC_READ_SEARCH = 0x20080522, 2
# The numbers of linux/landlock.h and of its system calls, which are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _GET_ABI = 444, 445, 446, 1
_RULE_PATH, _RULE_PORT = 1, 2
_EXECUTE, _WRITE, _READ, _LIST, _REMOVE_DIR, _REMOVE, _MAKE_DIR = (1 << bit for bit in (0, 1, 2, 3, 4, 5, 7))
_MAKE_FILE, _MAKE_SOCKET, _TRUNCATE, _IOCTL = (1 << bit for bit in (8, 9, 14, 15))
_OF_A_FILE = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_FILE_RIGHTS = (0, 13, 14, 15, 15)  # how many there are by ABI; from the fifth on it is one more
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
_RIGHTS = {
    "exec": _READ | _EXECUTE,
    "read": _READ | _LIST,
    "device": _READ | _WRITE,
    "write": _READ | _LIST | _WRITE | _TRUNCATE | _MAKE_FILE | _MAKE_DIR | _REMOVE | _REMOVE_DIR,
    "sockets": _MAKE_SOCKET | _REMOVE,
}


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapSet(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "tcp", "scopes")]


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("rights", ctypes.c_uint64), ("folder", ctypes.c_int32)]


class _PortRule(ctypes.Structure):
    _fields_ = [("rights", ctypes.c_uint64), ("port", ctypes.c_uint64)]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Off(Exception):
    """A layer cannot be had; its text says why."""


def main(arguments: list[str]) -> None:
    """Confine this process and become the program."""
    end = arguments.index("--")
    options = [argument.split("=", 1) for argument in arguments[:end]]
    command = arguments[end + 1 :]
    parent = next(int(value) for name, value in options if name == "parent")
    os.umask(0o077)
    # What Python, or a host under nohup, ignores, the program would. But for one: a file that grows too large is an
    # error of its write, not its writer's end.
    for number in {*range(1, _LAST_SIGNAL + 1)} - {_SIGXFSZ}:
        _libc.signal(number, None)
    layers = [
        _layer("limits", lambda: _limit([value for name, value in options if name == "limit"])),
        _layer("no-new-privileges", lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1)),
        _layer("capabilities", _drop_capabilities),
        *_landlock(options),
        # Last: it is cleared by what changes the rights of a process.
        _layer("parent-death", lambda: _die_with(parent)),
    ]
    _say("\t".join(layers))
    os.environ.pop("LC_CTYPE", None)  # Python sets it by itself where there is no locale (PEP 538)
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        _say(f"cannot exec {error.errno}")


def _die_with(parent: int) -> None:
    """Be killed when the thread that started us ends, and so when its process does."""
    try:
        _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    finally:
        if os.getppid() != parent:  # it was faster
            os._exit(_SIGKILL)


def _limit(limits: list[str]) -> None:
    """Lower each limit for good; `limits` are names of `resource` without `RLIMIT_`, `:`, and the value."""
    missing = []
    for limit in limits:
        name, _, value = limit.partition(":")
        try:
            kind = getattr(resource, f"RLIMIT_{name}")
            _, hard = resource.getrlimit(kind)
            lowest = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
            resource.setrlimit(kind, (lowest, lowest))
        except (AttributeError, ValueError, OSError) as error:  # a system has not all of them
            missing.append(f"{name}: {error}")
    if missing:
        raise _Off(", ".join(missing))


def _drop_capabilities() -> None:
    """Keep nothing of what root has; with `no-new-privileges` nothing comes back at the exec."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    kept = 1 << _CAP_DAC_READ_SEARCH if os.geteuid() == 0 else 0
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(ctypes.byref(header), (_CapSet * 2)(_CapSet(kept, kept, 0))))


def _landlock(options: list[list[str]]) -> list[str]:
    """Let the kernel allow nothing but what the options name, for good. Says each layer."""
    why, abi, ruleset = "", 0, _Ruleset()
    names = {"files": 1, "tcp": 4, "signals": 6, "abstract-sockets": 6}  # and the ABI that they came with
    try:
        if any(name == "landlock" and value == "off" for name, value in options):
            raise _Off("the launcher was told to leave Landlock off")
        abi = _syscall(_CREATE_RULESET, None, 0, _GET_ABI)
        _fence(abi, ruleset, options)
    except _Off as off:
        why = str(off)
    layers = []
    for name, first in names.items():
        missing = why or (f"Landlock of this kernel is {abi}, wanted {first}" if abi < first else "")
        if name == "tcp" and not missing and not ruleset.tcp & _CONNECT_TCP:
            missing = "a host was granted with all its ports; only listening is refused"
        layers.append(f"{name}={missing}")
    return layers


def _fence(abi: int, ruleset: _Ruleset, options: list[list[str]]) -> None:
    rights = _FILE_RIGHTS[abi] if abi < len(_FILE_RIGHTS) else _FILE_RIGHTS[-1] + 1
    ports = [value for name, value in options if name == "port"]
    ruleset.files = (1 << rights) - 1
    ruleset.tcp = _BIND_TCP if "any" in ports else _BIND_TCP | _CONNECT_TCP
    ruleset.scopes = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS
    size = 8 if abi < 4 else 16 if abi < 6 else 24  # noqa: PLR2004 - each of these ABIs added a field
    rules = _syscall(_CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    for name, path in options:
        if name in _RIGHTS:
            _allow_path(rules, path, _RIGHTS[name] & ruleset.files)
    for port in ports if abi >= 4 else []:  # noqa: PLR2004
        if port != "any":
            rule = _PortRule(_CONNECT_TCP, int(port))
            _syscall(_ADD_RULE, rules, _RULE_PORT, ctypes.byref(rule), 0)
    _syscall(_RESTRICT_SELF, rules, 0)
    os.close(rules)


def _allow_path(rules: int, path: str, rights: int) -> None:
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # what is not there, or is out of reach, needs no rule
        return
    if not os.path.isdir(path):  # noqa: PTH112
        rights &= _OF_A_FILE
    rule = _PathRule(rights, folder)
    _syscall(_ADD_RULE, rules, _RULE_PATH, ctypes.byref(rule), 0)
    os.close(folder)


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        raise _Off(f"{sys.platform} has none")
    _check(_libc.prctl(option, *(ctypes.c_ulong(each) for each in (value, 0, 0, 0))))


def _syscall(number: int, *arguments: object) -> int:
    if sys.platform != "linux":
        raise _Off(f"{sys.platform} has none")
    # A number goes as a long: the kernel reads whole registers.
    longs = (ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    return _check(_libc.syscall(ctypes.c_long(number), *longs))


def _check(result: int) -> int:
    if result < 0:
        raise _Off(os.strerror(ctypes.get_errno()))
    return result


def _layer(name: str, confine: "Callable[[], object]") -> str:
    """Put a layer on; its name, `=`, and why it is off, or nothing."""
    try:
        confine()
    except _Off as off:
        return f"{name}={off}"
    return f"{name}="


def _say(line: str) -> None:
    os.write(1, line.encode("ascii", "replace") + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
