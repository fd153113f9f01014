"""The gate: the one function that every request of a module passes, whichever door it came in by."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from coredeno import events
from coredeno.errors import (
    CoreDenoError,
    InternalError,
    InvalidArgument,
    MethodNotFound,
    PermissionDenied,
    RequestError,
    StoreError,
)
from coredeno.permissions import check
from coredeno.services.method import Caller, Method
from coredeno.wire.typed import TypedDecoder

_log = logging.getLogger("coredeno.gateway")
_ARGUMENT_PLACE = re.compile(r"`\$\.args\[(\d+)\]")
# What a service may tell a module in so many words; every other exception is a bug of the host's side.
_TOLD = (RequestError, StoreError)


class Gate:
    """Finds the method, reads its params, decides, runs it, and turns whatever goes wrong into a told error."""

    def __init__(self, methods: Iterable[Method], emit: Callable[[events.Event], None]) -> None:
        """Take the methods of the host; `emit` is told of each refusal."""
        self._methods = {method.name: method for method in methods}
        self._emit = emit

    @property
    def methods(self) -> Mapping[str, Method]:
        """All methods by their names."""
        return self._methods

    async def run(self, caller: Caller, name: str, read: Callable[[TypedDecoder], Any]) -> Any:
        """Do what a module asks for, if it may.

        Args:
            caller: who asks, by the connection.
            name: the method, as it was asked for.
            read: decodes the params with the method's decoder.

        Raises:
            RequestError: the request cannot be granted; the module is told.
            ProtocolError: the params are no JSON: whoever wrote them is no sidecar of ours.
            InternalError: a bug of this side; the log has it under the incident's number, the module only that.
        """
        method = self._methods.get(name)
        if method is None or not (caller.code or method.for_sidecar):
            raise MethodNotFound(f"{name[:200]}: there is no such method")
        params = self._params(method, read)
        try:
            check(caller.code, caller.grants, method.access(caller, params))
            return await method.run(caller, params)
        except PermissionDenied as denial:
            self._emit(
                events.PermissionDenied(
                    module=caller.code,
                    permission=denial.permission,
                    resource=denial.resource,
                    remedy=denial.remedy,
                )
            )
            raise
        except _TOLD:
            raise
        except Exception as error:
            raise internal_error(f"{name} of module {caller.code!r}", error) from error

    @staticmethod
    def _params(method: Method, read: Callable[[TypedDecoder], Any]) -> Any:
        try:
            return read(method.decoder)
        except msgspec.ValidationError as error:
            problem = str(error)
            place = _ARGUMENT_PLACE.search(problem)
            names = method.argument_names
            if place and int(place[1]) < len(names):
                problem = f"argument {names[int(place[1])]!r}: {problem}"
            raise InvalidArgument(f"{method.name}: {problem}") from None


def internal_error(what: str, error: Exception) -> InternalError:
    """Log a bug under a number, and give the error that tells a peer no more than that number."""
    incident = secrets.token_hex(4)
    _log.error("incident %s: %s failed", incident, what, exc_info=error)
    name = type(error).__name__ if isinstance(error, CoreDenoError) else "unexpected error"
    return InternalError(f"{what}: {name}; the host's log has it as incident {incident}", incident=incident)
