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
│   ├── DenoNotFound, SidecarExited, RestartLimitReached
├── StoreError            whoever runs the machine: the database
│   ├── StoreFull, StoreCorrupt
├── InstallError          whoever installs: a plugin cannot be installed, or not any more be run as it was
│   ├── SourceRefused, SourceUnavailable, SourceInvalid, FetchLimitExceeded
│   ├── FetchTimeout      (a builtin TimeoutError too)
│   ├── UnsafePath, IntegrityError, SignatureError, DowngradeRefused
│   ├── ConsentRequired, UpdateUndone, IndexInvalid, RecordInvalid
└── InternalError         us: a bug in coredeno or in a service of the app
```
"""

from __future__ import annotations

from typing import Any, Literal

_SHOWN_PATH = 160  # characters of a wrong path that an error repeats: enough to recognise it
_SHOWN_TEXT = (
    2048  # of the text of an error that repeats what a plugin sent, which may be as long as a message
)


def _shortened(text: str) -> str:
    """The beginning and the end, where it stands what was wanted, and where."""
    half = _SHOWN_TEXT // 2
    return text if len(text) <= _SHOWN_TEXT else f"{text[:half]}…{text[-half:]}"


class CoreDenoError(Exception):
    """The root of all errors that coredeno raises. As text none has control characters: a plugin may have put them in.

    What came of a plugin stands in fields as it came.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if text.isprintable():
            return text
        return "".join(
            letter if letter.isprintable() or letter in "\n\t" else f"\\x{ord(letter):02x}" for letter in text
        )


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

    def __init__(self, text: str) -> None:
        super().__init__(_shortened(text))


class ProtocolError(PluginError):
    """A peer broke the wire's rules: unreadable bytes, a forged frame, a bound exceeded."""

    def __init__(self, text: str) -> None:
        super().__init__(_shortened(text))


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
        exit_code: as `subprocess` gives it: negative for a signal; None if it has none (yet).
        stderr_tail: the last lines that it wrote, control characters removed.
        reason: why, in words.
        cause: `memory` or `hang` if the host killed it because it went over `Limits.memory_mb` or `Limits.hang_s`,
            `unload` if because a module in it did not end when it was to, else `other`.
        module: code of the module whose fault it is, where that is known, else empty.
    """

    def __init__(
        self,
        *,
        reason: str,
        exit_code: int | None,
        stderr_tail: str = "",
        cause: Literal["memory", "hang", "unload", "other"] = "other",
        module: str = "",
    ) -> None:
        tail = f"; its last words: {stderr_tail}" if stderr_tail else ""
        code = "" if exit_code is None else f" (exit code {exit_code})"
        super().__init__(f"sidecar: {reason}{code}{tail}")
        self.reason = reason
        self.exit_code = exit_code
        self.stderr_tail = stderr_tail
        self.cause: Literal["memory", "hang", "unload", "other"] = cause
        self.module = module


class RestartLimitReached(SidecarError):
    """A module went down too often, and is not started again until the app releases it (`PluginHost.release`).

    Attributes:
        module: the module's code.
        restarts: how many there were, within `window_s`.
        window_s: in seconds; `RestartPolicy` has both. What it went down of last is `__cause__`.
    """

    def __init__(self, *, module: str, restarts: int, window_s: float, last: CoreDenoError) -> None:
        super().__init__(
            f"{module}: not started again: it went down after {restarts} restarts within {window_s:g} s "
            f"(RestartPolicy.budget); release({module!r}) lets it run again; last: {last}"
        )
        self.module = module
        self.restarts = restarts
        self.window_s = window_s


class StoreError(CoreDenoError):
    """The store could not do it: the database cannot be opened, is corrupt, newer, locked, or the disk is full."""


class StoreFull(StoreError):
    """There is no room for it on the disk; nothing of it was written.

    What was acknowledged before is there, reads go on, and with room again the next write succeeds.
    """


class StoreCorrupt(StoreError):
    """The database is not what was written: bytes of it were changed or lost. It is left as it is.

    Attributes:
        path: the database. At run time its bare name: a plugin may be told, and need not know where the app lives.
        problem: what was found first, such as `database disk image is malformed`.
    """

    def __init__(self, doing: str, *, path: str, problem: str) -> None:
        super().__init__(
            f"store: {doing} {path}: {problem}, wanted an undamaged database; it is left as it is: put it aside with "
            "its -wal file, or have the start do that (HostConfig.corrupt_store)"
        )
        self.path = path
        self.problem = problem


class AuditBroken(CoreDenoError):
    """The audit log is not what was written: a row is changed, missing, or not where it was.

    Attributes:
        seq: number of the first row at which that is seen.
        problem: what is wrong with it.
    """

    def __init__(self, seq: int, problem: str) -> None:
        super().__init__(
            f"audit: row {seq}: {problem}; wanted the log as it was written: put it aside, it is never overwritten"
        )
        self.seq = seq
        self.problem = problem


class InstallError(CoreDenoError):
    """A plugin cannot be installed, updated or verified. What was installed before is as it was."""


class SourceRefused(InstallError):
    """The source or the ref is none that may be fetched: its scheme, form or characters. Nothing was contacted."""


class SourceUnavailable(InstallError):
    """The source cannot be reached, has no such repository, ref or file, or wants other credentials."""


class SourceInvalid(InstallError):
    """What the source gave is not what it must be: a broken pack, a missing object, a page of HTML, a redirect."""


class FetchLimitExceeded(InstallError):
    """The source has or sends more than `FetchLimits` allows.

    Attributes:
        limit: which one, a field of `FetchLimits`.
        allowed: its value.
    """

    def __init__(self, what: str, *, limit: str, allowed: float) -> None:
        super().__init__(f"{what}: wanted at most {allowed:,} (FetchLimits.{limit})")
        self.limit = limit
        self.allowed = allowed


class FetchTimeout(InstallError, TimeoutError):
    """Fetching took longer than `FetchLimits.timeout_s`.

    Attributes:
        timeout_s: the time that it was given, in seconds.
    """

    def __init__(self, what: str, *, timeout_s: float) -> None:
        super().__init__(f"{what}: not done after {timeout_s:g} s")
        self.timeout_s = timeout_s


class UnsafePath(InstallError):
    """A name in the plugin is none that may be written to a disk, or is not that of a plain file.

    Attributes:
        path: the name, with everything that is not printable ASCII escaped.
        problem: what is wrong with it.
    """

    def __init__(self, path: str | bytes, problem: str, *, escaped: bool = False) -> None:
        # `escaped` says that it is so already: once more would double every backslash.
        self.path: str = path if escaped and isinstance(path, str) else ascii(path).removeprefix("b")[1:-1]
        shown = self.path if len(self.path) <= _SHOWN_PATH else self.path[:_SHOWN_PATH] + "..."
        super().__init__(f"path '{shown}': {problem}")
        self.problem = problem


class IntegrityError(InstallError):
    """A file is not what was signed, or what was installed.

    Attributes:
        path: which one, relative to the plugin's folder.
        expected: what was wanted, such as a hash or `absent`.
        actual: what is there.
        plugin: the plugin's code and version, such as `tagger 2.0.0`; empty if it is not known.
        hint: why that may be, or what helps, as the message ends with it; may be empty.
    """

    def __init__(self, path: str, *, expected: str, actual: str, plugin: str = "", hint: str = "") -> None:
        where = f"{plugin}: {path}" if plugin else path
        super().__init__(f"{where}: is {actual}, wanted {expected}{hint}")
        self.path = path
        self.expected = expected
        self.actual = actual
        self.plugin = plugin
        self.hint = hint


class SignatureError(InstallError):
    """There is no signature that counts: missing, malformed, wrong, by a key that is not trusted, or revoked."""


class DowngradeRefused(InstallError):
    """The release is older than one that was seen before from the same key, or is another one of its number.

    Attributes:
        seq: the release's sequence number.
        highest: the highest seen for the key and the plugin.
    """

    def __init__(self, what: str, *, seq: int, highest: int) -> None:
        super().__init__(what)
        self.seq = seq
        self.highest = highest


class ConsentRequired(InstallError):
    """An update asks for more than the installed version was granted, and nobody consented to it.

    Attributes:
        code: the plugin's code.
        added: what it asks for in addition, in words.
    """

    def __init__(self, *, code: str, added: tuple[str, ...]) -> None:
        super().__init__(
            f"update of {code!r}: it asks for more than the installed version: {'; '.join(added)}; "
            "wanted consent, by Hooks.update_widens or plan.apply(consent=True)"
        )
        self.code = code
        self.added = added


class UpdateUndone(InstallError):
    """The new version of a loaded plugin did not load; the former one was put back. `__cause__` says why.

    Attributes:
        code: the plugin's code.
        version: the version that did not load.
        former: the version that is active again.
        reloaded: whether the former one runs again.
    """

    def __init__(self, *, code: str, version: str, former: str, reloaded: bool, reason: str) -> None:
        now = "runs again" if reloaded else "is active again, but could not be loaded either"
        super().__init__(f"{code}: version {version} did not load: {reason}; version {former} {now}")
        self.code = code
        self.version = version
        self.former = former
        self.reloaded = reloaded


class IndexInvalid(InstallError):
    """A marketplace index is not valid.

    Attributes:
        origin: where it came from.
        entry: which entry, such as `plugins[3] ('tagger')`; empty if it is the whole index.
    """

    def __init__(self, *, origin: str, entry: str, problem: str) -> None:
        super().__init__(f"{origin}: {entry}: {problem}" if entry else f"{origin}: {problem}")
        self.origin = origin
        self.entry = entry


class RecordInvalid(InstallError):
    """What the store holds about an installed plugin cannot be read: it is corrupt, or by a newer coredeno.

    Attributes:
        code: the plugin's code.
    """

    def __init__(self, *, code: str, problem: str) -> None:
        super().__init__(f"record of installed plugin {code!r}: {problem}")
        self.code = code


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
