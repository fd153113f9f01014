"""What a host tells its app: typed events, in the order in which they happened. Pure: no I/O."""

from __future__ import annotations

import msgspec


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


class PermissionDenied(Event, frozen=True):
    """The gate refused a request: what was wanted, and what would allow it."""

    permission: str
    resource: str
    remedy: str


class ProtocolBroken(Event, frozen=True):
    """A sidecar or client broke the wire's rules and was dropped."""

    problem: str
