"""What a module may do, and the one decision on each of its requests. Pure: no I/O."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from coredeno.errors import InvalidArgument, PermissionDenied

Mode: TypeAlias = Literal["read", "write"]

HOST_FOLDER: Final = ".core"
"""The host's own folder beneath the app root; no module ever reaches it."""

LIMIT_PATH_BYTES: Final = 1024
LIMIT_NAME_BYTES: Final = 255  # NAME_MAX of Linux and macOS
_SHOWN: Final = 80  # characters of a wrong path that an error repeats: enough to recognise it
# And of what was refused. A name may be as long as a message, and an app holds many denials until it looks at them.
_SHOWN_RESOURCE: Final = 1024
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_NEVER: Final = "nothing can allow it: "


class Grants(msgspec.Struct, frozen=True, kw_only=True):
    """What one module may do. The default is nothing, beside what `check` allows every module.

    Attributes:
        read: files and folders beneath the app root, as `normalise_path` gives them; `.` is the whole root.
        write: the same, for writing. Neither implies the other.
        net: hosts as `NetHost` writes them; Deno enforces them.
        run: names of programs.
        store_read: store groups beside the module's own that it may read.
        store_write: those that it may change. Neither implies the other.
        services: names of the app's services, and the permissions that it has there.
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    net: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    store_read: tuple[str, ...] = ()
    store_write: tuple[str, ...] = ()
    services: Mapping[str, frozenset[str]] = {}


class FileAccess(msgspec.Struct, frozen=True, tag="file"):
    """Read (or list) or write (or delete) a file or folder; `path` is relative to the app root."""

    mode: Mode
    path: str


class StoreAccess(msgspec.Struct, frozen=True, tag="store"):
    """Read or change the keys of a store group."""

    mode: Mode
    group: str


class ProgramAccess(msgspec.Struct, frozen=True, tag="program"):
    """Start the program that the app approved under this name."""

    name: str


class ProcessAccess(msgspec.Struct, frozen=True, tag="process"):
    """Stop a running process or wait for it. `owner` is the module that started it, None if there is none."""

    process_id: str
    owner: str | None


class ServiceAccess(msgspec.Struct, frozen=True, tag="service"):
    """Call a method of the app's service; `permission` is what `@rpc` names on it, or None."""

    service: str
    permission: str | None = None


class OpenAccess(msgspec.Struct, frozen=True, tag="open"):
    """What every module may do: write to its log, ask for the host's health."""


Access: TypeAlias = FileAccess | StoreAccess | ProgramAccess | ProcessAccess | ServiceAccess | OpenAccess
"""Everything that a request can be about. Each request is one of these before it is carried out."""


def check(module: str, grants: Grants, access: Access) -> None:
    """Return if `module` may do it. This is the only place that says so; what it does not know it refuses.

    Args:
        module: the code of the module that asks, as its connection proves it.
        grants: what that module was granted.
        access: what it asks for.

    Raises:
        PermissionDenied: it may not; the remedy names the line of the manifest that would allow it.
        InvalidArgument: the path of a `FileAccess` is none that `normalise_path` accepts.
    """
    match access:
        case FileAccess(mode=mode, path=path):
            refusal = _refusal_of_file(grants, mode, normalise_path(path))
        case StoreAccess(mode=mode, group=group):
            refusal = _refusal_of_group(module, grants, mode, group)
        case ProgramAccess(name=name):
            remedy = _line(name, "permissions.run")
            refusal = None if name in grants.run else ("processes.start", name, remedy)
        case ProcessAccess(process_id=process_id, owner=owner):
            remedy = "a module controls only the processes that it started itself"
            refusal = None if owner == module else ("processes.control", process_id, remedy)
        case ServiceAccess(service=service, permission=permission):
            refusal = _refusal_of_service(grants, service, permission)
        case OpenAccess():
            refusal = None
        case _:
            refusal = ("unknown", type(access).__name__, _NEVER + "the gate has no rule for it")
    if refusal is not None:
        permission, resource, remedy = refusal
        raise PermissionDenied(module=module, permission=permission, resource=_shown(resource), remedy=remedy)


def normalise_path(path: str) -> str:
    """The one spelling of a path beneath the app root: without leading `./`, `.` parts and a trailing `/`.

    `.` is the root itself. Letters are left as they are: neither case nor Unicode form is changed.

    Raises:
        InvalidArgument: it is empty or absolute, has a `..` or empty part, a backslash, NUL or other control
            character, is not valid Unicode, is longer than 1,024 bytes, or has a name longer than 255 bytes.
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise _bad_path(path, "it is not valid Unicode") from None
    if not 0 < size <= LIMIT_PATH_BYTES:
        raise _bad_path(path, f"it has {size:,} bytes, wanted 1 to {LIMIT_PATH_BYTES:,}")
    if path.startswith("/"):
        raise _bad_path(path, "it is absolute, wanted one relative to the app root")
    if "\\" in path or _CONTROL.search(path):
        raise _bad_path(path, "it has a backslash or control character")
    parts = path.removesuffix("/").split("/")
    if "" in parts or ".." in parts:
        raise _bad_path(path, "it has an empty or '..' part")
    names = [part for part in parts if part != "."]
    if any(len(name.encode()) > LIMIT_NAME_BYTES for name in names):
        raise _bad_path(path, f"one of its names is longer than {LIMIT_NAME_BYTES} bytes")
    return "/".join(names) or "."


def is_beneath(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it, by whole names: `data` does not hold `data-secrets`.

    Both are as `normalise_path` gives them.
    """
    return folder in (".", path) or path.startswith(folder + "/")


def at_and_above(path: str) -> Iterator[str]:
    """The path and each folder that it `is_beneath`, the root last; to look them up in a set."""
    while True:
        yield path
        if path == ".":
            return
        path = path.rpartition("/")[0] or "."


def is_host_path(path: str) -> bool:
    """Whether `path`, as `normalise_path` gives it, is the host's own folder or lies in it.

    Also in the spellings that a file system may hold to be the same: other case (macOS), other Unicode form
    (ZFS), characters that are ignored (HFS+, CVE-2014-9390), trailing dots and spaces (SMB). A name that is
    longer than `normalise_path` lets any be counts as the host's, unseen: that would take quadratic time.
    """
    name = path.partition("/")[0]
    if len(name) > LIMIT_NAME_BYTES:
        return True
    if not name.isascii():
        seen = (char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
        name = "".join(seen)
    return name.casefold().rstrip(". ") == HOST_FOLDER


def is_host_group(group: str) -> bool:
    """Whether a store group is the host's own; no module ever reaches it."""
    return group.startswith("_")


_Refusal: TypeAlias = tuple[str, str, str] | None


def _refusal_of_file(grants: Grants, mode: str, path: str) -> _Refusal:
    permission = f"files.{mode}"
    if is_host_path(path):
        return permission, path, _NEVER + f"{HOST_FOLDER} is the host's own folder"
    granted = {"read": grants.read, "write": grants.write}.get(mode, ())
    if any(is_beneath(path, folder) for folder in granted):
        return None
    return permission, path, _line(path, f"permissions.{mode}", " or a folder above it")


def _refusal_of_group(module: str, grants: Grants, mode: str, group: str) -> _Refusal:
    permission = f"store.{mode}"
    if is_host_group(group):
        return permission, group, _NEVER + "groups that begin with '_' are the host's"
    granted = {"read": grants.store_read, "write": grants.store_write}.get(mode)
    if granted is not None and (group == module or group in granted):
        return None
    return permission, group, _line(group, f"permissions.store.{mode}")


def _refusal_of_service(grants: Grants, service: str, permission: str | None) -> _Refusal:
    granted = grants.services.get(service)
    if granted is not None and (permission is None or permission in granted):
        return None
    wanted = "" if permission is None else permission
    resource = f"{service}:{wanted}" if wanted else service
    return f"services.{service}", resource, _line(f"{service}: [{wanted}]", "services")


def _line(entry: str, field: str, alternative: str = "") -> str:
    return f"add {_shown(entry)!r}{alternative} to {field} in the manifest"


def _shown(resource: str) -> str:
    return resource if len(resource) <= _SHOWN_RESOURCE else resource[:_SHOWN_RESOURCE] + "…"


def _bad_path(path: str, problem: str) -> InvalidArgument:
    shown = path if len(path) <= _SHOWN else path[:_SHOWN] + "…"
    return InvalidArgument(f"path {shown!r}: {problem}")
