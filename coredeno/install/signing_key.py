"""`SigningKey`: the private key of a plugin's author, in a file that openssl reads and writes too."""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Final

from coredeno.disk import sync_folder
from coredeno.errors import UsageError
from coredeno.install.keys import KEY_BYTES, encode_base64
from coredeno.services.descriptors import NEW_FILE, write_all

_LIMIT_BYTES: Final = 4096
# PKCS#8 with the one algorithm and no attributes: RFC 8410, section 7. The seed follows.
_DER_PREFIX: Final = bytes.fromhex("302e020100300506032b657004220420")
_PEM: Final = re.compile(
    r"\s*-----BEGIN PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+)-----END PRIVATE KEY-----\s*", re.ASCII
)
_WANTED: Final = "wanted an ed25519 key as `openssl genpkey -algorithm ed25519` writes it"


class SigningKey:
    """A private ed25519 key. Its secret is in no message and not in its `repr`.

    Args:
        seed: the 32 bytes that it consists of.

    Raises:
        UsageError: they are not 32.
    """

    def __init__(self, seed: bytes) -> None:
        from nacl.signing import SigningKey as _NaclKey  # noqa: PLC0415 - slow to import; few apps sign

        if len(seed) != KEY_BYTES:
            raise UsageError(f"signing key: has {len(seed)} bytes, wanted {KEY_BYTES}")
        self._key = _NaclKey(seed)

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new key."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SigningKey:
        """Read a key from a file: PKCS#8 in PEM, not encrypted. The path may lead through symlinks.

        Raises:
            UsageError: it cannot be read, others than its owner may read or change it, or it has no such key.
        """
        what = f"signing key {str(path)!r}"
        try:
            data = _read_private(Path(path), what)
        except OSError as error:
            raise UsageError(f"{what}: cannot be read: {error.strerror}") from error
        return cls(_parse_pem(data, what))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the key to a new file that only its owner may read; when it returns, it is on the disk.

        Raises:
            UsageError: there is something already, or it cannot be written. Nothing is left behind.
        """
        what = f"signing key {str(path)!r}"
        try:
            _write_private(Path(path), _pem(bytes(self._key)))
        except FileExistsError:
            raise UsageError(f"{what}: exists, wanted a new file") from None
        except OSError as error:
            raise UsageError(f"{what}: cannot be written: {error.strerror}") from error

    @property
    def public_hex(self) -> str:
        """The public key, as 64 hex digits."""
        return bytes(self._key.verify_key).hex()

    @property
    def public_base64(self) -> str:
        """The public key, as base64."""
        return encode_base64(bytes(self._key.verify_key))

    def sign(self, message: bytes) -> bytes:
        """The key's signature of these bytes, 64 bytes."""
        return self._key.sign(message).signature

    def __repr__(self) -> str:
        return f"SigningKey(public_hex={self.public_hex!r})"


def _pem(seed: bytes) -> bytes:
    body = encode_base64(_DER_PREFIX + seed)
    return f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n".encode()


def _parse_pem(data: bytes, what: str) -> bytes:
    if b"ENCRYPTED" in data:
        raise UsageError(f"{what}: is encrypted; `openssl pkey -in FILE -out PLAIN` decrypts it")
    match = _PEM.fullmatch(data.decode("ascii", errors="replace"))
    if match is None:
        raise UsageError(f"{what}: is no PKCS#8 in PEM, {_WANTED}")
    try:
        der = base64.b64decode("".join(match[1].split()), validate=True)
    except binascii.Error:
        raise UsageError(f"{what}: its base64 is broken, {_WANTED}") from None
    if len(der) != len(_DER_PREFIX) + KEY_BYTES or not der.startswith(_DER_PREFIX):
        raise UsageError(f"{what}: is a key of another kind, {_WANTED}")
    return der[len(_DER_PREFIX) :]


def _read_private(path: Path, what: str) -> bytes:
    # O_NONBLOCK: opening a fifo would wait for its writer for ever.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{what}: is no plain file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise UsageError(f"{what}: has mode {mode:04o}, wanted 0600: nobody but its owner may reach it")
        data = os.read(file, _LIMIT_BYTES + 1)
    finally:
        os.close(file)
    if len(data) > _LIMIT_BYTES:
        raise UsageError(f"{what}: has more than {_LIMIT_BYTES:,} bytes, {_WANTED}")
    return data


def _write_private(path: Path, data: bytes) -> None:
    file = os.open(path, NEW_FILE, 0o600)
    try:
        try:
            os.fchmod(file, 0o600)  # the umask may have taken more than it should
            write_all(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
