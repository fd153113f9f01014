"""The error tables: error class ↔ JSON-RPC code ↔ gRPC status. Pure, but for reading its own table at import.

The table is `runtime/error_codes.json`, which the sidecar reads too, so the two halves cannot drift.
Codes from -32700 to -32600 are JSON-RPC 2.0's own (section 5.1); those from -32000 down are ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from coredeno import errors


class ErrorRow(msgspec.Struct, frozen=True):
    """One row of the table: the JSON-RPC code, and the name of the gRPC status."""

    code: int
    status: str


class WireError(msgspec.Struct, omit_defaults=True):
    """The `error` member of a JSON-RPC answer (JSON-RPC 2.0, section 5.1)."""

    code: int
    message: str
    data: dict[str, Any] | None = None


RUNTIME_FOLDER = Path(__file__).parent.parent / "runtime"
ROWS: dict[str, ErrorRow] = msgspec.json.decode(
    (RUNTIME_FOLDER / "error_codes.json").read_bytes(), type=dict[str, ErrorRow]
)
NAMES = {row.code: name for name, row in ROWS.items()}

# Only these carry fields that mean something to the other side.
_REQUEST_ERRORS: dict[str, type[errors.CoreDenoError]] = {
    "NotFound": errors.NotFound,
    "InvalidArgument": errors.InvalidArgument,
    "FailedPrecondition": errors.FailedPrecondition,
    "LimitExceeded": errors.LimitExceeded,
    "MethodNotFound": errors.MethodNotFound,
    "StoreError": errors.StoreError,
    "StoreFull": errors.StoreFull,
    "ProtocolError": errors.ProtocolError,
}


def name_of(error: BaseException) -> str:
    """The row of the table that fits an error best: its own class, or the nearest parent that has one."""
    for cls in type(error).__mro__:
        if cls.__name__ in ROWS and cls.__module__ == errors.__name__:  # no namesake of an app's own
            return cls.__name__
    return "InternalError"


def to_wire(error: errors.CoreDenoError) -> WireError:
    """The error object that tells the other side about `error`: its text, its name and its fields."""
    name = name_of(error)
    facts = {key: _cut(value) for key, value in errors.facts_of(error).items()}
    return WireError(ROWS[name].code, _cut(str(error)), {"name": name, **facts})


def status_of(error: BaseException) -> str:
    """The name of the gRPC status for an error, such as `PERMISSION_DENIED`."""
    return ROWS[name_of(error)].status


def from_wire(error: WireError, *, module: str, timeout_s: float | None = None) -> errors.CoreDenoError:
    """The Python error for what a sidecar answered about `module`. Whatever it says, this gives an error.

    Args:
        error: the error object, hostile.
        module: the module that the request was about.
        timeout_s: the time that the request had been given.
    """
    name = NAMES.get(error.code)
    data = error.data or {}
    if name == "PluginRaised":
        return errors.PluginRaised(
            module=module,
            name=_text(data.get("name")) or "Error",
            message=_text(data.get("message")),
            stack=_text(data.get("stack")),
            code=_text(data.get("code")) or None,
        )
    if name == "Cancelled":
        return errors.PluginCrashed(module=module, reason="it was unloaded meanwhile")
    if name == "PluginTimeout":
        return errors.PluginTimeout(module=module, what=_text(error.message), timeout_s=timeout_s or 0)
    if name == "PermissionDenied":
        return errors.PermissionDenied(
            module=module,
            permission=_text(data.get("permission")),
            resource=_text(data.get("resource")),
            remedy=_text(data.get("remedy")),
        )
    known = _REQUEST_ERRORS.get(name or "")
    if known is not None:
        return known(_text(error.message))
    return errors.ProtocolError(f"{module}: sidecar answered with error {error.code}: {_text(error.message)}")


_TEXT_LIMIT = 8192  # characters; the sidecar cuts there too (docs/wire.md)


_TOLD_LIMIT = (
    1024  # characters of each text that a module is told; a service may have put anything into its error
)


def _cut(value: Any) -> Any:
    return value[:_TOLD_LIMIT] if isinstance(value, str) else value


def _text(value: object) -> str:
    return value[:_TEXT_LIMIT] if isinstance(value, str) else ""
