"""The unary methods of `CoreService`: protobuf messages in and out, the same gate between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from coredeno.errors import FailedPrecondition, InvalidArgument, ProtocolError
from coredeno.gateway._generated import coredeno as pb
from coredeno.wire.codec import decode_plain
from coredeno.wire.values import Outgoing, encode


class Unary(msgspec.Struct, frozen=True):
    """How one unary method maps to a method of the gate.

    Attributes:
        request: the class of its request.
        response: the class of its response.
        method: the gate's method, by the request.
        params: the gate's params, as plain values, by the request.
        answer: the response, by the gate's result; raises `UsageError` if that cannot cross.
    """

    request: type[Any]
    response: type[Any]
    method: Callable[[Any], str]
    params: Callable[[Any], dict[str, Any]]
    answer: Callable[[Any], Any]


def _row(
    method: str,
    request: type[Any],
    response: type[Any],
    params: Callable[[Any], dict[str, Any]],
    answer: Callable[[Any], Any] | None = None,
) -> Unary:
    return Unary(
        request, response, lambda _request: method, params, answer or (lambda _result: response(ok=True))
    )


def _path(request: Any) -> dict[str, Any]:
    return {"path": request.path}


def _group(request: Any) -> dict[str, Any]:
    return {"group": request.group or None}  # protobuf has no absent text: empty is the module's own


def _key(request: Any) -> dict[str, Any]:
    return {"key": request.key, **_group(request)}


def _process(request: Any) -> dict[str, Any]:
    return {"process_id": request.process_id}


def _entries(result: Any) -> pb.FileListResponse:
    return pb.FileListResponse(
        entries=[pb.FileEntry(name=e.name, is_dir=e.is_dir, size=e.size) for e in result]
    )


def _invoke_params(request: pb.InvokeRequest) -> dict[str, Any]:
    try:
        args = decode_plain(request.args or b"[]")
    except ProtocolError as error:
        raise InvalidArgument(f"Invoke: args: {error}") from None
    return {"args": args}


def _invoke_answer(result: Any) -> pb.InvokeResponse:
    value = Outgoing(result, ("result",))
    text = encode(value.plain, what="Invoke")
    if value.entries:
        raise FailedPrecondition("Invoke: the result has binary values, which only a Session carries")
    return pb.InvokeResponse(result=text)


UNARY: dict[str, Unary] = {
    "FileRead": _row(
        "files.read",
        pb.FileReadRequest,
        pb.FileReadResponse,
        _path,
        lambda result: pb.FileReadResponse(content=result),
    ),
    "FileWrite": _row(
        "files.write",
        pb.FileWriteRequest,
        pb.FileWriteResponse,
        lambda r: {"path": r.path, "data": r.content},
    ),
    "FileList": _row("files.list", pb.FileListRequest, pb.FileListResponse, _path, _entries),
    "FileDelete": _row("files.delete", pb.FileDeleteRequest, pb.FileDeleteResponse, _path),
    "StoreGet": _row(
        "store.get",
        pb.StoreGetRequest,
        pb.StoreGetResponse,
        _key,
        lambda result: pb.StoreGetResponse(value=result or "", found=result is not None),
    ),
    "StoreSet": _row(
        "store.set", pb.StoreSetRequest, pb.StoreSetResponse, lambda r: {**_key(r), "value": r.value}
    ),
    "StoreDelete": _row("store.delete", pb.StoreDeleteRequest, pb.StoreDeleteResponse, _key),
    "StoreGetAll": _row(
        "store.get_all",
        pb.StoreGetAllRequest,
        pb.StoreGetAllResponse,
        _group,
        lambda result: pb.StoreGetAllResponse(values=result),
    ),
    "StoreCount": _row(
        "store.count",
        pb.StoreCountRequest,
        pb.StoreCountResponse,
        _group,
        lambda result: pb.StoreCountResponse(count=result),
    ),
    "StoreDeleteGroup": _row(
        "store.delete_group", pb.StoreDeleteGroupRequest, pb.StoreDeleteGroupResponse, _group
    ),
    "StoreRender": _row(
        "store.render",
        pb.StoreRenderRequest,
        pb.StoreRenderResponse,
        lambda r: {"template": r.template, **_group(r)},
        lambda result: pb.StoreRenderResponse(text=result),
    ),
    "ProcessStart": _row(
        "processes.start",
        pb.ProcessStartRequest,
        pb.ProcessStartResponse,
        lambda r: {"command": r.command, "args": r.args},
        lambda result: pb.ProcessStartResponse(process_id=result.process_id),
    ),
    "ProcessWait": _row(
        "processes.wait",
        pb.ProcessWaitRequest,
        pb.ProcessWaitResponse,
        _process,
        lambda result: pb.ProcessWaitResponse(
            exit_code=result.exit_code, stdout=result.stdout, stderr=result.stderr
        ),
    ),
    "ProcessStop": _row("processes.stop", pb.ProcessStopRequest, pb.ProcessStopResponse, _process),
    "Invoke": Unary(
        pb.InvokeRequest,
        pb.InvokeResponse,
        lambda request: f"services.{request.service}.{request.method}",
        _invoke_params,
        _invoke_answer,
    ),
}
