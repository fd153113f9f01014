"""`PermissionDesk`: where modules ask for what is optional in their manifests, and where grants are taken back."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import Any, Final, Literal

import msgspec

from coredeno import events
from coredeno.clock import deadline
from coredeno.config import HostConfig
from coredeno.errors import FailedPrecondition, InvalidArgument, LimitExceeded, ManifestError, UsageError
from coredeno.grant import (
    PLAIN_PERMISSIONS,
    Grant,
    PermissionRequest,
    Permit,
    ceiling_of,
    is_touched,
    permits_of,
    refusals_of,
)
from coredeno.held_grants import HeldGrants, Withdrawn
from coredeno.hooks import Hooks
from coredeno.install.words import phrases
from coredeno.interfaces import Clock, Processes
from coredeno.kept_grants import KeptGrants
from coredeno.manifest import Manifest, OptionalPermissions, parse_permissions
from coredeno.permissions import Access, Grants, OpenAccess
from coredeno.policy import Policy
from coredeno.services.method import Caller, Method
from coredeno.services.turns import Turns
from coredeno.tasks import uninterrupted
from coredeno.wire.text import printable
from coredeno.wire.typed import TypedDecoder

LIMIT_ASKED: Final = 64
"""The most permits of one request: somebody is to read them."""
LIMIT_PENDING: Final = 4
"""The most requests of one module that wait for the app at once."""
LIMIT_A_MINUTE: Final = 8
"""The most requests of one module a minute that the app is asked about."""
LIMIT_REASON: Final = 300
"""Characters of a reason that are shown."""
_LONGEST_SILENCE_S: Final = 24 * 3600.0
_ENDING_S: Final = (
    5.0  # that requests get to end in which lost their permission; a service may not let itself be cancelled
)
_MINUTE_S: Final = 60.0
_DENIALS_TOLD: Final = 4  # of one request; else a plugin could drown all else that a listener is told
_AT_NEXT_LOAD: Final = "net takes effect when the plugin is loaded the next time"

_log = logging.getLogger("coredeno.host")


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """What a module asks for, as its manifest would, and why."""

    permissions: dict[str, Any]
    reason: str = ""


class Answer(msgspec.Struct, kw_only=True):
    """Whether it has what it asked for now; `reason` says why not, or when it takes effect."""

    granted: bool
    reason: str = ""


class State(msgspec.Struct):
    """`granted`, `prompt` (it may be asked for) or `denied`."""

    state: str


class _Patience:
    """How often the app was asked for one plugin, and until when it is not to be asked again."""

    def __init__(self) -> None:
        self.pending = 0
        self.asked_at: deque[float] = deque(maxlen=LIMIT_A_MINUTE)
        self.silent: dict[
            Permit, tuple[float, float]
        ] = {}  # by entry of the manifest: until when, and how long


class PermissionDesk:
    """Knows what each loaded module holds."""

    def __init__(
        self,
        *,
        policy: Policy,
        hooks: Sequence[Hooks],
        config: HostConfig,
        kept: KeptGrants,
        processes: Processes,
        clock: Clock,
        emit: Callable[[events.Event], None],
        audited: Callable[[], Awaitable[None]],
    ) -> None:
        """Take the parts that it needs; `audited` returns when the rows of what was emitted are on the disk."""
        self._policy = policy
        self._hooks = hooks
        self._config = config
        self._kept = kept
        self._processes = processes
        self._clock = clock
        self._emit = emit
        self._audited = audited
        self._held: dict[str, HeldGrants] = {}
        self._patience: dict[str, _Patience] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._turns = Turns(1)

    # --- for the loader

    async def open(self, manifest: Manifest, grants: Grants, *, signer: str | None) -> HeldGrants:
        """What a module holds that is about to be loaded: its grants, and those that were kept for it.

        Raises:
            StoreError: the store cannot be read.
        """
        code = manifest.code
        async with self._kept.alone():
            held = HeldGrants(
                manifest, grants, signer=signer, clock=self._clock, removals=self._kept.removals(code)
            )
            kept = [
                permit
                for permit in await self._kept.of(code, signer)
                if held.optional.entry(permit) is not None
            ]
            refused = refusals_of(self._policy, code, kept)
            for permit in kept:
                if permit not in refused:
                    held.add(permit, Grant.until_revoked(), self._expired(held))
            self._held[code] = held
        return held

    def announce(self, held: HeldGrants) -> None:
        """Tell of everything that a module was granted at its load."""
        for permit, grant in held.given:
            self._granted(held, permit, grant)

    def close(self, held: HeldGrants) -> None:
        """A module is gone. Harmless twice."""
        held.close()
        if self._held.get(held.manifest.code) is held:
            del self._held[held.manifest.code]

    async def revoke(self, code: str, permission: str, resource: str | None) -> tuple[Permit, ...]:
        """Take back, from the loaded module and from what is kept.

        Returns when what relied on it has ended, and the audit log has it. If cancelled, it is taken back all the same.

        Raises:
            UsageError: there is no such permission, or `resource` is none.
            StoreError: nothing was taken back.
        """
        if permission not in PLAIN_PERMISSIONS and not permission.startswith("services."):
            known = ", ".join(PLAIN_PERMISSIONS)
            raise UsageError(f"revoke: permission is {permission!r}, wanted one of {known}, services.<name>")
        try:
            is_touched(Permit(permission, "a.example"), permission, resource)
        except InvalidArgument as error:
            raise UsageError(f"revoke: {error}") from None
        asker = asyncio.current_task()  # it may be a request that the grant carries
        taken = await uninterrupted(self._revoke(code, permission, resource, asker))
        await self._audited()
        return taken

    async def _revoke(
        self, code: str, permission: str, resource: str | None, asker: asyncio.Task[Any] | None
    ) -> tuple[Permit, ...]:
        async with self._kept.alone():
            kept = await self._kept.forget(code, permission, resource)
            held = self._held.get(code)
            withdrawn = None if held is None else held.withdraw(permission, resource)
        taken = tuple(dict.fromkeys([*(withdrawn.permits if withdrawn else ()), *kept]))
        for permit in taken:
            self._revoked(code, permit, "the app revoked it")
        if withdrawn is not None:
            await self._ended(withdrawn, asker)
        return taken

    async def _ended(self, withdrawn: Withdrawn, asker: asyncio.Task[Any] | None = None) -> None:
        await asyncio.gather(*map(self._stopped, withdrawn.process_ids))
        tasks = [use.task for use in withdrawn.uses if use.task is not None and use.task is not asker]
        if not tasks:
            return
        try:
            async with deadline(self._clock, _ENDING_S):
                await asyncio.wait(tasks)
        except TimeoutError:
            _log.warning("requests whose permission was taken back do not end: a service holds them up")

    async def _stopped(self, process_id: str) -> None:
        try:
            await self._processes.stop(process_id)
        except Exception as error:  # noqa: BLE001 - it has ended by itself, or a part of the app's own fails
            _log.info("a process whose grant ended could not be stopped: %s", error)

    def _expired(self, held: HeldGrants) -> Callable[[Withdrawn], None]:
        def end(withdrawn: Withdrawn) -> None:
            for permit in withdrawn.permits:
                self._revoked(held.manifest.code, permit, "its time is over")
            task = asyncio.get_running_loop().create_task(self._ended(withdrawn))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

        return end

    async def aclose(self) -> None:
        """Wait for what is being stopped."""
        if self._stopping:
            await asyncio.gather(*self._stopping, return_exceptions=True)

    # --- for modules

    def methods(self) -> list[Method]:
        """What modules may ask for here."""
        return [
            Method("permissions.request", TypedDecoder(Asked), _open, self._request),
            Method("permissions.query", TypedDecoder(Asked), _open, self._query),
        ]

    async def _query(self, caller: Caller, asked: Asked) -> State:
        held = self._of(caller)
        async with self._turns.of(caller.code):
            wanted = _missing(held, _wanted(asked))
            problem = self._why_not(held, wanted) if wanted else None
            await asyncio.sleep(0)  # one a turn of the loop: each may be about 64 entries
        if not wanted:
            return State("granted")
        return State("denied" if problem else "prompt")

    async def _request(self, caller: Caller, asked: Asked) -> Answer:
        held = self._of(caller)
        async with self._turns.of(caller.code):
            await asyncio.sleep(0)  # as in `_query`; before it, so that what follows is decided in one turn
            wanted = _missing(held, _wanted(asked))
            problem = self._why_not(held, wanted) if wanted else None
        if not wanted:
            return Answer(granted=True)
        code = caller.code
        if problem is not None:
            self._denied(code, wanted, problem)
            return Answer(granted=False, reason=problem)
        patience = self._patience.setdefault(code, _Patience())
        if patience.pending >= LIMIT_PENDING:
            raise LimitExceeded(f"permissions.request: {LIMIT_PENDING} requests wait for the app already")
        if self._is_impatient(held, patience, wanted):
            return Answer(granted=False, reason="the app was asked not long ago, and is not asked again yet")
        patience.pending += 1
        try:
            grant, problem = await self._decision(held, wanted, asked.reason)
        finally:
            patience.pending -= 1
        if grant is None:
            self._be_silent(held, patience, wanted)
            self._denied(code, wanted, problem)
            return Answer(granted=False, reason=problem)
        answer = await uninterrupted(self._give(held, wanted, grant))
        await self._audited()
        return answer

    async def _decision(
        self, held: HeldGrants, wanted: tuple[Permit, ...], reason: str
    ) -> tuple[Grant | None, str]:
        shown = printable(reason[:LIMIT_REASON], one_line=True)
        manifest = held.manifest
        request = PermissionRequest(
            module=manifest.code,
            name=printable(manifest.name, one_line=True),
            version=manifest.version,
            signer=held.signer,
            permits=tuple(
                Permit(permit.permission, printable(permit.resource, one_line=True)) for permit in wanted
            ),
            words=tuple(printable(words, one_line=True) for words in phrases(wanted)),
            reason=shown,
        )
        found: Grant | None = None
        try:
            async with deadline(self._clock, self._config.ask_timeout_s):
                for hook in self._hooks:
                    answer = await self._asked(hook, request)
                    if answer is False:
                        return None, "the app refused it"
                    found = found or answer
        except TimeoutError:
            return None, "nobody answered in time"
        if found is None:
            return None, "the app does not grant it"
        if not found.is_kept and any(permit.permission == "net" for permit in wanted):
            _log.error("%s: net can be granted until it is revoked only, and was not", manifest.code)
            return None, "the app does not grant it: net can be granted until it is revoked only"
        return found, ""

    async def _asked(self, hook: Hooks, request: PermissionRequest) -> Grant | Literal[False] | None:
        """What a hook says: a grant, False for a refusal, None for nothing."""
        try:
            answer: object = await hook.permission_requested(request)
        except Exception:  # noqa: BLE001 - an app's code; whoever raises has refused
            _log.exception("a hook of the app failed: %r", hook)
            return False
        if answer is True:
            return Grant.until_unloaded()
        if answer is None or isinstance(answer, Grant):
            return answer
        if answer is not False:
            _log.error("permission_requested of %r gave %r, wanted a Grant, a bool or None", hook, answer)
        return False

    async def _give(self, held: HeldGrants, wanted: tuple[Permit, ...], grant: Grant) -> Answer:
        async with self._kept.alone() if grant.is_kept else nullcontext():
            return await self._give_now(held, wanted, grant)

    async def _give_now(self, held: HeldGrants, wanted: tuple[Permit, ...], grant: Grant) -> Answer:
        code = held.manifest.code
        if grant.is_kept and not await self._kept.keep(code, held.signer, wanted, removals=held.removals):
            problem = "the plugin was removed meanwhile"
            self._denied(code, wanted, problem)
            return Answer(granted=False, reason=problem)
        has_net = False
        for permit in wanted:
            has_net = has_net or permit.permission == "net"
            if permit.permission != "net" and self._held.get(code) is held:
                held.add(permit, grant, self._expired(held))
            self._granted(held, permit, grant)
        return Answer(granted=True, reason=_AT_NEXT_LOAD if has_net else "")

    # --- what may be asked, and how often

    def _of(self, caller: Caller) -> HeldGrants:
        if caller.held is None:
            raise FailedPrecondition(f"permissions: {caller.code!r} is no module that is loaded")
        return caller.held

    def _why_not(self, held: HeldGrants, wanted: tuple[Permit, ...]) -> str | None:
        for permit in wanted:
            if held.optional.entry(permit) is None:
                return (
                    f"{permit.permission} {permit.resource!r} is not in permissions.optional of the manifest"
                )
        refused = refusals_of(self._policy, held.manifest.code, wanted)
        return next(iter(refused.values()), None)

    def _is_impatient(self, held: HeldGrants, patience: _Patience, wanted: tuple[Permit, ...]) -> bool:
        now = self._clock.now()
        for permit in wanted:
            entry = held.optional.entry(permit)
            if entry is not None and now < patience.silent.get(entry, (now, 0))[0]:
                return True
        if len(patience.asked_at) == LIMIT_A_MINUTE and now - patience.asked_at[0] < _MINUTE_S:
            return True
        patience.asked_at.append(now)
        return False

    def _be_silent(self, held: HeldGrants, patience: _Patience, wanted: tuple[Permit, ...]) -> None:
        now = self._clock.now()
        for permit in wanted:
            entry = held.optional.entry(permit)
            if entry is not None:
                last_s = patience.silent.get(entry, (0.0, 0.0))[1]
                for_s = min(max(2 * last_s, self._config.ask_again_s), _LONGEST_SILENCE_S)
                patience.silent[entry] = (now + for_s, for_s)

    # --- who is told

    def _granted(self, held: HeldGrants, permit: Permit, grant: Grant) -> None:
        self._emit(
            events.PermissionGranted(
                module=held.manifest.code,
                permission=permit.permission,
                resource=permit.resource,
                until=grant.until,
            )
        )

    def _revoked(self, code: str, permit: Permit, reason: str) -> None:
        self._emit(
            events.PermissionRevoked(
                module=code, permission=permit.permission, resource=permit.resource, reason=reason
            )
        )

    def _denied(self, code: str, permits: tuple[Permit, ...], remedy: str) -> None:
        told, others = permits[:_DENIALS_TOLD], len(permits) - _DENIALS_TOLD
        if others > 0:
            remedy += f"; {others} more of this request were refused"
        for permit in told:
            self._emit(
                events.PermissionDenied(
                    module=code, permission=permit.permission, resource=permit.resource, remedy=remedy
                )
            )


def _open(_caller: Caller, _params: Any) -> Access:
    return OpenAccess()


def _wanted(asked: Asked) -> tuple[Permit, ...]:
    entries = sum(map(_entries, asked.permissions.values()))
    if entries > LIMIT_ASKED:  # before each is read: there may be as many as a message holds
        raise InvalidArgument(f"permissions: {entries:,} entries, wanted 1 to {LIMIT_ASKED}")
    try:
        permissions: OptionalPermissions = parse_permissions(asked.permissions)
    except ManifestError as error:
        raise InvalidArgument(f"permissions: {error}") from None
    permits = permits_of(permissions, permissions.services)
    if not 1 <= len(permits) <= LIMIT_ASKED:
        raise InvalidArgument(f"permissions: {len(permits)} entries, wanted 1 to {LIMIT_ASKED}")
    return permits


def _entries(value: object) -> int:
    """How many a field has: a list has its own, `store` and `services` those of their lists."""
    if isinstance(value, dict):
        return sum(max(1, len(inner)) if isinstance(inner, list) else 1 for inner in value.values())
    return len(value) if isinstance(value, list) else 1


def _missing(held: HeldGrants, wanted: tuple[Permit, ...]) -> tuple[Permit, ...]:
    return tuple(refusals_of(ceiling_of(held.lasting), held.manifest.code, wanted))
