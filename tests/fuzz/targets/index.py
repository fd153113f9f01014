"""Indexes: each entry that is accepted can be shown, found and searched for, and names a key in its one spelling."""

from __future__ import annotations

import json

from coredeno.errors import IndexInvalid, UsageError
from coredeno.install.index import Index
from coredeno.install.keys import parse_key
from coredeno.manifest import check_code, check_version
from coredeno.wire.text import printable
from tests.fuzz.shape import require, require_equal, value_of

_ENTRY = {
    "code": "tagger",
    "name": "Tägger",
    "description": "Finds tags.",
    "version": "1.0.0",
    "categories": ["Photos", "Text"],
    "source": "https://git.example/tagger",
    "key": "ab" * 32,
}
_FULL = _ENTRY | {
    "code": "other",
    "ref": "v1",
    "homepage": "https://a.example/",
    "digest": "0" * 64,
    "key": "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=",
}
SEEDS = [
    json.dumps({"format": 1, "name": "Shop", "plugins": [_ENTRY, _FULL]}).encode(),
    json.dumps({"format": 1, "name": "Shöp", "plugins": [_ENTRY]}, ensure_ascii=False).encode(),
    b'{"format": 1, "name": "Empty", "plugins": []}',
]


def target(data: bytes) -> None:
    index = value_of(lambda: Index.parse(data, origin="https://shop.example"), IndexInvalid)
    if index is None:
        return
    require_equal([entry.code for entry in index.search("")], [entry.code for entry in index.entries], "all")
    for entry in index.entries:
        check_code(entry.code)
        check_version(entry.version)
        require_equal(parse_key(entry.key), entry.key, "a key is in its one spelling")
        require(index.find(entry.code) is entry, "an entry is found by its code")
        require(entry in index.search(entry.name), "an entry is found by its name")
        texts = (entry.name, entry.description, entry.source, entry.ref, entry.homepage, *entry.categories)
        for text in texts:
            require(text is None or printable(text, one_line=True) == text, f"{text!r} can be shown")
        for category in entry.categories:
            require(entry in index.category(category), "an entry is found by its category")
        value_of(lambda entry=entry: index.find(entry.code + "x"), UsageError)
