"""What a fake plugin gets as `core`: the same as a real one, in Python's spelling."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import msgspec

from coredeno.testing.fake_session import FakeSession


class CallContext(msgspec.Struct):
    """The call in which a fake plugin's function runs: what is left of its deadline, its trace, its number."""

    deadline_ms: float | None = None
    trace: str | None = None
    number: int | None = None


current_call: ContextVar[CallContext] = ContextVar("current_call")


class FakeCore:
    """A fake plugin's way to its host. Each request passes the real gate.

    Attributes:
        code: the module's own code.
        config: what the host gave as its settings.
        files, store, processes, permissions, log: as in TypeScript, in snake_case.
        services: the app's services, `await core.services.weather.forecast("Oslo")`.
    """

    def __init__(
        self,
        code: str,
        session: FakeSession,
        services: Mapping[str, Mapping[str, str]],
        config: Mapping[str, Any],
    ) -> None:
        self.code = code
        self.config = config
        self._session = session
        self.files: FakeCoreFiles = FakeCoreFiles(self)
        self.store: FakeCoreStore = FakeCoreStore(self, None)
        self.processes: FakeCoreProcesses = FakeCoreProcesses(self)
        self.permissions: FakeCorePermissions = FakeCorePermissions(self)
        self.services: _Names = _Names(
            {name: _service(self, name, methods) for name, methods in services.items()}
        )

    @property
    def call(self) -> CallContext:
        """The call that is running, or an empty one."""
        return current_call.get(CallContext())

    def log(self, level: str, message: str) -> None:
        """Write a log record; `level` is debug, info, warning or error."""
        call = self.call
        params = {"level": level, "message": message, "call": call.number}
        self._session.notify("log.write", params, module=self.code, trace=call.trace)

    async def request(self, method: str, params: Any) -> Any:
        """Ask the host for any method of `docs/wire.md`."""
        call = self.call
        return await self._session.request(
            method, params, module=self.code, deadline_ms=call.deadline_ms, trace=call.trace
        )


class FakeCoreFiles:
    """`core.files`."""

    def __init__(self, core: FakeCore) -> None:
        self._core = core

    async def read(self, path: str) -> bytes:
        """A file's content."""
        content: bytes = await self._core.request("files.read", {"path": path})
        return content

    async def write(self, path: str, data: bytes) -> None:
        """Replace a file."""
        await self._core.request("files.write", {"path": path, "data": data})

    async def list(self, path: str) -> list[dict[str, Any]]:
        """A folder's entries."""
        entries: list[dict[str, Any]] = await self._core.request("files.list", {"path": path})
        return entries

    async def delete(self, path: str) -> None:
        """Remove a file or an empty folder."""
        await self._core.request("files.delete", {"path": path})


class FakeCoreStore:
    """`core.store`, or one of its other groups."""

    def __init__(self, core: FakeCore, group: str | None) -> None:
        self._core = core
        self._group = {} if group is None else {"group": group}

    def group(self, name: str) -> FakeCoreStore:
        """The store of another group."""
        return FakeCoreStore(self._core, name)

    async def get(self, key: str) -> str | None:
        """A value, or None."""
        value: str | None = await self._core.request("store.get", {"key": key, **self._group})
        return value

    async def set(self, key: str, value: str) -> None:
        """Set a value; returns when it is durable."""
        await self._core.request("store.set", {"key": key, "value": value, **self._group})

    async def delete(self, key: str) -> None:
        """Delete a key."""
        await self._core.request("store.delete", {"key": key, **self._group})

    async def get_all(self) -> dict[str, str]:
        """All keys and values."""
        values: dict[str, str] = await self._core.request("store.get_all", {**self._group})
        return values

    async def count(self) -> int:
        """How many keys there are."""
        count: int = await self._core.request("store.count", {**self._group})
        return count

    async def delete_group(self) -> None:
        """Delete all keys."""
        await self._core.request("store.delete_group", {**self._group})

    async def render(self, template: str) -> str:
        """Fill a template with the group's values."""
        text: str = await self._core.request("store.render", {"template": template, **self._group})
        return text


class FakeCoreProcesses:
    """`core.processes`."""

    def __init__(self, core: FakeCore) -> None:
        self._core = core

    async def start(self, command: str, args: list[str] | None = None) -> str:
        """Start an approved program; gives the process id."""
        started = await self._core.request("processes.start", {"command": command, "args": args or []})
        return str(started["process_id"])

    async def wait(self, process_id: str) -> dict[str, Any]:
        """Its exit code and the end of its output."""
        result: dict[str, Any] = await self._core.request("processes.wait", {"process_id": process_id})
        return result

    async def stop(self, process_id: str) -> None:
        """End it."""
        await self._core.request("processes.stop", {"process_id": process_id})


class FakeCorePermissions:
    """`core.permissions`."""

    def __init__(self, core: FakeCore) -> None:
        self._core = core

    async def request(self, permissions: Mapping[str, Any], reason: str = "") -> dict[str, Any]:
        """Ask the app for what the manifest lists as optional; gives `granted` and `reason`."""
        answer: dict[str, Any] = await self._core.request(
            "permissions.request", {"permissions": dict(permissions), "reason": reason}
        )
        return answer

    async def query(self, permissions: Mapping[str, Any]) -> str:
        """`granted`, `prompt` or `denied`."""
        answer = await self._core.request("permissions.query", {"permissions": dict(permissions)})
        return str(answer["state"])


class _Names:
    """A namespace of what there is, and nothing else."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self.__dict__.update(members)


def _service(core: FakeCore, name: str, methods: Mapping[str, str]) -> _Names:
    def method(method_name: str) -> Any:
        async def call(*args: Any) -> Any:
            return await core.request(f"services.{name}.{method_name}", {"args": list(args)})

        return call

    return _Names({method_name: method(method_name) for method_name in methods})
