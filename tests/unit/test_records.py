"""Records of installed plugins and marks of sequence numbers, as the store holds them."""

from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.errors import DowngradeRefused, RecordInvalid, UsageError
from coredeno.install.records import (
    MARKS,
    RECORDS,
    Mark,
    PluginRecord,
    ReleaseRecord,
    check_seq,
    forgotten,
    mark_key,
    marked,
    parse_mark,
    parse_record,
    stored,
)
from coredeno.manifest import parse_manifest

KEY = "a" * 64


def release(number: int, **fields) -> ReleaseRecord:
    return ReleaseRecord(
        digest=f"{number:064x}",
        version=f"{number}.0.0",
        seq=number,
        signature="release",
        signer=KEY,
        pin=None,
        revision="r",
        **fields,
    )


def record(*numbers: int, active: int) -> PluginRecord:
    return PluginRecord(
        code="tagger",
        source="https://git.example/tagger.git",
        ref="v1",
        signer=None,
        active=f"{active:064x}",
        releases=tuple(map(release, numbers)),
    )


def test_a_record_comes_back_as_it_was():
    """With permissions and services, which consent to an update is judged by."""
    text = (
        "code: tagger\nservices: {w: [x]}\n"
        "permissions: {read: [a], store: {write: [g]}, optional: {net: [a.example]}}\n"
    )
    manifest = parse_manifest(text.encode(), file="view.yml")
    whole = msgspec.structs.replace(
        record(1, active=1),
        releases=(release(1, permissions=manifest.permissions, services=manifest.services),),
    )
    change = stored(whole)
    assert (change.group, change.key) == (RECORDS, "tagger")
    assert parse_record("tagger", change.value or "") == whole


def test_forgetting_a_record():
    """It is a deletion of its key."""
    assert forgotten("tagger") == msgspec.structs.replace(stored(record(1, active=1)), value=None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ("[]", "cannot be read"),
        ("[" * 5000, "cannot be read"),
        ("\ud800", "cannot be read"),
        ('{"format":2}', "has format 2, wanted at most 1: a newer coredeno wrote it"),
        ('{"format":1,"plugin":{}}', "cannot be read"),
    ],
)
def test_a_record_that_cannot_be_read(text: str, words: str):
    """The error names the plugin and what is wrong; one of a newer coredeno says so."""
    with pytest.raises(RecordInvalid, match=words) as caught:
        parse_record("tagger", text)
    assert caught.value.code == "tagger"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"code": "other"}, "is that of 'other'"),
        ({"active": "f" * 64}, "names an active release that it does not list"),
        ({"unknown": 1}, "cannot be read"),
        ({"releases": []}, "names an active release"),
    ],
)
def test_a_record_that_does_not_fit(change, words: str):
    """A record of another plugin, or one that contradicts itself, is none."""
    document = json.loads(stored(record(1, active=1)).value or "")
    document["plugin"].update(change)
    with pytest.raises(RecordInvalid, match=words):
        parse_record("tagger", json.dumps(document))


@pytest.mark.parametrize("digest", ["../../etc", "A" * 64, "0" * 63, "0" * 64 + "\n", ""])
def test_a_digest_names_a_folder(digest: str):
    """So nothing else than 64 hex digits is one, also in a corrupt record."""
    document = json.loads(stored(record(1, active=1)).value or "")
    document["plugin"]["releases"][0]["digest"] = document["plugin"]["active"] = digest
    with pytest.raises(RecordInvalid):
        parse_record("tagger", json.dumps(document))


@pytest.mark.parametrize("code", ["../x", "", ".staging", "A"])
def test_a_code_names_a_folder(code: str):
    """So a record of anything else than a plugin's code is none."""
    document = json.loads(stored(record(1, active=1)).value or "")
    document["plugin"]["code"] = code
    with pytest.raises(RecordInvalid, match="is that of no plugin"):
        parse_record(code, json.dumps(document))


@given(st.text())
def test_any_text_is_a_record_or_an_error(text: str):
    """Nothing else is raised."""
    for parse in (parse_record, parse_mark):
        with contextlib.suppress(RecordInvalid):
            parse("tagger", text)


def test_one_more_release():
    """It is the newest; one that is there already keeps its place, and is what was installed last."""
    assert [each.seq for each in record(1, 2, active=1).with_release(release(3))] == [1, 2, 3]
    again = msgspec.structs.replace(release(2), revision="again")
    assert record(1, 2, 3, active=1).with_release(again) == (release(1), again, release(3))


@pytest.mark.parametrize(
    ("numbers", "active", "kept", "left"),
    [
        ((1, 2, 3), 3, 2, [1, 2, 3]),
        ((1, 2, 3), 3, 1, [2, 3]),
        ((1, 2, 3), 3, 0, [3]),
        ((1, 2, 3), 1, 1, [1, 3]),
        ((1, 2, 3), 2, 0, [2]),
        ((1,), 1, 5, [1]),
    ],
)
def test_pruning(numbers, active: int, kept: int, left: list[int]):
    """The active release stays, and of the others the newest."""
    pruned = record(*numbers, active=active).pruned(kept)
    assert [each.seq for each in pruned.releases] == left
    assert pruned.current.seq == active
    assert pruned.digests == {f"{number:064x}" for number in left}


def test_which_release_to_go_back_to():
    """The one that was installed before the active one, or the one that is named."""
    there = record(1, 2, 3, active=2)
    assert there.before(None).seq == 1
    assert there.before("3.0.0").seq == 3
    with pytest.raises(UsageError, match="no former version"):
        record(1, 2, active=1).before(None)
    for version in ("2.0.0", "9"):
        with pytest.raises(UsageError, match=r"it has 1\.0\.0, 2\.0\.0, 3\.0\.0"):
            there.before(version)


def test_a_mark_comes_back_as_it_was():
    """By plugin and key; none is none."""
    change = marked("tagger", KEY, seq=7, digest="d")
    assert (change.group, change.key) == (MARKS, mark_key("tagger", KEY))
    assert parse_mark("tagger", change.value) == Mark(7, "d")
    assert parse_mark("tagger", None) is None


def test_a_mark_that_cannot_be_read():
    """The error names the plugin."""
    with pytest.raises(RecordInvalid, match="record of installed plugin 'tagger': its mark cannot be read"):
        parse_mark("tagger", "{}")


def test_sequence_numbers():
    """Higher is taken, the same release again too; lower, or another one of the same number, is not."""
    for mark, seq, digest in ((None, 1, "d"), (Mark(7, "d"), 8, "e"), (Mark(7, "d"), 7, "d")):
        check_seq(mark, code="tagger", seq=seq, digest=digest)
    with pytest.raises(DowngradeRefused, match="older than 7") as caught:
        check_seq(Mark(7, "d"), code="tagger", seq=6, digest="d")
    assert (caught.value.seq, caught.value.highest) == (6, 7)
    with pytest.raises(DowngradeRefused, match="with other files"):
        check_seq(Mark(7, "d"), code="tagger", seq=7, digest="e")
