"""`Planner`: fetches a plugin, has it verified, and says what installing it would do. Changes nothing that is live."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import msgspec

from coredeno.config import HostConfig
from coredeno.errors import InstallError, RequestError, SignatureError, SourceUnavailable, UsageError
from coredeno.install.depot import Depot
from coredeno.install.index import LIMIT_INDEX_BYTES, Index, IndexEntry
from coredeno.install.inspection import Inspection, Trusting, inspect
from coredeno.install.keys import parse_key
from coredeno.install.plan import InstallPlan, PlanDifference, PlanKeeper, difference
from coredeno.install.records import PluginRecord, check_seq
from coredeno.install.trust import TrustStore
from coredeno.install.words import phrase
from coredeno.interfaces import Fetched, Fetcher, FetchOrder, FetchProgress
from coredeno.policy import Policy
from coredeno.services.rooted_files import RootedFiles
from coredeno.services.threads import in_thread

OnProgress: TypeAlias = Callable[[FetchProgress], None]
Source: TypeAlias = str | PathLike[str] | IndexEntry
IndexSource: TypeAlias = str | PathLike[str] | Callable[[], Awaitable[bytes]]

_STRENGTH = {"none": 0, "manifest": 1, "release": 2}


class Asked(msgspec.Struct, frozen=True):
    """What is to be installed, in one form.

    Attributes:
        source: where from.
        ref: the branch, tag or commit, or None.
        signer: the key that the app names for it, as hex digits, or None.
        index_key: the key that an index names for it, or None: it counts for a plugin that is not installed yet.
        code: the plugin that it must be, or None.
        digest: the release that it must be, or None.
    """

    source: str
    ref: str | None
    signer: str | None
    index_key: str | None = None
    code: str | None = None
    digest: str | None = None

    @classmethod
    async def of(cls, source: Source, ref: str | None, signer: str | None) -> Asked:
        """What the app asked for. A text is left as it is: it is the fetcher that understands it.

        Raises:
            UsageError: the source or the key is not of the wanted form.
        """
        key = None if signer is None else parse_key(signer)
        if isinstance(source, IndexEntry):
            return cls(source.source, ref or source.ref, key, source.key, source.code, source.digest)
        if isinstance(source, PathLike):
            return cls(await asyncio.to_thread(os.path.abspath, source), ref, key)
        if not isinstance(source, str):
            raise UsageError(f"install: source is {source!r}, wanted a URL, a path or an entry of an index")
        return cls(source, ref, key)


class Planner:
    """Makes the plans of one host, and keeps what is staged for them."""

    def __init__(
        self, depot: Depot, *, fetcher: Fetcher, trust: TrustStore, config: HostConfig, policy: Policy
    ) -> None:
        self._depot = depot
        self._fetcher = fetcher
        self._trust = trust
        self._config = config
        self._policy = policy
        self._stages: dict[InstallPlan, Path] = {}

    def trusting(self, signer: str | None) -> Trusting:
        """What counts for a plugin whose key is `signer`, or whom the trust store vouches for."""
        return Trusting(self._trust, signer, self._config.allow_unsigned)

    async def plan(
        self, asked: Asked, on_progress: OnProgress | None, keeper: PlanKeeper, *, new: bool = False
    ) -> InstallPlan:
        """Fetch and verify; `new` says that the plugin may not be installed yet. Errors: `PluginHost.plan_install`."""
        records, _unreadable = await self._depot.records()

        def trusting_of(code: str) -> Trusting:
            return self.trusting(self._signer_of(asked, records.get(code)))

        stage = self._depot.new_stage()
        try:
            await self._depot.make_stage(stage)
            fetched = await self._fetch(asked, stage, on_progress)
            inspection = await inspect(stage / "tree", trusting_of)
            _require_asked(asked, inspection)
            former = await self._depot.record(inspection.release.code)
            if former is not None and new:
                raise UsageError(
                    f"install: plugin {former.code!r} is installed already ({former.current.version}); "
                    "wanted update(), or plan_install() and apply() to change where it comes from"
                )
            plan = await self._plan_of(asked, fetched, inspection, former, keeper)
            await self.require_not_older(inspection, former)
        except BaseException:
            await self._depot.discard(stage)
            raise
        self._stages[plan] = stage
        return plan

    async def require_not_older(self, inspection: Inspection, former: PluginRecord | None) -> None:
        """Refuse a release that is older than one seen from its key; the active one may be installed again.

        Raises:
            DowngradeRefused: it is.
            RecordInvalid: the mark cannot be read.
        """
        release, signer = inspection.release, inspection.signer
        is_active = former is not None and release.digest == former.active
        if inspection.signature == "release" and signer is not None and not is_active:
            mark = await self._depot.mark(release.code, signer)
            check_seq(mark, code=release.code, seq=release.seq, digest=release.digest)

    async def discard(self, plan: InstallPlan) -> None:
        """Remove what is staged for a plan. Harmless twice."""
        stage = self._stages.pop(plan, None)
        if stage is not None:
            await self._depot.discard(stage)

    async def read_index(
        self, source: IndexSource, ref: str | None, file: str, on_progress: OnProgress | None
    ) -> Index:
        """Read an index. See `Installer.read_index`."""
        if callable(source):
            return await _parsed(await source(), "the app's index")
        if not isinstance(source, str | PathLike):
            raise UsageError(f"read_index: source is {source!r}, wanted a path, a URL or an async function")
        path = os.fspath(source)
        if "://" not in path and await asyncio.to_thread(os.path.isfile, path):
            where = Path(await asyncio.to_thread(os.path.abspath, path))
            return await _parsed(await _read(where.parent, where.name, path), path)
        asked = await Asked.of(source, ref, None)
        stage = self._depot.new_stage()
        try:
            await self._depot.make_stage(stage)
            await self._fetch(asked, stage, on_progress)
            data = await _read(stage / "tree", file, asked.source)
        except SourceUnavailable as error:
            lone = await asyncio.to_thread(_lone_file, path, file)
            if lone is None:
                raise
            raise SourceUnavailable(f"{error}; for a file name it: {lone}") from error
        finally:
            await self._depot.discard(stage)
        return await _parsed(data, f"{asked.source}: {file}")

    async def _fetch(self, asked: Asked, stage: Path, on_progress: OnProgress | None) -> Fetched:
        order = FetchOrder(asked.source, asked.ref, stage / "tree", self._config.fetch)
        return await self._fetcher.fetch(order, on_progress or _ignore)

    async def _plan_of(
        self,
        asked: Asked,
        fetched: Fetched,
        inspection: Inspection,
        former: PluginRecord | None,
        keeper: PlanKeeper,
    ) -> InstallPlan:
        refusals = self._policy.refusals(inspection.manifest)
        return InstallPlan(
            inspection,
            source=asked.source,
            ref=asked.ref,
            revision=fetched.revision,
            pinned_signer=self._signer_of(asked, former),
            refused=tuple(phrase(refusal.permission, refusal.resource) for refusal in refusals),
            former=former,
            difference=await self._changes(former, inspection, asked) if former else None,
            keeper=keeper,
        )

    def _signer_of(self, asked: Asked, former: PluginRecord | None) -> str | None:
        """The one key that may have signed it, or None if the trust store says whose may.

        What is installed stays with the key that the app named for it. An index cannot change that.
        """
        return asked.signer or (former.signer if former else asked.index_key)

    def _require_same_signer(self, former: PluginRecord, inspection: Inspection, asked: Asked) -> None:
        """No other key takes a plugin over, though the trust store has it: unless named, or the old one is revoked."""
        signer = former.current.signer
        if asked.signer or former.current.signature != "release" or signer in (None, inspection.signer):
            return
        if not self._trust.is_revoked(signer):
            raise SignatureError(
                f"update of {former.code!r}: it is signed by {inspection.signer}, the installed version by {signer}; "
                "if that key handed over, name the new one with signer=..., or revoke the old one in the TrustStore"
            )

    async def _changes(self, former: PluginRecord, inspection: Inspection, asked: Asked) -> PlanDifference:
        active = former.current
        if _STRENGTH[inspection.signature] < _STRENGTH[active.signature]:
            raise SignatureError(
                f"update of {former.code!r}: it has a weaker signature ({inspection.signature}) than the installed "
                f"version ({active.signature}); to do without, remove the plugin and install it anew"
            )
        self._require_same_signer(former, inspection, asked)
        try:
            files = await self._depot.source(former.code, active, self.trusting(active.pin)).release()
        except InstallError:  # damaged, or revoked meanwhile: an update may be what mends that
            files = None
        return difference(former, files, inspection)


def _require_asked(asked: Asked, inspection: Inspection) -> None:
    release = inspection.release
    if asked.code not in (None, release.code):
        raise SignatureError(f"{asked.source}: is the plugin {release.code!r}, wanted {asked.code!r}")
    if asked.digest not in (None, release.digest):
        raise SignatureError(
            f"{release.code} {release.version}: its digest is {release.digest}, wanted {asked.digest}"
        )


def _lone_file(path: str, file: str) -> str | None:
    """The index, if `path` is a folder that has it and is no repository. Blocks."""
    whole = f"{path.rstrip('/')}/{file}"
    with suppress(OSError, ValueError):
        if "://" not in path and Path(whole).is_file() and not Path(path, ".git").exists():
            return whole
    return None


async def _parsed(data: bytes, origin: str) -> Index:
    return await in_thread(lambda: Index.parse(data, origin=origin))  # a large one takes a second


async def _read(folder: Path, path: str, origin: str) -> bytes:
    try:
        return await RootedFiles(folder).read(path, limit_bytes=LIMIT_INDEX_BYTES)
    except RequestError as error:
        raise SourceUnavailable(f"{origin}: its index: {error}") from error


def _ignore(_progress: FetchProgress) -> None:
    """Nobody wants to know."""
