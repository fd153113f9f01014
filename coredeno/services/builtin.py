"""The methods that every host offers: files, store, processes, logs, health.

Each declares the access that it needs; the gate decides before the method runs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from coredeno.config import Limits, Program
from coredeno.errors import PermissionDenied
from coredeno.interfaces import FileEntry, Files, Processes, ProcessResult, StoreQuota
from coredeno.permissions import (
    Access,
    FileAccess,
    OpenAccess,
    ProcessAccess,
    ProgramAccess,
    StoreAccess,
    normalise_path,
)
from coredeno.services.keyvalue import Store
from coredeno.services.log_rates import LogRates
from coredeno.services.method import Caller, Method
from coredeno.services.plugin_log import log_of_plugin
from coredeno.services.turns import Turns
from coredeno.wire.text import printable
from coredeno.wire.typed import TypedDecoder

_HIGHEST_NUMBER = 2**53 - 1  # a JavaScript number is exact up to here
_LOG_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class PathParams(msgspec.Struct, forbid_unknown_fields=True):
    """A path beneath the app root, normalised as it comes in."""

    path: str

    def __post_init__(self) -> None:
        """Normalise; raises InvalidArgument."""
        self.path = normalise_path(self.path)


class WriteParams(PathParams, forbid_unknown_fields=True):
    """A path and the file's new content."""

    data: bytes


class GroupParams(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A store group; None is the module's own."""

    group: str | None = None


class KeyParams(GroupParams, forbid_unknown_fields=True, kw_only=True):
    """A key of a group."""

    key: str


class SetParams(KeyParams, forbid_unknown_fields=True, kw_only=True):
    """A key of a group and its new value."""

    value: str


class RenderParams(GroupParams, forbid_unknown_fields=True, kw_only=True):
    """A template to fill with a group's values."""

    template: str


class StartParams(msgspec.Struct, forbid_unknown_fields=True):
    """The name of a program, as the app approved it, and its arguments."""

    command: str
    args: list[str] = []


class ProcessParams(msgspec.Struct, forbid_unknown_fields=True):
    """A process that the module started."""

    process_id: str


class LogParams(msgspec.Struct, forbid_unknown_fields=True):
    """One log record of a module; `call` is the number of the call in which it was made."""

    level: Literal["debug", "info", "warning", "error"]
    message: str
    call: Annotated[int, msgspec.Meta(ge=1, le=_HIGHEST_NUMBER)] | None = None


class NoParams(msgspec.Struct, forbid_unknown_fields=True):
    """No params."""


class ProcessStarted(msgspec.Struct):
    """The id of a new process."""

    process_id: str


class Healthy(msgspec.Struct):
    """The host is well: its store answered."""

    ok: bool = True


def builtin_methods(
    *,
    files: Files,
    store: Store,
    processes: Processes,
    programs: Mapping[str, str | Path | Program],
    root: Path,
    log_rates: LogRates,
    limit_bytes: int,
    limits: Limits,
) -> list[Method]:
    """All of them, on these parts.

    `limit_bytes` is the largest answer: of a file that can be read, of a group of the store. `limits` are those of each
    module.
    """
    return [
        *_file_methods(files, limit_bytes, Turns(limits.disk_in_flight)),
        *_store_methods(store, limit_bytes, StoreQuota(keys=limits.store_keys, bytes=limits.store_bytes)),
        *_process_methods(processes, programs, root),
        _log_method(limits.log_line_bytes, log_rates),
        _health_method(store),
    ]


def _method(
    name: str,
    params: type[msgspec.Struct],
    access: Callable[[Caller, Any], Access],
    run: Callable[[Caller, Any], Awaitable[Any]],
    *,
    is_bulk: bool = False,
    is_sizeable: bool = False,
) -> Method:
    return Method(
        name=name,
        decoder=TypedDecoder(params),
        access=access,
        run=run,
        is_bulk=is_bulk,
        is_sizeable=is_sizeable,
    )


def _open(_caller: Caller, _params: Any) -> Access:
    return OpenAccess()


def _file_methods(files: Files, limit_bytes: int, turns: Turns) -> list[Method]:
    def reads(_caller: Caller, params: PathParams) -> Access:
        return FileAccess("read", params.path)

    def writes(_caller: Caller, params: PathParams) -> Access:
        return FileAccess("write", params.path)

    async def read(caller: Caller, params: PathParams) -> bytes:
        async with turns.of(caller.code):
            return await files.read(params.path, limit_bytes=limit_bytes)

    async def write(caller: Caller, params: WriteParams) -> None:
        async with turns.of(caller.code):
            await files.write(params.path, params.data)

    async def list_folder(caller: Caller, params: PathParams) -> list[FileEntry]:
        async with turns.of(caller.code):
            return await files.list(params.path)

    async def delete(caller: Caller, params: PathParams) -> None:
        async with turns.of(caller.code):
            await files.delete(params.path)

    return [
        _method("files.read", PathParams, reads, read, is_bulk=True),
        _method("files.write", WriteParams, writes, write),
        _method("files.list", PathParams, reads, list_folder, is_bulk=True),
        _method("files.delete", PathParams, writes, delete),
    ]


def _store_methods(store: Store, limit_bytes: int, quota: StoreQuota) -> list[Method]:
    def group(caller: Caller, params: GroupParams) -> str:
        return caller.code if params.group is None else params.group

    def reads(caller: Caller, params: GroupParams) -> Access:
        return StoreAccess("read", group(caller, params))

    def writes(caller: Caller, params: GroupParams) -> Access:
        return StoreAccess("write", group(caller, params))

    async def get(caller: Caller, params: KeyParams) -> str | None:
        return await store.get(group(caller, params), params.key)

    async def set_value(caller: Caller, params: SetParams) -> None:
        await store.set(group(caller, params), params.key, params.value, quota=quota)

    async def delete(caller: Caller, params: KeyParams) -> None:
        await store.delete(group(caller, params), params.key)

    async def get_all(caller: Caller, params: GroupParams) -> dict[str, str]:
        return await store.get_all(group(caller, params), limit_bytes=limit_bytes)

    async def count(caller: Caller, params: GroupParams) -> int:
        return await store.count(group(caller, params))

    async def delete_group(caller: Caller, params: GroupParams) -> None:
        await store.delete_group(group(caller, params))

    async def render(caller: Caller, params: RenderParams) -> str:
        return await store.render(params.template, group(caller, params))

    return [
        _method("store.get", KeyParams, reads, get, is_sizeable=True),
        _method("store.set", SetParams, writes, set_value),
        _method("store.delete", KeyParams, writes, delete),
        _method("store.get_all", GroupParams, reads, get_all, is_bulk=True),
        _method("store.count", GroupParams, reads, count),
        _method("store.delete_group", GroupParams, writes, delete_group),
        _method("store.render", RenderParams, reads, render, is_bulk=True),
    ]


def _process_methods(
    processes: Processes, programs: Mapping[str, str | Path | Program], root: Path
) -> list[Method]:
    def starts(_caller: Caller, params: StartParams) -> Access:
        return ProgramAccess(params.command)

    def controls(_caller: Caller, params: ProcessParams) -> Access:
        return ProcessAccess(params.process_id, processes.owner_of(params.process_id))

    async def start(caller: Caller, params: StartParams) -> ProcessStarted:
        def refusal(remedy: str) -> PermissionDenied:
            return PermissionDenied(
                module=caller.code, permission="processes.start", resource=params.command, remedy=remedy
            )

        approved = programs.get(params.command)
        if approved is None:
            raise refusal("the app has not approved such a program (HostConfig.programs)")
        program = Program.of(approved)
        if not program.allow_options and any(arg.startswith("-") for arg in params.args):
            raise refusal("the app has not allowed arguments that begin with '-' (Program.allow_options)")
        args = [*program.args, *params.args]
        process_id = await processes.start(Path(program.path), args, owner=caller.code, cwd=root)
        if caller.held is not None:
            caller.held.started(process_id, params.command, processes.owner_of)
        return ProcessStarted(process_id)

    async def wait(_caller: Caller, params: ProcessParams) -> ProcessResult:
        return await processes.wait(params.process_id)

    async def stop(_caller: Caller, params: ProcessParams) -> None:
        await processes.stop(params.process_id)

    return [
        _method("processes.start", StartParams, starts, start),
        _method("processes.wait", ProcessParams, controls, wait),
        _method("processes.stop", ProcessParams, controls, stop),
    ]


def _log_method(limit: int, rates: LogRates) -> Method:
    async def write(caller: Caller, params: LogParams) -> None:
        if not rates.passes(caller):
            return
        log_of_plugin(
            caller.code,
            caller.version,
            _LOG_LEVELS[params.level],
            printable(params.message[:limit]),
            trace=caller.trace,
            number=params.call,
        )

    return _method("log.write", LogParams, _open, write)


def _health_method(store: Store) -> Method:
    async def check(_caller: Caller, _params: NoParams) -> Healthy:
        await store.count("_host")
        return Healthy()

    return Method(
        name="health.check", decoder=TypedDecoder(NoParams), access=_open, run=check, for_sidecar=True
    )
