"""Launches Deno, and stands between its socket and the host: what passes there can be held up, garbled and cut."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from coredeno.interfaces import HostDoor, LaunchOrder, SidecarExit, SidecarReady
from coredeno.sidecar.launcher import DenoLauncher, DenoProcess

# It is no part of any JSON, wherever it stands: so nothing that is garbled can pass as another value.
_GARBAGE = b"\0" * 4


class FaultyLauncher:
    """Launches as `DenoLauncher` does. `links` has the link of each sidecar that is connected, by its name."""

    def __init__(self, deno: Path | None = None) -> None:
        self.links: dict[str, Link] = {}
        self._launcher = DenoLauncher(deno)

    async def launch(self, order: LaunchOrder, door: HostDoor) -> FaultyProcess:
        """See `Launcher`."""
        return FaultyProcess(await self._launcher.launch(order, door), order.name, self.links)


class FaultyProcess:
    """A running Deno whose connection goes through a `Link`."""

    def __init__(self, process: DenoProcess, name: str, links: dict[str, Link]) -> None:
        self.pid: int = process.pid
        self._process = process
        self._name = name
        self._links = links

    async def ready(self) -> SidecarReady:
        """See `SidecarProcess`."""
        return await self._process.ready()

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """See `SidecarProcess`."""
        link = Link(protocol, lambda: self._links.pop(self._name, None))
        await self._process.connect(link)
        self._links[self._name] = link

    async def wait(self) -> SidecarExit:
        """See `SidecarProcess`."""
        return await self._process.wait()

    def kill(self) -> None:
        """See `SidecarProcess`."""
        self._process.kill()


class Link(asyncio.Protocol):
    """What a sidecar sends comes by here, and what is sent to it."""

    def __init__(self, host_end: asyncio.Protocol, forget: Any) -> None:
        self._host_end = host_end
        self._forget = forget
        self._transport: asyncio.Transport | None = None
        self._held: list[bytes] | None = None
        self._is_lost = False
        self._garbles = False
        self._cuts = False

    # --- faults

    def cut(self) -> None:
        """Close the connection, here and now."""
        if self._transport is not None:
            self._transport.abort()

    def hold(self) -> None:
        """Let nothing through that the sidecar sends, until `let_go`."""
        if self._held is None:
            self._held = []

    def let_go(self) -> None:
        """Let through what was held. Harmless if nothing was."""
        held, self._held = self._held, None
        if held and not self._is_lost:
            self._host_end.data_received(b"".join(held))

    def garble(self) -> None:
        """Spoil some bytes of what the sidecar sends next."""
        self._garbles = True

    def cut_in_a_frame(self) -> None:
        """Let half of what is sent next to the sidecar through, and close the connection."""
        self._cuts = True

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the host its end."""
        self._transport = cast("asyncio.Transport", transport)
        self._host_end.connection_made(cast("asyncio.Transport", _HostEnd(self, self._transport)))

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self._garbles:
            self._garbles = False
            middle = len(data) // 2
            data = data[:middle] + _GARBAGE + data[middle + len(_GARBAGE) :]
        if self._held is not None:
            self._held.append(data)
        else:
            self._host_end.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self.let_go()
        self._is_lost = True
        self._forget()
        self._host_end.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._host_end.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._host_end.resume_writing()

    def outgoing(self, data: bytes) -> bytes:
        """What of it the sidecar gets."""
        if self._cuts:
            self._cuts = False
            asyncio.get_running_loop().call_soon(self.cut)
            return data[: len(data) // 2]
        return data


class _HostEnd:
    """The transport that the host has: the real one, but for what is written."""

    def __init__(self, link: Link, transport: asyncio.Transport) -> None:
        self._link = link
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._transport.write(self._link.outgoing(data))
