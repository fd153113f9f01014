"""What a host tells of its own health. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Layer(msgspec.Struct, frozen=True):
    """One layer of what the operating system confines a sidecar with; all are best effort.

    Attributes:
        name: such as `parent-death`; see SECURITY.md.
        on: whether it holds.
        why: why it is off, or what of it is missing; empty if it is on.
    """

    name: str
    on: bool
    why: str = ""


class PartHealth(msgspec.Struct, frozen=True):
    """Whether a part of the host works.

    Attributes:
        ok: whether it does.
        why: why it does not; empty if it does.
        note: what else is to be known of it, whether it works or not; empty if there is nothing.
    """

    ok: bool
    why: str = ""
    note: str = ""


class SidecarHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One sidecar.

    Attributes:
        name: as in logs, such as `sidecar-3`.
        pid: its process id; 0 while it has none.
        state: `launching`, `handshaking`, `connecting`, `ready`, `stopping` or `dying`.
        modules: the codes of the modules in it; none in a spare.
        memory_bytes: what its process has for itself, as it was read last; None if it has not been read.
        heartbeat_age_s: seconds since it answered last; None if it has not been asked yet.
        layers: what confines it.
    """

    name: str
    pid: int
    state: str
    modules: tuple[str, ...]
    memory_bytes: int | None
    heartbeat_age_s: float | None
    layers: tuple[Layer, ...]


class HostHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a host is. Later versions may add to it.

    Attributes:
        deno: the version of Deno; empty until a sidecar has told.
        platform: the operating system, as `sys.platform` has it.
        layers: what the operating system confines a sidecar without network with; empty until one has started.
        store: whether a read of the store succeeds, and, if the last write failed, another one (a full disk, a lock).
            Damage that was met since the start is not forgotten. `note` says so if the start set a damaged store aside.
        audit: whether the audit log can be written; `why` is its `problem`.
        sidecars: those that there are, in the order in which they were started.
        modules: by their codes, their states, such as `RUNNING`.
    """

    deno: str
    platform: str
    layers: tuple[Layer, ...]
    store: PartHealth
    audit: PartHealth
    sidecars: tuple[SidecarHealth, ...]
    modules: Mapping[str, str]
