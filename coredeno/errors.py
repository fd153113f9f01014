"""Every error that leaves coredeno: one tree, grouped by who must act. Pure: no I/O.

The message says what was done, what is, and what was wanted. Facts that a program may want stand in
fields too. Nothing secret (tokens, file contents) is ever put into a message.

```
CoreDenoError
├── UsageError            the host app: it called something wrongly
│   └── MessageTooLarge
├── RequestError          the module that asked: what it asked for cannot be given
│   ├── PermissionDenied  (a builtin PermissionError too)
│   ├── NotFound (MethodNotFound), InvalidArgument, FailedPrecondition, LimitExceeded
├── PluginError           the plugin's author
│   ├── ManifestError, PluginRaised, InvalidResult, ProtocolError, PluginCrashed
│   └── PluginTimeout     (a builtin TimeoutError too)
├── SidecarError          whoever runs the machine
│   ├── DenoNotFound, SidecarExited
├── StoreError            whoever runs the machine: the database
└── InternalError         us: a bug in coredeno or in a service of the app
```
"""

from __future__ import annotations

from typing import Any


class CoreDenoError(Exception):
    """The root of all errors that coredeno raises."""


class UsageError(CoreDenoError):
    """The host app used coredeno wrongly: wrong order, wrong name, or a value that cannot cross."""


class MessageTooLarge(UsageError):
    """One message would be larger than the limit; nothing of it was sent.

    Attributes:
        size_bytes: what the message would have had.
        limit_bytes: what `Limits.message_bytes` allows.
    """

    def __init__(self, what: str, *, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{what}: message of {size_bytes} bytes, wanted at most {limit_bytes}")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class RequestError(CoreDenoError):
    """What a module asked for cannot be given. A service may raise any of these; the module sees it."""


class PermissionDenied(RequestError, PermissionError):
    """The gate refused: the module has no such permission.

    Attributes:
        module: code of the module that asked.
        permission: the kind of access, such as `files.read` or `services.weather`.
        resource: what it wanted to reach, such as a path.
        remedy: what would allow it, for a human.
    """

    def __init__(self, *, module: str, permission: str, resource: str, remedy: str) -> None:
        super().__init__(f"{permission}: module {module!r} was refused {resource!r}; {remedy}")
        self.module = module
        self.permission = permission
        self.resource = resource
        self.remedy = remedy


class NotFound(RequestError):
    """What was asked for does not exist: a file, a process, a method."""


class MethodNotFound(NotFound):
    """There is no method of that name; what a module may call are the services in its manifest."""


class InvalidArgument(RequestError):
    """An argument is not of the wanted form; the message names it."""


class FailedPrecondition(RequestError):
    """It exists and is allowed, but not in its present state (a folder where a file was wanted)."""


class LimitExceeded(RequestError):
    """A bound was reached: too large, too many in flight, out of quota."""


class PluginError(CoreDenoError):
    """Something is wrong with a plugin: its manifest, its code, or how it behaved."""


class ManifestError(PluginError):
    """A manifest is not valid.

    Attributes:
        file: the manifest's path.
        field: where in it, such as `permissions.read[0]`; empty if it is the whole file.
    """

    def __init__(self, *, file: str, field: str, problem: str) -> None:
        where = f"{file}: {field}" if field else file
        super().__init__(f"{where}: {problem}")
        self.file = file
        self.field = field


class PluginRaised(PluginError):
    """The plugin's JavaScript threw (or a value that it returned cannot cross).

    Attributes:
        module: the module's code.
        name: the JavaScript error's name, such as `TypeError`; `DataError` for a value that cannot cross.
        message: its message, at most 8 KB.
        stack: its stack, at most 8 KB, or empty.
        code: the stable code of a gate error that the plugin did not catch, else None.
    """

    def __init__(
        self, *, module: str, name: str, message: str, stack: str = "", code: str | None = None
    ) -> None:
        super().__init__(f"{module}: {name}: {message}" if message else f"{module}: {name}")
        self.module = module
        self.name = name
        self.message = message
        self.stack = stack
        self.code = code


class InvalidResult(PluginError):
    """A plugin's function returned something other than the `returns` type of the call."""


class ProtocolError(PluginError):
    """A peer broke the wire's rules: unreadable bytes, a forged frame, a bound exceeded."""


class PluginCrashed(PluginError):
    """The module went down while the call was under way.

    Attributes:
        module: the module's code.
        reason: why, in words. The sidecar's own error, where there is one, is `__cause__`.
    """

    def __init__(self, *, module: str, reason: str) -> None:
        super().__init__(f"{module}: {reason}")
        self.module = module
        self.reason = reason


class PluginTimeout(PluginError, TimeoutError):
    """A deadline passed.

    Attributes:
        module: the module's code.
        timeout_s: the time that it was given, in seconds.
    """

    def __init__(self, *, module: str, what: str, timeout_s: float) -> None:
        super().__init__(f"{module}: {what}: not done after {timeout_s:g} s")
        self.module = module
        self.timeout_s = timeout_s


class SidecarError(CoreDenoError):
    """A Deno process could not be started or has ended."""


class DenoNotFound(SidecarError):
    """There is no Deno, or not of a version that coredeno knows to be safe."""


class SidecarExited(SidecarError):
    """A sidecar's process ended, or was killed by the host for a reason.

    Attributes:
        exit_code: as `subprocess` gives it: negative for a signal; None if it never started.
        stderr_tail: the last lines that it wrote, control characters removed.
        reason: why, in words.
    """

    def __init__(self, *, reason: str, exit_code: int | None, stderr_tail: str = "") -> None:
        tail = f"; its last words: {stderr_tail}" if stderr_tail else ""
        super().__init__(f"sidecar: {reason} (exit code {exit_code}){tail}")
        self.reason = reason
        self.exit_code = exit_code
        self.stderr_tail = stderr_tail


class StoreError(CoreDenoError):
    """The store could not do it: the database cannot be opened, is corrupt, newer, or the disk is full."""


class InternalError(CoreDenoError):
    """A bug in coredeno or in a service of the app; the log has the details under the id in the message.

    Attributes:
        incident: that id.
    """

    def __init__(self, message: str, *, incident: str = "") -> None:
        super().__init__(message)
        self.incident = incident


def facts_of(error: CoreDenoError) -> dict[str, Any]:
    """The fields of an error, for logs and wires; what its constructor was given by name."""
    return {name: value for name, value in vars(error).items() if not name.startswith("_")}
