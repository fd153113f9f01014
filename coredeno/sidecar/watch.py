"""Watches over the sidecars of a host: asks each for a sign of life, and reads what memory they use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

import msgspec

from coredeno.errors import CoreDenoError, InternalError, ProtocolError, SidecarExited
from coredeno.interfaces import Clock
from coredeno.services.threads import in_thread
from coredeno.sidecar.homes import Home, Place
from coredeno.sidecar.process_memory import ProcessMemory, Readings
from coredeno.sidecar.process_time import ProcessTime
from coredeno.sidecar.rpc import Reply
from coredeno.sidecar.vitals import Beat, HangLimit, longest_report
from coredeno.wire.typed import decoder_for

# A plugin takes some 400 MB a second at most, so this is also how far it can get.
_MEMORY_EVERY_S = 0.5
_FIRST_TRIES = 10
_log = logging.getLogger("coredeno.sidecar")
_MIB = 1024 * 1024


class SidecarWatch:
    """The watch of one host. A sidecar that fails is killed, with the reason; its owner hears of it as of any end."""

    def __init__(self, *, clock: Clock, heartbeat_s: float, hang_s: float, memory_mb: int) -> None:
        """Make it; nothing is watched yet.

        Args:
            clock: the host's.
            heartbeat_s: how often each sidecar is asked.
            hang_s: how long one may not answer, or a module be busy.
            memory_mb: what a sidecar without modules may use.
        """
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._hang_s = hang_s
        self._memory_mb = memory_mb
        self._memory = ProcessMemory()
        self._time = ProcessTime()
        self._is_told: bool | None = None  # whether the system tells of memory; None until it was asked
        self._beats: dict[Home, asyncio.Task[None]] = {}
        self._unread: set[Home] = set()  # those of which the system does not tell
        self._is_unreadable = False
        self._reading: asyncio.Task[None] | None = None
        self._looks: dict[Place, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, home: Home) -> None:
        """Watch a sidecar that is ready, and in which no plugin has run yet. Harmless if it has died meanwhile.

        Raises:
            SidecarExited: what memory it uses could not be read for seconds, though the system tells; it lives still.
        """
        pid = home.sidecar.pid
        if pid and not await self._weigh(home, pid):
            self._unread.add(home)
            self._kill(home, await self._beat(home))
        if not home.sidecar.is_ready:
            self._unread.discard(home)
            return
        self._beats[home] = self._spawn(self._listen(home))
        if self._reading is None and pid and home not in self._unread:
            self._reading = self._spawn(self._read())

    def look_at(self, place: Place, *, patience_s: float) -> None:
        """A module may hang: end its sidecar if it does not answer for `patience_s` from now. One look at a time."""
        if place not in self._looks:
            self._looks[place] = look = self._spawn(self._look(place, patience_s))
            look.add_done_callback(lambda _look: self._looks.pop(place, None))

    async def _look(self, place: Place, patience_s: float) -> None:
        # The first question is the one that its Worker does not answer; the second is how long that has been so. How
        # long it was busy before is nobody's concern, nor is what its neighbours do: they have `hang_s`.
        first = await self._beat(place.home, patience_s, "cancel_grace_s", only=())
        if first is None:
            await self._sleep(patience_s)
        if place.is_watched:  # else it ends, and has another deadline for that
            second = first or await self._beat(place.home, patience_s, "cancel_grace_s", only=[place.code])
            self._kill(place.home, second)

    def end(self, home: Home) -> None:
        """Watch it no more. Harmless if it was not."""
        self._unread.discard(home)
        task = self._beats.pop(home, None)
        if task is not None:
            task.cancel()

    async def aclose(self) -> None:
        """Watch nothing any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the heartbeat

    async def _listen(self, home: Home) -> None:
        while True:
            await self._sleep(self._heartbeat_s)
            try:
                self._kill(home, await self._beat(home))
            except Exception as error:  # noqa: BLE001 - a bug; but what cannot be judged may not live on unwatched
                name = home.sidecar.order.name
                _log.exception("the heartbeat of %s failed", name)
                self._kill(home, InternalError(f"{name}: its heartbeat failed: {type(error).__name__}"))

    async def _beat(
        self,
        home: Home,
        hang_s: float | None = None,
        limit: HangLimit = "hang_s",
        *,
        only: Collection[str] | None = None,
    ) -> CoreDenoError | None:
        hang_s = hang_s or self._hang_s
        try:
            reply = await home.sidecar.rpc.request("Ping", {}, timeout_s=hang_s)
        except TimeoutError:
            return home.vitals.no_beat(codes=home.codes, hang_s=hang_s, limit=limit)
        except CoreDenoError:
            return None  # it has ended, and whoever is concerned is told why
        watched = _watched(home) if only is None else only
        return self._heard(home, reply, watched, hang_s, limit)

    def _heard(
        self, home: Home, reply: Reply, watched: Collection[str], hang_s: float, limit: HangLimit
    ) -> CoreDenoError | None:
        name = home.sidecar.order.name
        if reply.error is not None:
            return ProtocolError(f"{name}: Ping: answered with an error")
        if reply.result_bytes > longest_report(len(home.places)):
            return ProtocolError(f"{name}: Ping: its answer has {reply.result_bytes:,} bytes")
        try:
            beat: Beat = reply.result(decoder_for(Beat))
        except (msgspec.MsgspecError, ProtocolError, RecursionError) as error:
            return ProtocolError(f"{name}: Ping: {error}")
        if home in self._unread:
            self._judge_memory({home: beat.rss_bytes})
        return home.vitals.take_beat(
            beat,
            now=self._clock.now(),
            watched=watched,
            hang_s=hang_s,
            limit=limit,
            is_shared=len(home.codes) > 1,
        )

    # --- memory

    async def _weigh(self, home: Home, pid: int) -> bool:
        """Take the first reading, by which all later ones are judged; False if the system tells of none."""
        tries_left = _FIRST_TRIES
        while home.sidecar.is_ready:
            problem = await self._first_reading(home, pid)
            if problem is None:
                return bool(self._is_told)
            name = home.sidecar.order.name
            tries_left -= 1
            if not tries_left:
                reason = (
                    f"{name}: its memory cannot be read ({problem}), and so not be held to Limits.memory_mb"
                )
                raise SidecarExited(reason=reason, exit_code=None)
            _log.warning("the memory of %s could not be read, and is tried again: %s", name, problem)
            await self._sleep(_MEMORY_EVERY_S)
        return True

    async def _first_reading(self, home: Home, pid: int) -> Exception | None:
        try:
            if self._is_told is None:
                self._is_told = await in_thread(self._memory.is_told)
            if not self._is_told:
                return None
            readings, times_s = await in_thread(lambda: self._read_use({home: pid}))
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread is left
            return error
        _note_time(times_s)
        self._judge_memory(readings.used)
        return readings.problems.get(home)

    async def _read(self) -> None:
        while True:
            await self._sleep(_MEMORY_EVERY_S)
            pids = {home: home.sidecar.pid for home in self._beats if home.sidecar.pid}
            pids = {home: pid for home, pid in pids.items() if home not in self._unread}
            if not pids:
                continue
            try:
                readings, times_s = await in_thread(lambda pids=pids: self._read_use(pids))  # type: ignore[misc]
                _note_time(times_s)
                self._judge_memory(readings.used)
                self._tell_unreadable(next(iter(readings.problems.values()), None))
            except Exception as error:  # noqa: BLE001 - such as no thread left; the watch goes on, or it holds nobody
                self._tell_unreadable(error)

    def _read_use(self, pids: Mapping[Home, int]) -> tuple[Readings[Home], dict[Home, float]]:
        return self._memory.read(pids), self._time.read(pids)

    def _tell_unreadable(self, problem: Exception | None) -> None:
        """Log that memory cannot be read when that begins, not with each try."""
        if problem is not None and not self._is_unreadable:
            _log.error(
                "the memory of sidecars cannot be read, and is tried again: %s", problem, exc_info=problem
            )
        self._is_unreadable = problem is not None

    def _judge_memory(self, used: Mapping[Home, int]) -> None:
        for home, used_bytes in used.items():
            memory_mb = self._memory_mb if home.need is None else home.need.heap_mb
            allowed_bytes = memory_mb * max(1, len(home.places)) * _MIB
            self._kill(home, home.vitals.take_memory(used_bytes, allowed_bytes=allowed_bytes))

    # --- both

    def _kill(self, home: Home, error: CoreDenoError | None) -> None:
        # One that is ending already has its grace, and one that died keeps the reason that it died of.
        if error is not None and home.sidecar.is_ready:
            home.sidecar.broken(error)

    async def _sleep(self, delay_s: float) -> None:
        awake = asyncio.Event()
        timer = self._clock.call_later(delay_s, awake.set)
        try:
            await awake.wait()
        finally:
            timer.cancel()

    def _spawn(self, work: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name="watch over sidecars")  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _note_time(times_s: Mapping[Home, float]) -> None:
    for home, cpu_s in times_s.items():
        home.vitals.cpu_s = cpu_s


def _watched(home: Home) -> list[str]:
    return [place.code for place in home.places if place.code and place.is_watched]
