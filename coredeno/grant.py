"""What a module may be granted while it runs: single permits, how long they last, and how they are asked for.

Pure: no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from coredeno.errors import UsageError
from coredeno.manifest import Manifest, Permissions, PermissionSet, StoreGroups
from coredeno.net_hosts import parse_net_host
from coredeno.permissions import Grants, is_beneath
from coredeno.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN_PERMISSIONS = ("files.read", "files.write", "net", "processes.start", "store.read", "store.write")
"""The kinds of permission, beside `services.<name>`."""


class Permit(msgspec.Struct, frozen=True):
    """One entry of what a module may do.

    Attributes:
        permission: as errors and events name it, such as `files.read` or `services.weather`.
        resource: as the manifest names it: a path, a host, a program, a store group; `weather:read` for a service, or
            `weather` where no permission is needed there.
    """

    permission: str
    resource: str


class Grant(msgspec.Struct, frozen=True):
    """How long a permit lasts that is given while a module runs. Made by the four functions below.

    Attributes:
        seconds: how long from now, or None.
        is_once: whether the first request that needs it uses it up.
        is_kept: whether it outlives the module, and the host.
    """

    seconds: float | None = None
    is_once: bool = False
    is_kept: bool = False

    @classmethod
    def once(cls) -> Grant:
        """For the first request that needs it; each entry that was asked for is used up by itself."""
        return cls(is_once=True)

    @classmethod
    def for_s(cls, seconds: float) -> Grant:
        """For so many seconds from now, and not longer than the module is loaded.

        Raises:
            UsageError: it is no number more than 0.
        """
        given: object = seconds  # what the hints say is not checked
        is_number = isinstance(given, int | float) and not isinstance(given, bool)
        if not is_number or not 0 < seconds < math.inf:
            raise UsageError(f"Grant.for_s: {given!r}, wanted a number of seconds more than 0")
        return cls(seconds=float(seconds))

    @classmethod
    def until_unloaded(cls) -> Grant:
        """For as long as the module is loaded. True, as the answer of a hook, means this."""
        return cls()

    @classmethod
    def until_revoked(cls) -> Grant:
        """For good: kept in the store, and given again at each load, until `PluginHost.revoke` or `remove`.

        It is for the code *and* the key that signed the plugin: another signer's plugin of that code does not get it.
        """
        return cls(is_kept=True)

    @property
    def until(self) -> str:
        """What ends it, as the event `PermissionGranted` says it: `used`, `unloaded`, `revoked`, or such as `60 s`."""
        if self.seconds is not None:
            return f"{self.seconds:g} s"
        return "used" if self.is_once else "revoked" if self.is_kept else "unloaded"


class PermissionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a module asks for, for `Hooks.permission_requested`. All texts are fit to be shown.

    Attributes:
        module: its code.
        name: its name, for humans.
        version: its version.
        signer: the key that signed it, as hex digits; None if nobody did.
        permits: what it asks for and does not have; at most 64.
        words: the same in words, a phrase each.
        reason: why, as the plugin says: a line of at most 300 characters, not to be believed; or empty.
    """

    module: str
    name: str
    version: str
    signer: str | None
    permits: tuple[Permit, ...]
    words: tuple[str, ...]
    reason: str = ""


def permits_of(asked: PermissionSet, services: Mapping[str, Iterable[str]]) -> tuple[Permit, ...]:
    """Every entry of a set of permissions, in the manifest's order."""
    store = asked.store
    return tuple(_permits((asked.read, asked.write, asked.net, asked.run, store.read, store.write), services))


def permits_in(grants: Grants) -> tuple[Permit, ...]:
    """Every entry of what a module may do."""
    held = (grants.read, grants.write, grants.net, grants.run, grants.store_read, grants.store_write)
    return tuple(_permits(held, {name: sorted(words) for name, words in grants.services.items()}))


def _permits(lists: tuple[tuple[str, ...], ...], services: Mapping[str, Iterable[str]]) -> Iterator[Permit]:
    for permission, resources in zip(PLAIN_PERMISSIONS, lists, strict=True):
        for resource in resources:
            yield Permit(permission, resource)
    for service, words in services.items():
        listed = [f"{service}:{word}" for word in words] or [service]
        yield from (Permit(f"services.{service}", resource) for resource in listed)


def grants_of(permits: Iterable[Permit]) -> Grants:
    """What a module with these permits may do."""
    lists: dict[str, dict[str, None]] = {permission: {} for permission in PLAIN_PERMISSIONS}
    services: dict[str, set[str]] = {}
    for permit in permits:
        if permit.permission in lists:
            lists[permit.permission][permit.resource] = None
        else:
            service, _, word = permit.resource.partition(":")
            services.setdefault(service, set()).update([word] if word else [])
    read, write, net, run, store_read, store_write = map(tuple, lists.values())
    return Grants(
        read=read,
        write=write,
        net=net,
        run=run,
        store_read=store_read,
        store_write=store_write,
        services={name: frozenset(words) for name, words in services.items()},
    )


def ceiling_of(grants: Grants) -> Policy:
    """The policy that grants exactly what a module has."""
    return Policy(
        read=grants.read,
        write=grants.write,
        net=tuple(host for host in grants.net if host.partition(":")[0] != "public"),
        run=grants.run,
        store_read=grants.store_read,
        store_write=grants.store_write,
        services={name: tuple(words) for name, words in grants.services.items()},
    )


def refusals_of(policy: Policy, code: str, permits: Iterable[Permit]) -> dict[Permit, str]:
    """Those of some permits that a policy does not allow to the module of this code, with what would make it."""
    permits = tuple(permits)
    wanted = grants_of(permits)
    asked = Manifest(
        code=code,
        permissions=Permissions(
            read=wanted.read,
            write=wanted.write,
            net=wanted.net,
            run=wanted.run,
            store=StoreGroups(read=wanted.store_read, write=wanted.store_write),
        ),
        services={name: tuple(words) for name, words in wanted.services.items()},
    )
    remedies = {Permit(each.permission, each.resource): each.remedy for each in policy.refusals(asked)}
    found = {}
    for permit in permits:
        # Of a service that it does not allow at all a policy speaks once.
        whole = Permit(permit.permission, permit.permission.removeprefix("services."))
        remedy = remedies.get(permit) or remedies.get(whole)
        if remedy is not None:
            found[permit] = remedy
    return found


def is_touched(permit: Permit, permission: str, resource: str | None) -> bool:
    """Whether taking `resource` back takes this permit: it reaches the resource, or is a part of it.

    An entry is taken back whole: without `photos/private` there is no `photos` either. None is all of a kind.

    Raises:
        InvalidArgument: `resource` is no host, where one is wanted.
    """
    if permit.permission != permission:
        return False
    if resource is None or resource == permit.resource:
        return True
    if permission in ("files.read", "files.write"):
        return is_beneath(permit.resource, resource) or is_beneath(resource, permit.resource)
    if permission == "net":
        mine, other = parse_net_host(permit.resource), parse_net_host(resource)
        return mine.meet(other) is not None
    return permission.startswith("services.") and ":" not in resource
