"""The hosts that an app grants at most: hosts by name, and `public` for all that are public. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from coredeno.errors import InvalidArgument
from coredeno.net_hosts import NetHost, NetHostSet, parse_net_host

PUBLIC: Final = "public"
"""Stands for all public hosts in a ceiling, `public:443` for one port. In a manifest it is a name like others."""


class NetCeiling:
    """The entries of `Policy.net`: says what they cover.

    Args:
        texts: hosts as `parse_net_host` reads them, and `public` with or without a port.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        entries = [parse_net_host(text) for text in texts]
        self._named = [entry for entry in entries if entry.name != PUBLIC]
        self._public_ports = {entry.port for entry in entries if entry.name == PUBLIC}
        self._set = NetHostSet(self._named)

    def covers(self, host: NetHost) -> bool:
        """Whether a host is granted: by its name, or because it is public and public hosts are granted."""
        if self._set.covers(host):
            return True
        return not self._public_ports.isdisjoint({None, host.port}) and host.is_public()

    def covers_text(self, text: str) -> bool:
        """The same for a text; what is no host is never granted."""
        try:
            return self.covers(parse_net_host(text))
        except InvalidArgument:
            return False

    def meet(self, other: NetCeiling) -> tuple[str, ...]:
        """The entries of a ceiling that covers what both cover, and nothing else."""
        met = [mine.meet(theirs) for mine in self._named for theirs in other._named]
        met += [host for mine in self._named for host in other._public_part(mine)]
        met += [host for theirs in other._named for host in self._public_part(theirs)]
        met += [
            NetHost(PUBLIC, mine).meet(NetHost(PUBLIC, theirs))
            for mine in sorted(self._public_ports, key=str)
            for theirs in sorted(other._public_ports, key=str)
        ]
        return tuple(dict.fromkeys(str(host) for host in met if host is not None))

    def _public_part(self, host: NetHost) -> list[NetHost | None]:
        """What of a named host the public entries cover."""
        if not host.is_public():
            return []
        return [host.meet(NetHost(host.name, port)) for port in sorted(self._public_ports, key=str)]
