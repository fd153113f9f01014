"""`InstalledSource`: an installed release as the loader takes it, verified byte for byte at each load."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path

from coredeno.errors import IntegrityError, RequestError
from coredeno.install.inspection import Trusting
from coredeno.install.records import ReleaseRecord
from coredeno.install.release import (
    LIMIT_RELEASE_BYTES,
    LIMIT_SIGNATURE_BYTES,
    MANIFEST,
    RELEASE,
    SIGNATURE,
    Release,
    check_manifest,
    parse_release,
    parse_signature,
    verify_release,
)
from coredeno.install.verifying import copy_verified, naming
from coredeno.manifest import LIMIT_BYTES, Manifest, parse_manifest
from coredeno.services.descriptors import opened_folder
from coredeno.services.rooted_files import RootedFiles
from coredeno.services.threads import in_thread


class InstalledSource:
    """The `PluginSource` of one release.

    Nothing is taken from the record but which release it is: the signature is verified again, the key must
    still be trusted and not revoked, and each file is hashed while it is copied.

    Args:
        plugins: the folder of all installed plugins. The way from there follows no link.
        code: the plugin's code.
        record: which release it is.
        trusting: what counts now.
    """

    def __init__(self, plugins: Path, code: str, record: ReleaseRecord, trusting: Trusting) -> None:
        self._plugins = plugins
        self._code = code
        self._record = record
        self._trusting = trusting
        self._verified: tuple[Release, str | None] | None = None

    @property
    def name(self) -> str:
        """The plugin's code and version."""
        return f"{self._code} {self._record.version}"

    async def read_manifest(self) -> Manifest:
        """Verify the release, and read its manifest.

        Raises:
            IntegrityError: release, signature or manifest is not what was installed.
            SignatureError: the signature does not count any more, or key or release were revoked.
            ManifestError: this coredeno does not take the manifest.
        """
        release = await self.release()
        listed = next(file for file in release.files if file.path == MANIFEST)
        with self._named():
            view = await self._read(MANIFEST, LIMIT_BYTES)
            _require_digest(MANIFEST, view, listed.sha256)
        manifest = parse_manifest(view, file=f"{self.name}: {MANIFEST}")
        check_manifest(release, manifest)
        return manifest

    async def copy_to(self, folder: Path) -> None:
        """Copy the files that were signed; files have mode 0444 and folders 0755, minus the umask.

        If it fails or is cancelled, a part may be there; the caller removes it.

        Raises:
            IntegrityError, SignatureError: as `read_manifest`, and for every other file.
            SidecarError: `folder` cannot be written to.
        """
        await self._copy_to(folder)

    async def verify(self) -> Manifest:
        """Verify everything, copy nothing; gives the manifest.

        Raises:
            IntegrityError, SignatureError, ManifestError: as `read_manifest`, and for every other file.
        """
        manifest = await self.read_manifest()
        await self._copy_to(None)
        return manifest

    async def _copy_to(self, folder: Path | None) -> None:
        release = await self.release()
        signed = self._record.signature == "release"

        def copy() -> None:
            try:
                with opened_folder(self._plugins, [self._code, self._record.digest]) as installed:
                    copy_verified(installed, release, folder, signed=signed)
            except OSError as error:
                raise IntegrityError(
                    ".", expected="the release's folder", actual=f"{error.strerror}"
                ) from error

        with self._named():
            await in_thread(copy)

    def _named(self) -> AbstractContextManager[None]:
        """Let errors say what it is that is damaged, and what puts it right."""
        return naming(self.name, f"; update({self._code!r}) fetches it anew")

    async def _read(self, path: str, limit_bytes: int) -> bytes:
        """Read one file, not verified yet."""
        whole = f"{self._code}/{self._record.digest}/{path}"
        try:
            return await RootedFiles(self._plugins).read(whole, limit_bytes=limit_bytes)
        except RequestError as error:
            raise IntegrityError(path, expected="a file as it was installed", actual=str(error)) from error

    async def release(self) -> Release:
        """Verify the release itself: what is signed, and by whom.

        Raises:
            IntegrityError, SignatureError: as `read_manifest`.
        """
        if self._verified is None:
            with self._named():
                self._verified = await self._release()
        release, signer = self._verified
        self._trusting.judge(release, self._record.signature, signer)
        return release

    async def _release(self) -> tuple[Release, str | None]:
        """The release, and who signed it."""
        data = await self._read(RELEASE, LIMIT_RELEASE_BYTES)
        _require_digest(RELEASE, data, self._record.digest)
        signer = self._record.signer
        if self._record.signature == "release":
            proof = parse_signature(await self._read(SIGNATURE, LIMIT_SIGNATURE_BYTES))
            signer = proof.key
            await in_thread(lambda: verify_release(data, proof))
        release = await in_thread(lambda: parse_release(data))
        if release.code != self._code:
            raise IntegrityError(
                RELEASE, expected=f"that of {self._code!r}", actual=f"that of {release.code!r}"
            )
        return release, signer


def _require_digest(path: str, data: bytes, wanted: str) -> None:
    actual = hashlib.sha256(data).hexdigest()
    if actual != wanted:
        raise IntegrityError(path, expected=f"SHA-256 {wanted}", actual=f"SHA-256 {actual}")
