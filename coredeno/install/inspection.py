"""Decides whether a tree that was fetched may be installed, and what it then is: its release, signer, manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from coredeno.errors import (
    InstallError,
    ManifestError,
    NotFound,
    RequestError,
    SignatureError,
)
from coredeno.install.original import manifest_signed_by
from coredeno.install.records import Signature
from coredeno.install.release import (
    LIMIT_FILES,
    LIMIT_RELEASE_BYTES,
    LIMIT_SIGNATURE_BYTES,
    MANIFEST,
    RELEASE,
    SIGNATURE,
    Release,
    check_manifest,
    encode_release,
    parse_release,
    parse_signature,
    verify_release,
)
from coredeno.install.sealing import add_sealed, seal
from coredeno.install.trust import TrustStore
from coredeno.install.verifying import compare
from coredeno.manifest import LIMIT_BYTES, Manifest, parse_manifest
from coredeno.services.rooted_files import RootedFiles
from coredeno.services.threads import in_thread

UNSIGNED_SEQ = 1
"""The number that the host gives a release that nobody numbered; no mark is kept of it."""


class Trusting(msgspec.Struct, frozen=True):
    """What counts: the app's trust store, the one key that it named for this plugin, and whether unsigned is fine."""

    store: TrustStore
    signer: str | None
    allow_unsigned: bool

    def judge(self, release: Release, signature: Signature, signer: str | None) -> None:
        """Return if a release, signed so by `signer`, may be installed and run. Asked at install and at each load.

        Raises:
            SignatureError: it may not; the message says what would allow it.
        """
        code, version, digest = release.code, release.version, release.digest
        if signature == "release" or (signature == "manifest" and self.store.manifest_signatures):
            assert signer is not None
            self.store.judge(code=code, version=version, digest=digest, signer=signer, pinned=self.signer)
            return
        self.store.check_release(code=code, version=version, digest=digest)
        if self.signer is not None:
            raise SignatureError(
                f"{code} {version}: its files are not signed, wanted a signature by {self.signer}"
            )
        if not self.allow_unsigned:
            what = (
                f"its files are not signed (its manifest is, by {signer})" if signer else "it is not signed"
            )
            raise SignatureError(
                f"{code} {version}: {what}; wanted {SIGNATURE}, or HostConfig(allow_unsigned=True)"
                + (", or TrustStore(manifest_signatures=True) if that is enough" if signer else "")
            )


TrustingOf: TypeAlias = Callable[[str], Trusting]


class Inspection(msgspec.Struct, frozen=True):
    """What a tree is that may be installed. It lies sealed and complete in `tree`."""

    tree: Path
    release: Release
    manifest: Manifest
    signature: Signature
    signer: str | None


async def inspect(tree: Path, trusting_of: TrustingOf) -> Inspection:
    """Verify a tree that was fetched, and seal it.

    A tree without a signature gets a list of its files here, so that from now on it is held to it as others are.

    Args:
        tree: the folder, which nobody else writes to.
        trusting_of: what counts for a plugin of this code.

    Raises:
        SignatureError: it has no signature that counts.
        IntegrityError: a file is not the one that was signed, is missing or is not listed.
        UnsafePath, ManifestError, PluginError: a file, the manifest or the release is not as it must be.
        InstallError: the disk is full.
    """
    files = RootedFiles(tree)
    signed = await _read(files, RELEASE, LIMIT_RELEASE_BYTES)
    signature = await _read(files, SIGNATURE, LIMIT_SIGNATURE_BYTES)
    if (signed is None) != (signature is None):
        there, missing = (RELEASE, SIGNATURE) if signature is None else (SIGNATURE, RELEASE)
        raise SignatureError(f"it has {there} without {missing}, wanted both or neither")
    view = await _read(files, MANIFEST, LIMIT_BYTES)
    if view is None:
        raise ManifestError(file=MANIFEST, field="", problem="is missing, wanted a plugin's manifest")
    if signed is None or signature is None:
        return await in_thread(lambda: _inspect_unsigned(tree, view, trusting_of))
    return await in_thread(lambda: _inspect_signed(tree, signed, signature, view, trusting_of))


def _inspect_signed(
    tree: Path, signed: bytes, signature: bytes, view: bytes, trusting_of: TrustingOf
) -> Inspection:
    proof = parse_signature(signature)
    verify_release(signed, proof)  # before anything in it is looked at
    # Nor is a stranger's list parsed. The manifest is small, and what it says of the code must prove true below.
    manifest = parse_manifest(view, file=MANIFEST)
    trusting = trusting_of(manifest.code)
    trusting.store.check_key(
        code=manifest.code, version=manifest.version, signer=proof.key, pinned=trusting.signer
    )
    release = parse_release(signed)
    trusting_of(release.code).judge(release, "release", proof.key)
    compare(release, seal(tree))
    check_manifest(release, manifest)
    return Inspection(tree, release, manifest, "release", proof.key)


def _inspect_unsigned(tree: Path, view: bytes, trusting_of: TrustingOf) -> Inspection:
    manifest = parse_manifest(view, file=MANIFEST)
    trusting = trusting_of(manifest.code)
    keys = trusting.store.keys_for(manifest.code) if trusting.signer is None else (trusting.signer,)
    signer = manifest_signed_by(view, keys)
    listed = encode_release(
        code=manifest.code,
        version=manifest.version,
        seq=UNSIGNED_SEQ,
        entry=manifest.entry,
        # Room for the list and, as if it were signed, a signature: a load counts them too.
        files=seal(tree, entries_limit=LIMIT_FILES - 2),
    )
    release = parse_release(listed)
    kind: Signature = "none" if signer is None else "manifest"
    trusting.judge(release, kind, signer)
    add_sealed(tree, RELEASE, listed)
    return Inspection(tree, release, manifest, kind, signer)


async def _read(files: RootedFiles, path: str, limit_bytes: int) -> bytes | None:
    try:
        return await files.read(path, limit_bytes=limit_bytes)
    except NotFound:
        return None
    except RequestError as error:
        raise InstallError(f"install: {error}") from error
