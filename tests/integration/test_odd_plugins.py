"""Plugins that nobody would write by intent, or only by a bad one: the module pays, and nobody else."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coredeno import (
    Context,
    CoreDenoError,
    ManifestError,
    ModuleState,
    PluginCrashed,
    PluginHost,
    PluginRaised,
    PluginTimeout,
    Service,
    UsageError,
    rpc,
)
from coredeno.events import ModuleCrashed, SidecarKilled

ECHO = "export const echo = (...args) => args;"


class Echo(Service, name="echo"):
    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.go = asyncio.Event()

    @rpc
    async def echo(self, ctx: Context, value: Any) -> Any:
        return value

    @rpc
    async def hold(self, ctx: Context) -> None:
        self.held.set()
        await self.go.wait()


async def refused(host: PluginHost, folder: Path) -> CoreDenoError:
    """Why this plugin cannot be loaded; it is ERRORED, and the host says so everywhere."""
    events = host.events()
    with pytest.raises(CoreDenoError) as caught:
        async with asyncio.timeout(10):
            pytest.fail(f"loaded: {await host.load_path(folder)}")
    module = host.modules[folder.name]
    assert module.state is ModuleState.ERRORED
    assert module.error is caught.value
    event = await anext(events)
    if isinstance(event, SidecarKilled):  # where it did not end by itself
        event = await anext(events)
    assert event == ModuleCrashed(module=folder.name, error=str(caught.value))
    return caught.value


class TestNames:
    async def test_names_that_mean_something(self, boot, plugins: Path):
        """Exports named `then`, `constructor`, `__proto__`, `default` are functions like others."""
        odd = await (await boot()).load_path(plugins / "odd")
        assert {"then", "constructor", "__proto__", "default", ""} < odd.exports
        assert await odd.call("then", 1) == ["then", 1]
        assert await odd.call("constructor", 1) == ["constructor", 1]
        for name in ("__proto__", "default", ""):
            assert await odd.call(name, 1) == ["__proto__", 1]

    async def test_names_that_are_not_exported(self, boot, plugins: Path):
        """What an object has from its prototype is not exported, whatever its name."""
        odd = await (await boot()).load_path(plugins / "odd")
        for name in (
            "toString",
            "hasOwnProperty",
            "valueOf",
            "Symbol.toStringTag",
            "proto",
            "\ud800",
            "x" * 10_000,
        ):
            with pytest.raises(UsageError, match="exports no function"):
                await odd.call(name)

    async def test_a_namespace_that_is_a_thenable(self, boot, write):
        """A plugin whose only export is `then` loads, and so does one whose `then` is no function or never calls."""
        host = await boot()
        for code, source in (
            ("function", "export function then(resolve) { return 1; }"),
            ("value", f"export const then = 1; {ECHO}"),
            ("init", "export function then() {} export function init() {}"),
        ):
            async with asyncio.timeout(10):
                module = await host.load_path(write(code, source))
            assert module.state is ModuleState.RUNNING


class TestThrowing:
    async def test_whatever_is_thrown(self, boot, plugins: Path):
        """Anything can be thrown, at once or later: the caller gets a `PluginRaised`, and the next call works."""
        odd = await (await boot()).load_path(plugins / "odd")
        for source, name, message in (
            ("null", "Error", "null"),
            ("undefined", "Error", "undefined"),
            ("'a text'", "Error", "a text"),
            ("0", "Error", "0"),
            ("1n", "Error", "1"),
            ("Symbol('s')", "Error", "Symbol(s)"),
            ("new RangeError('out')", "RangeError", "out"),
            ("new Error('')", "Error", ""),
            ("Object.assign(new Error('m'), {name: ''})", "Error", "m"),
            ("Object.assign(new Error('m'), {name: 1, message: {}, stack: 3})", "Error", None),
            ("({name: 'N', message: 'm', stack: 's'})", "N", "m"),
            ("({})", "Error", "[object Object]"),
            ("[1, 2]", "Error", "1,2"),
            ("() => 1", "", None),
            (
                "({get name() { throw 1; }, get message() { throw 2; }, get stack() { throw 3; }})",
                "Error",
                None,
            ),
            ("({toString() { throw 1; }})", "Error", "a thrown value that cannot be read"),
            ("({__proto__: null})", "Error", "a thrown value that cannot be read"),
            ("new Proxy({}, {get() { throw 1; }, has() { throw 1; }})", "Error", None),
            ("((p) => (p.revoke(), p.proxy))(Proxy.revocable({}, {}))", "Error", None),
            ("new Error('lone \\ud800')", "Error", "lone \ufffd"),
            ("new AggregateError([1], 'many')", "AggregateError", "many"),
            ("new DOMException('d', 'AbortError')", "AbortError", "d"),
        ):
            for function in ("throws", "rejects"):
                with pytest.raises(PluginRaised) as caught:
                    await odd.call(function, source)
                error = caught.value
                assert error.module == "odd"
                assert error.name == (name or error.name), source
                assert error.message == (error.message if message is None else message), source
                assert await odd.call("works") == "works"

    async def test_texts_of_an_error_are_cut(self, boot, plugins: Path):
        """Name, message, stack and code have at most 8,192 characters each, however long they were thrown."""
        odd = await (await boot()).load_path(plugins / "odd")
        long = "'x'.repeat(5_000_000)"
        with pytest.raises(PluginRaised) as caught:
            await odd.call("throws", f"Object.assign(new Error({long}), {{name: {long}, code: {long}}})")
        error = caught.value
        assert error.message == error.name == error.code == "x" * 8192
        assert len(error.stack) <= 8192
        assert await odd.call("works") == "works"

    async def test_code_and_stack(self, boot, plugins: Path):
        """`code` is there if the thrown value has a text of that name; the stack leads to the plugin's own lines."""
        odd = await (await boot()).load_path(plugins / "odd")
        for source, code in (("'E_MINE'", "E_MINE"), ("1", None), ("{}", None), ("''", None)):
            with pytest.raises(PluginRaised) as caught:
                await odd.call("throws", f"Object.assign(new Error('m'), {{code: {source}}})")
            assert caught.value.code == code
            assert "main.ts" in caught.value.stack

    async def test_nobody_catches_it(self, boot, plugins: Path, caplog: pytest.LogCaptureFixture, eventually):
        """A stray rejection or throw is logged as the plugin's, and the module lives on with all its calls."""
        odd = await (await boot()).load_path(plugins / "odd")
        for how in (
            "rejection",
            "throw in a timer",
            "async throw in a timer",
            "throw in a microtask",
            "throw in a listener",
            "reportError",
        ):
            assert await odd.call("stray", how) == how
            await eventually(lambda how=how: f"RangeError: stray {how}" in said(caplog, "odd", logging.ERROR))
        for how in ("rejection with null", "throw of null in a timer"):
            caplog.clear()
            assert await odd.call("stray", how) == how
            await eventually(lambda: "null" in said(caplog, "odd", logging.ERROR))
        assert await odd.call("works") == "works"
        assert odd.state is ModuleState.RUNNING


class TestLoading:
    async def test_what_cannot_be_loaded(self, boot, write):
        """A plugin that cannot be imported is ERRORED with the reason; the host and its other modules go on."""
        host = await boot()
        good = await host.load_path(write("good", ECHO))
        for code, source, name, words in (
            ("syntax", "export function f( {", "SyntaxError", "main.ts"),
            ("types", "export const f = (: number) => 1;", "SyntaxError", "main.ts"),
            ("empty", "", "LoadError", "main.ts exports nothing"),
            ("values", "export const a = 1;", "LoadError", "main.ts exports nothing"),
            ("throws", "throw new RangeError('at the top');", "RangeError", "at the top"),
            ("nothing", "throw null;", "Error", "null"),
            (
                "rejects",
                "await Promise.reject(new RangeError('later')); export function f() {}",
                "RangeError",
                "later",
            ),
            ("init", "export function init() { throw new RangeError('in init'); }", "RangeError", "in init"),
            ("later", "export async function init() { await null; throw undefined; }", "Error", "undefined"),
            ("missing", "import './none.ts'; export function f() {}", "TypeError", "none.ts"),
            ("name", "import { none } from './main.ts'; export const f = () => none;", "SyntaxError", "none"),
            ("reference", "none; export function f() {}", "ReferenceError", "none is not defined"),
        ):
            error = await refused(host, write(code, source))
            assert isinstance(error, PluginRaised), code
            assert (error.module, error.name) == (code, name), (code, error.name, error.message)
            assert words in error.message, (code, error.message)
            assert await good.call("echo", code) == [code]
            assert "coredeno/runtime" not in error.message

    async def test_what_is_no_plugin(self, boot, write, tmp_path: Path):
        """A folder without a manifest, or with a bad one, is no module at all; a missing entry is an ERRORED one."""
        host = await boot()
        with pytest.raises(ManifestError, match=r"view\.yml"):
            await host.load_path(tmp_path / "nowhere")
        with pytest.raises(ManifestError, match=r"entri.*nearest is 'entry'"):
            await host.load_path(write("bad", ECHO, "entri: x.ts"))
        assert not host.modules
        error = await refused(host, write("entry", ECHO, "entry: other.ts"))
        assert isinstance(error, PluginRaised)
        assert "other.ts" in error.message

    async def test_an_errored_module_can_be_replaced(self, boot, write):
        """Loading over an ERRORED module replaces it; unloading it takes it out."""
        host = await boot()
        folder = write("again", "throw 1;")
        first = (await refused(host, folder), host.modules["again"])[1]
        with pytest.raises(PluginCrashed, match="it is down"):
            await first.call("echo")
        module = await host.load_path(write("again", ECHO))
        assert host.modules["again"] is module
        await first.unload()
        assert host.modules["again"] is module
        await refused(host, write("other", "throw 1;"))
        await host.modules["other"].unload()
        assert dict(host.modules) == {"again": module}

    async def test_init_that_never_returns(self, boot, write):
        """An `init` that does not return, or spins, is a `PluginTimeout` at the limit, and its process is gone."""
        host = await boot(load_timeout_s=0.3)
        for code, source in (
            ("waits", "export function init() { return new Promise(() => {}); }"),
            ("spins", "export function init() { for (;;); }"),
            ("imports", "await new Promise(() => {}); export function f() {}"),
            ("turns", "export async function init() { for (;;) await null; }"),
        ):
            started = time.monotonic()
            error = await refused(host, write(code, source))
            assert isinstance(error, PluginTimeout), (code, error)
            assert error.timeout_s == 0.3
            assert str(error) == f"{code}: load: not done after 0.3 s"
            assert time.monotonic() - started < 3

    async def test_a_load_can_be_given_up(self, boot, write, eventually):
        """Cancelling a load leaves no module; unloading one that is LOADING ends its load."""
        host = await boot()
        folder = write("waits", "export function init() { return new Promise(() => {}); }")
        task = asyncio.create_task(host.load_path(folder))
        await eventually(lambda: "waits" in host.modules)
        module = host.modules["waits"]
        assert module.state is ModuleState.LOADING
        with pytest.raises(UsageError, match="LOADING"):
            await module.call("init")
        with pytest.raises(UsageError, match="LOADING already"):
            await host.load_path(folder)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not host.modules
        assert module.state is ModuleState.STOPPED
        task = asyncio.create_task(host.load_path(folder))
        await eventually(lambda: "waits" in host.modules)
        await host.modules["waits"].unload()
        with pytest.raises(UsageError, match="unloaded while it was loading"):
            await task
        assert not host.modules

    async def test_a_load_given_up_twice(self, boot, write, eventually):
        """Cancelling a load again and again, while it is being undone, leaves no module either."""
        host = await boot()
        task = asyncio.create_task(host.load_path(write("spins", "export function init() { for (;;); }")))
        await eventually(lambda: "spins" in host.modules)
        module = host.modules["spins"]
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not host.modules
        assert module.state is ModuleState.STOPPED

    async def test_files_of_its_own(self, boot, write):
        """A plugin may import and read its own files, relative to `import.meta`, whatever their names."""
        host = await boot()
        folder = write(
            "own",
            """
            import { one } from "./lib/one.ts";
            import data from "./data.json" with { type: "json" };
            import text from "./a%20b%2520%23%3F.txt" with { type: "text" };
            export const all = async () => [
                one, data, text, (await import("./lib/one.ts")).one,
                await Deno.readTextFile(new URL("./lib/one.ts", import.meta.url)),
            ];
            """,
            **{
                "lib/one.ts": "export const one: number = 1;",
                "data.json": '{"a": 1}',
                "a b%20#?.txt": "text",
            },
        )
        own = await host.load_path(folder)
        one = "export const one: number = 1;"
        assert await own.call("all") == [1, {"a": 1}, "text", 1, one]

    async def test_imports_that_are_refused(self, boot, write):
        """What is not the plugin's own cannot be imported statically, neither as code nor as text."""
        host = await boot()
        (boot.root / "secret.ts").write_text("export const secret = 1;")
        stranger = write("stranger", "export const other = 1;")
        for code, what, words in (
            ("npm", "npm:left-pad@1.3.0", "npm"),
            ("jsr", "jsr:@std/path@1", "jsr"),
            ("https", "https://deno.land/x/none.ts", "deno.land"),
            ("http", "http://127.0.0.1:1/none.ts", "127.0.0.1:1"),
            ("passwd", "file:///etc/passwd", "/etc/passwd"),
            ("root", (boot.root / "secret.ts").as_uri(), "secret.ts"),
            ("sibling", (stranger / "main.ts").as_uri(), "main.ts"),
            ("climbs", "../../../../../../etc/passwd", "passwd"),
            ("bare", "left-pad", "left-pad"),
        ):
            for way, source in (
                ("static", f'import * as x from "{what}"; export const f = () => x;'),
                ("text", f'import x from "{what}" with {{ type: "text" }}; export const f = () => x;'),
            ):
                if way == "text" and not what.startswith(("file:", ".")):
                    continue
                error = await refused(host, write(f"{code}-{way}", source))
                assert isinstance(error, PluginRaised), (code, way)
                assert error.name == "TypeError", (code, way, error.name, error.message)
                assert words in error.message, (code, way, error.message)
                assert "root:" not in error.message
            await host.modules[f"{code}-static"].unload()

    async def test_dynamic_imports_that_are_refused(self, boot, write):
        """A running plugin's dynamic import of what is not its own rejects, with a reason, and it goes on."""
        host = await boot()
        module = await host.load_path(
            write(
                "late",
                """
                export const load = async (name, type) =>
                    (await import(name, type ? { with: { type } } : {})).default;
                export const worker = (name) => { new Worker(name, { type: "module" }); };
                """,
            )
        )
        for name in ("npm:left-pad@1.3.0", "https://deno.land/x/none.ts", "file:///etc/passwd", "./none.ts"):
            for kind in ("", "text", "json", "bytes"):
                with pytest.raises(PluginRaised) as caught:
                    await module.call("load", name, kind)
                assert caught.value.name == "TypeError", (name, kind, caught.value)
                assert "root:" not in caught.value.message
        assert await module.call("load", "data:application/javascript,export default 7", "") == 7


class TestEnding:
    async def test_in_a_call(self, boot, write, eventually):
        """A module that ends its Worker in a call is ERRORED at once; the call fails typed, the host lives."""
        host = await boot()
        other = await host.load_path(write("other", ECHO))
        for end in ("self.close()", "Deno.exit(0)", "Deno.exit(7)", "postMessage(null)"):
            source = f"export async function end() {{ {end}; await new Promise(() => {{}}); }}"
            module = await host.load_path(write("ends", source))
            with pytest.raises(PluginCrashed, match="ends: end: "):
                await module.call("end", timeout_s=5)
            await eventually(lambda module=module: module.state is ModuleState.ERRORED)
            assert isinstance(module.error, PluginCrashed)
            with pytest.raises(PluginCrashed, match="it is down"):
                await module.call("end")
            assert await other.call("echo", end) == [end]

    async def test_in_init(self, boot, write):
        """A module that ends its Worker in `init` is ERRORED soon, never LOADING for ever."""
        host = await boot(load_timeout_s=20)
        other = await host.load_path(write("other", ECHO))
        for end in ("self.close()", "Deno.exit(0)", "Deno.exit(7)", "postMessage(null)"):
            source = f"export async function init() {{ {end}; await new Promise(() => {{}}); }}"
            started = time.monotonic()
            error = await refused(host, write("ends", source))
            assert time.monotonic() - started < 5
            assert isinstance(error, PluginCrashed)
            assert str(error).startswith("ends: load: ")
            assert await other.call("echo", end) == [end]

    async def test_right_after_init(self, boot, write, eventually):
        """A module that ends just when its load succeeds is ERRORED, whatever the load came to."""
        host = await boot()
        for end in ("self.close()", "Deno.exit()", "setTimeout(() => self.close(), 0)") * 2:
            folder = write("ends", f"export function init() {{ {end}; }} export function f() {{}}")
            try:
                await host.load_path(folder)
            except PluginCrashed:
                assert host.modules["ends"].state is ModuleState.ERRORED
            await eventually(lambda: host.modules["ends"].state is ModuleState.ERRORED, within_s=3)

    async def test_while_its_load_is_answered(self, boot, write, eventually):
        """A module's end that is heard of before its load has come to a result makes the load fail."""
        app = Echo()
        host = await boot(app)
        source = (
            "export async function init(core) { await core.services.echo.hold(); } export function f() {}"
        )
        task = asyncio.create_task(host.load_path(write("ends", source, "services: {echo: []}")))
        await app.held.wait()
        loader = host._parts.loader
        (place,) = loader._placement._places.values()
        # As if it stood in one read with the answer to the load; no real plugin hits that moment for certain.
        loader.sidecar_said(place.home, "ModuleExited", msgspec.Raw(b'{"code":"ends","reason":"gone"}'))
        app.go.set()
        with pytest.raises(PluginCrashed, match="ends: gone"):
            await task
        assert host.modules["ends"].state is ModuleState.ERRORED

    async def test_when_nobody_calls(self, boot, write, eventually):
        """A module that ends its Worker in a timer is ERRORED, with an event, though nobody asked anything."""
        host = await boot()
        events = host.events()
        module = await host.load_path(
            write(
                "ends",
                "export function init() { setTimeout(() => self.close(), 20); } export function f() {}",
            )
        )
        async with asyncio.timeout(5):
            async for event in events:
                if isinstance(event, ModuleCrashed):
                    break
        assert module.state is ModuleState.ERRORED


class TestConsole:
    async def test_console_is_logging(
        self, boot, plugins: Path, caplog: pytest.LogCaptureFixture, eventually
    ):
        """What a plugin writes to `console` are records of `coredeno.plugin.<code>` at its level, cut and printable."""
        caplog.set_level(logging.DEBUG)
        odd = await (await boot(log_line_bytes=2000)).load_path(plugins / "odd")
        await odd.call("consoles")
        await eventually(lambda: said(caplog, "odd").endswith("end"))
        records = [record for record in caplog.records if record.name == "coredeno.plugin.odd"]
        lines = [(record.levelname, record.getMessage()) for record in records]
        assert lines[:5] == [
            ("DEBUG", "debug 1"),
            ("INFO", "log %s { a: [ 1 ] }"),
            ("INFO", "info"),
            ("WARNING", "warn"),
            ("ERROR", "error out of it"),
        ]
        assert lines[5][0] == "INFO"
        assert lines[6] == ("ERROR", "Assertion failed assert")
        assert lines[7] == ("INFO", "x" * 2000)
        assert lines[8] == ("INFO", "é" * 1000)
        assert lines[9] == ("INFO", "two\nlines \\x1b[31mred\\x202e")
        assert lines[10][0] == "INFO"
        assert lines[11] == ("INFO", "end")
        assert len(lines) == 12

    async def test_output_beside_the_console(self, boot, write, caplog: pytest.LogCaptureFixture, eventually):
        """What a plugin writes to the process's stdout and stderr is log text too, cut, and never protocol."""
        caplog.set_level(logging.DEBUG)
        source = """
            export function say(text, file) {
                const bytes = new TextEncoder().encode(text);
                for (let at = 0; at < bytes.length;) at += Deno[file].writeSync(bytes.subarray(at));
            }
        """
        module = await (await boot(log_line_bytes=2000)).load_path(write("sayer", source))
        ready = '{"protocol":1,"deno":"2.9.8","pid":1,"ready":true}'
        for file in ("stdout", "stderr"):
            await module.call("say", f"{file} {ready}\n{'y' * 5000}\n\x1b[2J\xff\nthe end of {file}\n", file)
            await eventually(lambda file=file: f"the end of {file}" in caplog.text)
            assert f"{file} {ready}" in caplog.text
            assert "y" * 2000 in caplog.text
            assert "y" * 2001 not in caplog.text
            assert "\x1b" not in caplog.text
        records = [record for record in caplog.records if "the end of" in record.getMessage()]
        assert [
            (record.name, record.plugin, record.plugin_version, record.call_id) for record in records
        ] == [("coredeno.plugin.sayer", "sayer", "1.0.0", None)] * 2
        assert module.state is ModuleState.RUNNING

    async def test_which_call_a_record_belongs_to(
        self, boot, write, caplog: pytest.LogCaptureFixture, eventually
    ):
        """Through awaits and timers, however calls run across each other; outside of calls to none."""
        caplog.set_level(logging.DEBUG)
        source = """
            const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
            console.log("import none");
            export function init(core) { globalThis.core = core; core.log.info("init none"); }
            export async function say(name, ms) {
                console.log("begin", name);
                await pause(ms);
                core.log.warning("paused", name);
                const after = pause(20);
                queueMicrotask(() => console.error("micro", name));
                await after;
                console.info("end", name);
            }
            export function late() { setTimeout(() => console.log("late none"), 50); }
        """
        module = await (await boot()).load_path(write("sayer", source))
        names = ["1", "request b", "3", "größe"]
        await asyncio.gather(
            *(
                module.call("say", name, 30 - 10 * at, trace=None if name.isdigit() else name)
                for at, name in enumerate(names)
            )
        )
        await module.call("late")
        await eventually(lambda: "late none" in said(caplog, "sayer"))
        await eventually(lambda: len(records_of(caplog, "sayer")) == 4 * len(names) + 3)
        for record in records_of(caplog, "sayer"):
            name = record.getMessage().split(" ", 1)[1]
            assert record.call_id == (None if name == "none" else name), record.getMessage()
            assert (record.plugin, record.plugin_version) == ("sayer", "1.0.0")

    async def test_a_flood_of_logs(self, boot, write, caplog: pytest.LogCaptureFixture, eventually):
        """A plugin that logs without end loses records, is told so in the log, and goes on answering."""
        caplog.set_level(logging.DEBUG)
        source = """
            export function flood(n) { for (let i = 0; i < n; i++) console.log("line", i); return n; }
            export const end = () => console.log("the end");
        """
        host = await boot(log_lines_per_s=100_000)  # so that what the Session can take is the bound
        module = await host.load_path(write("flood", source))
        assert await module.call("flood", 20_000) == 20_000
        await eventually(lambda: "log records were dropped" in said(caplog, "flood", logging.WARNING))
        await module.call("end")
        await eventually(lambda: "the end" in said(caplog, "flood"))
        assert "line 0\n" in said(caplog, "flood")


# What a plugin may do to its own globals, before anything of ours runs again.
PATCHES = {
    "JSON": "JSON.stringify = JSON.parse = () => { throw new Error('mine'); }; globalThis.JSON = undefined;",
    "lying JSON": "JSON.stringify = () => '[]'; JSON.parse = () => [];",
    "Promise": "globalThis.Promise = class { constructor() { throw new Error('mine'); } };",
    "Promise.resolve": "Promise.resolve = Promise.reject = Promise.all = () => { throw new Error('mine'); };",
    "Promise.withResolvers": "Promise.withResolvers = Promise.try = undefined;",
    "Array": "globalThis.Array = undefined;",
    "Array.prototype": """
        for (const key of Object.getOwnPropertyNames(Array.prototype)) {
            if (typeof [][key] === "function") Array.prototype[key] = () => { throw new Error("mine"); };
        }""",
    "iterators": "Array.prototype[Symbol.iterator] = function* () { yield 'mine'; };",
    "indexes": """
        for (const key of ["0", "1", "2"]) Object.defineProperty(Array.prototype, key, {
            set() { throw new Error("mine"); }, get() { return "mine"; } });""",
    "toJSON": "Object.prototype.toJSON = Array.prototype.toJSON = String.prototype.toJSON = () => 'mine';",
    "Object.prototype": "Object.defineProperty(Object.prototype, 'mine', { value: 1, enumerable: true });",
    "names of ours": """
        for (const key of ["id", "params", "result", "error", "reason", "at", "len", "bytes", "signal", "function",
                "args", "deadline", "code", "name", "message", "stack", "entries", "text", "slots", "buffers"]) {
            Object.defineProperty(Object.prototype, key, {
                set() { throw new Error("mine"); }, get() { return "mine"; }, configurable: true });
        }""",
    "Object": "for (const key of Object.getOwnPropertyNames(Object)) try { Object[key] = undefined; } catch {}",
    "Reflect": "for (const key of Object.keys(Object.getOwnPropertyDescriptors(Reflect))) Reflect[key] = undefined;",
    "channels": """
        globalThis.postMessage = () => { throw 1; };
        globalThis.onmessage = (event) => { throw event; };
        globalThis.onerror = globalThis.onunhandledrejection = () => true;""",
    "addEventListener": "globalThis.addEventListener = globalThis.removeEventListener = undefined;",
    "Function.prototype": """
        Function.prototype.apply = Function.prototype.bind = () => { throw 1; };
        Object.defineProperty(ArrayBuffer, Symbol.hasInstance, { value: () => false });""",
    "call": "Function.prototype.call = () => { throw 1; };",
    "Map.prototype": """
        for (const key of ["get", "set", "delete", "has", "forEach", "values"]) {
            Map.prototype[key] = () => { throw 1; };
        }""",
    "String.prototype": """
        for (const key of ["slice", "replace", "isWellFormed", "toWellFormed", "includes", "startsWith"]) {
            String.prototype[key] = () => { throw new Error("mine"); };
        }""",
    "RegExp.prototype": "RegExp.prototype[Symbol.replace] = RegExp.prototype.exec = () => { throw 1; };",
    "timers": "globalThis.setTimeout = globalThis.clearTimeout = globalThis.queueMicrotask = undefined;",
    "abort": "globalThis.AbortController = globalThis.AbortSignal = undefined;",
    "Error": """
        globalThis.Error = globalThis.TypeError = class { constructor() { throw 1; } };
        Object.prototype.toString = () => { throw 1; };""",
    "prepareStackTrace": "Error.prepareStackTrace = () => { throw 1; }; Error.stackTraceLimit = 0;",
    "bytes": """
        Uint8Array.from = Uint8Array.prototype.set = Uint8Array.prototype.slice = () => { throw 1; };
        globalThis.Uint8Array = globalThis.ArrayBuffer = globalThis.DataView = undefined;""",
    "text": """
        TextEncoder.prototype.encode = TextEncoder.prototype.encodeInto = () => { throw 1; };
        TextDecoder.prototype.decode = () => { throw 1; };""",
    "Deno": """
        globalThis.console = globalThis.performance = undefined;
        for (const key of Object.keys(Deno)) try { Deno[key] = null; } catch {}""",
    "time": "Date.now = () => NaN; Math.max = Math.min = Math.round = () => NaN; performance.now = () => NaN;",
    "ports": """
        for (const key of ["postMessage", "onmessage", "close", "start"]) {
            try { MessagePort.prototype[key] = () => {}; } catch {}
        }
        try { EventTarget.prototype.dispatchEvent = () => {}; } catch {}""",
    "everything": "for (const key of Object.getOwnPropertyNames(globalThis)) try { delete globalThis[key]; } catch {}",
}
# What Deno itself runs into, or what JSON is asked for: these need no right answers, only typed errors.
ONLY_TYPED = {"iterators", "indexes", "toJSON", "names of ours", "call"}


class TestGlobals:
    async def test_replaced_globals_harm_nobody(self, boot, write):
        """Whatever a plugin does to its globals, its own calls end, right or with a typed error; others see nothing."""
        host = await boot(Echo(), load_timeout_s=2, call_timeout_s=0.5, unload_grace_s=0.2)
        other = await host.load_path(write("other", ECHO))
        source = """
            let core;
            export function init(c) { core = c; }
            export const give = (value) => [value, { a: [1, "é", null] }];
            export const ask = async (value) => await core.services.echo.echo(value);
            export const fail = () => { throw undefined; };
            export const dispose = () => {};
        """
        problems: list[str] = []
        for number, (name, patch) in enumerate(PATCHES.items()):
            folder = write(f"patch-{number}", source + patch, "services: {echo: []}")
            problem = await wrong_with(host, folder)
            if problem and name not in ONLY_TYPED:
                problems.append(f"{name}: {problem}")
            assert await other.call("echo", name) == [name]
            await host.modules[folder.name].unload()
            assert await other.call("echo", name) == [name]
        assert not problems, "\n".join(problems)


async def wrong_with(host: PluginHost, folder: Path) -> str | None:
    """What the first of its calls came to that was not right; nothing else than coredeno's errors is let pass."""
    try:
        module = await host.load_path(folder)
    except CoreDenoError as error:
        return f"load gave {error!r}"
    for function, value, wanted in (
        ("give", "x", ["x", {"a": [1, "é", None]}]),
        ("give", b"\x01", [b"\x01", {"a": [1, "é", None]}]),
        ("ask", {"b": ["é"]}, {"b": ["é"]}),
        ("ask", [b"\x02"], [b"\x02"]),
        ("fail", None, "undefined"),
    ):
        try:
            got = await module.call(function, value)
        except PluginRaised as error:
            got = error.message if function == "fail" else error
        except CoreDenoError as error:
            got = error
        if got != wanted:
            return f"{function}({value!r}) gave {got!r}"
    return None


def records_of(caplog: pytest.LogCaptureFixture, code: str) -> list[Any]:
    """The records of a plugin."""
    return [record for record in caplog.records if record.name == f"coredeno.plugin.{code}"]


def said(caplog: pytest.LogCaptureFixture, code: str, level: int = 0) -> str:
    """What was logged for a plugin, at least at this level."""
    name = f"coredeno.plugin.{code}"
    return "\n".join(r.getMessage() for r in caplog.records if r.name == name and r.levelno >= level)
