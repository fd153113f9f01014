"""Records of installed plugins: a corrupt one is told, a good one is written and read again the same."""

from __future__ import annotations

import coredeno.grant_records as grants
from coredeno.errors import RecordInvalid
from coredeno.grant import Permit
from coredeno.install.records import (
    Mark,
    PluginRecord,
    ReleaseRecord,
    marked,
    parse_mark,
    parse_record,
    stored,
)
from coredeno.manifest import Permissions
from tests.fuzz.shape import require, require_equal, value_of

_RELEASE = ReleaseRecord(
    digest="0" * 64,
    version="1.0.0",
    seq=3,
    signature="release",
    signer="ab" * 32,
    pin=None,
    revision="r",
    permissions=Permissions(read=("photos",), net=("a.example",)),
    services={"weather": ("read",)},
)
_RECORD = PluginRecord(
    code="tagger", source="/srv/tagger", ref="v1", signer=None, active="0" * 64, releases=(_RELEASE,)
)
SEEDS = [
    (stored(_RECORD).value or "").encode(),
    (marked("tagger", "k", seq=3, digest="d").value or "").encode(),
    b'{"format": 2, "plugin": {}}',
    (grants.stored([Permit("files.read", "photos"), Permit("net", "a.example")]) or "").encode(),
]


def target(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    record = value_of(lambda: parse_record("tagger", text), RecordInvalid)
    if record is not None:
        require(record.current.digest == record.active, "the active release is one of it")
        require(len(record.active) == 64 and record.active.isalnum(), "a digest is fit to be a folder's name")
        require_equal(parse_record("tagger", stored(record).value or ""), record, "written and read again")
    mark = value_of(lambda: parse_mark("tagger", text), RecordInvalid)
    if mark is not None:
        again = marked("tagger", "k", seq=mark.seq, digest=mark.digest).value
        require_equal(parse_mark("tagger", again), Mark(mark.seq, mark.digest), "a mark, read again")
    permits = grants.parse(text)
    if permits is not None:
        require_equal(
            grants.parse(grants.stored(permits)), tuple(dict.fromkeys(permits)), "grants, read again"
        )
