"""`Depot`: what is installed. Changes the disk and the records in the one order that survives a crash.

To put a release in: its files are sealed and in their place before the record names it, in one transaction. To take
one out: the record forgets it first. So at any instant the records name complete releases only, and what they do
not name is swept at the next start.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from coredeno.errors import CoreDenoError, InstallError, RecordInvalid, UsageError
from coredeno.install.folders import PluginFolders
from coredeno.install.inspection import Inspection, Trusting
from coredeno.install.installed_source import InstalledSource
from coredeno.install.records import (
    MARKS,
    RECORDS,
    Mark,
    PluginRecord,
    ReleaseRecord,
    forgotten,
    mark_key,
    marked,
    parse_mark,
    parse_record,
    stored,
)
from coredeno.interfaces import StoreBackend, StoreChange
from coredeno.kept_grants import KeptGrants
from coredeno.services.threads import in_thread
from coredeno.tasks import uninterrupted

_log = logging.getLogger("coredeno.install")


class Depot:
    """The installed plugins of one host: their records in the store, their releases on the disk.

    Args:
        folder: the host's folder of plugins, made if it is missing.
        backend: the host's store, open.
        kept: what plugins hold for good, which goes with them.
    """

    def __init__(self, folder: Path, backend: StoreBackend, kept: KeptGrants) -> None:
        self._folders = PluginFolders(folder)
        self._backend = backend
        self._kept = kept

    async def open(self) -> None:
        """Make the folder, and sweep what a host that was killed left half done.

        Raises:
            InstallError: the folder cannot be made.
            StoreError: the records cannot be read.
        """
        records, unreadable = await self.records()
        named = {record.code: [release.digest for release in record.releases] for record in records.values()}

        def sweep() -> list[str]:
            self._folders.open()
            return self._folders.sweep(named, unreadable=unreadable)

        for swept in await in_thread(sweep):
            _log.info("plugins/%s: no record names it, removed", swept)

    async def aclose(self) -> None:
        """Remove what is staged."""
        await in_thread(self._folders.clear_staging)

    # --- what there is

    async def records(self) -> tuple[dict[str, PluginRecord], dict[str, RecordInvalid]]:
        """The records by code, and what is wrong with those that cannot be read.

        Raises:
            StoreError: the store cannot be read.
        """
        records: dict[str, PluginRecord] = {}
        unreadable: dict[str, RecordInvalid] = {}
        for code, text in (await self._backend.read(RECORDS)).items():
            try:
                records[code] = parse_record(code, text)
            except RecordInvalid as error:
                unreadable[code] = error
        return records, unreadable

    async def record(self, code: str) -> PluginRecord | None:
        """The record of one plugin, or None.

        Raises:
            RecordInvalid: it cannot be read.
            StoreError: the store cannot be read.
        """
        text = (await self._backend.read(RECORDS, (code,))).get(code)
        return None if text is None else parse_record(code, text)

    async def installed(self, code: str, what: str) -> PluginRecord:
        """The record of a plugin that must be there; `what` is being done, for the message.

        Raises:
            UsageError: it is not installed.
            RecordInvalid, StoreError: as `record`.
        """
        record = await self.record(code)
        if record is None:
            known = ", ".join(await self._backend.read(RECORDS)) or "none"
            raise UsageError(f"{what}: no plugin {code!r} is installed; installed: {known}")
        return record

    async def mark(self, code: str, signer: str) -> Mark | None:
        """The highest sequence number seen of this key for this plugin.

        Raises:
            RecordInvalid: it cannot be read.
            StoreError: the store cannot be read.
        """
        key = mark_key(code, signer)
        return parse_mark(code, (await self._backend.read(MARKS, (key,))).get(key))

    def source(self, code: str, release: ReleaseRecord, trusting: Trusting) -> InstalledSource:
        """The files of a release, for the loader."""
        return InstalledSource(self._folders.base, code, release, trusting)

    # --- changes; once called each is carried out, also if the caller is cancelled

    def new_stage(self) -> Path:
        """Where to stage a plugin. Known before it is made, so that it is discarded whatever happens then."""
        return self._folders.new_stage()

    async def make_stage(self, stage: Path) -> None:
        """Make a private folder with an empty folder `tree` in it; to be given back to `discard`.

        Raises:
            InstallError: it cannot be made.
        """
        await in_thread(lambda: self._folders.make_stage(stage))

    async def discard(self, stage: Path) -> None:
        """Remove a stage. Harmless twice."""
        await uninterrupted(in_thread(lambda: self._folders.discard(stage)))

    async def put(self, inspection: Inspection) -> None:
        """Put a release into its place. Nothing names it yet.

        Raises:
            InstallError: the disk is full or broken; the tree is where it was, or in its place.
        """
        code, digest = inspection.release.code, inspection.release.digest
        await uninterrupted(in_thread(lambda: self._folders.put(inspection.tree, code, digest)))

    async def keep(self, record: PluginRecord, seen: ReleaseRecord | None = None) -> None:
        """Write a record, and with it the mark of the release that was `seen`: the moment in which it counts.

        A mark is never lowered: what is mended may be older than what was seen since.

        Raises:
            RecordInvalid: the mark cannot be read; nothing was written.
            StoreError: nothing was written.
        """
        changes: list[StoreChange] = [stored(record)]
        if seen is not None and seen.signature == "release" and seen.signer is not None:
            mark = await self.mark(record.code, seen.signer)
            if mark is None or seen.seq > mark.seq:
                changes.append(marked(record.code, seen.signer, seq=seen.seq, digest=seen.digest))
        await uninterrupted(self._backend.write(changes))

    async def forget(self, code: str, *, data: bool) -> None:
        """Remove a plugin's record, with `data` its own store group too.

        So do grants that were to last until they are revoked. Its marks stay: what was seen is not to be had again
        from an older release.

        Raises:
            StoreError: nothing was removed.
        """
        changes = [forgotten(code), *([StoreChange(group=code)] if data else [])]
        await uninterrupted(self._kept.remove(code, changes))

    async def forget_data(self, code: str) -> None:
        """Remove a plugin's own store group.

        Raises:
            StoreError: nothing was removed.
        """
        await uninterrupted(self._backend.write([StoreChange(group=code)]))

    async def take_away(self, code: str, digests: Sequence[str] | None = None) -> None:
        """Remove releases that no record names any more (all of the plugin for None).

        What cannot be removed is swept at the next start.
        """
        await uninterrupted(in_thread(lambda: self._folders.take_away(code, digests)))

    async def take_away_unnamed(self, code: str, digest: str) -> None:
        """Remove a release if the record does not name it; where that cannot be known, the next start sees to it."""
        with suppress(CoreDenoError):
            record = await self.record(code)
            if record is None or digest not in record.digests:
                await self.take_away(code, [digest])

    async def is_whole(self, code: str, release: ReleaseRecord, trusting: Trusting) -> bool:
        """Whether a release is on the disk as it was installed."""
        try:
            await self.source(code, release, trusting).verify()
        except InstallError:
            return False
        return True
