"""Public keys and signatures of ed25519, as text and as bytes. Pure: no I/O."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from coredeno.errors import UsageError

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_HEX = re.compile(r"[0-9A-Fa-f]{64}")
_SHOWN: Final = 80  # characters of what is no key that an error repeats


def parse_key(text: str) -> str:
    """Read a public key, and give its one spelling: 64 lower-case hex digits.

    Args:
        text: 64 hex digits, or base64 of the 32 bytes.

    Raises:
        UsageError: it is neither.
    """
    if not isinstance(text, str):
        raise UsageError(f"public key: is of type {type(text).__name__}, wanted text")
    if _HEX.fullmatch(text):
        return text.lower()
    raw = decode_base64(text, KEY_BYTES)
    if raw is None:
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
        raise UsageError(f"public key: is {shown!r}, wanted 64 hex digits, or base64 of 32 bytes")
    return raw.hex()


def decode_base64(text: str, size_bytes: int) -> bytes | None:
    """The bytes that `text` stands for, or None unless it is their one spelling in base64 (RFC 4648, section 4).

    So nothing that is no letter of the alphabet, and no bits that are set beyond the last byte (section 3.5).
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # the latter for what is not ASCII
        return None
    return raw if len(raw) == size_bytes and encode_base64(raw) == text else None


def encode_base64(raw: bytes) -> str:
    """Base64 in one line, with padding."""
    return base64.b64encode(raw).decode()


def verifies(key: str, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is the key's own of `message`.

    Keys of small order, and the second spelling that every signature has (S plus the group's order; RFC 8032,
    section 5.1.7), are refused: libsodium does.

    Args:
        key: as `parse_key` gives it.
        message: any bytes.
        signature: of any length; one that is not 64 bytes long never verifies.
    """
    # PyNaCl takes longer to import than coredeno may; only who verifies pays.
    from nacl.exceptions import BadSignatureError  # noqa: PLC0415
    from nacl.signing import VerifyKey  # noqa: PLC0415

    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        VerifyKey(bytes.fromhex(key)).verify(message, signature)
    except BadSignatureError:
        return False
    return True
