"""What one method of the gateway is: its name, its parameters, the access it needs, and what it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from coredeno.held_grants import HeldGrants
from coredeno.permissions import Access, Grants
from coredeno.tally import Tally
from coredeno.wire.typed import TypedDecoder


class Caller(msgspec.Struct, frozen=True):
    """Who asks: a module, as the gateway found out by the connection, and what it may do.

    Attributes:
        code: the module's code, or empty for the sidecar itself.
        version: the module's version.
        grants: what it may do, for one that holds none that can change.
        deadline_s: seconds left for this request, or None.
        trace: the trace text of the call in which the request is made, or None.
        held: what a loaded module may do at this moment; it counts instead of `grants`.
        tally: where the requests of a loaded module are counted.
    """

    code: str
    version: str
    grants: Grants
    deadline_s: float | None = None
    trace: str | None = None
    held: HeldGrants | None = None
    tally: Tally | None = None


SIDECAR = Caller(code="", version="", grants=Grants())
"""The sidecar itself, when it asks for no module: it may do nothing but what every sidecar may."""


class Method(msgspec.Struct, frozen=True):
    """One method that modules may ask for, the same over both doors.

    Attributes:
        name: its name on the wire, such as `files.read`.
        decoder: reads its params.
        access: the access that a request with these params needs; the gate decides on it.
        run: does it, once the gate has let it through.
        argument_names: for a method with positional arguments their names, so that errors can name them.
        for_sidecar: whether the sidecar itself may ask, without a module.
        is_bulk: whether its answers may be as large as a message; few of those are made at once for one peer.
        is_sizeable: whether its answers may be as large as a value of the store; some dozens are made at once.
    """

    name: str
    decoder: TypedDecoder
    access: Callable[[Caller, Any], Access]
    run: Callable[[Caller, Any], Awaitable[Any]]
    argument_names: tuple[str, ...] = ()
    for_sidecar: bool = False
    is_bulk: bool = False
    is_sizeable: bool = False
