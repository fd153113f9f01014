"""What a host tells its app: typed events, in the order in which they happened. Pure: no I/O."""

from __future__ import annotations

from typing import Literal

import msgspec

KillCause = Literal["memory", "hang", "protocol", "unload", "start", "stop", "lost", "other"]
"""Why a host kills a sidecar; `SidecarKilled` says what each means."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The root of all events.

    Attributes:
        module: code of the module that it is about, or empty.
    """

    module: str = ""


class ModuleStarted(Event, frozen=True):
    """A module is RUNNING: its `init` has returned. `load_s` is what the whole load took, in seconds."""

    version: str
    load_s: float


class ModuleStopped(Event, frozen=True):
    """A module was unloaded. `reason` says by whom."""

    reason: str


class ModuleCrashed(Event, frozen=True):
    """A module failed to load, or went down while it ran. `error` is the text of what `module.error` holds."""

    error: str


class ModuleRestarting(Event, frozen=True):
    """A module that went down is started again, `delay_s` seconds from now. `attempt` counts since it ran stably."""

    delay_s: float
    attempt: int


class ModuleQuarantined(Event, frozen=True):
    """A module is not run: it is not what was installed, is not trusted any more, or went down too often."""

    error: str


class PluginInstalled(Event, frozen=True):
    """A plugin was installed. `signer` is the key that signed it, as hex digits, or None."""

    version: str
    digest: str
    signer: str | None


class PluginUpdated(Event, frozen=True):
    """A plugin was updated from version `former`, and runs as the new one if it ran before.

    A damaged release that was fetched anew is no update.
    """

    version: str
    former: str
    digest: str


class PluginRolledBack(Event, frozen=True):
    """A plugin was put back from version `former` to one that was kept."""

    version: str
    former: str


class PluginRemoved(Event, frozen=True):
    """A plugin was removed."""


class PermissionDenied(Event, frozen=True):
    """The gate refused a request: what was wanted, and what would allow it."""

    permission: str
    resource: str
    remedy: str


class StoreSetAside(Event, frozen=True):
    """The start found the store damaged, and began an empty one (`HostConfig.corrupt_store`).

    What is installed, the highest sequence numbers seen, kept permissions and all data of plugins are in the former.

    `path` is where the former lies now, `problem` what was found.
    """

    path: str
    problem: str


class AuditFailed(Event, frozen=True):
    """The audit log cannot be written; the host goes on, and tries again. `problem` says why."""

    problem: str


class PermissionGranted(Event, frozen=True):
    """A module was granted something: at its load, or because the app said so when it asked.

    `until` says what ends it: `unloaded`, `used` (the first request that needs it), `revoked`, or such as `60 s`.
    """

    permission: str
    resource: str
    until: str


class PermissionRevoked(Event, frozen=True):
    """A module has something no more. `reason` says why: the app took it back, or its time is over."""

    permission: str
    resource: str
    reason: str


class SidecarKilled(Event, frozen=True):
    """The host killed a sidecar: said once for each, when it does so; what its modules come to is told after it.

    Attributes:
        module: code of the module in it; empty if there is none, or more than one.
        sidecar: its name, as in logs and `host.health()`.
        cause: `memory` (`Limits.memory_mb`), `hang` (`Limits.hang_s`), `protocol` (it broke a wire's rules), `unload`
            (a module in it did not end when it was to), `start` (it was not ready in time, or could not be used),
            `stop` (it did not end when it was asked to, or was wanted no more before it was ready), `lost` (it closed
            its connection and lived on) or `other`.
        reason: in words: one line, at most 500 characters.
    """

    sidecar: str
    cause: KillCause
    reason: str


class EventsLost(Event, frozen=True):
    """Whoever listens has not kept up: `count` events were dropped in the place where this one stands.

    Each listener is told of its own losses only.
    """

    count: int


class ProtocolBroken(Event, frozen=True):
    """A sidecar or client broke the wire's rules and was dropped."""

    problem: str
