"""`OptionalPermits`: which entry of a manifest's optional permissions covers what a module asks for. Pure: no I/O."""

from __future__ import annotations

from coredeno.errors import InvalidArgument
from coredeno.grant import Permit, permits_of
from coredeno.manifest import Manifest
from coredeno.net_ceiling import PUBLIC
from coredeno.net_hosts import NetHost, NetHostSet, parse_net_host
from coredeno.permissions import at_and_above


class OptionalPermits:
    """What `permissions.optional` lists, made once: a module may ask thousands of times, for 64 entries each."""

    def __init__(self, manifest: Manifest) -> None:
        optional = manifest.permissions.optional
        self._listed = dict.fromkeys(permits_of(optional, optional.services))
        self._services: dict[str, Permit] = {}
        self._hosts: dict[NetHost, Permit] = {}
        for entry in self._listed:
            if entry.permission == "net" and entry.resource.partition(":")[0] != PUBLIC:
                self._hosts.setdefault(parse_net_host(entry.resource), entry)
            elif entry.permission.startswith("services."):
                self._services.setdefault(entry.permission, entry)
        self._host_set = NetHostSet(self._hosts)

    def entry(self, permit: Permit) -> Permit | None:
        """The entry that covers a permit: itself, a folder above it, a host that stands for it; None if none does."""
        if permit in self._listed:
            return permit
        permission, resource = permit.permission, permit.resource
        if permission in ("files.read", "files.write"):
            folders = (Permit(permission, folder) for folder in at_and_above(resource))
            return next((folder for folder in folders if folder in self._listed), None)
        if permission == "net":
            try:
                host = self._host_set.find(parse_net_host(resource))
            except InvalidArgument:
                return None
            return None if host is None else self._hosts[host]
        if permission.startswith("services.") and ":" not in resource:  # what needs no permission there
            return self._services.get(permission)
        return None
