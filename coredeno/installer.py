"""`Installer`: takes plugins from where they are published to modules that run, and back. `host.installer`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from coredeno import events
from coredeno.config import HostConfig
from coredeno.errors import ConsentRequired, UsageError
from coredeno.hooks import Hooks
from coredeno.install.code_locks import CodeLocks, uninterrupted_here, waited_for
from coredeno.install.depot import Depot
from coredeno.install.index import Index, IndexEntry
from coredeno.install.keys import parse_key
from coredeno.install.plan import InstalledPlugin, InstallPlan, described
from coredeno.install.planner import Asked, IndexSource, OnProgress, Planner, Source
from coredeno.install.records import PluginRecord, ReleaseRecord, is_code
from coredeno.installed_modules import InstalledModules
from coredeno.module import Module
from coredeno.policy import Policy
from coredeno.tasks import outlast

_T = TypeVar("_T")
_log = logging.getLogger("coredeno.install")


class Installer:
    """The installed plugins of one host. Made by `PluginHost`, which has the same methods; usable while it runs.

    Everything is all or nothing: what fails or is cancelled leaves what was there before, and nothing beside it.
    Changes of one plugin are made one after the other. Every method raises `UsageError` where the host does not
    run, and `StoreError` where the store fails.
    """

    def __init__(
        self,
        depot: Depot,
        planner: Planner,
        modules: InstalledModules,
        *,
        config: HostConfig,
        policy: Policy,
        hooks: Sequence[Hooks],
        emit: Callable[[events.Event], None],
        audited: Callable[[], Awaitable[None]],
    ) -> None:
        self._depot = depot
        self._planner = planner
        self._modules = modules
        self._config = config
        self._policy = policy
        self._hooks = hooks
        self._emit = emit
        self._audited = audited
        self._locks = CodeLocks()
        self._working: set[asyncio.Task[Any]] = set()
        self._is_open = False

    # --- life, for the host

    async def open(self) -> None:
        """Sweep what a crash left, then load what is installed, a few at a time.

        Raises:
            InstallError: the folder of plugins cannot be made.
            StoreError: the records cannot be read.
        """
        await self._depot.open()
        self._is_open = True
        if self._config.autoload:
            await self._modules.load_all(self._locks)

    async def aclose(self) -> None:
        """End what is under way, and remove what is staged. Harmless twice."""
        self._is_open = False
        for task in self._working:
            task.cancel()
        if self._working:
            await asyncio.wait(self._working)
        await self._depot.aclose()

    # --- what there is

    async def installed(self) -> list[InstalledPlugin]:
        """The installed plugins, by their codes; those that are in quarantine say why in `problem`."""
        self._require_open()
        records, unreadable = await self._depot.records()
        found = [self._described(record) for record in records.values()]
        found += [InstalledPlugin(code=code, problem=str(error)) for code, error in unreadable.items()]
        return sorted(found, key=lambda plugin: plugin.code)

    async def load(
        self, code: str, *, group: str | None = None, config: Mapping[str, Any] | None = None
    ) -> Module:
        """Verify an installed plugin and load it. See `PluginHost.load`."""
        code = _code(code, "load")

        async def load() -> Module:
            async with self._locks.held(code):
                return await self._modules.load(
                    await self._depot.installed(code, "load"), group=group, config=config
                )

        return await self._work(load)

    async def release(self, code: str) -> Module:
        """Load a module in quarantine again. See `PluginHost.release`."""
        code = _code(code, "release")

        async def release() -> Module:
            async with self._locks.held(code):
                return await self._modules.release(code)

        return await self._work(release)

    async def read_index(
        self,
        source: IndexSource,
        *,
        ref: str | None = None,
        file: str = "index.json",
        on_progress: OnProgress | None = None,
    ) -> Index:
        """Read a marketplace index: from a file, from a git repository, or from the app's own source.

        Args:
            source: a file's path; where a git repository is, as for `install`; or an async function that gives the
                bytes.
            ref: for a repository, a branch, tag or commit.
            file: for a repository, where in it the index is.
            on_progress: for a repository, is told how far the fetch is.

        Raises:
            IndexInvalid: it is not valid; the error names the entry.
            InstallError: it cannot be had.
        """
        return await self._work(lambda: self._planner.read_index(source, ref, file, on_progress))

    # --- changes

    async def plan(
        self,
        source: Source,
        *,
        ref: str | None = None,
        signer: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> InstallPlan:
        """Fetch and verify a plugin, and say what installing it would do. See `PluginHost.plan_install`."""
        asked = await Asked.of(source, ref, signer)
        return await self._work(lambda: self._planner.plan(asked, on_progress, self))

    async def install(
        self,
        source: Source,
        *,
        ref: str | None = None,
        signer: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> InstalledPlugin:
        """Plan and apply. See `PluginHost.install`."""
        asked = await Asked.of(source, ref, signer)

        async def install() -> InstalledPlugin:
            planned = await self._planner.plan(asked, on_progress, self, new=True)
            async with planned as plan, self._locks.held(plan.code):
                return await self._apply(plan, consent=None)

        return await self._work(install)

    async def update(
        self,
        plugin: str | IndexEntry,
        *,
        ref: str | None = None,
        signer: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> InstalledPlugin:
        """Fetch what is published now, and change to it. See `PluginHost.update`."""
        named = None if signer is None else parse_key(signer)
        entry = plugin if isinstance(plugin, IndexEntry) else None
        code = entry.code if entry else _code(plugin, "update")

        async def update() -> InstalledPlugin:
            # Two updates go one after the other; what else is done to the plugin need not wait for a slow source.
            async with self._locks.turn(code):
                record = await self._depot.installed(code, "update")
                _require_not_pinned(record)
                if entry is None:
                    asked = Asked(record.source, ref or record.ref, named, code=code)
                else:
                    asked = await Asked.of(entry, ref, named)
                planned = await self._planner.plan(asked, on_progress, self)
                async with planned as plan, self._locks.held(code):
                    if plan.former is None:
                        raise UsageError(f"update: plugin {code!r} was removed meanwhile")
                    return await self._apply(plan, consent=None)

        return await self._work(update)

    async def rollback(self, code: str, version: str | None = None) -> InstalledPlugin:
        """Go back to a version that is kept. See `PluginHost.rollback`."""
        code = _code(code, "rollback")

        async def rollback() -> InstalledPlugin:
            async with self._locks.held(code):
                record = await self._depot.installed(code, "rollback")
                target = record.before(version)
                manifest = await self._depot.source(code, target, self._planner.trusting(target.pin)).verify()
                self._policy.grants(manifest)
                changed = msgspec.structs.replace(record, active=target.digest)
                return await uninterrupted_here(lambda: self._go_back(record, changed))

        return await self._work(rollback)

    async def remove(self, code: str, *, data: bool = False) -> None:
        """Unload and remove a plugin. See `PluginHost.remove`."""
        code = _code(code, "remove")

        async def remove() -> None:
            async with self._locks.held(code):
                _records, unreadable = await self._depot.records()
                if code not in unreadable:
                    await self._depot.installed(code, "remove")
                await uninterrupted_here(lambda: self._forget(code, data=data))

        await self._work(remove)

    async def pin(self, code: str, *, pinned: bool = True) -> InstalledPlugin:
        """Hold a plugin at its version, or let it go. See `PluginHost.pin`."""
        code = _code(code, "pin")

        async def pin() -> InstalledPlugin:
            async with self._locks.held(code):
                record = await self._depot.installed(code, "pin")
                changed = msgspec.structs.replace(record, pinned=pinned)
                await self._depot.keep(changed)
                return self._described(changed)

        return await self._work(pin)

    # --- for plans

    async def apply(self, plan: InstallPlan, *, consent: bool | None) -> InstalledPlugin:
        """Carry a plan out, and remove what was staged for it. See `InstallPlan.apply`."""

        async def apply() -> InstalledPlugin:
            async with self._locks.held(plan.code):
                return await self._apply(plan, consent=consent)

        try:
            plugin = await self._work(apply)
        except ConsentRequired:  # it can still be had
            raise
        except BaseException:
            await self._planner.discard(plan)
            raise
        await self._planner.discard(plan)
        return plugin

    async def discard(self, plan: InstallPlan) -> None:
        """Remove what is staged for a plan."""
        await self._planner.discard(plan)

    # --- inner

    async def _apply(self, plan: InstallPlan, *, consent: bool | None) -> InstalledPlugin:
        """All that may refuse a plan, once more on what there is now; then the change, which goes to its end."""
        code = plan.code
        former = await self._depot.record(code)
        if former != plan.former:
            raise UsageError(f"apply: plugin {code!r} was changed since the plan was made, wanted a new plan")
        if former is not None:
            _require_not_pinned(former)
        self._policy.grants(plan.manifest)
        await self._require_trusted(plan)
        if plan.difference is not None and not await self._has_consent(plan, consent=consent):
            raise ConsentRequired(code=code, added=plan.difference.added_permissions)
        await self._require_trusted(plan)  # the key may have been revoked while somebody was asked
        return await uninterrupted_here(lambda: self._commit(plan, former))

    async def _require_trusted(self, plan: InstallPlan) -> None:
        trusting = self._planner.trusting(plan.pinned_signer)
        trusting.judge(plan.inspection.release, plan.signature, plan.signer)
        await self._planner.require_not_older(plan.inspection, plan.former)

    async def _has_consent(self, plan: InstallPlan, *, consent: bool | None) -> bool:
        if not plan.needs_consent:
            return True
        if consent is not None:
            return consent
        answers: list[bool | None] = []
        for hook in self._hooks:
            try:
                answers.append(await hook.update_widens(plan))
            except Exception:  # noqa: BLE001 - an app's code; whoever cannot answer has not agreed
                _log.exception("a hook of the app failed: %r", hook)
                answers.append(False)
        return True in answers and False not in answers

    async def _commit(self, plan: InstallPlan, former: PluginRecord | None) -> InstalledPlugin:
        release = _record_of(plan)
        record = PluginRecord(
            code=plan.code,
            source=plan.source,
            ref=plan.ref,
            signer=plan.pinned_signer,
            active=release.digest,
            releases=(release,) if former is None else former.with_release(release),
        ).pruned(self._config.kept_releases)
        is_kept = former is not None and release.digest in former.digests
        if is_kept and await self._depot.is_whole(record.code, release, self._planner.trusting(release.pin)):
            assert former is not None
            if former.active == release.digest and self._modules.is_healthy(plan.code):
                await self._depot.keep(record)  # what is published is what is installed
                return await self._finished(record, former)
        else:
            await self._put(plan, release)
        try:
            if former is None:
                await self._depot.keep(record, release)
            else:
                await self._modules.switch(former, record, release)
        except BaseException:
            await self._depot.take_away_unnamed(plan.code, release.digest)
            raise
        if former is None or former.active != record.active:  # else it was only put right
            self._emit(_told(record, former))
            await self._audited()
        return await self._finished(record, former)

    async def _finished(self, record: PluginRecord, former: PluginRecord | None) -> InstalledPlugin:
        """Take away the releases that fell out."""
        if former is not None:
            await self._depot.take_away(record.code, sorted(former.digests - record.digests))
        return self._described(record)

    async def _put(self, plan: InstallPlan, release: ReleaseRecord) -> None:
        """Put the release into its place, and verify it there: a plan may have lain about for days."""
        try:
            await self._depot.put(plan.inspection)
            await self._depot.source(plan.code, release, self._planner.trusting(release.pin)).verify()
        except BaseException:
            await self._depot.take_away_unnamed(plan.code, release.digest)
            raise

    async def _go_back(self, former: PluginRecord, record: PluginRecord) -> InstalledPlugin:
        await self._modules.switch(former, record)
        version = record.current.version
        self._emit(
            events.PluginRolledBack(module=record.code, version=version, former=former.current.version)
        )
        await self._audited()
        return self._described(record)

    async def _forget(self, code: str, *, data: bool) -> None:
        await self._depot.forget(code, data=data)  # first: where that fails, the plugin goes on
        self._emit(events.PluginRemoved(module=code))
        try:
            await self._modules.unload(code)
            if data:
                await self._depot.forget_data(code)  # what it wrote meanwhile, in `dispose` perhaps
        finally:
            if is_code(code):  # a record that cannot be read may be of anything
                await self._depot.take_away(code)
            await self._audited()

    def _described(self, record: PluginRecord) -> InstalledPlugin:
        return described(record, self._modules.problem(record.code))

    def _require_open(self) -> None:
        if not self._is_open:
            raise UsageError("install: the host does not run, wanted after start() and before stop()")

    async def _work(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Do it in a task of our own, which ends with whoever waits for it, and with the host."""
        self._require_open()
        task = asyncio.get_running_loop().create_task(waited_for(work))
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await outlast(task)
            raise
        if task.cancelled():
            raise UsageError("install: the host was stopped meanwhile")
        return task.result()


def _code(code: object, what: str) -> str:
    if not isinstance(code, str):
        raise UsageError(f"{what}: code is a {type(code).__name__}, wanted text such as 'tagger'")
    return code


def _record_of(plan: InstallPlan) -> ReleaseRecord:
    return ReleaseRecord(
        digest=plan.digest,
        version=plan.version,
        seq=plan.seq,
        signature=plan.signature,
        signer=plan.signer,
        pin=plan.pinned_signer,
        revision=plan.revision,
        permissions=plan.manifest.permissions,
        services=plan.manifest.services,
    )


def _told(record: PluginRecord, former: PluginRecord | None) -> events.Event:
    active = record.current
    if former is None:
        return events.PluginInstalled(
            module=record.code, version=active.version, digest=active.digest, signer=active.signer
        )
    return events.PluginUpdated(
        module=record.code, version=active.version, former=former.current.version, digest=active.digest
    )


def _require_not_pinned(record: PluginRecord) -> None:
    if record.pinned:
        raise UsageError(
            f"update: plugin {record.code!r} is pinned at {record.current.version}, wanted pin(…, pinned=False) first"
        )
