"""Brings modules that went down back, as each one's `RestartMachine` says."""

from __future__ import annotations

import asyncio
from random import SystemRandom
from typing import Protocol

from coredeno.config import RestartPolicy
from coredeno.errors import CoreDenoError
from coredeno.interfaces import Clock, Timer
from coredeno.module import Module
from coredeno.restarts import (
    Event,
    GiveUp,
    Load,
    Loaded,
    Removed,
    RestartMachine,
    StopWaiting,
    TimePassed,
    Wait,
    WentDown,
    failed,
)


class ModuleKeeper(Protocol):
    """What a revival needs of whoever holds the modules."""

    async def load_again(self, module: Module) -> None:
        """Bring a module that went down up again, once nothing of its former life is left.

        Raises:
            CoreDenoError: it did not come up; nothing of the attempt is left.
        """
        ...

    def will_restart(self, module: Module, error: CoreDenoError, delay_s: float, attempt: int) -> None:
        """It went down, or did not come up, and is started again after so many seconds."""
        ...

    def given_up(self, module: Module, error: CoreDenoError, *, is_spent: bool) -> None:
        """It is not started again; `is_spent`: for it went down too often."""
        ...


class Revival:
    """The restarts of all modules of a host."""

    def __init__(self, policy: RestartPolicy, keeper: ModuleKeeper, *, clock: Clock) -> None:
        """Make it; it has no modules yet."""
        self._policy = policy
        self._keeper = keeper
        self._clock = clock
        self._lives: dict[Module, _Life] = {}

    def came_up(self, module: Module) -> None:
        """A module has come up for the first time: it is brought back from now on."""
        machine = RestartMachine(self._policy, now=self._clock.now(), random=SystemRandom().random)
        self._lives[module] = _Life(module, machine, self._keeper, self._clock)

    def knows(self, module: Module) -> bool:
        """Whether a module is brought back."""
        return module in self._lives

    def went_down(self, module: Module, error: CoreDenoError, *, is_to_blame: bool) -> None:
        """A module that is known went down, while it ran or while it was being loaded again."""
        self._lives[module].went_down(error, is_to_blame=is_to_blame)

    def drop(self, module: Module) -> None:
        """Forget a module that was given up."""
        del self._lives[module]

    async def remove(self, module: Module) -> None:
        """Bring a module back no more; a load of it that is under way has ended then. Harmless twice."""
        life = self._lives.pop(module, None)
        if life is not None:
            await life.end()


class _Life:
    """One module's machine, with its timer and its load."""

    def __init__(self, module: Module, machine: RestartMachine, keeper: ModuleKeeper, clock: Clock) -> None:
        self._module = module
        self._machine = machine
        self._keeper = keeper
        self._clock = clock
        self._error: CoreDenoError | None = None
        self._timer: Timer | None = None
        self._loading: asyncio.Task[None] | None = None

    def went_down(self, error: CoreDenoError, *, is_to_blame: bool) -> None:
        self._error = error
        self._handle(WentDown(self._clock.now(), is_to_blame))

    async def end(self) -> None:
        self._handle(Removed())
        loading, self._loading = self._loading, None
        if loading is not None and loading is not asyncio.current_task():
            loading.cancel()
            await asyncio.wait([loading])

    def _handle(self, event: Event) -> None:
        for instruction in self._machine.handle(event):
            match instruction:
                case Wait(delay_s, attempt):
                    assert self._error is not None
                    self._timer = self._clock.call_later(delay_s, self._waited)
                    self._keeper.will_restart(self._module, self._error, delay_s, attempt)
                case StopWaiting():
                    assert self._timer is not None
                    self._timer.cancel()
                case Load():
                    self._loading = asyncio.get_running_loop().create_task(
                        self._load(), name=f"coredeno restart {self._module.code}"
                    )
                case GiveUp(is_spent):
                    assert self._error is not None
                    self._keeper.given_up(self._module, self._error, is_spent=is_spent)

    def _waited(self) -> None:
        self._handle(TimePassed())

    async def _load(self) -> None:
        try:
            await self._keeper.load_again(self._module)
        except CoreDenoError as error:
            self._error = error
            self._handle(failed(error, self._clock.now()))
        else:
            self._handle(Loaded(self._clock.now()))
