"""Sidecars as one host has them, on fakes: spares, places, sharing, and nothing left behind."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coredeno import HostConfig, Limits
from coredeno.errors import (
    CoreDenoError,
    DenoNotFound,
    InternalError,
    ProtocolError,
    SidecarExited,
    StoreError,
    UsageError,
)
from coredeno.gateway.gate import Gate
from coredeno.gateway.gateway import Gateway
from coredeno.interfaces import SidecarReady
from coredeno.permissions import OpenAccess
from coredeno.services.builtin import NoParams
from coredeno.services.method import Method
from coredeno.sidecar.homes import Need
from coredeno.sidecar.supervisor import Supervisor
from coredeno.testing import FakeLauncher, TurnedClock
from coredeno.wire.typed import TypedDecoder

LIMITS = Limits(memory_mb=64)
PLAIN = Need(group="g", net=(), heap_mb=64)
WITH_NET = Need(group="g", net=("a.example:443",), heap_mb=64)


class HeldLauncher(FakeLauncher):
    """Launches when it may, fails when it shall."""

    def __init__(self):
        super().__init__({})
        self.free = asyncio.Event()
        self.free.set()
        self.asked = asyncio.Event()
        self.done = asyncio.Event()
        self.errors: list[BaseException] = []
        self.called_off = 0

    async def launch(self, order, door):
        self.asked.set()
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.called_off += 1
            raise
        if self.errors:
            raise self.errors.pop(0)
        sidecar = await super().launch(order, door)
        self.adapt(sidecar)
        self.done.set()
        return sidecar

    def adapt(self, sidecar):
        """Change what was launched."""


class Owner:
    """Hears what a host would hear."""

    def __init__(self):
        self.said: list[Any] = []
        self.wrote: list[str] = []
        self.ended: list[tuple[str, Any]] = []
        self.news = asyncio.Event()

    def sidecar_said(self, home, method, params):
        self.said.append((home.sidecar.order.name, method, bytes(params)))

    def sidecar_wrote(self, home, line):
        self.wrote.append(line)

    def sidecar_ended(self, home, error):
        self.ended.append((home.sidecar.order.name, error))
        self.news.set()


class World:
    def __init__(self, folder: Path, isolation="process"):
        self.clock = TurnedClock()
        self.launcher = HeldLauncher()
        self.owner = Owner()
        self.events: list[Any] = []
        self.health: BaseException | None = None
        health = Method(
            "health.check", TypedDecoder(NoParams), lambda *_: OpenAccess(), self.check, for_sidecar=True
        )
        self.gateway = Gateway(
            Gate([health], lambda _event: None),
            clock=self.clock,
            message_bytes=LIMITS.message_bytes,
            requests_in_flight=10,
            emit=lambda _event: None,
        )
        self.run = folder / "run"
        self.run.mkdir()
        self.supervisor = Supervisor(
            config=HostConfig(isolation=isolation, limits=LIMITS, start_timeout_s=20),
            launcher=self.launcher,
            office=self.gateway,
            clock=self.clock,
            run_folder=self.run,
            socket_folder=folder,
            core_socket=folder / "core.sock",
            cache=folder / "cache",
            emit=self.events.append,
        )

    async def check(self, _caller, _params):
        if self.health:
            raise self.health
        return {"ok": True}

    async def start(self):
        await self.supervisor.start(self.owner)
        return self

    @property
    def launched(self):
        return [sidecar._order.name for sidecar in self.launcher.sidecars]

    @property
    def alive(self):
        return [sidecar._order.name for sidecar in self.launcher.sidecars if not sidecar._exit.done()]

    async def spare(self):
        """The spare, when it is ready."""
        return await asyncio.shield(self.supervisor._spare)

    async def clean(self):
        """What is removed in the background is gone."""
        while self.supervisor._cleaning:
            await asyncio.gather(*self.supervisor._cleaning)

    async def close(self):
        self.launcher.free.set()
        await self.supervisor.aclose()
        assert self.alive == []
        assert list(self.run.iterdir()) == []
        assert self.gateway._peers == {}
        assert self.clock.waiting == 0


@pytest.fixture
async def made(tmp_path):
    """Makes a world of an isolation; closes it, so that a test that failed leaves nothing behind."""
    worlds = []

    def make(isolation="process"):
        worlds.append(World(tmp_path, isolation))
        return worlds[-1]

    yield make
    for world in worlds:
        world.launcher.free.set()
        await world.supervisor.aclose()


BOTH = pytest.mark.parametrize("isolation", ["process", "worker"])


# --- the spare


@BOTH
async def test_the_start_makes_one_spare(made, isolation, tmp_path):
    """It was launched as its order says, and answered over both wires."""
    world = await made(isolation).start()
    (sidecar,) = world.launcher.sidecars
    order = sidecar._order
    assert order.name == "sidecar-1"
    assert order.isolation == isolation
    assert order.heap_mb == 64
    assert order.message_bytes == LIMITS.message_bytes
    assert order.core_socket == tmp_path / "core.sock"
    assert order.worker.net == ()
    assert order.worker.root.is_dir()
    assert order.worker.root.parent == order.stage
    assert not order.deno_dir.is_relative_to(order.stage)
    assert order.stage.is_relative_to(world.run)
    assert world.gateway.peer(order.token).name == "sidecar-1"
    assert world.gateway.peer(order.token).session is not None
    await world.close()


@BOTH
async def test_the_first_module_gets_the_spare(made, isolation):
    """A module without net and with the default limits waits for no process; a new spare is started after it."""
    world = await made(isolation).start()
    place = await world.supervisor.take_place(PLAIN)
    assert world.launched == ["sidecar-1"]
    assert place.root == place.sidecar.order.worker.root
    assert place.token == place.sidecar.order.token
    world.supervisor.replenish()
    world.supervisor.replenish()
    await world.spare()
    assert world.launched == ["sidecar-1", "sidecar-2"]
    await world.close()


def let_die(world, deaths):
    """Each of the next sidecars dies as soon as it is ready, before anybody has a place in it."""
    begin = world.supervisor._watch.begin

    async def begin_and_die(home):
        nonlocal deaths
        await begin(home)
        if deaths:
            deaths -= 1
            world.owner.news.clear()
            world.launcher.sidecars[-1].kill(-5)
            await world.owner.news.wait()

    world.supervisor._watch.begin = begin_and_die


@BOTH
async def test_sidecars_that_die_as_soon_as_they_are_ready(made, isolation):
    """Another one is tried."""
    world = await made(isolation).start()
    let_die(world, 2)
    place = await world.supervisor.take_place(WITH_NET)
    assert place.sidecar.alive
    assert world.alive == ["sidecar-1", "sidecar-4"]
    await world.close()


@BOTH
async def test_sidecars_that_all_die_as_soon_as_they_are_ready(made, isolation):
    """After the third one the reason why it ended is told, whoever asks; nothing is left of them."""
    world = await made(isolation).start()
    let_die(world, 50)
    for _ in range(2):
        with pytest.raises(SidecarExited, match="out of memory") as caught:
            await world.supervisor.take_place(WITH_NET)
        assert caught.value.exit_code == -5
    assert len(world.launched) == 1 + 2 * 3
    assert world.alive == ["sidecar-1"]
    await world.clean()
    assert [folder.name for folder in world.run.iterdir()] == ["sidecar-1"]
    assert len(world.gateway._peers) == 1
    await world.close()


@BOTH
@pytest.mark.parametrize("need", [WITH_NET, Need("g", (), 32)])
async def test_a_module_with_flags_of_its_own(made, isolation, need):
    """It gets a sidecar launched with exactly its flags; the spare stays a spare."""
    world = await made(isolation).start()
    place = await world.supervisor.take_place(need)
    order = place.sidecar.order
    assert (order.name, order.worker.net, order.heap_mb) == ("sidecar-2", need.net, need.heap_mb)
    assert (await world.spare()).sidecar.order.name == "sidecar-1"
    await world.close()


@BOTH
async def test_a_spare_that_is_still_starting(made, isolation):
    """It is waited for, and no second one is started."""
    world = await made(isolation).start()
    first = await world.supervisor.take_place(PLAIN)
    world.launcher.free.clear()
    world.launcher.asked.clear()
    world.supervisor.replenish()
    taking = asyncio.create_task(world.supervisor.take_place(msgspec.structs.replace(PLAIN, group="h")))
    await world.launcher.asked.wait()
    await world.clock.turn(0)
    assert not taking.done()
    world.launcher.free.set()
    second = await taking
    assert world.launched == ["sidecar-1", "sidecar-2"]
    assert second.home is not first.home
    await world.close()


@BOTH
async def test_a_spare_that_has_died(made, isolation):
    """Nobody is given a dead one: a new sidecar is started."""
    world = await made(isolation).start()
    world.launcher.sidecars[0].kill()
    await world.owner.news.wait()
    place = await world.supervisor.take_place(PLAIN)
    assert place.sidecar.alive
    assert world.launched == ["sidecar-1", "sidecar-2"]
    assert [name for name, _ in world.owner.ended] == ["sidecar-1"]
    await world.close()


@BOTH
async def test_a_spare_that_could_not_start(made, isolation):
    """Its failure harms nobody: whoever needs a sidecar tries afresh, and hears of that try."""
    world = await made(isolation).start()
    await world.supervisor.take_place(PLAIN)
    world.launcher.errors = [DenoNotFound("first"), DenoNotFound("second")]
    world.supervisor.replenish()
    other = msgspec.structs.replace(PLAIN, group="h")
    with pytest.raises(DenoNotFound, match="second"):
        await world.supervisor.take_place(other)
    assert (await world.supervisor.take_place(other)).sidecar.alive
    await world.close()


async def test_the_cache_of_the_first_spare_is_kept(made, tmp_path):
    """What it compiled of our own runtime is there for later ones; what exists already is left alone."""
    world = made()
    world.launcher.free.clear()
    starting = asyncio.create_task(world.start())
    await world.launcher.asked.wait()
    (folder,) = world.run.iterdir()
    (folder / "deno" / "compiled").write_text("x")
    world.launcher.free.set()
    await starting
    assert (tmp_path / "cache" / "compiled").read_text() == "x"
    place = await world.supervisor.take_place(WITH_NET)
    assert (place.sidecar.order.deno_dir / "compiled").read_text() == "x"
    (await world.spare()).stage.deno_dir.joinpath("later").write_text("y")
    await (await world.spare()).stage.keep_cache(tmp_path / "cache")
    assert not (tmp_path / "cache" / "later").exists()
    await world.close()


# --- sharing


async def test_each_module_has_a_process_of_its_own(made):
    """In process isolation nothing is shared, whatever the needs."""
    world = await made().start()
    places = [await world.supervisor.take_place(PLAIN) for _ in range(3)]
    assert len({place.home for place in places}) == 3
    assert len({place.token for place in places}) == 3
    await world.close()


@pytest.mark.parametrize(
    ("other", "shares"),
    [
        (PLAIN, True),
        (Need("h", (), 64), False),
        (Need("g", ("a.example",), 64), False),
        (Need("g", (), 32), False),
    ],
    ids=["same", "other group", "other net", "other heap"],
)
async def test_modules_of_one_group_and_need_share_a_sidecar(made, other, shares):
    """In worker isolation: group, net and heap must be the same; each module has a folder of its own."""
    world = await made("worker").start()
    first, second = await world.supervisor.take_place(PLAIN), await world.supervisor.take_place(other)
    assert (first.home is second.home) == shares
    assert first.root != second.root
    assert second.root.is_dir()
    assert second.root.is_relative_to(second.sidecar.order.stage)
    await world.close()


@pytest.mark.parametrize("need", [PLAIN, WITH_NET])
async def test_loads_at_once_share_too(made, need):
    """Whoever comes while the shared sidecar starts waits for it."""
    world = await made("worker").start()
    places = await asyncio.gather(*(world.supervisor.take_place(need) for _ in range(5)))
    assert len({place.home for place in places}) == 1
    assert len({place.root for place in places}) == 5
    assert len(world.alive) == (1 if need is PLAIN else 2)
    await world.close()


@BOTH
async def test_the_last_one_out_ends_the_sidecar(made, isolation):
    """A sidecar lives as long as a module is in it; leaving twice is harmless."""
    world = await made(isolation).start()
    places = [await world.supervisor.take_place(WITH_NET) for _ in range(2)]
    await world.supervisor.give_up(places[0])
    await world.supervisor.give_up(places[0])
    assert places[1].sidecar.alive
    assert places[0].sidecar.alive == (isolation == "worker")
    await world.supervisor.give_up(places[1])
    await world.supervisor.give_up(places[1])
    assert world.alive == ["sidecar-1"]
    assert {error for _, error in world.owner.ended} == {None}
    await world.clean()
    assert [folder.name for folder in world.run.iterdir()] == ["sidecar-1"]
    again = await world.supervisor.take_place(WITH_NET)
    assert again.sidecar.alive
    await world.close()


async def test_a_shared_sidecar_that_has_died(made):
    """The next module gets a new one, which others share, also after the last one has left the dead one."""
    world = await made("worker").start()
    first = await world.supervisor.take_place(PLAIN)
    world.launcher.sidecars[0].kill()
    await world.owner.news.wait()
    second = await world.supervisor.take_place(PLAIN)
    assert second.home is not first.home
    await world.supervisor.give_up(first)
    third = await world.supervisor.take_place(PLAIN)
    assert third.home is second.home
    await world.close()


# --- failing to start


@BOTH
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DenoNotFound("none"), DenoNotFound),
        (SidecarExited(reason="no memory", exit_code=None), SidecarExited),
        (ValueError("a bug in a launcher of the app"), InternalError),
        (OSError("too many open files"), InternalError),
    ],
)
async def test_a_launcher_that_fails(made, isolation, error, kind):
    """The error is told, as one of ours, and nothing is left."""
    world = made(isolation)
    world.launcher.errors = [error]
    with pytest.raises(kind):
        await world.start()
    await world.clean()
    assert list(world.run.iterdir()) == []
    assert world.gateway._peers == {}
    await world.close()


class BrokenSidecars(HeldLauncher):
    """Each sidecar has one method replaced."""

    def __init__(self, name, method):
        super().__init__()
        self.name, self.method = name, method

    def adapt(self, sidecar):
        setattr(sidecar, self.name, self.method)


def raising(error):
    async def step(*_args):
        raise error

    return step


def saying(ready):
    async def step():
        return ready

    return step


@pytest.mark.parametrize(
    ("name", "method", "kind"),
    [
        ("ready", raising(ProtocolError("its first line is none")), ProtocolError),
        ("ready", raising(SidecarExited(reason="ended", exit_code=None)), SidecarExited),
        ("ready", raising(OSError("a bug")), InternalError),
        ("ready", saying(SidecarReady(protocol=9, deno="2.9.0", pid=1)), ProtocolError),
        ("ready", saying(SidecarReady(protocol=1, deno="1.0.0", pid=1)), DenoNotFound),
        ("connect", raising(SidecarExited(reason="no socket", exit_code=None)), SidecarExited),
        ("connect", raising(ConnectionRefusedError("a bug")), InternalError),
    ],
)
async def test_a_sidecar_that_fails_while_it_starts(made, name, method, kind):
    """It is killed at once, whatever a step raises, and the first reason is told."""
    world = made()
    world.launcher = BrokenSidecars(name, method)
    world.supervisor._launcher = world.launcher
    starting = asyncio.create_task(world.start())
    await world.launcher.done.wait()
    await world.clock.turn(1)
    assert world.alive == []
    with pytest.raises(kind):
        await starting
    await world.clean()
    assert list(world.run.iterdir()) == []
    await world.close()


@pytest.mark.parametrize("name", ["ready", "connect"])
async def test_a_sidecar_that_hangs_while_it_starts(made, name):
    """After the time for starting it is killed, and the error says where it stood."""
    world = made()

    async def hang(*_args):
        await asyncio.Event().wait()

    world.launcher = BrokenSidecars(name, hang)
    world.supervisor._launcher = world.launcher
    starting = asyncio.create_task(world.start())
    await world.launcher.asked.wait()
    await world.clock.turn(19)
    assert not starting.done()
    await world.clock.turn(1)
    with pytest.raises(SidecarExited, match="was not ready after 20 s"):
        await starting
    assert [(killed.sidecar, killed.cause) for killed in world.events] == [("sidecar-1", "start")]
    await world.close()


async def test_a_launcher_that_hangs(made):
    """Its launch is called off after the time for starting."""
    world = made()
    world.launcher.free.clear()
    starting = asyncio.create_task(world.start())
    await world.launcher.asked.wait()
    await world.clock.turn(20)
    with pytest.raises(SidecarExited, match=r"was not ready after 20 s \(launching\)"):
        await starting
    assert world.launcher.called_off == 1
    assert world.events == []  # there was no process
    await world.close()


async def test_a_host_that_is_not_well(made):
    """A sidecar is ready only if a round trip to the store succeeded; its error is the reason."""
    world = made()
    world.health = StoreError("the disk is full")
    with pytest.raises(StoreError, match="the disk is full"):
        await world.start()
    assert world.alive == []
    await world.close()


# --- giving up


async def settle(world):
    await world.clock.turn(0)
    await world.clean()


async def test_a_take_that_was_cancelled_while_its_sidecar_started(made):
    """The sidecar is ended, its folders and its token are gone."""
    world = await made().start()
    await world.supervisor.take_place(PLAIN)
    for _ in range(2):
        world.launcher.free.clear()
        world.launcher.asked.clear()
        taking = asyncio.create_task(world.supervisor.take_place(WITH_NET))
        await world.launcher.asked.wait()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await settle(world)
        world.launcher.free.set()
    assert world.launcher.called_off == 2
    assert world.alive == ["sidecar-1"]
    assert [folder.name for folder in world.run.iterdir()] == ["sidecar-1"]
    assert len(world.gateway._peers) == 1
    await world.close()


async def test_a_take_that_was_cancelled_leaves_the_spare(made):
    """A spare that it waited for is still good for the next one."""
    world = await made().start()
    await world.supervisor.take_place(PLAIN)
    world.launcher.free.clear()
    world.launcher.asked.clear()
    world.supervisor.replenish()
    await world.launcher.asked.wait()
    taking = asyncio.create_task(world.supervisor.take_place(PLAIN))
    await world.clock.turn(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    world.launcher.free.set()
    assert (await world.supervisor.take_place(PLAIN)).sidecar.order.name == "sidecar-2"
    await world.close()


async def test_a_take_that_was_cancelled_after_the_next_spare_was_begun(made):
    """Of two spares one too many is ended: no sidecar runs that nobody knows of."""
    world = await made().start()
    await world.supervisor.take_place(PLAIN)
    world.launcher.free.clear()
    world.launcher.asked.clear()
    world.supervisor.replenish()
    await world.launcher.asked.wait()
    taking = asyncio.create_task(world.supervisor.take_place(PLAIN))
    await world.clock.turn(0)
    world.supervisor.replenish()
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    world.launcher.free.set()
    await world.spare()
    await settle(world)
    assert len(world.alive) == 2
    await world.close()


@pytest.mark.parametrize("need", [PLAIN, WITH_NET])
async def test_a_take_that_was_cancelled_in_a_group_that_nobody_else_is_in(made, need):
    """In worker isolation too nothing is left of it, when its sidecar has come up."""
    world = await made("worker").start()
    await world.supervisor.take_place(msgspec.structs.replace(PLAIN, group="other"))
    world.launcher.free.clear()
    world.launcher.asked.clear()
    taking = asyncio.create_task(world.supervisor.take_place(need))
    await world.launcher.asked.wait()
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    world.launcher.free.set()
    await settle(world)
    assert world.alive == ["sidecar-1"]
    await world.close()


async def test_a_take_that_was_cancelled_harms_no_other(made):
    """Whoever waits for the same shared sidecar gets it."""
    world = await made("worker").start()
    world.launcher.free.clear()
    world.launcher.asked.clear()
    tasks = [asyncio.create_task(world.supervisor.take_place(WITH_NET)) for _ in range(2)]
    await world.launcher.asked.wait()
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    world.launcher.free.set()
    place = await tasks[1]
    assert place.sidecar.alive
    await world.supervisor.give_up(place)
    assert world.alive == ["sidecar-1"]
    await world.close()


class HeldPath(type(Path())):  # type: ignore[misc]  # the platform's own kind of path
    """A folder beneath which one more folder is made when the test says so."""

    held: str | None = None
    free: threading.Event
    reached: threading.Event

    def mkdir(self, *args, **kwargs):
        if self.name == HeldPath.held:
            HeldPath.reached.set()
            assert HeldPath.free.wait(10)
        super().mkdir(*args, **kwargs)


@contextmanager
def held_folder(name):
    """Making a folder of this name waits until the block ends."""
    HeldPath.free, HeldPath.reached, HeldPath.held = threading.Event(), threading.Event(), name
    try:
        yield HeldPath.reached
    finally:
        HeldPath.held = None
        HeldPath.free.set()


@BOTH
async def test_a_take_that_was_cancelled_while_its_folders_were_made(made, isolation):
    """A thread cannot be cancelled: what it makes is removed when it has made it."""
    world = made(isolation)
    world.supervisor._run_folder = HeldPath(world.run)
    await world.start()
    with held_folder("sidecar-2") as reached:
        taking = asyncio.create_task(world.supervisor.take_place(WITH_NET))
        await asyncio.to_thread(reached.wait, 10)
        taking.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await taking
    await settle(world)
    assert [folder.name for folder in world.run.iterdir()] == ["sidecar-1"]
    assert len(world.gateway._peers) == 1


async def test_a_shared_sidecar_that_dies_while_a_place_is_made_in_it(made):
    """Nobody is given a place in a dead sidecar: there is an error of ours, or a place in a new one."""
    world = made("worker")
    world.supervisor._run_folder = HeldPath(world.run)
    await world.start()
    await world.supervisor.take_place(PLAIN)
    with held_folder("1") as reached:
        taking = asyncio.create_task(world.supervisor.take_place(PLAIN))
        await asyncio.to_thread(reached.wait, 10)
        world.launcher.sidecars[0].kill(-5)
        await world.owner.news.wait()
    (result,) = await asyncio.gather(taking, return_exceptions=True)
    assert isinstance(result, CoreDenoError) or result.sidecar.alive
    await world.close()


# --- the end


@BOTH
async def test_the_end_stops_everything(made, isolation):
    """Spare, taken and shared ones: all are gone, folders and tokens too; twice is harmless."""
    world = await made(isolation).start()
    for need in (PLAIN, PLAIN, WITH_NET):
        await world.supervisor.take_place(need)
    world.supervisor.replenish()
    await world.close()
    await world.close()
    assert len(world.owner.ended) == len(world.launched)
    with pytest.raises(UsageError, match="the host is stopping"):
        await world.supervisor.take_place(PLAIN)
    world.supervisor.replenish()
    assert world.alive == []


async def test_an_end_before_a_start(made):
    """There is nothing to stop."""
    await made().close()


@BOTH
@pytest.mark.parametrize("held", [True, False])
async def test_an_end_while_a_module_waits_for_its_sidecar(made, isolation, held):
    """Whoever waits is told or cancelled, and no sidecar comes up afterwards."""
    world = await made(isolation).start()
    if held:
        world.launcher.free.clear()
        world.launcher.asked.clear()
    taking = asyncio.create_task(world.supervisor.take_place(WITH_NET))
    if held:
        await world.launcher.asked.wait()
    else:
        await asyncio.sleep(0)
    closing = asyncio.create_task(world.supervisor.aclose())
    (result,) = await asyncio.gather(taking, return_exceptions=True)
    await closing
    assert isinstance(result, SidecarExited | UsageError | asyncio.CancelledError)
    assert world.alive == []
    await world.close()


async def test_a_sidecar_that_ends_by_itself(made, caplog):
    """Its owner hears why; its token, its folders and its Session are gone."""
    world = await made().start()
    place = await world.supervisor.take_place(PLAIN)
    session = world.gateway.peer(place.token).session
    with caplog.at_level(logging.WARNING, "coredeno.sidecar"):
        world.launcher.sidecars[0].kill(-5)
        await world.owner.news.wait()
    ((name, error),) = world.owner.ended
    assert name == "sidecar-1"
    assert isinstance(error, SidecarExited)
    assert error.exit_code == -5
    assert "out of memory" in caplog.text
    assert session is not None
    assert session._closed
    await world.clean()
    assert list(world.run.iterdir()) == []
    assert world.gateway._peers == {}
    await world.supervisor.give_up(place)
    await world.close()


async def test_a_sidecar_that_breaks_a_wire_is_killed(made):
    """On either wire; its owner hears which rule it broke."""
    for wire in ("session", "rpc"):
        world = await made().start() if wire == "session" else world  # noqa: F821 - made in the first round
        place = await world.supervisor.take_place(PLAIN)
        sidecar = next(
            each for each in world.launcher.sidecars if each._order.name == place.sidecar.order.name
        )
        world.owner.news.clear()
        if wire == "session":
            world.gateway.peer(place.token).session.receive(b"[", [])
        else:
            sidecar._transport.send(b"{\n")
        await world.owner.news.wait()
        name, error = world.owner.ended[-1]
        assert name == place.sidecar.order.name
        assert isinstance(error, ProtocolError)
        assert sidecar._exit.done()
        assert not place.sidecar.alive
    await world.close()


async def test_what_a_sidecar_says_goes_to_its_owner(made):
    """Notifications of its JSON-RPC wire, and lines of its output."""
    world = await made().start()
    (sidecar,) = world.launcher.sidecars
    sidecar._transport.send(b'{"jsonrpc":"2.0","method":"ModuleExited","params":{"code":"a"}}\n')
    sidecar._door.output("a line")
    await world.clock.turn(0)
    assert world.owner.said == [("sidecar-1", "ModuleExited", b'{"code":"a"}')]
    assert world.owner.wrote == ["a line"]
    await world.close()


async def test_a_sidecar_that_will_not_end(made):
    """After the grace it is killed."""
    world = made()
    stubborn = asyncio.Event()

    class Stubborn(HeldLauncher):
        def adapt(self, sidecar):
            sidecar._METHODS = {**sidecar._METHODS, "Shutdown": self.ignore}

        @staticmethod
        async def ignore(_sidecar, _params):
            stubborn.set()
            await asyncio.Event().wait()

    world.launcher = world.supervisor._launcher = Stubborn()
    await world.start()
    closing = asyncio.create_task(world.supervisor.aclose())
    await stubborn.wait()
    await world.clock.turn(1.9)
    assert world.alive == ["sidecar-1"]
    await world.clock.turn(0.1)
    await closing
    (killed,) = world.events
    assert (killed.module, killed.sidecar, killed.cause) == ("", "sidecar-1", "stop")
    await world.close()


async def test_a_sidecar_that_will_not_end_is_told_of_by_the_module_that_has_left(made):
    """Whoever was alone in it is named, though it is out by then."""
    world = await made().start()
    place = await world.supervisor.take_place(PLAIN)
    place.code = "a"
    sidecar = world.launcher.sidecars[0]

    async def ignore(_sidecar, _params):
        await asyncio.Event().wait()

    sidecar._METHODS = {**sidecar._METHODS, "Shutdown": ignore}
    leaving = asyncio.create_task(world.supervisor.give_up(place))
    await world.clock.turn(2)
    await leaving
    (killed,) = world.events
    assert (killed.module, killed.cause) == ("a", "stop")
    assert killed.reason == "sidecar-1 did not end when it was asked to"
    await world.close()


async def test_a_sidecar_that_ends_as_it_is_asked_to_is_not_killed(made):
    """No kill is told, for there is none."""
    world = await made().start()
    place = await world.supervisor.take_place(PLAIN)
    await world.supervisor.give_up(place)
    assert world.events == []
    await world.close()
