"""The error tables: class ↔ JSON-RPC code ↔ gRPC status, and what a hostile answer can make of them."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
import pytest
from grpclib.const import Status
from hypothesis import given
from hypothesis import strategies as st

from coredeno import errors
from coredeno.wire.codes import (
    NAMES,
    ROWS,
    RUNTIME_FOLDER,
    WireError,
    from_wire,
    name_of,
    status_of,
    to_wire,
)

TEXT = "what is wrong"

SAMPLES: dict[str, errors.CoreDenoError] = {
    "CoreDenoError": errors.CoreDenoError(TEXT),
    "UsageError": errors.UsageError(TEXT),
    "MessageTooLarge": errors.MessageTooLarge(TEXT, size_bytes=2, limit_bytes=1),
    "RequestError": errors.RequestError(TEXT),
    "PermissionDenied": errors.PermissionDenied(module="m", permission="p", resource="r", remedy="a"),
    "NotFound": errors.NotFound(TEXT),
    "MethodNotFound": errors.MethodNotFound(TEXT),
    "InvalidArgument": errors.InvalidArgument(TEXT),
    "FailedPrecondition": errors.FailedPrecondition(TEXT),
    "LimitExceeded": errors.LimitExceeded(TEXT),
    "PluginError": errors.PluginError(TEXT),
    "ManifestError": errors.ManifestError(file="f", field="", problem=TEXT),
    "PluginRaised": errors.PluginRaised(module="m", name="TypeError", message=TEXT),
    "InvalidResult": errors.InvalidResult(TEXT),
    "ProtocolError": errors.ProtocolError(TEXT),
    "PluginCrashed": errors.PluginCrashed(module="m", reason=TEXT),
    "PluginTimeout": errors.PluginTimeout(module="m", what=TEXT, timeout_s=1.5),
    "SidecarError": errors.SidecarError(TEXT),
    "DenoNotFound": errors.DenoNotFound(TEXT),
    "SidecarExited": errors.SidecarExited(reason=TEXT, exit_code=1),
    "RestartLimitReached": errors.RestartLimitReached(
        module="m", restarts=1, window_s=1.5, last=errors.PluginError(TEXT)
    ),
    "StoreError": errors.StoreError(TEXT),
    "StoreFull": errors.StoreFull(TEXT),
    "StoreCorrupt": errors.StoreCorrupt("reading from", path="store.db", problem=TEXT),
    "AuditBroken": errors.AuditBroken(1, TEXT),
    "InstallError": errors.InstallError(TEXT),
    "SourceRefused": errors.SourceRefused(TEXT),
    "SourceUnavailable": errors.SourceUnavailable(TEXT),
    "SourceInvalid": errors.SourceInvalid(TEXT),
    "FetchLimitExceeded": errors.FetchLimitExceeded(TEXT, limit="files", allowed=1),
    "FetchTimeout": errors.FetchTimeout(TEXT, timeout_s=1.5),
    "UnsafePath": errors.UnsafePath("p", TEXT),
    "IntegrityError": errors.IntegrityError("p", expected="e", actual="a"),
    "SignatureError": errors.SignatureError(TEXT),
    "DowngradeRefused": errors.DowngradeRefused(TEXT, seq=1, highest=2),
    "ConsentRequired": errors.ConsentRequired(code="c", added=("a",)),
    "UpdateUndone": errors.UpdateUndone(code="c", version="2", former="1", reloaded=True, reason=TEXT),
    "IndexInvalid": errors.IndexInvalid(origin="o", entry="e", problem=TEXT),
    "RecordInvalid": errors.RecordInvalid(code="c", problem=TEXT),
    "InternalError": errors.InternalError(TEXT, incident="i"),
}

# What a module, or a client over gRPC, sees of each class. All others are bugs of the host's side.
TOLD = {
    "PermissionDenied": (-32000, "PERMISSION_DENIED"),
    "NotFound": (-32001, "NOT_FOUND"),
    "FailedPrecondition": (-32002, "FAILED_PRECONDITION"),
    "LimitExceeded": (-32003, "RESOURCE_EXHAUSTED"),
    "PluginTimeout": (-32004, "DEADLINE_EXCEEDED"),
    "StoreError": (-32006, "UNAVAILABLE"),
    "PluginRaised": (-32007, "UNKNOWN"),
    "ProtocolError": (-32008, "FAILED_PRECONDITION"),
    "StoreFull": (-32009, "RESOURCE_EXHAUSTED"),
    "MethodNotFound": (-32601, "UNIMPLEMENTED"),
    "InvalidArgument": (-32602, "INVALID_ARGUMENT"),
}
INTERNAL = (-32603, "INTERNAL")
# Told as their parent: whoever asked can do no more about them than about that.
AS_PARENT = {"StoreCorrupt": "StoreError"}
# JSON-RPC 2.0's own, and the answer to a cancelled request: no class of ours is told as one of these.
ONLY_ON_THE_WIRE = {"ParseError": -32700, "InvalidRequest": -32600, "Cancelled": -32005}


def classes() -> set[str]:
    return {
        name
        for name, member in vars(errors).items()
        if inspect.isclass(member) and issubclass(member, errors.CoreDenoError)
    }


def test_every_error_class_is_looked_at_here():
    """A new class needs a decision on what the other side sees of it."""
    assert classes() == set(SAMPLES)
    assert {type(error).__name__: error for error in SAMPLES.values()} == SAMPLES


@pytest.mark.parametrize("name", SAMPLES)
def test_each_class_has_its_code_and_status(name):
    """The table from the class: its own row, its parent's, or that of an internal error."""
    error = SAMPLES[name]
    told = AS_PARENT.get(name, name)
    code, status = TOLD.get(told, INTERNAL)
    assert (to_wire(error).code, status_of(error)) == (code, status)
    assert NAMES[code] == (told if told in TOLD else "InternalError")


def test_the_file_and_the_table_agree():
    """`error_codes.json` has exactly the rows of this test: no code twice, no name that is no class."""
    rows = msgspec.json.decode((RUNTIME_FOLDER / "error_codes.json").read_bytes())
    wanted = {name: {"code": code, "status": status} for name, (code, status) in TOLD.items()}
    wanted["InternalError"] = {"code": INTERNAL[0], "status": INTERNAL[1]}
    wanted |= {
        name: {"code": code, "status": rows[name]["status"]} for name, code in ONLY_ON_THE_WIRE.items()
    }
    assert rows == wanted
    assert len({row["code"] for row in rows.values()}) == len(rows)
    assert set(rows) - set(ONLY_ON_THE_WIRE) <= classes()
    assert {name: (row.code, row.status) for name, row in ROWS.items()} == {
        name: (row["code"], row["status"]) for name, row in rows.items()
    }


def test_every_status_is_one_of_grpc():
    """Each name in the table is one that grpclib knows."""
    assert [row.status for row in ROWS.values() if row.status not in Status.__members__] == []


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (type("Own", (errors.NotFound,), {})("x"), "NotFound"),
        (type("Own", (errors.MethodNotFound,), {})("x"), "MethodNotFound"),
        (type("NotFound", (Exception,), {})("no relation"), "InternalError"),
        (type("Cancelled", (errors.LimitExceeded,), {})("no relation"), "LimitExceeded"),
        (ValueError("x"), "InternalError"),
        (TimeoutError(), "InternalError"),
        (PermissionError(), "InternalError"),
        (KeyboardInterrupt(), "InternalError"),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, BaseException) else None,
)
def test_a_class_without_a_row_counts_as_its_nearest_parent(error, name):
    """An app may derive its own errors, of any name; what is none of ours is an internal error."""
    assert name_of(error) == name


@pytest.mark.parametrize("name", TOLD)
def test_facts_cross_in_data(name):
    """The name and the fields of the class stand in `data`, so that the other side need not read the text."""
    error = SAMPLES[name]
    wire = to_wire(error)
    assert wire.message == str(error)
    assert wire.data is not None
    assert wire.data == {"name": name, **vars(error)}
    msgspec.json.encode(wire)


def test_private_facts_stay_here():
    """Fields that begin with an underscore, and notes, do not cross."""
    error = errors.NotFound("x")
    error._secret = "token"  # type: ignore[attr-defined]
    error.add_note("a note")
    assert to_wire(error).data == {"name": "NotFound"}


def answered(name: str, message: str = TEXT, data: Any = None, *, timeout_s=None):
    return from_wire(WireError(ROWS[name].code, message, data), module="m", timeout_s=timeout_s)


@pytest.mark.parametrize(
    "name",
    [
        "NotFound",
        "InvalidArgument",
        "FailedPrecondition",
        "LimitExceeded",
        "MethodNotFound",
        "StoreError",
        "StoreFull",
    ],
)
def test_plain_errors_come_back_as_their_class(name):
    """The table from the code: the same class, with the text that was sent."""
    error = answered(name)
    assert type(error).__name__ == name
    assert str(error) == TEXT


@pytest.mark.parametrize("name", [name for name in TOLD if name not in ("PluginRaised", "PluginTimeout")])
def test_there_and_back(name):
    """What `to_wire` writes `from_wire` reads as the same class with the same facts."""
    error = SAMPLES[name]
    back = from_wire(to_wire(error), module="m")
    assert type(back) is type(error)
    assert vars(back) == vars(error)
    assert str(back) == str(error)


def test_what_a_plugin_threw():
    """`PluginRaised` has the JavaScript error's name, message, stack and code."""
    data = {"name": "TypeError", "message": "x is not a function", "stack": "at f", "code": "E1"}
    error = answered("PluginRaised", data=data)
    assert isinstance(error, errors.PluginRaised)
    assert (error.module, error.name, error.message, error.stack, error.code) == (
        "m",
        "TypeError",
        "x is not a function",
        "at f",
        "E1",
    )
    assert str(error) == "m: TypeError: x is not a function"


def test_a_refusal_names_the_module_of_the_connection():
    """The module is the one that was asked, whatever `data` says."""
    error = answered(
        "PermissionDenied", data={"module": "other", "permission": "p", "resource": "r", "remedy": "a"}
    )
    assert isinstance(error, errors.PermissionDenied)
    assert (error.module, error.permission, error.resource, error.remedy) == ("m", "p", "r", "a")
    assert isinstance(error, PermissionError)


def test_a_deadline_has_the_time_that_was_given():
    """The time is the host's own, not what the sidecar says."""
    error = answered("PluginTimeout", data={"timeout_s": 999}, timeout_s=1.5)
    assert isinstance(error, errors.PluginTimeout)
    assert isinstance(error, TimeoutError)
    assert error.timeout_s == 1.5
    assert answered("PluginTimeout").timeout_s == 0


def test_a_cancelled_request_means_that_the_module_is_gone():
    """Only an unload makes main answer so, to whoever still waits."""
    assert isinstance(answered("Cancelled"), errors.PluginCrashed)


@pytest.mark.parametrize("code", [-32700, -32600, -32603, 0, 1, -32099, 2**63 - 1, -(2**63)])
def test_codes_that_no_sidecar_should_answer_with(code):
    """Anything else is a `ProtocolError` that names the code."""
    error = from_wire(WireError(code, TEXT), module="m")
    assert type(error) is errors.ProtocolError
    assert str(code) in str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("x" * 20_000),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
FIELDS = (
    "name",
    "message",
    "stack",
    "code",
    "module",
    "permission",
    "resource",
    "remedy",
    "reason",
    "__class__",
)


@given(
    st.sampled_from([*NAMES, 0, 7]),
    st.text() | st.just("m" * 50_000),
    st.none() | st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6),
)
def test_whatever_an_answer_says_it_is_an_error_of_ours(code, message, data):
    """Hostile `data` gives an error of bounded size, whose fields are text, about the module that was asked."""
    error = from_wire(WireError(code, message, data), module="m", timeout_s=1.0)
    assert isinstance(error, errors.CoreDenoError)
    assert len(str(error)) < 3 * 8192 + 300
    assert getattr(error, "module", "m") == "m"
    for name, fact in vars(error).items():
        assert isinstance(fact, str) or (name, fact) in {("code", None), ("timeout_s", 1.0)}
        assert not isinstance(fact, str) or len(fact) <= 8192
