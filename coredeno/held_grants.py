"""What one loaded module may do at this moment, and which of its requests rely on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from coredeno.errors import PermissionDenied
from coredeno.grant import Grant, Permit, grants_of, is_touched, permits_in
from coredeno.interfaces import Clock, Timer
from coredeno.manifest import Manifest
from coredeno.optional_permits import OptionalPermits
from coredeno.permissions import Access, Grants, OpenAccess, check

_TAKEN_BACK: Final = "it was taken back while the request was under way"


class Use:
    """A request under way, and what it relies on. `via` is the grant that it used up, if it was for once."""

    __slots__ = ("access", "is_withdrawn", "task", "via")

    def __init__(self, task: asyncio.Task[object] | None, access: Access, via: Permit | None) -> None:
        self.task: asyncio.Task[object] | None = task
        self.access: Access = access
        self.via: Permit | None = via
        self.is_withdrawn: bool = False


class _Extra:
    """A permit that was given while the module ran."""

    __slots__ = ("grant", "permit", "timer")

    def __init__(self, permit: Permit, grant: Grant) -> None:
        self.permit = permit
        self.grant = grant
        self.timer: Timer | None = None


class _Program(msgspec.Struct, frozen=True):
    """A process that runs by a grant; `is_once` says that it used one up."""

    name: str
    is_once: bool


class Withdrawn(msgspec.Struct, frozen=True):
    """What was taken from a module: the permits, its requests that are ending, and processes that may not run on."""

    permits: tuple[Permit, ...]
    uses: tuple[Use, ...]
    process_ids: tuple[str, ...]


class HeldGrants:
    """The grants of one module from its load to its end. All methods belong to one event loop.

    Attributes:
        manifest: the module's.
        signer: the key that signed it, or None.
        grants: what it may do now, grants for once included.
        optional: what its manifest lets it ask for.
        removals: how often its plugin had been removed when it was loaded (`KeptGrants.removals`).
    """

    def __init__(
        self, manifest: Manifest, grants: Grants, *, signer: str | None, clock: Clock, removals: int = 0
    ) -> None:
        self.manifest: Manifest = manifest
        self.optional: OptionalPermits = OptionalPermits(manifest)
        self.signer: str | None = signer
        self.removals: int = removals
        self.grants: Grants = grants
        self._clock = clock
        self._base = list(permits_in(grants))
        self._extras: list[_Extra] = []
        self._steady = grants  # without those for once
        self._has_once = False
        self._uses: set[Use] = set()
        self._programs: dict[str, _Program] = {}  # by the id of the process
        self.on_change: Callable[[Grants], None] = lambda _grants: None

    @property
    def lasting(self) -> Grants:
        """What it may do without using anything up."""
        return self._steady

    @property
    def given(self) -> list[tuple[Permit, Grant]]:
        """Each permit that it has, and for how long."""
        at_load = [(permit, Grant.until_unloaded()) for permit in self._base]
        return [*at_load, *((extra.permit, extra.grant) for extra in self._extras)]

    # --- requests

    def begin(self, access: Access) -> Use | None:
        """Decide on a request of the running task, and note that it relies on the decision; None needs no `end`.

        Raises:
            PermissionDenied, InvalidArgument: as `permissions.check`.
        """
        via = None
        if self._has_once:
            via = self._used_up(access)
        else:
            check(self.manifest.code, self.grants, access)
        if isinstance(access, OpenAccess):
            return None
        use = Use(asyncio.current_task(), access, via)
        self._uses.add(use)
        return use

    def end(self, use: Use) -> None:
        """The request is over."""
        self._uses.discard(use)

    def denial(self, use: Use) -> PermissionDenied:
        """What a request is told whose permission was taken back; to be raised instead of its outcome."""
        try:
            check(self.manifest.code, self._steady, use.access)
        except PermissionDenied as denial:
            permission, resource = denial.permission, denial.resource
        else:  # it was for once, and something else allows it by now
            permit = use.via or Permit("unknown", "")
            permission, resource = permit.permission, permit.resource
        return PermissionDenied(
            module=self.manifest.code, permission=permission, resource=resource, remedy=_TAKEN_BACK
        )

    def started(self, process_id: str, program: str, is_known: Callable[[str], object]) -> None:
        """The running task's request has started a process; `is_known` says of an id whether it still runs."""
        self._programs = {known: found for known, found in self._programs.items() if is_known(known)}
        task = asyncio.current_task()
        is_once = any(use.task is task and use.via is not None for use in self._uses)
        self._programs[process_id] = _Program(program, is_once)

    def _used_up(self, access: Access) -> Permit | None:
        code = self.manifest.code
        try:
            check(code, self._steady, access)
        except PermissionDenied as denial:
            for extra in self._extras:
                if extra.grant.is_once and self._allows(extra.permit, access):
                    self._extras.remove(extra)
                    self._changed()
                    return extra.permit
            raise denial from None
        return None

    def _allows(self, permit: Permit, access: Access) -> bool:
        try:
            check(self.manifest.code, grants_of([*self._base, permit]), access)
        except PermissionDenied:
            return False
        return True

    # --- grants that come and go

    def add(self, permit: Permit, grant: Grant, on_end: Callable[[Withdrawn], None]) -> None:
        """Give a permit; `on_end` is called when its time is over, if it has one, with what that took."""
        extra = _Extra(permit, grant)
        if grant.seconds is not None:
            extra.timer = self._clock.call_later(grant.seconds, lambda: on_end(self._expired(extra)))
        self._extras.append(extra)
        self._changed()

    def withdraw(self, permission: str, resource: str | None) -> Withdrawn:
        """Take back what reaches `resource`, or all of a kind. What relied on it is being cancelled when this returns.

        Raises:
            InvalidArgument: `resource` is no host, where one is wanted.
        """
        lost = [extra for extra in self._extras if is_touched(extra.permit, permission, resource)]
        base = [permit for permit in self._base if is_touched(permit, permission, resource)]
        self._base = [permit for permit in self._base if permit not in base]
        self._drop(lost)
        ending = [use for use in self._uses if use.via and is_touched(use.via, permission, resource)]
        programs = self._programs.items() if permission == "processes.start" else ()
        stray = [key for key, found in programs if resource in (None, found.name)]
        return self._withdrawn((*base, *(extra.permit for extra in lost)), ending, stray)

    def _expired(self, extra: _Extra) -> Withdrawn:
        # A request or process for which a grant for once was used up needs no other, and ends with none.
        self._drop([extra])
        programs = self._programs.items() if extra.permit.permission == "processes.start" else ()
        stray = [key for key, found in programs if not found.is_once and found.name == extra.permit.resource]
        return self._withdrawn((extra.permit,), [], stray)

    def _drop(self, lost: list[_Extra]) -> None:
        for extra in lost:
            if extra.timer is not None:
                extra.timer.cancel()
        self._extras = [extra for extra in self._extras if extra not in lost]
        self._changed()

    def _withdrawn(self, permits: Iterable[Permit], ending: list[Use], stray: list[str]) -> Withdrawn:
        """Cancel `ending`, and what nothing allows any more; of `stray`, what something else allows may run on."""
        uses = (*ending, *(use for use in self._uses if use.via is None and not self._stands(use)))
        for use in uses:
            if not use.is_withdrawn:
                use.is_withdrawn = True
                if use.task is not None:
                    use.task.cancel()
        process_ids = [key for key in stray if self._programs[key].name not in self._steady.run]
        return Withdrawn(tuple(dict.fromkeys(permits)), uses, tuple(process_ids))

    def _stands(self, use: Use) -> bool:
        try:
            check(self.manifest.code, self._steady, use.access)
        except PermissionDenied:
            return False
        return True

    def _changed(self) -> None:
        steady = [extra.permit for extra in self._extras if not extra.grant.is_once]
        once = [extra.permit for extra in self._extras if extra.grant.is_once]
        self._has_once = bool(once)
        self._steady = grants_of([*self._base, *steady])
        self.grants = grants_of([*self._base, *steady, *once]) if once else self._steady
        self.on_change(self.grants)

    def close(self) -> None:
        """The module is gone: it may do nothing more. Harmless twice."""
        for extra in self._extras:
            if extra.timer is not None:
                extra.timer.cancel()
        self._base, self._extras = [], []
        self.on_change = lambda _grants: None
        self._changed()
