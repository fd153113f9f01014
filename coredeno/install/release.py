"""`.core/release.json`, the list of a plugin's files that is signed, and `.core/release.sig` beside it. Pure: no I/O.

What is signed are the bytes of the list as they lie in the folder, so they need no canonical form; their
SHA-256 is the release's identity. The list holds every file of the plugin but the two themselves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Final, NoReturn, TypeAlias

import msgspec

from coredeno.errors import InvalidArgument, ManifestError, SignatureError
from coredeno.install.keys import KEY_BYTES, SIGNATURE_BYTES, decode_base64, encode_base64, verifies
from coredeno.install.paths import LIMIT_PATH_BYTES, PathSet, check_path
from coredeno.install.strict_json import FORMAT, StrictJsonError, decode_strict
from coredeno.manifest import LIMIT_CODE, LIMIT_VERSION, Manifest, check_code, check_entry, check_version

RELEASE: Final = ".core/release.json"
SIGNATURE: Final = ".core/release.sig"
MANIFEST: Final = ".core/view.yml"

LIMIT_FILES: Final = 10_000
"""The most files and folders of one release, `RELEASE` and `SIGNATURE` included: as many as a load walks over."""
LIMIT_RELEASE_BYTES: Final = 4 * 1024 * 1024
"""The largest list that is read: 10,000 of the longest paths take 3.3 MB."""
LIMIT_SIGNATURE_BYTES: Final = 1024
LIMIT_SEQ: Final = 2**63 - 1
"""The highest sequence number, and the largest size of a file: what SQLite, Go and Rust count with."""

CONTEXT: Final = b"coredeno release 1\n"
"""Stands before the list in what is signed: so no signature of something else is ever one of a release."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

# Bounds of the texts before anything else looks at them. A character has a byte at least; `check_path` counts bytes.
_Path: TypeAlias = Annotated[str, msgspec.Meta(max_length=LIMIT_PATH_BYTES)]
_Code: TypeAlias = Annotated[str, msgspec.Meta(max_length=LIMIT_CODE)]
_Version: TypeAlias = Annotated[str, msgspec.Meta(max_length=LIMIT_VERSION)]


class ReleaseFile(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One file of a release.

    Attributes:
        path: relative to the plugin's folder, as `check_path` accepts it.
        sha256: of its content, 64 lower-case hex digits.
        size: in bytes.
    """

    path: _Path
    sha256: str
    size: int


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A list of files as `parse_release` checked it.

    Attributes:
        code: the plugin's code.
        version: for humans; which of two releases is newer says `seq` alone.
        seq: the number of the release, 1 to 2**63-1. Each release of a key has a higher one than the last.
        entry: the file to import; one of `files`.
        files: strictly ascending by path.
        digest: SHA-256 of the list's bytes, in hex digits: the release's identity.
    """

    code: str
    version: str
    seq: int
    entry: str
    files: tuple[ReleaseFile, ...]
    digest: str


class SignatureFile(msgspec.Struct, frozen=True, kw_only=True):
    """Who says to have signed, and the signature. It proves nothing before `verify_release`.

    Attributes:
        key: the public key, as `parse_key` gives it.
        signature: 64 bytes.
    """

    key: str
    signature: bytes


class _ReleaseDocument(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    code: _Code
    version: _Version
    seq: int
    entry: _Path
    files: tuple[ReleaseFile, ...]


class _SignatureDocument(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    key: str
    signature: str


def encode_release(*, code: str, version: str, seq: int, entry: str, files: Iterable[ReleaseFile]) -> bytes:
    """The list's bytes, one file a line; the same for the same files, in whatever order they come.

    Raises:
        ManifestError, UnsafePath: `parse_release` would refuse it.
    """
    head = msgspec.json.encode(
        {"format": FORMAT, "code": code, "version": version, "seq": seq, "entry": entry}
    )
    lines = b",\n".join(map(msgspec.json.encode, sorted(files, key=lambda file: file.path)))
    data = head[:-1] + b',"files":[\n' + lines + b"\n]}\n"
    parse_release(data)
    return data


def parse_release(data: bytes) -> Release:
    """Read and check a list of files. Verify its signature first.

    Raises:
        ManifestError: it is malformed, of a newer format, has an unknown field, breaks a rule of the
            manifest's for `code`, `version` or `entry`, does not list the manifest or the entry, lists itself
            or its signature, or its files are out of order, or with their folders too many.
        UnsafePath: a path is refused by `check_path`, or is the same as another one to some file systems.
            Nothing else is raised, whatever the bytes are.
    """
    try:
        document = decode_strict(data, _ReleaseDocument, limit_bytes=LIMIT_RELEASE_BYTES)
    except StrictJsonError as error:
        _refuse(error.field, error.problem)
    _check("code", check_code, document.code)
    _check("version", check_version, document.version)
    _check("entry", check_entry, document.entry)
    if not 1 <= document.seq <= LIMIT_SEQ:
        _refuse("seq", "wanted a whole number from 1 to 2**63-1")
    _check_files(document.files, document.entry)
    return Release(
        code=document.code,
        version=document.version,
        seq=document.seq,
        entry=document.entry,
        files=document.files,
        digest=hashlib.sha256(data).hexdigest(),
    )


def check_manifest(release: Release, manifest: Manifest) -> None:
    """Refuse a manifest that says something else than the signed list.

    Raises:
        ManifestError: of the manifest, for its `code`, `version` or `entry`.
    """
    for field in ("code", "version", "entry"):
        said, signed = getattr(manifest, field), getattr(release, field)
        if said != signed:
            raise ManifestError(
                file=MANIFEST, field=field, problem=f"is {said!r}, wanted {signed!r} as in {RELEASE}"
            )


def encode_signature(signature: SignatureFile) -> bytes:
    """The bytes of `.core/release.sig`."""
    document = _SignatureDocument(
        FORMAT, encode_base64(bytes.fromhex(signature.key)), encode_base64(signature.signature)
    )
    return msgspec.json.encode(document) + b"\n"


def parse_signature(data: bytes) -> SignatureFile:
    """Read `.core/release.sig`.

    Raises:
        SignatureError: it is malformed. Nothing else is raised, whatever the bytes are.
    """
    try:
        document = decode_strict(data, _SignatureDocument, limit_bytes=LIMIT_SIGNATURE_BYTES)
    except StrictJsonError as error:
        raise SignatureError(f"{SIGNATURE}: {error}") from None
    return SignatureFile(
        key=_raw("key", document.key, KEY_BYTES).hex(),
        signature=_raw("signature", document.signature, SIGNATURE_BYTES),
    )


def verify_release(release_json: bytes, signature: SignatureFile) -> None:
    """Make sure that the key in `signature` signed these very bytes. Whether the key is trusted is another question.

    Raises:
        SignatureError: it did not.
    """
    if not verifies(signature.key, CONTEXT + release_json, signature.signature):
        raise SignatureError(f"{SIGNATURE}: is not the signature of {RELEASE} by the key {signature.key}")


def _check(field: str, rule: Callable[[str], Any], value: str) -> None:
    try:
        normal = rule(value)
    except InvalidArgument as error:
        _refuse(field, str(error))
    if normal != value:
        _refuse(field, f"is {value!r}, wanted {normal!r}")


def _check_files(files: Sequence[ReleaseFile], entry: str) -> None:
    known = PathSet()
    known.add(RELEASE)  # they lie there too, so no other file may be the same as they are
    known.add(SIGNATURE)
    last = ""
    for index, file in enumerate(files):
        field = f"files[{index}]"
        path = check_path(file.path)
        if path in (RELEASE, SIGNATURE):
            _refuse(field, f"is {path!r}, wanted every file but {RELEASE} and {SIGNATURE}")
        if path <= last:
            _refuse(field, f"is {path!r} after {last!r}, wanted each path once, ascending by code point")
        last = path
        known.add(path)
        if len(known) > LIMIT_FILES:
            _refuse(field, f"is one more file or folder than {LIMIT_FILES:,}, the host's two files included")
        if _SHA256.fullmatch(file.sha256) is None:
            _refuse(field, f"has a hash for {path!r} that is none, wanted 64 of 0-9 a-f")
        if not 0 <= file.size <= LIMIT_SEQ:
            _refuse(field, f"has a size for {path!r} that is none, wanted 0 or more bytes")
    listed = {file.path for file in files}
    if MANIFEST not in listed:
        _refuse("files", f"do not have {MANIFEST!r}, wanted every file of the plugin")
    if entry not in listed:
        _refuse("entry", f"is {entry!r}, wanted one of the files")


def _raw(field: str, text: str, size_bytes: int) -> bytes:
    raw = decode_base64(text, size_bytes)
    if raw is None:
        raise SignatureError(f"{SIGNATURE}: {field}: is none, wanted base64 of {size_bytes} bytes")
    return raw


def _refuse(field: str, problem: str) -> NoReturn:
    raise ManifestError(file=RELEASE, field=field, problem=problem)
