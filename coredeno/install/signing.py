"""`sign_folder`: what a plugin's author does before publishing a version. It blocks: it is for release scripts."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Final

from coredeno.config import FetchLimits
from coredeno.errors import (
    FetchLimitExceeded,
    InstallError,
    ManifestError,
    RequestError,
    UnsafePath,
    UsageError,
)
from coredeno.install.faults import install_errors
from coredeno.install.folders import writing
from coredeno.install.paths import PathSet, check_path
from coredeno.install.release import (
    CONTEXT,
    LIMIT_SEQ,
    LIMIT_SIGNATURE_BYTES,
    MANIFEST,
    RELEASE,
    SIGNATURE,
    Release,
    ReleaseFile,
    SignatureFile,
    encode_release,
    encode_signature,
    parse_release,
)
from coredeno.install.signing_key import SigningKey
from coredeno.manifest import parse_manifest
from coredeno.plugin_files import PluginFile, walk
from coredeno.services.descriptors import CHUNK_BYTES, PLAIN_FILE, opened, opened_folder, replace_durably

__all__ = ["SigningKey", "sign_folder"]

_OWN: Final = (RELEASE, SIGNATURE)
_SKIPPED: Final = frozenset({".git", *_OWN})
_SECRET: Final = b"PRIVATE KEY-----"  # in the first line of a PEM file, whatever the kind of key
_SECRET_BYTES: Final = 1024  # of a file in which that is looked for: a few lines may stand before it


def sign_folder(folder: str | PathLike[str], key: SigningKey, *, seq: int) -> Release:
    """List and sign all files of a plugin: writes `.core/release.json`, then `.core/release.sig`.

    Both are replaced whole or not at all; if only the first was, nobody accepts the folder until it is signed
    again. Everything in the folder is listed but `.git`, also what git ignores: sign a clean checkout, in which
    git changed no line ends, and commit the two files with the rest. What was signed already may be signed again
    with its number, which changes nothing.

    Args:
        folder: the plugin's folder.
        key: the author's key.
        seq: the number of this release, 1 to 2**63-1: higher than that of each one before. A host that saw a
            higher one of this key refuses it.

    Returns:
        The release, as hosts will know it.

    Raises:
        UsageError: `seq` is no such number, or not higher than that of the `.core/release.json` that lies there
            and lists other things; or a file is a private key, which all who install the plugin would get.
        ManifestError: `.core/view.yml` is missing or not valid, or its `entry` is no file of the folder.
        UnsafePath: something is no plain file or folder, or has a name that is not allowed. So is what an
            interrupted write left behind (`.coredeno-tmp-…`).
        FetchLimitExceeded: an install with the default `FetchLimits` would refuse it for its size.
        InstallError: something cannot be read or written.
    """
    if type(seq) is not int or not 1 <= seq <= LIMIT_SEQ:
        raise UsageError(f"sign_folder: seq is {seq!r}, wanted a whole number from 1 to 2**63-1")
    root = Path(folder)
    limits = FetchLimits()
    listing = _Listing(limits)
    most = limits.files - len(_OWN)  # who installs it counts them too
    walked = walk(root, skip=_SKIPPED, entries_limit=most, depth_limit=limits.depth)
    with install_errors(), closing(walked) as files:
        for file in files:
            listing.add(file)
    data = listing.encoded(seq)
    release = parse_release(data)
    _require_higher(release, _signed_before(root))
    signature = SignatureFile(key=key.public_hex, signature=key.sign(CONTEXT + data))
    _write(root, RELEASE, data)
    _write(root, SIGNATURE, encode_signature(signature))
    return release


class _Listing:
    """The list while it grows, and the manifest's bytes as they were hashed."""

    def __init__(self, limits: FetchLimits) -> None:
        self._limits = limits
        self._bytes_left = limits.total_bytes
        self._paths = PathSet()
        self._files: list[ReleaseFile] = []
        self._manifest: bytes | None = None

    def add(self, file: PluginFile) -> None:
        check_path(file.path)
        if file.is_folder:
            return
        self._paths.add(file.path)
        self._require_room(file.path, file.status.st_size)
        digest, size, pieces = hashlib.sha256(), 0, []
        for piece in file.pieces():
            if not size and _SECRET in piece[:_SECRET_BYTES]:
                raise UsageError(
                    f"sign_folder: {file.path!r} is a private key, wanted it outside of the plugin's folder"
                )
            digest.update(piece)
            size += len(piece)
            self._require_room(file.path, size)  # it may have grown since
            if file.path == MANIFEST:
                pieces.append(piece)
        self._bytes_left -= size
        self._files.append(ReleaseFile(file.path, digest.hexdigest(), size))
        if file.path == MANIFEST:
            self._manifest = b"".join(pieces)

    def encoded(self, seq: int) -> bytes:
        if self._manifest is None:
            raise ManifestError(file=MANIFEST, field="", problem="is missing, wanted a plugin's manifest")
        manifest = parse_manifest(self._manifest, file=MANIFEST)
        if manifest.entry not in {file.path for file in self._files}:
            problem = f"is {manifest.entry!r}, wanted a file of the folder"
            raise ManifestError(file=MANIFEST, field="entry", problem=problem)
        data = encode_release(
            code=manifest.code,
            version=manifest.version,
            seq=seq,
            entry=manifest.entry,
            files=self._files,
        )
        self._require_room(RELEASE, len(data) + LIMIT_SIGNATURE_BYTES)
        return data

    def _require_room(self, path: str, size: int) -> None:
        if size > self._limits.file_bytes:
            raise FetchLimitExceeded(
                f"{path}: is larger", limit="file_bytes", allowed=self._limits.file_bytes
            )
        if size > self._bytes_left:
            raise FetchLimitExceeded(
                f"{path}: all files together are larger",
                limit="total_bytes",
                allowed=self._limits.total_bytes,
            )


def _signed_before(root: Path) -> Release | None:
    """The release that lies there; None if there is none, or none that is understood."""
    *folders, name = RELEASE.split("/")
    try:
        with opened_folder(root, folders) as above, opened(name, PLAIN_FILE, above=above) as file:
            return parse_release(b"".join(iter(lambda: os.read(file, CHUNK_BYTES), b"")))
    except (FileNotFoundError, ManifestError, UnsafePath):
        return None
    except OSError as error:
        raise InstallError(f"{RELEASE}: cannot be read: {error.strerror}") from error


def _require_higher(release: Release, former: Release | None) -> None:
    if former is None or former.code != release.code or former.digest == release.digest:
        return
    if former.seq >= release.seq:
        raise UsageError(
            f"sign_folder: seq is {release.seq}, but the folder was signed as {former.seq} before, "
            "wanted a higher number"
        )


def _write(root: Path, path: str, data: bytes) -> None:
    try:
        with writing(path):
            replace_durably(root, path.split("/"), data)
    except RequestError as error:
        raise InstallError(f"{path}: {error}") from error
