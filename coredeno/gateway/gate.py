"""The gate: the one function that every request of a module passes, whichever door it came in by."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from coredeno import events
from coredeno.errors import (
    InvalidArgument,
    MethodNotFound,
    PermissionDenied,
    RequestError,
    StoreError,
)
from coredeno.gateway.incidents import Incidents
from coredeno.held_grants import HeldGrants
from coredeno.permissions import Access, check
from coredeno.services.method import Caller, Method
from coredeno.wire.typed import TypedDecoder

_SHOWN_CHARACTERS = (
    1024  # of what msgspec says, in which a value of the plugin's may stand, as long as a message
)
# At the end of what msgspec says. Before it there may stand a value of the plugin's, with whatever digits.
_ARGUMENT_PLACE = re.compile(r" - at `\$\.args\[(\d{1,4})\][^`]*`\Z")
# What a service may tell a module in so many words; every other exception is a bug of the host's side.
_TOLD = (RequestError, StoreError)


class Gate:
    """Finds the method, reads its params, decides, runs it, and turns whatever goes wrong into a told error.

    Attributes:
        incidents: where the bugs are logged.
    """

    def __init__(self, methods: Iterable[Method], emit: Callable[[events.Event], None]) -> None:
        """Take the methods of the host; `emit` is told of each refusal."""
        self._methods = {method.name: method for method in methods}
        self._emit = emit
        self.incidents: Incidents = Incidents()

    @property
    def methods(self) -> Mapping[str, Method]:
        """All methods by their names."""
        return self._methods

    async def run(
        self, caller: Caller, name: str, read: Callable[[TypedDecoder], Any], *, is_counted: bool = True
    ) -> Any:
        """Do what a module asks for, if it may.

        Args:
            caller: who asks, by the connection.
            name: the method, as it was asked for.
            read: decodes the params with the method's decoder.
            is_counted: whether it counts as a request of the module.

        Raises:
            RequestError: the request cannot be granted; the module is told.
            ProtocolError: the params are no JSON: whoever wrote them is no sidecar of ours.
            InternalError: a bug of this side; the log has it under the incident's number, the module only that.
        """
        tally = caller.tally if is_counted else None
        if tally is not None:
            tally.asking += 1
        try:
            method = self._methods.get(name)
            if method is None or not (caller.code or method.for_sidecar):
                raise MethodNotFound(f"{name[:200]}: there is no such method")
            params = self._params(method, read)
            try:
                access = method.access(caller, params)
                if caller.held is None:
                    check(caller.code, caller.grants, access)
                    return await method.run(caller, params)
                return await _run_held(caller, caller.held, method, access, params)
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
                raise self.incidents.error(f"{name} of module {caller.code!r}", error) from error
        except BaseException as error:
            if tally is not None:
                tally.request_failed(error)
            raise
        finally:
            if tally is not None:
                tally.asking -= 1
                tally.requests += 1

    @staticmethod
    def _params(method: Method, read: Callable[[TypedDecoder], Any]) -> Any:
        try:
            return read(method.decoder)
        except msgspec.ValidationError as error:
            problem = str(error)
            place = _ARGUMENT_PLACE.search(problem[-_SHOWN_CHARACTERS:])
            names = method.argument_names
            if place and int(place[1]) < len(names):
                problem = f"argument {names[int(place[1])]!r}: {problem}"
            raise InvalidArgument(f"{method.name}: {problem[:_SHOWN_CHARACTERS]}") from None


async def _run_held(caller: Caller, held: HeldGrants, method: Method, access: Access, params: Any) -> Any:
    """Run a method whose permission may be taken back while it runs: then it is cancelled, and is a denial."""
    use = held.begin(access)
    if use is None:
        return await method.run(caller, params)
    try:
        result = await method.run(caller, params)
    except asyncio.CancelledError:
        if use.is_withdrawn and use.task is not None and use.task.uncancel() == 0:
            raise held.denial(use) from None
        raise
    except Exception:
        if use.is_withdrawn and use.task is not None:
            use.task.uncancel()
            raise held.denial(use) from None
        raise
    finally:
        held.end(use)
    if use.is_withdrawn:  # it did not let itself be cancelled
        if use.task is not None:
            use.task.uncancel()
        raise held.denial(use)
    return result
