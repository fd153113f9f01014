"""What an install or update would do, for an app to show and decide on before anything is live."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

import msgspec

from coredeno.errors import ConsentRequired, UsageError
from coredeno.install.inspection import Inspection
from coredeno.install.records import PluginRecord, Signature
from coredeno.install.release import Release, ReleaseFile
from coredeno.install.words import beyond, in_words
from coredeno.manifest import Manifest


class InstalledPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """An installed plugin, as it is recorded.

    Attributes:
        code: its code.
        version: the active version.
        seq: its sequence number, as its signer gave it; 1 if it is not signed.
        digest: its identity: the SHA-256 of its `.core/release.json`.
        signature: what was signed: `release` (every file), `manifest` (only that), or `none`.
        signer: the key that signed it, as hex digits, or None.
        source: where updates come from.
        ref: the branch, tag or commit that `update` follows, or None for the default branch.
        revision: what the source called the active version, such as a git commit.
        pinned: whether it stays at this version.
        kept: the versions that `rollback` can go to, the oldest first.
        problem: why it does not run, if it is quarantined or its record cannot be read; then only `code` says more.
    """

    code: str
    version: str = ""
    seq: int = 0
    digest: str = ""
    signature: Signature = "none"
    signer: str | None = None
    source: str = ""
    ref: str | None = None
    revision: str = ""
    pinned: bool = False
    kept: tuple[str, ...] = ()
    problem: str | None = None


class PlanDifference(msgspec.Struct, frozen=True, kw_only=True):
    """What an update changes.

    Attributes:
        version: the version that is active now.
        source: where that came from; compare with `plan.source`.
        signer: the key that signed it, as hex digits, or None; compare with `plan.signer`.
        added_permissions: what the new one asks for beyond it, in words; it needs consent if there is any.
        dropped_permissions: what the new one does not ask for any more, in words.
        added_files, changed_files, removed_files: paths.
    """

    version: str
    source: str
    signer: str | None
    added_permissions: tuple[str, ...]
    dropped_permissions: tuple[str, ...]
    added_files: tuple[str, ...]
    changed_files: tuple[str, ...]
    removed_files: tuple[str, ...]


class PlanKeeper(Protocol):
    """Who made a plan, and can carry it out."""

    async def apply(self, plan: InstallPlan, *, consent: bool | None) -> InstalledPlugin:
        """Carry it out."""
        ...

    async def discard(self, plan: InstallPlan) -> None:
        """Remove what is staged for it."""
        ...


class InstallPlan:
    """A plugin that was fetched and verified, and is not installed yet.

    It lies on the disk until `apply`, `discard`, or the end of the host; `async with` discards it at the end.

    Attributes:
        source: where it was fetched from.
        ref: the branch, tag or commit that was asked for, or None.
        revision: what the source calls it, such as a git commit; a hint, `digest` is the identity.
        manifest: its manifest.
        signature: what is signed: `release` (every file), `manifest` (only that), or `none`.
        signer: the key that signed it, as hex digits, or None.
        pinned_signer: the key that the app named for it, or None.
        files: every file, with its SHA-256 and its size in bytes.
        permissions: what it asks for, in words.
        refused: what the app's policy does not allow of it; `apply` raises `PermissionDenied` if there is any.
        difference: for an update, what changes; None for a new plugin.
    """

    def __init__(
        self,
        inspection: Inspection,
        *,
        source: str,
        ref: str | None,
        revision: str,
        pinned_signer: str | None,
        refused: tuple[str, ...],
        former: PluginRecord | None,
        difference: PlanDifference | None,
        keeper: PlanKeeper,
    ) -> None:
        """Made by `plan_install`."""
        self.inspection = inspection
        self.former = former
        self.source = source
        self.ref = ref
        self.revision = revision
        self.pinned_signer = pinned_signer
        self.manifest: Manifest = inspection.manifest
        self.signature: Signature = inspection.signature
        self.signer: str | None = inspection.signer
        self.files: tuple[ReleaseFile, ...] = inspection.release.files
        self.permissions: tuple[str, ...] = in_words(inspection.manifest)
        self.refused = refused
        self.difference = difference
        self._keeper = keeper
        self._used = self._applied = False

    def __repr__(self) -> str:
        return f"<InstallPlan {self.code} {self.version} ({'update' if self.difference else 'new'})>"

    @property
    def code(self) -> str:
        """The plugin's code."""
        return self.inspection.release.code

    @property
    def version(self) -> str:
        """Its version."""
        return self.inspection.release.version

    @property
    def seq(self) -> int:
        """Its sequence number, as its signer gave it; 1 if it is not signed."""
        return self.inspection.release.seq

    @property
    def digest(self) -> str:
        """Its identity: the SHA-256 of its `.core/release.json`."""
        return self.inspection.release.digest

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size for file in self.files)

    @property
    def needs_consent(self) -> bool:
        """Whether it asks for more than the installed version was granted."""
        return self.difference is not None and bool(self.difference.added_permissions)

    async def apply(self, *, consent: bool | None = None) -> InstalledPlugin:
        """Install it, or update to it. A new plugin is not loaded; one that is loaded is reloaded.

        If it is cancelled before the new version counts, nothing has changed; after that it is finished first.

        Args:
            consent: whether somebody agreed to what an update asks for in addition; None asks the app's hooks.

        Raises:
            UsageError: it was applied or discarded before, the host has stopped, or the plugin was changed since.
            PermissionDenied: it asks for more than the app's policy allows.
            ConsentRequired: it asks for more than the installed version, and nobody agreed. The plan stays, and can be
                applied with `consent=True`; after any other error it is discarded.
            DowngradeRefused: it is older than a release that was seen before from its key.
            UpdateUndone: the new version did not load; the former one was put back.
            InstallError, StoreError: it could not be written; nothing has changed.
        """
        if self._used:
            raise UsageError(
                f"apply: the plan for {self.code!r} was applied or discarded before, wanted a new one"
            )
        self._used = self._applied = True
        try:
            return await self._keeper.apply(self, consent=consent)
        except ConsentRequired:  # whoever is asked now may agree
            self._used = self._applied = False
            raise

    async def discard(self) -> None:
        """Remove what is staged. Harmless twice, and while and after it is applied."""
        if not self._applied:  # then the stage belongs to `apply`, which removes it
            self._used = True
            await self._keeper.discard(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.discard()


def difference(
    installed: PluginRecord, active_files: Release | None, inspection: Inspection
) -> PlanDifference:
    """What changes from the active release to a new one; without the former's files, all count as added."""
    active = installed.current
    manifest = inspection.manifest
    former = Manifest(code=manifest.code, permissions=active.permissions, services=active.services)
    old = {file.path: file for file in active_files.files} if active_files else {}
    new = {file.path: file for file in inspection.release.files}
    return PlanDifference(
        version=active.version,
        source=installed.source,
        signer=active.signer,
        added_permissions=beyond(active.permissions, active.services, manifest),
        dropped_permissions=beyond(manifest.permissions, manifest.services, former),
        added_files=tuple(path for path in new if path not in old),
        changed_files=tuple(path for path in new if path in old and new[path] != old[path]),
        removed_files=tuple(path for path in old if path not in new),
    )


def described(record: PluginRecord, problem: str | None = None) -> InstalledPlugin:
    """What the app is told of a record."""
    active = record.current
    return InstalledPlugin(
        code=record.code,
        version=active.version,
        seq=active.seq,
        digest=active.digest,
        signature=active.signature,
        signer=active.signer,
        source=record.source,
        ref=record.ref,
        revision=active.revision,
        pinned=record.pinned,
        kept=tuple(release.version for release in record.releases if release is not active),
        problem=problem,
    )
