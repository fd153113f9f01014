"""The inline signature that the original, in Go, puts into a manifest: the field `sign`. Pure: no I/O.

It is ed25519 over the manifest as Go's `yaml.Marshal` writes it with `sign: ""`. A file that is as its signer wrote
it differs from that in one line, so what is verified are the file's own bytes with that line blanked. One that
was written anew since, by hand or with other line ends, does not verify.

It covers the manifest alone: it can show that a manifest is authentic, never that the code beside it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from coredeno.install.keys import SIGNATURE_BYTES, decode_base64, verifies
from coredeno.plain_yaml import PlainYamlError, parse_plain_yaml

# At the beginning of a line: in a mapping or list it would be indented. Go writes it without quotes.
_SIGN: Final = re.compile(rb"""^sign: *(["']?)([A-Za-z0-9+/]{86}==)\1 *$""", re.MULTILINE)
_BLANK: Final = b'sign: ""'


def manifest_signed_by(view_yml: bytes, keys: Iterable[str]) -> str | None:
    """The first of the keys whose inline signature the manifest bears; None if there is none that fits.

    Args:
        view_yml: the manifest's bytes as they lie in the folder.
        keys: as `parse_key` gives them.
    """
    lines = list(_SIGN.finditer(view_yml))
    if len(lines) != 1:
        return None
    line, text = lines[0], lines[0][2].decode()
    signature = decode_base64(text, SIGNATURE_BYTES)
    if signature is None or _sign_of(view_yml) != text:
        return None
    message = view_yml[: line.start()] + _BLANK + view_yml[line.end() :]
    return next((key for key in keys if verifies(key, message, signature)), None)


def _sign_of(view_yml: bytes) -> object:
    """The field `sign`: what looks like its line might be one of a longer text in quotes."""
    try:
        document = parse_plain_yaml(view_yml)
    except PlainYamlError:
        return None
    return document.get("sign") if isinstance(document, dict) else None
