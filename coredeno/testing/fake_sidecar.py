"""A launcher whose sidecars live in memory and whose plugins are Python classes.

Everything else is the real thing: the host's JSON-RPC client, the Session, the gate and the rules for values
all work as with Deno, on the same bytes. So a test on fakes finds the refused permission and the value that
cannot cross, without a process.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from coredeno.errors import CoreDenoError, UsageError
from coredeno.interfaces import HostDoor, LaunchOrder, SidecarExit, SidecarReady
from coredeno.testing.fake_core import CallContext, FakeCore, current_call
from coredeno.testing.fake_session import FakeSession
from coredeno.wire.codec import Answer, FrameReader
from coredeno.wire.codes import ROWS, WireError, status_of, to_wire
from coredeno.wire.typed import decoder_for
from coredeno.wire.values import BytesEntry, Outgoing, encode

_TEXT_LIMIT = 8192  # characters of what a plugin throws (docs/wire.md)
_DENO = "2.9.0"  # what a fake says to be; any version that a host accepts


class FakeLauncher:
    """Launches sidecars in memory. A `Launcher` for `PluginHost(launcher=…)`.

    A plugin is a class (or anything callable without arguments) that stands for the plugin of that code.
    Its public methods are what the plugin exports; `init(core)` and `dispose()` are called as in a real one,
    `core` being a `FakeCore`. What a method raises reaches the host as `PluginRaised`.

    Attributes:
        sidecars: all that were launched, in order; a test may `kill()` one.
    """

    def __init__(self, plugins: Mapping[str, Callable[[], Any]]) -> None:
        """Know the plugins by their codes."""
        self.sidecars: list[FakeSidecar] = []
        self._plugins = plugins

    async def launch(self, order: LaunchOrder, door: HostDoor) -> FakeSidecar:
        """Start one; it is ready at once."""
        sidecar = FakeSidecar(order, door, self._plugins)
        self.sidecars.append(sidecar)
        return sidecar


class FakeSidecar:
    """One sidecar in memory: a `SidecarProcess` that speaks the wire of `docs/wire.md`."""

    def __init__(self, order: LaunchOrder, door: HostDoor, plugins: Mapping[str, Callable[[], Any]]) -> None:
        self.pid = 0
        self._order = order
        self._door = door
        self._plugins = plugins
        self._modules: dict[str, _FakeModule] = {}
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._exit: asyncio.Future[SidecarExit] = asyncio.get_running_loop().create_future()
        self._transport: _FakeTransport | None = None
        self._session: FakeSession | None = None

    async def ready(self) -> SidecarReady:
        """At once."""
        return SidecarReady(protocol=1, deno=_DENO, pid=0)

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Join the host's JSON-RPC client, and open the Session."""
        self._session = FakeSession(limit_bytes=self._order.message_bytes)
        self._session.join(self._door.open_session(self._order.token, self._session.receive))
        self._transport = _FakeTransport(protocol, self._take, limit_bytes=self._order.message_bytes)
        protocol.connection_made(self._transport)

    async def wait(self) -> SidecarExit:
        """Until it was killed or shut down."""
        return await asyncio.shield(self._exit)

    def kill(self, exit_code: int = -9) -> None:
        """End it as a signal would: nothing that was under way is answered."""
        if self._exit.done():
            return
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        if self._session is not None:
            self._session.close()
        self._exit.set_result(SidecarExit(exit_code))
        if self._transport is not None:
            self._transport.abort()

    # --- the wire

    def _take(self, answer: Answer, attachments: Sequence[bytes]) -> None:
        if answer.method == "Cancel":
            self._cancel(self._calls.get(msgspec.json.decode(answer.params)["id"]))
            return
        assert answer.id is not None
        task = asyncio.get_running_loop().create_task(self._serve(answer, attachments))
        self._calls[answer.id] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    def _cancel(call: asyncio.Task[None] | None) -> None:
        if call is not None:
            # Not in this turn: a task cancelled before its first step never runs, and answers nothing.
            asyncio.get_running_loop().call_soon(call.cancel)

    async def _serve(self, request: Answer, attachments: Sequence[bytes]) -> None:
        assert request.id is not None
        try:
            params = decoder_for(dict[str, Any]).decode(request.params, request.bytes, attachments, "params")
            method = self._METHODS.get(request.method or "")
            if method is None:
                raise _Told(WireError(ROWS["MethodNotFound"].code, f"{request.method}: no such method"))
            self._answer(request.id, await method(self, params))
        except asyncio.CancelledError:
            self._fail(request.id, WireError(ROWS["Cancelled"].code, "cancelled"))
            raise
        except _Told as told:
            self._fail(request.id, told.error)
        except CoreDenoError as error:  # the host's own, as the answer to `health.check`
            self._fail(request.id, to_wire(error))
        finally:
            self._calls.pop(request.id, None)

    def _answer(self, request_id: int, result: Any) -> None:
        try:
            value = Outgoing(result, ("result",))
            line = encode(_Result(request_id, value.plain, value.entries or None), what="result")
        except UsageError as error:
            self._fail(request_id, _raised("DataError", str(error)))
            return
        limit_bytes = self._order.message_bytes
        if len(line) + sum(map(len, value.attachments)) > limit_bytes:
            problem = f"result: too large, wanted at most {limit_bytes} bytes"
            self._fail(request_id, WireError(ROWS["LimitExceeded"].code, problem))
        elif self._transport is not None:
            self._transport.send(line + b"\n" + b"".join(value.attachments))

    def _fail(self, request_id: int, error: WireError) -> None:
        answer = {"jsonrpc": "2.0", "id": request_id, "error": error}
        if self._transport is not None:
            self._transport.send(msgspec.json.encode(answer) + b"\n")

    # --- its methods

    async def _ping(self, params: dict[str, Any]) -> Any:
        assert self._session is not None
        if params.get("session"):
            await self._session.request("health.check", {}, module=None)
        states = {
            code: {"state": module.state, "busy_ms": 0, "inflight": 0}
            for code, module in self._modules.items()
        }
        return {"modules": states, "heap_bytes": 0, "rss_bytes": 0}

    async def _load(self, params: dict[str, Any]) -> Any:
        assert self._session is not None
        code = params["code"]
        make = self._plugins.get(code)
        if make is None:
            known = ", ".join(map(repr, self._plugins)) or "none"
            raise _Told(_raised("LoadError", f"no fake plugin has the code {code!r}; there are {known}"))
        core = FakeCore(code, self._session, params["services"], params["config"])
        module = self._modules[code] = _FakeModule(make(), core)
        init = getattr(module.plugin, "init", None)
        try:
            if init is not None:
                await module.run(init, (core,), CallContext())
        except BaseException:
            module.state = "ERRORED"
            raise
        module.state = "RUNNING"
        return {"ok": True, "exports": sorted(module.exports), "load_ms": 0.0}

    async def _unload(self, params: dict[str, Any]) -> Any:
        module = self._modules.get(params["code"])
        if module is None:
            return {"ok": True, "clean": True}
        was_running, module.state = module.state == "RUNNING", "STOPPED"
        for task in module.tasks:
            self._cancel(task)
        dispose = getattr(module.plugin, "dispose", None)
        if was_running and dispose is not None:
            try:
                await _run(dispose, (), CallContext())
            except _Told as told:
                module.core.log("error", f"dispose: {told}")
        return {"ok": True, "clean": True}

    async def _status(self, params: dict[str, Any]) -> Any:
        module = self._modules.get(params["code"])
        return {"code": params["code"], "status": module.state if module else "UNKNOWN"}

    async def _call(self, params: dict[str, Any]) -> Any:
        module = self._modules.get(params["code"])
        if module is None or module.state != "RUNNING":
            raise _Told(WireError(ROWS["FailedPrecondition"].code, f"{params['code']}: is not RUNNING here"))
        function = getattr(module.plugin, params["function"])
        context = CallContext(params.get("deadline_ms"), params.get("trace"), params.get("number"))
        return await module.run(function, params["args"], context)

    async def _shutdown(self, _params: dict[str, Any]) -> Any:
        asyncio.get_running_loop().call_soon(self.kill, 0)
        return {"ok": True}

    _METHODS = {  # noqa: RUF012 - a table, never changed
        "Ping": _ping,
        "LoadModule": _load,
        "UnloadModule": _unload,
        "ModuleStatus": _status,
        "Call": _call,
        "Shutdown": _shutdown,
    }


class _FakeModule:
    def __init__(self, plugin: Any, core: FakeCore) -> None:
        self.plugin = plugin
        self.core = core
        self.state = "LOADING"
        self.tasks: set[asyncio.Task[Any]] = set()

    async def run(self, function: Callable[..., Any], args: Sequence[Any], call: CallContext) -> Any:
        """Run one of its functions, which ends when the module does."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            return await _run(function, args, call)
        finally:
            self.tasks.discard(task)

    @property
    def exports(self) -> list[str]:
        return [
            name for name, _member in inspect.getmembers(self.plugin, callable) if not name.startswith("_")
        ]


class _Result(msgspec.Struct, omit_defaults=True, tag_field="jsonrpc", tag="2.0"):
    id: int
    result: Any
    bytes: list[BytesEntry] | None = None


class _Told(Exception):  # it carries an answer
    def __init__(self, error: WireError) -> None:
        super().__init__(error.message)
        self.error = error


def _raised(name: str, message: str, code: str | None = None) -> WireError:
    # As the real one writes what a plugin throws: cut, and with U+FFFD for what UTF-8 cannot hold.
    shown = message[:_TEXT_LIMIT].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    data = {"name": name, "message": shown, "stack": ""}
    return WireError(ROWS["PluginRaised"].code, shown, data if code is None else {**data, "code": code})


async def _run(function: Callable[..., Any], args: Sequence[Any], call: CallContext) -> Any:
    """Run a plugin's function, in the context of its call; what it raises becomes the error of the wire."""
    token = current_call.set(call)
    try:
        result = function(*args)
        return await result if inspect.isawaitable(result) else result
    except Exception as error:
        is_host_error = isinstance(error, CoreDenoError) and not isinstance(error, UsageError)
        status = status_of(error) if is_host_error else None
        raise _Told(_raised(type(error).__name__, str(error), status)) from error
    finally:
        current_call.reset(token)


class _FakeTransport(asyncio.Transport):
    """The host's end of the JSON-RPC wire: whole turns of bytes are handed over, in order."""

    def __init__(
        self, protocol: asyncio.Protocol, take: Callable[[Answer, Sequence[bytes]], None], *, limit_bytes: int
    ) -> None:
        super().__init__()
        self._protocol = protocol
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(limit_bytes=limit_bytes)
        self._closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """What the host sends."""
        self._loop.call_soon(self._deliver, bytes(data))

    def send(self, data: bytes) -> None:
        """What the sidecar sends."""
        if not self._closed:
            self._loop.call_soon(self._receive, data)

    def pause_reading(self) -> None:
        """Nothing has to be held back: what comes meanwhile waits at the host's end."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """As `abort`."""
        self.abort()

    def abort(self) -> None:
        """Close it; the host's end hears of it in the next turn."""
        if not self._closed:
            self._closed = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def _deliver(self, data: bytes) -> None:
        if not self._closed:
            for frame in self._reader.feed(data):
                self._take(frame.answer, frame.attachments)

    def _receive(self, data: bytes) -> None:
        if not self._closed:
            self._protocol.data_received(data)
