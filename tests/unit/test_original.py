"""The original's inline signature: over the manifest's own bytes with the line `sign:` blanked."""

from __future__ import annotations

import base64

import pytest
from nacl.signing import SigningKey

from coredeno.install.original import manifest_signed_by

# As Go's yaml.Marshal writes the struct: its order, indent 4, `[]` for an empty list, `{}` for a nil map.
UNSIGNED = b"""\
code: photo-browser
name: Photo Browser
version: 0.1.0
sign: ""
layout: HLCRF
slots:
    C: photo-grid
    H: nav-breadcrumb
permissions:
    read:
        - ./photos/
    write: []
    net: []
    run: []
modules:
    - core/media
    - core/fs
"""
BARE = b"""\
code: bare
name: ""
version: ""
sign: ""
layout: ""
slots: {}
permissions:
    read: []
    write: []
    net: []
    run: []
modules: []
"""
KEY = SigningKey(bytes(range(32)))
PUBLIC = bytes(KEY.verify_key).hex()
OTHER = bytes(SigningKey(bytes(32)).verify_key).hex()

# Written out once, so that a change of both halves at once is seen: ed25519 is deterministic.
VECTOR = b"/zAwoEVD8xxv6W2Bl5pxhvCdTzj23LKvTqo3OfyanknfXTxBfA5eoQZSAG2uA8Qo5LlZJuXFKWJaJCs3GWC7CQ=="


def signature_of(text: bytes) -> bytes:
    return base64.b64encode(KEY.sign(text).signature)


def signed(text: bytes) -> bytes:
    return text.replace(b'sign: ""', b"sign: " + signature_of(text), 1)


@pytest.mark.parametrize("text", [UNSIGNED, BARE])
def test_a_manifest_as_the_original_wrote_it(text: bytes):
    """It verifies, and the key that fits is the answer, the first of several."""
    assert manifest_signed_by(signed(text), [PUBLIC]) == PUBLIC
    assert manifest_signed_by(signed(text), [OTHER, PUBLIC]) == PUBLIC
    assert manifest_signed_by(signed(text), iter([PUBLIC])) == PUBLIC


def test_a_fixed_vector():
    """The signature of these bytes by this key, once and for all."""
    assert signature_of(UNSIGNED) == VECTOR


def test_other_keys_do_not_fit():
    """Nor do none, nor those that are no points."""
    assert manifest_signed_by(signed(UNSIGNED), [OTHER]) is None
    assert manifest_signed_by(signed(UNSIGNED), []) is None
    assert manifest_signed_by(signed(UNSIGNED), ["00" * 32, "ff" * 32]) is None


@pytest.mark.parametrize("quote", [b'"', b"'", b""])
def test_the_signature_may_stand_in_quotes(quote: bytes):
    """Whoever put it in by hand may have written them; they are no part of what was signed."""
    line = b"sign:  " + quote + signature_of(UNSIGNED) + quote + b"  "
    assert manifest_signed_by(UNSIGNED.replace(b'sign: ""', line), [PUBLIC]) == PUBLIC


@pytest.mark.parametrize("place", ["first", "last", "last, without a newline"])
def test_the_line_may_stand_anywhere(place: str):
    """At the beginning and at the very end, as long as it is at the top level."""
    rest = BARE.replace(b'sign: ""\n', b"")
    text = {"first": b'sign: ""\n' + rest, "last": rest + b'sign: ""\n'}.get(place, rest + b'sign: ""')
    assert manifest_signed_by(signed(text), [PUBLIC]) == PUBLIC


def changed(old: bytes, new: bytes) -> bytes:
    assert old in signed(UNSIGNED)
    return signed(UNSIGNED).replace(old, new)


NOT_SIGNED = {
    "no line": BARE.replace(b'sign: ""\n', b""),
    "empty": UNSIGNED,
    "one byte changed": changed(b"0.1.0", b"0.1.1"),
    "an unknown key added": signed(UNSIGNED) + b"entry: evil.ts\n",
    "a comment added": signed(UNSIGNED) + b"# hello\n",
    "a permission added": changed(b"net: []", b"net: [evil.example]"),
    "other line ends": signed(UNSIGNED).replace(b"\n", b"\r\n"),
    "a byte order mark": b"\xef\xbb\xbf" + signed(UNSIGNED),
    "twice": signed(UNSIGNED) + b"sign: " + signature_of(UNSIGNED) + b"\n",
    "twice, one empty": signed(UNSIGNED) + b'sign: ""\n',
    "twice, the second quoted": signed(UNSIGNED) + b'"sign": x\n',
    "in a mapping": BARE.replace(b'sign: ""\n', b"").replace(
        b"slots: {}", b"slots:\n    sign: " + signature_of(BARE)
    ),
    "in a text in quotes": BARE.replace(b'sign: ""\n', b"").replace(
        b'name: ""', b'name: "\nsign: ' + signature_of(BARE) + b'\n"'
    ),
    "in a flow mapping": b"{code: a, sign: " + signature_of(BARE) + b"}",
    "a list": b"- a\n",
    "a list with the line": b"- a\nsign: " + signature_of(BARE) + b"\n",
    "not canonical base64": signed(UNSIGNED).replace(b"==\n", b"\n", 1),
    "bits beyond the end": b"sign: " + b"A" * 85 + b"B==\n",
    "too short": b"sign: " + base64.b64encode(bytes(63)) + b"\n",
    "too long": b"sign: " + base64.b64encode(bytes(65)) + b"\n",
    "quotes that do not match": b'sign: "' + signature_of(BARE) + b"'\n",
    "a newline escape": b'sign: "' + signature_of(BARE) + b'\\n"\n',
    "a comment behind": changed(b"==\n", b"== # mine\n"),
    "an anchor": changed(b"code: photo", b"code: &a photo"),
    "not UTF-8": signed(UNSIGNED) + b"\xff",
    "too large": signed(UNSIGNED) + b"#" * 65_536,
    "nothing": b"",
}


@pytest.mark.parametrize("data", NOT_SIGNED.values(), ids=NOT_SIGNED)
def test_what_is_not_signed(data: bytes):
    """Whatever is not the line of the original at the top level, or changed since: no key, and no error."""
    assert manifest_signed_by(data, [PUBLIC]) is None


def test_a_line_in_a_text_in_quotes_does_not_count_even_if_it_verifies():
    """The parser decides what is the field `sign`, not what looks like it."""
    text = b'code: a\nname: "\nsign: ""\n"\n'
    assert manifest_signed_by(signed(text), [PUBLIC]) is None
