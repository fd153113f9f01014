"""Signatures of releases: any file is read or refused, and one bit changed anywhere makes a good one a bad one."""

from __future__ import annotations

import hashlib

from coredeno.errors import SignatureError, UsageError
from coredeno.install.keys import parse_key
from coredeno.install.release import (
    CONTEXT,
    SignatureFile,
    encode_signature,
    parse_signature,
    verify_release,
)
from coredeno.install.signing_key import SigningKey
from tests.fuzz.shape import require, require_equal, value_of

KEY = SigningKey(bytes(range(32)))


def signed(release: bytes) -> bytes:
    return encode_signature(SignatureFile(key=KEY.public_hex, signature=KEY.sign(CONTEXT + release)))


SEEDS = [
    signed(b"{}"),
    signed(b"a release"),
    b'{"key": "", "signature": "", "format": 1}',
    KEY.public_hex.encode(),
]


def target(data: bytes) -> None:
    _read(data)
    _flip(data)


def _read(data: bytes) -> None:
    found = value_of(lambda: parse_signature(data), SignatureError)
    if found is not None:
        require_equal(parse_signature(encode_signature(found)), found, "written and read again")
        accepted = value_of(lambda: verify_release(b"a release", found) or True, SignatureError)
        by_key = (
            accepted and found.key == KEY.public_hex and found.signature == KEY.sign(CONTEXT + b"a release")
        )
        require(by_key or not accepted, "only the key's own signature is one")
    key = value_of(lambda: parse_key(data.decode("utf-8", "surrogateescape")), UsageError)
    require(key is None or parse_key(key) == key, "a key is in its one spelling")


def _flip(release: bytes) -> None:
    good = signed(release)
    verify_release(release, parse_signature(good))
    chosen = int.from_bytes(hashlib.sha256(release).digest()[:8], "big")  # another bit for another input
    if release:
        changed = _with_bit_flipped(release, chosen)
        require(
            not value_of(lambda: verify_release(changed, parse_signature(good)) or True, SignatureError),
            f"verifies with bit {chosen % (8 * len(release))} of the release flipped",
        )
    changed_file = _with_bit_flipped(good, chosen)
    require(
        not value_of(lambda: verify_release(release, parse_signature(changed_file)) or True, SignatureError),
        f"verifies with bit {chosen % (8 * len(good))} of the signature flipped",
    )


def _with_bit_flipped(data: bytes, bit: int) -> bytes:
    bit %= 8 * len(data)
    place = bit // 8
    return data[:place] + bytes([data[place] ^ 1 << bit % 8]) + data[place + 1 :]
