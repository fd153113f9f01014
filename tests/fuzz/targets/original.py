"""The original's inline signature: any file is judged, and one bit changed anywhere in a signed one is seen."""

from __future__ import annotations

import hashlib

from coredeno.install.keys import encode_base64
from coredeno.install.original import manifest_signed_by
from coredeno.install.signing_key import SigningKey
from coredeno.plain_yaml import PlainYamlError, parse_plain_yaml
from tests.fuzz.shape import require, require_equal, value_of

KEY = SigningKey(bytes(range(32)))
OTHER = SigningKey(bytes(32)).public_hex
_BLANK = b'sign: ""'
_UNSIGNED = b"""\
code: photo-browser
name: Photo Browser
version: 0.1.0
sign: ""
layout: HLCRF
permissions:
    read:
        - ./photos/
    write: []
"""


def signed(unsigned: bytes) -> bytes:
    line = b"sign: " + encode_base64(KEY.sign(unsigned)).encode()
    return unsigned.replace(_BLANK, line, 1)


SEEDS = [_UNSIGNED, signed(_UNSIGNED), b'sign: ""\ncode: x\n', b'code: x\nname: |\n  sign: ""\nsign: ""\n']


def target(data: bytes) -> None:
    found = manifest_signed_by(data, [OTHER, KEY.public_hex])
    require(found in (None, KEY.public_hex), f"{found} signed nothing")
    if found is not None:
        require(isinstance(parse_plain_yaml(data), dict), "what is signed is a manifest")
    _flip(signed(data))


def _flip(data: bytes) -> None:
    if manifest_signed_by(data, [KEY.public_hex]) is None:
        return
    require_equal(
        value_of(lambda: type(parse_plain_yaml(data)), PlainYamlError), dict, "a signed file is plain"
    )
    bit = int.from_bytes(hashlib.sha256(data).digest()[:8], "big") % (8 * len(data))
    changed = data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
    require(manifest_signed_by(changed, [KEY.public_hex]) is None, f"verifies with bit {bit} of it flipped")
