"""An attack on the gate by its own list: whatever the host serves is asked for by a module that was granted nothing."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import msgspec
import pytest
from msgspec.inspect import (
    AnyType,
    BytesType,
    DictType,
    FloatType,
    IntType,
    ListType,
    LiteralType,
    NoneType,
    StrType,
    StructType,
    TupleType,
    Type,
    UnionType,
    type_info,
)

from coredeno.gateway.unary import UNARY
from coredeno.services.method import Method
from coredeno.wire.codes import ROWS
from tests.integration.sidecars.session import Connection, Session
from tests.security.arena import Arena

OPEN = {"log.write", "health.check", "permissions.request", "permissions.query"}
"""What every module may ask for. A method that is added and is not one of these must be refused."""
DENIED_CODE = ROWS["PermissionDenied"].code
DENIED_STATUS = 7
TEXT = "x"  # a path, a key, a group, a program, a process: nothing of it is the module's own


def value_of(kind: Type) -> Any:  # noqa: PLR0911 - a line a kind
    """Some value of a type, whole: optional members are there too."""
    match kind:
        case StructType(fields=fields, array_like=is_array):
            members = {field.encode_name: value_of(field.type) for field in fields}
            return list(members.values()) if is_array else members
        case UnionType(types=types):
            return value_of(next(one for one in types if not isinstance(one, NoneType)))
        case LiteralType(values=values):
            return values[0]
        case TupleType(item_types=items):
            return [value_of(item) for item in items]
        case StrType() | AnyType():
            return TEXT
        case IntType() | FloatType():
            return 1
        case ListType():
            return []
        case DictType():
            return {}
        case BytesType():
            return None  # named beside the message
    pytest.fail(f"no value of {kind}: say here what one is")


def request_of(number: int, method: Method) -> dict[str, Any]:
    """A request for a method that is right in all but the permission."""
    kind = type_info(method.decoder._wanted)
    assert isinstance(kind, StructType)
    entries = [
        {"at": ["params", field.encode_name], "len": 0}
        for field in kind.fields
        if isinstance(field.type, BytesType)
    ]
    message = {"jsonrpc": "2.0", "id": number, "method": method.name, "params": value_of(kind)}
    return {**message, "bytes": entries} if entries else message


def by_session(path: str, token: str, methods: list[Method]) -> dict[str, Any]:
    """The error of each method, over the Session."""
    session = Session(path, token, timeout_s=10)
    errors = {}
    try:
        for number, method in enumerate(methods):
            request = request_of(number, method)
            session.send([request], *[b""] * len(request.get("bytes", ())))
            answers = session.receive()
            assert answers is not None, session.stream.headers
            (answer,) = answers
            assert answer["id"] == number
            errors[method.name] = answer.get("error", {}).get("code")
    finally:
        session.connection.close()
    return errors


def by_calls(path: str, token: str) -> dict[str, int]:
    """The gRPC status of each unary method."""
    statuses = {}
    with Connection(path, timeout_s=10) as client:
        for name, row in UNARY.items():
            texts = {field.name: TEXT for field in dataclasses.fields(row.request) if field.type == "str"}
            assert texts, f"{name}: its request names nothing"
            special = {"service": "echo", "method": "echo", "module_code": ""}
            request = row.request(**{key: special.get(key, text) for key, text in texts.items()})
            if name == "Invoke":
                request.args = msgspec.json.encode([TEXT])
            stream = client.call(name, token)
            stream.send(bytes(request), end=True)
            statuses[name] = stream.status()
    return statuses


@pytest.mark.isolation("process")
async def test_every_method_needs_a_grant(arena: Arena):
    """Each method of both doors, as the host itself lists them, is refused without a grant; but the open ones."""
    await arena.attacker("export const nothing = () => null;")
    token, path = arena.host.gateway.issue_token("attacker"), str(arena.host.socket)
    methods = list(arena.host.gateway.gate.methods.values())
    errors = await asyncio.to_thread(by_session, path, token, methods)
    assert errors.keys() >= OPEN | {"files.read", "store.get", "processes.start", "services.echo.echo"}
    assert {name for name, code in errors.items() if code != DENIED_CODE} == OPEN
    assert errors["health.check"] is errors["log.write"] is None
    statuses = await asyncio.to_thread(by_calls, path, token)
    assert statuses == dict.fromkeys(UNARY, DENIED_STATUS)
