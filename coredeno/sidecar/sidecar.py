"""One sidecar: carries out what its machine decides, and is what the rest of the host talks to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from coredeno.errors import CoreDenoError, InternalError, SidecarExited
from coredeno.interfaces import Clock, HostDoor, Launcher, LaunchOrder, SidecarProcess, SidecarReady, Timer
from coredeno.sidecar import machine
from coredeno.sidecar.machine import SidecarMachine, State
from coredeno.sidecar.rpc import RpcClient
from coredeno.wire.codes import from_wire


class Sidecar:
    """A sidecar from its launch to its end. Made by the supervisor."""

    def __init__(
        self,
        order: LaunchOrder,
        *,
        launcher: Launcher,
        door: HostDoor,
        clock: Clock,
        lifecycle: SidecarMachine,
        on_pid: Callable[[int], None],
        on_notification: Callable[[str, msgspec.Raw], None],
        on_kill: Callable[[machine.Kill], None],
        on_down: Callable[[CoreDenoError], None],
        on_end: Callable[[CoreDenoError | None], None],
    ) -> None:
        """Plan it; `begin` launches it.

        Args:
            order: what is launched.
            launcher: by whom.
            door: how it reaches the host.
            clock: the host's.
            lifecycle: decides what is done with it.
            on_pid: told its process id as soon as there is one.
            on_notification: given what it says of itself on the JSON-RPC wire.
            on_kill: called once, when its process is killed, before anybody else hears of it.
            on_down: called when it is killed for what it did, before those who wait for its answers hear of it.
            on_end: called once when it is gone, with the reason (None if it was asked to end).
        """
        self.order = order
        self.pid: int = 0
        self.said: SidecarReady | None = None  # when it was ready to be connected to
        self.rpc: RpcClient = RpcClient(
            limit_bytes=order.message_bytes,
            clock=clock,
            on_notification=on_notification,
            on_broken=self.broken,
            on_lost=lambda: self._handle(machine.LinkLost()),
        )
        self._launcher = launcher
        self._door = door
        self._clock = clock
        self._machine = lifecycle
        self._on_pid = on_pid
        self._on_kill: Callable[[machine.Kill], None] | None = on_kill
        self._on_down = on_down
        self._on_end = on_end
        self._process: SidecarProcess | None = None
        self._timer: Timer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._launching: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[CoreDenoError] = loop.create_future()

    @property
    def alive(self) -> bool:
        """Whether it can be used, or soon can."""
        return self._machine.state in (State.LAUNCHING, State.HANDSHAKING, State.CONNECTING, State.READY)

    @property
    def is_ready(self) -> bool:
        """Whether it can be used now."""
        return self._machine.state is State.READY

    @property
    def state(self) -> str:
        """Where it is in its life, such as `ready`; see `machine.State`."""
        return self._machine.state.value

    def begin(self) -> None:
        """Launch it."""
        self._carry_out(self._machine.begin())
        self._launching = self._spawn(self._launch())

    async def ready(self) -> None:
        """Wait until it can be used.

        Raises:
            CoreDenoError: it could not be started; nothing of it is left then.
        """
        await asyncio.shield(self._ready)

    async def stop(self, grace_s: float) -> None:
        """End it: ask, wait the grace, kill. Returns when the process is gone. Harmless twice."""
        self._handle(machine.StopAsked(grace_s))
        await asyncio.shield(self._ended)

    async def ended(self) -> CoreDenoError:
        """Wait until it is gone, and give why; for one that was asked to end, a `SidecarExited` that says so."""
        return await asyncio.shield(self._ended)

    def broken(self, error: CoreDenoError) -> None:
        """Kill it: it broke the wire's rules, or is of no more use."""
        was_up = self.is_ready
        self._handle(machine.Broken(error))
        if was_up:
            self._on_down(error)

    # --- carrying out

    def _handle(self, event: machine.Event) -> None:
        self._carry_out(self._machine.handle(event))

    def _carry_out(self, instructions: list[machine.Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case machine.Watch():
                    self._spawn(self._watch())
                case machine.AwaitReady():
                    self._spawn(self._attempt(self._await_ready()))
                case machine.Connect():
                    self._spawn(self._attempt(self._connect()))
                case machine.SetTimer(delay_s):
                    self._set_timer(delay_s)
                case machine.AskShutdown(grace_s):
                    self._spawn(self._ask_shutdown(grace_s))
                case machine.Kill():
                    self._kill(instruction)
                case machine.AnnounceReady():
                    if not self._ready.done():
                        self._ready.set_result(None)
                case machine.AnnounceEnd(error):
                    self._announce_end(error)

    def _kill(self, kill: machine.Kill) -> None:
        if self._process is not None:
            self._process.kill()
            tell, self._on_kill = self._on_kill, None
            if tell is not None and not kill.has_ended:
                tell(kill)
        elif self._launching is not None:
            self._launching.cancel()

    def _announce_end(self, error: CoreDenoError | None) -> None:
        reason = error or SidecarExited(reason=f"{self.order.name} was stopped", exit_code=0)
        self.rpc.fail(reason)
        if not self._ready.done():
            self._ready.set_exception(reason)
            self._ready.exception()  # nobody may be waiting
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        if not self._ended.done():
            self._ended.set_result(reason)
        self._on_end(error)

    def _set_timer(self, delay_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay_s is not None:
            self._timer = self._clock.call_later(delay_s, lambda: self._handle(machine.TimePassed()))

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=f"{self.order.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- the steps

    async def _launch(self) -> None:
        try:
            self._process = await self._launcher.launch(self.order, self._door)
        except CoreDenoError as error:
            self._handle(machine.StepFailed(error, alive=False))
            return
        except asyncio.CancelledError:
            stopped = SidecarExited(reason=f"{self.order.name}: its launch was called off", exit_code=None)
            self._handle(machine.StepFailed(stopped, alive=False))
            raise
        except Exception as error:  # noqa: BLE001 - a launcher of the app's own may raise anything
            self._handle(machine.StepFailed(_bug("launch", error), alive=False))
            return
        self.pid = self._process.pid
        self._on_pid(self.pid)
        self._handle(machine.Launched())

    async def _attempt(self, step: Any) -> None:
        try:
            await step
        except CoreDenoError as error:
            self._handle(machine.StepFailed(error))
        except Exception as error:  # noqa: BLE001 - a launcher of the app's own may raise anything
            self._handle(machine.StepFailed(_bug("start", error)))

    async def _await_ready(self) -> None:
        assert self._process is not None
        self.said = await self._process.ready()
        self._handle(machine.ReadySaid(self.said))

    async def _watch(self) -> None:
        assert self._process is not None
        self._handle(machine.Exited(await self._process.wait()))

    async def _connect(self) -> None:
        assert self._process is not None
        await self._process.connect(self.rpc)
        # One ping tries both wires: its answer waits for a round trip to the store over the Session.
        reply = await self.rpc.request("Ping", {"session": True})
        if reply.error is not None:
            raise from_wire(reply.error, module=self.order.name)
        self._handle(machine.Connected())

    async def _ask_shutdown(self, grace_s: float) -> None:
        with contextlib.suppress(CoreDenoError):
            await self.rpc.request("Shutdown", {"grace_ms": grace_s * 1000})


def _bug(what: str, error: Exception) -> InternalError:
    bug = InternalError(f"{what}: {type(error).__name__}: {error}")
    bug.__cause__ = error
    return bug
