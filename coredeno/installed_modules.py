"""`InstalledModules`: the modules of installed plugins. Loads, reloads and quarantines them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from coredeno.config import HostConfig
from coredeno.errors import CoreDenoError, RestartLimitReached, StoreError, UpdateUndone, UsageError
from coredeno.install.code_locks import CodeLocks
from coredeno.install.depot import Depot
from coredeno.install.inspection import Trusting
from coredeno.install.records import PluginRecord, ReleaseRecord
from coredeno.install.trust import TrustStore
from coredeno.loader import UNSIGNED_GROUP, Loader
from coredeno.module import Module, ModuleState

_log = logging.getLogger("coredeno.install")
_LOADED_AT_ONCE = 4  # a load is mostly the start of a process; more at once only make each slower


class InstalledModules:
    """What runs of what is installed; remembers how each was loaded, to load it so again."""

    def __init__(self, depot: Depot, loader: Loader, *, trust: TrustStore, config: HostConfig) -> None:
        self._depot = depot
        self._loader = loader
        self._trust = trust
        self._config = config
        self._loaded_with: dict[str, tuple[str | None, Mapping[str, Any] | None]] = {}
        self._made: dict[str, Module] = {}

    async def load(
        self, record: PluginRecord, *, group: str | None = None, config: Mapping[str, Any] | None = None
    ) -> Module:
        """Verify the active release and load it; one that is not what was installed is quarantined.

        Raises:
            UsageError: it runs already.
            InstallError: it is not what was installed, or not to be trusted any more.
            CoreDenoError: it cannot be loaded; see `PluginHost.load_path`.
        """
        code, release = record.code, record.current
        self._loader.require_free(code)
        self._loaded_with[code] = (group, config)
        trusting = Trusting(self._trust, release.pin, self._config.allow_unsigned)
        source = self._depot.source(code, release, trusting)
        settings = self._config.settings.get(code, {}) if config is None else config
        try:
            return await self._loader.load(
                source,
                group=group or _group_of(release),
                config=settings,
                signer=release.signer,
                on_made=self._note,
            )
        except UsageError:  # somebody else was faster, or the host stops
            raise
        except CoreDenoError as error:
            await self._loader.not_loaded(code, release.version, error, on_made=self._note)
            raise

    async def load_all(self, locks: CodeLocks) -> None:
        """Load every installed plugin, a few at a time. One that fails does not fail the others.

        What the app changes meanwhile is changed before or after, and never loaded as it was.
        """
        records, unreadable = await self._depot.records()
        for code, error in unreadable.items():
            await self._loader.not_loaded(code, "", error, on_made=self._note)
        places = asyncio.Semaphore(_LOADED_AT_ONCE)

        async def load(code: str) -> None:
            async with places, locks.held(code):
                try:
                    record = await self._depot.record(code)
                    if record is not None and code not in self._loader.modules:
                        await self.load(record)
                except CoreDenoError as error:
                    _log.error("%s: not loaded: %s", code, error)

        async with asyncio.TaskGroup() as loads:
            for code in records:
                loads.create_task(load(code))

    async def release(self, code: str) -> Module:
        """Load a module in quarantine again, as it was loaded before. Errors are those of `PluginHost.release`."""
        self._loader.require_quarantined(code)
        if self._module(code) is None:
            return await self._loader.release(code)
        group, config = self._loaded_with.get(code, (None, None))
        return await self.load(await self._depot.installed(code, "release"), group=group, config=config)

    async def unload(self, code: str) -> None:
        """Take its module out, if there is one."""
        module = self._module(code)
        if module is not None:
            await module.unload()
        self._made.pop(code, None)

    def problem(self, code: str) -> str | None:
        """Why a plugin is in quarantine, or None."""
        module = self._module(code)
        is_held = module is not None and module.state is ModuleState.QUARANTINED
        return str(module.error) if module is not None and is_held else None

    def is_healthy(self, code: str) -> bool:
        """Whether nothing is wrong with its module that loading the same release again could put right.

        Also if it has none, or if it went down too often: that is for the app to judge, which may release it.
        """
        module = self._module(code)
        return module is None or not module.has_failed or isinstance(module.error, RestartLimitReached)

    def _module(self, code: str) -> Module | None:
        """The module of the installed plugin; one that the app loaded from elsewhere under its code is none."""
        module = self._loader.modules.get(code)
        return module if module is self._made.get(code) else None

    def _note(self, module: Module) -> None:
        self._made[module.code] = module

    async def switch(
        self, former: PluginRecord, record: PluginRecord, seen: ReleaseRecord | None = None
    ) -> None:
        """Make another release the active one, and reload the module if there is one; or leave all as it was.

        Args:
            former: the record that counts now.
            record: the one that shall.
            seen: the release whose sequence number is to be marked, if it came from the source.

        Raises:
            UpdateUndone: the new release did not load. The former one is active again, and loaded if that can be;
                where the store fails just then, the message says that the next start will take the new one.
            StoreError: nothing has changed.
        """
        await self._depot.keep(record, seen)
        module = self._module(record.code)
        if module is None:
            return
        group, config = self._loaded_with.get(record.code, (None, None))
        await module.unload()
        try:
            await self.load(record, group=group, config=config)
        except CoreDenoError as error:
            reason = str(error)
            await self.unload(record.code)
            try:
                await self._depot.keep(former)
            except StoreError as failure:
                reason += f"; this could not be recorded, so the next start will try it again: {failure}"
            raise UpdateUndone(
                code=record.code,
                version=record.current.version,
                former=former.current.version,
                reloaded=await self._is_loaded_again(former, group, config),
                reason=reason,
            ) from error

    async def _is_loaded_again(
        self, record: PluginRecord, group: str | None, config: Mapping[str, Any] | None
    ) -> bool:
        try:
            await self.load(record, group=group, config=config)
        except CoreDenoError as error:
            _log.error("%s: the former version could not be loaded again: %s", record.code, error)
            return False
        return True


def _group_of(release: ReleaseRecord) -> str:
    """The trust group: whoever signed the code. A signed manifest says nothing of the code beside it."""
    return release.signer if release.signer and release.signature == "release" else UNSIGNED_GROUP
