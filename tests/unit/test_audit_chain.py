"""The chain of the audit log, its records and its bounds: rules without a disk."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from coredeno.audit.chain import EMPTY, NO_DIGEST, ChainCheck, digest_of, linked
from coredeno.audit.records import LIMIT_ITEMS, LIMIT_TEXT, Record, canonical, record_of
from coredeno.audit.throttle import LIMIT_OTHER, LIMIT_REPEATING, WINDOW_S, Throttle
from coredeno.errors import AuditBroken
from coredeno.events import Event, PermissionDenied, PluginInstalled
from coredeno.interfaces import AuditHead, AuditRow

AT = "2026-01-02T03:04:05.000006+00:00"
FIRST = AuditRow(
    at=AT, kind="PermissionDenied", module="tagger", fields='{"permission":"read","resource":"é"}'
)
# Made with printf and sha256sum, from what the docstring of chain.py says.
VECTORS = (
    "aa35839e613e68b22e0567d1c015f083ce30d2aa2a2ff1656e4dba3a279d6f23",
    "c5e10ecdee906d66ab2bb8e508f70136d6775dcd75d31ffb7eb01a578290b15b",
)


def chain(length: int) -> list[AuditRow]:
    return linked(EMPTY, [replace(FIRST, fields=f'{{"number":{number}}}') for number in range(length)])


def taken_whole(check: ChainCheck, rows: list[AuditRow]) -> None:
    check.take(rows)
    check.finish()


def broken(rows: list[AuditRow], **how: Any) -> AuditBroken:
    check = ChainCheck(**how)
    with pytest.raises(AuditBroken) as caught:
        taken_whole(check, rows)
    return caught.value


def test_the_bytes_of_a_digest_are_fixed():
    """Two rows have these digests for ever: whoever keeps a head may compare it years later."""
    rows = linked(EMPTY, [FIRST, AuditRow(at=AT, kind="ModuleStopped", module="", fields="{}")])
    assert [row.seq for row in rows] == [1, 2]
    assert [row.before for row in rows] == [NO_DIGEST, VECTORS[0]]
    assert tuple(row.digest for row in rows) == VECTORS


def test_no_text_can_pass_for_another_field():
    """Where one field ends and the next begins is hashed too."""
    assert digest_of(AuditRow(kind="ab", module="c")) != digest_of(AuditRow(kind="a", module="bc"))
    assert digest_of(AuditRow(kind="1:x,", module="")) != digest_of(AuditRow(kind="", module="1:x,"))


@pytest.mark.parametrize("name", ["at", "kind", "module", "fields", "before", "digest"])
def test_a_changed_field_is_found(name: str):
    """Whichever it is, and which row it is in; text that is no UTF-8 too."""
    for value in ("changed", "\udcff"):
        rows = chain(9)
        rows[4] = replace(rows[4], **{name: value})
        error = broken(rows)
        assert (error.seq, "changed" in str(error)) == (5, True)


def test_a_missing_row_is_found():
    """At the start, in the middle, one or several."""
    rows = chain(9)
    assert broken(rows[1:]).seq == 1
    assert broken(rows[:3] + rows[5:]).seq == 4
    assert "row 6" in broken(rows[:3] + rows[5:]).problem


def test_rows_that_changed_places_are_found():
    """With their old numbers, and with those of their new places."""
    rows = chain(9)
    assert broken([*rows[:3], rows[4], rows[3], *rows[5:]]).seq == 4
    swapped = [*rows[:3], replace(rows[4], seq=4), replace(rows[3], seq=5), *rows[5:]]
    assert broken(swapped).seq == 4


def test_a_row_with_a_digest_made_anew_is_found_at_the_next():
    """Whoever changes a row and its digest would have to make all that follow anew."""
    rows = chain(9)
    changed = replace(rows[4], fields="{}")
    rows[4] = replace(changed, digest=digest_of(changed))
    error = broken(rows)
    assert error.seq == 6
    assert "does not follow row 5" in str(error)


def test_what_was_cut_off_or_made_anew_is_found_by_a_head_that_was_kept():
    """Only by it: without, both are whole chains."""
    rows = chain(9)
    kept = AuditHead(seq=9, digest=rows[8].digest)
    ChainCheck().take(rows[:7])
    assert broken(rows[:7], kept=kept).seq == 8
    anew = linked(EMPTY, [FIRST, *rows[1:]])
    ChainCheck().take(anew)
    assert broken(anew, kept=kept).seq == 9
    longer = ChainCheck(kept=kept)
    longer.take(linked(EMPTY, [*rows, FIRST]))
    longer.finish()


def test_the_end_alone_can_be_checked():
    """From a row in the middle on, whose predecessor is believed; the head is that of the whole."""
    rows = chain(9)
    check = ChainCheck(first=5)
    check.take(rows[4:])
    assert check.head == AuditHead(seq=9, digest=rows[8].digest)
    assert broken([*rows[4:6], *rows[7:]], first=5).seq == 7


@given(length=st.integers(1, 30), cuts=st.lists(st.integers(0, 30)))
def test_it_does_not_matter_how_rows_are_handed_over(length: int, cuts: list[int]):
    """Linked and checked at once or piece by piece, the chain is the same."""
    rows = chain(length)
    head, check = EMPTY, ChainCheck()
    edges = sorted({0, length, *(cut for cut in cuts if cut < length)})
    for start, end in pairwise(edges):
        part = linked(head, rows[start:end])
        assert part == rows[start:end]
        head = AuditHead(seq=part[-1].seq, digest=part[-1].digest)
        check.take(part)
    check.finish()
    assert check.head == head


# --- records


class Odd(Event, frozen=True):
    """An event with fields of every shape."""

    value: Any


def fields_of(value: Any) -> Any:
    return record_of(Odd(module="m", value=value)).fields["value"]


def test_a_record_says_what_the_event_says():
    """Its class, its module, and its other fields."""
    record = record_of(PluginInstalled(module="tagger", version="1", digest="d", signer=None))
    assert record == Record("PluginInstalled", "tagger", {"version": "1", "digest": "d", "signer": None})
    assert record.row(AT).fields == '{"digest":"d","signer":null,"version":"1"}'


def test_text_of_plugins_is_bounded_and_printable():
    """Control characters, line ends and lone surrogates are escaped, and long texts are cut."""
    assert fields_of("\x1b[31m\n\ud800") == "\\x1b[31m\\n\\xd800"
    for long in ("a" * 10**6, "\x1b" * LIMIT_TEXT):
        assert len(fields_of(long)) == LIMIT_TEXT + 1
    assert fields_of("a" * LIMIT_TEXT) == "a" * LIMIT_TEXT
    assert len(record_of(Odd(module="m" * 10**6, value=1)).module) == LIMIT_TEXT + 1


@given(
    st.recursive(
        st.integers() | st.none() | st.booleans() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    )
)
def test_any_event_becomes_a_row(value: Any):
    """Whatever is in it: bounded JSON that can be stored."""
    text = record_of(Odd(value=value)).row(AT).fields
    msgspec.json.decode(text.encode())


def test_lists_and_mappings_are_bounded():
    """So many entries; sets and tuples are lists."""
    assert fields_of(range(3)) == "range(0, 3)"
    assert fields_of((1, True, None)) == [1, True, None]
    assert len(fields_of(list(range(1000)))) == LIMIT_ITEMS
    assert len(fields_of({str(number): number for number in range(1000)})) == LIMIT_ITEMS


def test_the_json_is_canonical():
    """The order of the fields makes no difference."""
    assert canonical({"b": 1, "a": {"d": 1, "c": 2}}) == canonical({"a": {"c": 2, "d": 1}, "b": 1})


# --- bounds


def denial(resource: object, module: str = "m") -> Record:
    return record_of(PermissionDenied(module=module, permission="read", resource=str(resource), remedy="r"))


def started(number: int) -> Record:
    return Record("ModuleStarted", "m", {"number": number})


def test_the_same_denial_is_one_row_and_its_count_another():
    """The first at once; how often it was repeated when its window ends; then it begins again."""
    throttle = Throttle()
    assert [throttle.admits(denial("a"), now) for now in (5.0, 6.0, 7.0)] == [True, False, False]
    assert throttle.next_end == 5.0 + WINDOW_S
    assert throttle.ended(4.0 + WINDOW_S) == []
    [told] = throttle.ended(5.0 + WINDOW_S)
    assert told.fields["repeated"] == 2
    assert told.fields["resource"] == "a"
    assert throttle.next_end is None
    assert throttle.admits(denial("a"), 70.0)


def test_different_denials_are_bounded_too():
    """Above the bound they are counted as a whole; a million leave a bounded number of rows and counters."""
    throttle = Throttle()
    rows = sum(throttle.admits(denial(number), 0.0) for number in range(10_000))
    assert rows == LIMIT_REPEATING
    assert throttle.ended(None) == [Record("PermissionDenied", "m", {"further": 10_000 - LIMIT_REPEATING})]


def test_a_flood_of_one_kind_or_module_hides_no_other():
    """Each kind and module has its own bound."""
    throttle = Throttle()
    for number in range(1000):
        throttle.admits(denial(number), 0.0)
    assert throttle.admits(started(1), 1.0)
    assert throttle.admits(denial("a", module="other"), 1.0)


def test_other_kinds_are_told_one_by_one():
    """Two that say the same are two rows; only above a far higher bound they are counted."""
    throttle = Throttle()
    assert all(throttle.admits(started(1), 0.0) for _ in range(LIMIT_OTHER))
    assert not throttle.admits(started(1), 0.0)
    assert throttle.ended() == [Record("ModuleStarted", "m", {"further": 1})]


def test_a_window_without_repetitions_ends_in_silence():
    """What was told needs no second row."""
    throttle = Throttle()
    throttle.admits(denial("a"), 0.0)
    throttle.admits(started(1), 1.0)
    assert throttle.ended(WINDOW_S) == []
    assert throttle.next_end == 1.0 + WINDOW_S
