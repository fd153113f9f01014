"""All sidecars of a host: keeps a spare ready, gives modules their places, stops everything at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from coredeno.config import HostConfig
from coredeno.errors import CoreDenoError, ProtocolError, UsageError
from coredeno.events import Event, SidecarKilled
from coredeno.health import SidecarHealth
from coredeno.interfaces import Clock, Launcher, LaunchOrder, SessionReceiver, SidecarReady, SidecarWorker
from coredeno.sidecar.homes import Home, Need, Place, SharedHome, home_of, look_at
from coredeno.sidecar.machine import Kill, SidecarMachine
from coredeno.sidecar.sidecar import Sidecar
from coredeno.sidecar.stage import Stage
from coredeno.sidecar.vitals import Vitals
from coredeno.sidecar.watch import SidecarWatch

_log = logging.getLogger("coredeno.sidecar")
# A sidecar may die just as a module comes to it, and that is no fault of the module. One after another does not.
_SIDECARS_TRIED = 3


class TokenOffice(Protocol):
    """What the supervisor needs of the gateway: tokens for its sidecars, and Sessions by them."""

    def admit_sidecar(self, name: str, on_broken: Callable[[ProtocolError], None]) -> str:
        """A token for a new sidecar."""
        ...

    def bind_process(self, token: str, process_id: int) -> None:
        """The token is good from this process only."""
        ...

    def dismiss_sidecar(self, token: str) -> None:
        """Forget the token."""
        ...

    def open_session(self, token: str, send: Callable[..., None]) -> SessionReceiver:
        """A Session for launchers that need no socket."""
        ...


class SidecarOwner(Protocol):
    """Who hears of the sidecars: whoever answers for the modules in them."""

    def sidecar_said(self, home: Home, method: str, params: msgspec.Raw) -> None:
        """A notification came over its JSON-RPC wire."""
        ...

    def sidecar_wrote(self, home: Home, line: str) -> None:
        """It wrote a line to its stdout or stderr; cut, and without control characters."""
        ...

    def sidecar_ended(self, home: Home, error: CoreDenoError | None) -> None:
        """It is gone, or is being killed; `error` is why, None if it was asked to end. May be said twice."""
        ...


class Supervisor:
    """Starts and stops the sidecars of one host."""

    def __init__(
        self,
        *,
        config: HostConfig,
        launcher: Launcher,
        office: TokenOffice,
        clock: Clock,
        run_folder: Path,
        socket_folder: Path,
        core_socket: Path,
        cache: Path,
        emit: Callable[[Event], None],
    ) -> None:
        """Make it; nothing is started yet.

        Args:
            config: the host's.
            launcher: starts processes.
            office: gives tokens.
            clock: the host's.
            run_folder: where stages are made; on the same disk as the plugins.
            socket_folder: a short private folder for sockets.
            core_socket: where the gateway listens.
            cache: the folder for what sidecars have compiled of our own runtime.
            emit: told of each sidecar that is killed.
        """
        self._config = config
        self._launcher = launcher
        self._office = office
        self._clock = clock
        self._run_folder = run_folder
        self._socket_folder = socket_folder
        self._core_socket = core_socket
        self._cache = cache
        self._emit = emit
        self._watch = SidecarWatch(
            clock=clock,
            heartbeat_s=config.heartbeat_s,
            hang_s=config.limits.hang_s,
            memory_mb=config.limits.memory_mb,
        )
        self._owner: SidecarOwner | None = None
        self._homes: set[Home] = set()
        self._shared: dict[Need, SharedHome] = {}
        self._spare: asyncio.Task[Home] | None = None
        self._cleaning: set[asyncio.Task[None]] = set()
        self._count = 0
        self._first_said: SidecarReady | None = None
        self._closed = False

    @property
    def _spare_need(self) -> Need:
        return Need(group="", net=(), heap_mb=self._config.limits.memory_mb)

    async def start(self, owner: SidecarOwner) -> None:
        """Start the first spare, so that a missing or broken Deno shows at once; `owner` hears of all sidecars.

        Raises:
            CoreDenoError: it could not be started.
        """
        self._owner = owner
        self._spare = asyncio.create_task(self._new_home(self._spare_need))
        home = await self._spare
        self._first_said = home.sidecar.said
        await home.stage.keep_cache(self._cache)

    def replenish(self) -> None:
        """Start a spare if there is none. Its failure shows when it is wanted."""
        if self._spare is None and not self._closed:
            self._spare = asyncio.create_task(self._new_home(self._spare_need))
            self._spare.add_done_callback(look_at)

    @property
    def first_said(self) -> SidecarReady | None:
        """What the first sidecar said of itself; it has no network, and the same Deno as all others."""
        return self._first_said

    def health(self) -> tuple[SidecarHealth, ...]:
        """How each sidecar is, in the order in which they were started."""
        now = self._clock.now()
        return tuple(_health(home, now) for home in sorted(self._homes, key=lambda home: home.number))

    async def take_place(self, need: Need) -> Place:
        """A place for a module, in a sidecar that is ready. If cancelled, nothing is taken.

        Raises:
            CoreDenoError: no sidecar could be started; or why the third ended, where each died before it was had.
        """
        tried = 0
        while True:
            if self._closed:
                raise UsageError("load: the host is stopping")
            is_shared = self._config.isolation == "worker"
            home = await (self._shared_home(need) if is_shared else self._own_home(need))
            root = await self._root_in(home)
            if home.sidecar.alive:
                place = Place(home, root)
                home.places.add(place)
                return place
            tried += 1
            if tried == _SIDECARS_TRIED:
                raise await home.sidecar.ended()

    def look_at(self, place: Place, *, patience_s: float) -> None:
        """The module there may hang: end its sidecar if it does not answer for so long from now."""
        self._watch.look_at(place, patience_s=patience_s)

    async def give_up(self, place: Place) -> None:
        """A module has left its place; the sidecar ends with its last one. Harmless twice."""
        place.home.places.discard(place)
        place.home.left.add(place.code)
        await self._leave(place.home)

    async def aclose(self) -> None:
        """Stop all sidecars, at once. Harmless twice; nothing is left behind, even if cancelled."""
        self._closed = True
        shared = [shared.task for shared in self._shared.values()]
        starting = shared if self._spare is None else [*shared, self._spare]
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        homes = list(self._homes)
        await asyncio.gather(*(self._end(home) for home in homes))
        if self._cleaning:
            await asyncio.gather(*self._cleaning, return_exceptions=True)
        await self._watch.aclose()

    # --- inner

    async def _root_in(self, home: Home) -> Path:
        home.joining += 1
        try:
            root, home.first = home.first, None
            if root is None:
                root = await home.stage.place()
        except BaseException:
            home.joining -= 1
            await asyncio.shield(self._leave(home))
            raise
        home.joining -= 1
        return root

    async def _own_home(self, need: Need) -> Home:
        home = await self._former_spare() if need == self._spare_need_of(need) else None
        if home is None or not home.sidecar.alive:
            home = await self._new_home(need)
        home.need = need
        return home

    def _spare_need_of(self, need: Need) -> Need:
        return msgspec.structs.replace(self._spare_need, group=need.group, alone=need.alone)

    async def _former_spare(self) -> Home | None:
        """The spare, which then is one no more; None if there is none or it could not start."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        try:
            return await asyncio.shield(spare)
        except CoreDenoError:
            return None  # a fresh try will say why
        except asyncio.CancelledError:
            self._put_back(spare)
            raise

    def _put_back(self, spare: asyncio.Task[Home]) -> None:
        if self._spare is None and not self._closed:
            self._spare = spare  # still good for the next one
        else:
            self._discard(spare)

    async def _shared_home(self, need: Need) -> Home:
        shared = self._shared.get(need)
        if shared is None or not shared.is_good:
            shared = self._shared[need] = SharedHome(asyncio.create_task(self._own_home(need)))
        shared.waiting += 1
        try:
            return await asyncio.shield(shared.task)
        except asyncio.CancelledError:
            home = home_of(shared.task)
            if shared.waiting == 1 and (home is None or not (home.places or home.joining)):
                self._forget(need, shared.task)
                self._discard(shared.task)
            raise
        except BaseException:
            self._forget(need, shared.task)  # its error leads to all that took part in it
            raise
        finally:
            shared.waiting -= 1

    async def _leave(self, home: Home) -> None:
        if home.places or home.joining:
            return
        shared = None if home.need is None else self._shared.get(home.need)
        if home.need is not None and shared is not None and home_of(shared.task) is home:
            del self._shared[home.need]
        await self._end(home)

    def _forget(self, need: Need, task: asyncio.Task[Home]) -> None:
        shared = self._shared.get(need)
        if shared is not None and shared.task is task:
            del self._shared[need]

    def _discard(self, task: asyncio.Task[Home]) -> None:
        """End a sidecar that nobody wants, whether it has come up yet or not."""
        task.cancel()

        async def end() -> None:
            await asyncio.wait([task])
            home = home_of(task)
            if home is not None:
                await self._end(home)

        ending = asyncio.get_running_loop().create_task(end())
        self._cleaning.add(ending)
        ending.add_done_callback(self._cleaning.discard)

    async def _new_home(self, need: Need) -> Home:
        self._count += 1
        number = self._count
        name = f"sidecar-{number}"
        stage = Stage(self._run_folder / name)
        limits = self._config.limits
        holder: list[Home] = []
        token = self._office.admit_sidecar(name, lambda error: self._broken(holder, error))
        try:
            first = await stage.make(self._cache)
            if self._closed:
                raise UsageError("load: the host is stopping")
            order = LaunchOrder(
                name=name,
                token=token,
                socket_folder=self._socket_folder,
                core_socket=self._core_socket,
                stage=stage.folder,
                deno_dir=stage.deno_dir,
                worker=SidecarWorker(first, need.net),
                isolation=self._config.isolation,
                heap_mb=need.heap_mb,
                message_bytes=limits.message_bytes,
                calls_in_flight=limits.calls_in_flight,
                requests_in_flight=limits.requests_in_flight,
                log_line_bytes=limits.log_line_bytes,
                log_lines_per_s=limits.log_lines_per_s,
            )
            sidecar = Sidecar(
                order,
                launcher=self._launcher,
                door=_Door(self._office, lambda line: self._wrote(holder, line)),
                clock=self._clock,
                lifecycle=SidecarMachine(
                    name=name,
                    start_timeout_s=self._config.start_timeout_s,
                    allow_untested_deno=self._config.allow_untested_deno,
                ),
                on_pid=lambda pid: self._office.bind_process(token, pid),
                on_notification=lambda method, params: self._said(holder[0], method, params),
                on_kill=lambda kill: self._killed(holder[0], kill),
                on_down=lambda error: self._down(holder[0], error),
                on_end=lambda error: self._ended(holder[0], error),
            )
            home = Home(sidecar, stage, first, Vitals(name), number)
            holder.append(home)
            self._homes.add(home)
            sidecar.begin()
            try:
                await sidecar.ready()
                await self._watch.begin(home)
            except BaseException:
                await asyncio.shield(sidecar.stop(0))  # harmless for one that has ended
                raise
        except BaseException:
            self._office.dismiss_sidecar(token)
            await asyncio.shield(stage.remove())
            raise
        return home

    @staticmethod
    def _broken(holder: list[Home], error: ProtocolError) -> None:
        if holder:
            holder[0].sidecar.broken(error)

    def _wrote(self, holder: list[Home], line: str) -> None:
        if self._owner is not None and holder:
            self._owner.sidecar_wrote(holder[0], line)

    def _said(self, home: Home, method: str, params: msgspec.Raw) -> None:
        if self._owner is not None:
            self._owner.sidecar_said(home, method, params)

    def _killed(self, home: Home, kill: Kill) -> None:
        name = home.sidecar.order.name
        self._emit(SidecarKilled(module=home.lone_code, sidecar=name, cause=kill.cause, reason=kill.reason))

    def _down(self, home: Home, error: CoreDenoError) -> None:
        if self._owner is not None:
            self._owner.sidecar_ended(home, error)

    def _ended(self, home: Home, error: CoreDenoError | None) -> None:
        self._homes.discard(home)
        self._watch.end(home)
        self._office.dismiss_sidecar(home.sidecar.order.token)
        if self._spare is not None and home_of(self._spare) is home:
            self._spare = None
        if error is not None:
            _log.warning("%s ended: %s", home.sidecar.order.name, error)
        cleaning = asyncio.get_running_loop().create_task(home.stage.remove())
        self._cleaning.add(cleaning)
        cleaning.add_done_callback(self._cleaning.discard)
        if self._owner is not None:
            self._owner.sidecar_ended(home, error)

    async def _end(self, home: Home) -> None:
        await asyncio.shield(home.sidecar.stop(self._config.limits.unload_grace_s))
        await asyncio.shield(home.stage.remove())


class _Door:
    """One sidecar's door: the gateway for its Session, and the log for its output."""

    def __init__(self, office: TokenOffice, output: Callable[[str], None]) -> None:
        self._office = office
        self.output = output

    def open_session(self, token: str, send: Callable[..., None]) -> SessionReceiver:
        return self._office.open_session(token, send)


def _health(home: Home, now: float) -> SidecarHealth:
    sidecar, vitals = home.sidecar, home.vitals
    return SidecarHealth(
        name=sidecar.order.name,
        pid=sidecar.pid,
        state=sidecar.state,
        modules=tuple(sorted(place.code for place in home.places if place.code)),
        memory_bytes=vitals.used_bytes,
        heartbeat_age_s=None if vitals.beat_at is None else now - vitals.beat_at,
        layers=sidecar.said.layers if sidecar.said is not None else (),
    )
