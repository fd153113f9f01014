"""grpcio, driven by JSON lines: a command a line on stdin, its answer on stdout. `client.ts` does the same.

    {"op": "begin", "socket", "method": "coredeno.CoreService/FileRead", "token"?, "timeout_s"?, "request"?}
                                              → {"call": n}; without a request it is a stream of messages
    {"op": "send", "call", "message"}         → {}
    {"op": "half_close", "call"}              → {}
    {"op": "cancel", "call"}                  → {}
    {"op": "receive", "call"}                 → {"message": {…}} or {"status": 5, "details": "…"} at the end
    {"op": "close", "socket"}                 → {}

Messages are protobuf's own JSON: bytes are base64, 64-bit numbers text.
"""

from __future__ import annotations

import importlib
import json
import queue
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from grpc_tools import protoc

PROTO = Path(__file__).parents[3] / "coredeno" / "gateway" / "proto"


def made_stubs(folder: str) -> dict[str, tuple[Any, Any]]:
    """Each service's stub class and messages, made from the .proto files by their own compiler."""
    files = ("coredeno.proto", "health.proto")
    command = ["protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files]
    if protoc.main(command) != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, folder)
    return {
        service: (
            getattr(importlib.import_module(f"{name}_pb2_grpc"), f"{service.rpartition('.')[2]}Stub"),
            importlib.import_module(f"{name}_pb2").DESCRIPTOR.services_by_name[service.rpartition(".")[2]],
        )
        for service, name in (("coredeno.CoreService", "coredeno"), ("grpc.health.v1.Health", "health"))
    }


class Call:
    """One call: what is still to be sent, and what comes."""

    def __init__(self, method: Any, kind: type[Any], command: dict[str, Any], *, streams_in: bool) -> None:
        self._kind = kind
        self._outgoing: queue.Queue[Any] = queue.Queue()
        metadata = [("authorization", f"Bearer {command['token']}")] if "token" in command else []
        options = {"metadata": metadata, "timeout": command.get("timeout_s")}
        if streams_in:
            self.call = method(iter(self._outgoing.get, None), **options)
        else:
            request = json_format.ParseDict(command["request"], kind())
            self.call = (
                method(request, **options) if streams_out(method) else method.future(request, **options)
            )
        self._incoming: Iterator[Any] = iter(self.call) if streams_out(method) else self._result()

    def send(self, message: dict[str, Any]) -> None:
        self._outgoing.put(json_format.ParseDict(message, self._kind()))

    def half_close(self) -> None:
        self._outgoing.put(None)

    def cancel(self) -> None:
        self.call.cancel()
        self._outgoing.put(None)

    def receive(self) -> dict[str, Any]:
        try:
            message = next(self._incoming)
        except StopIteration:
            self.half_close()
            return {"status": 0, "details": ""}
        except (grpc.RpcError, grpc.FutureCancelledError):
            self.half_close()
            return {"status": self.call.code().value[0], "details": self.call.details()}
        plain = json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return {"message": plain}

    def _result(self) -> Iterator[Any]:
        yield self.call.result()


def streams_out(method: Any) -> bool:
    return not hasattr(method, "future")


def main(folder: str) -> None:
    stubs = made_stubs(folder)
    channels: dict[str, grpc.Channel] = {}
    calls: dict[int, Call] = {}
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, Any] = {}
        match command["op"]:
            case "begin":
                socket = command["socket"]
                service, name = command["method"].split("/")
                if socket not in channels:
                    channels[socket] = grpc.insecure_channel(f"unix:{socket}")
                stub, descriptor = stubs[service]
                method = getattr(stub(channels[socket]), name)
                shape = descriptor.methods_by_name[name]
                kind = shape.input_type._concrete_class
                answer["call"] = len(calls) + 1
                calls[answer["call"]] = Call(method, kind, command, streams_in=shape.client_streaming)
            case "send":
                calls[command["call"]].send(command["message"])
            case "half_close":
                calls[command["call"]].half_close()
            case "cancel":
                calls[command["call"]].cancel()
            case "receive":
                answer = calls[command["call"]].receive()
            case "close":
                if command["socket"] in channels:
                    channels.pop(command["socket"]).close()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as stubs_folder:
        main(stubs_folder)
