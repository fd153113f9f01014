"""Attacks by what a plugin imports: files that are not its own, code from elsewhere, settings that it ships."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import pytest

from coredeno import CoreDenoError, ModuleState, PluginCrashed, PluginRaised, Policy
from coredeno.events import PermissionDenied
from tests.security.arena import Arena

SECRET = "the canary sings"

LATE = """
    const gave = (value) => `gave ${typeof value === "object" ? JSON.stringify(value) : value}`;
    const REFUSED = new RegExp([
        "Requires (read|net|import) access", "--no-remote", "--no-npm", "--cached-only", "not a dependency",
        "Cannot find module", "not found", "invalid URL", "Invalid URL",
    ].join("|"));
    const nested = (url) => new Promise((resolve) => {
        try {
            const worker = new Worker(url, { type: "module" });
            const end = (came) => (worker.terminate(), setTimeout(() => resolve(came), 30));
            worker.onmessage = (event) => end(gave(event.data));
            worker.onerror = (event) => (event.preventDefault(), end(event.message));
        } catch (error) {
            resolve(error.name);
        }
    });
    const telling = (url, type) => (type
        ? `import text from ${JSON.stringify(url)} with { type: "${type}" }; postMessage(text);`
        : `import * as all from ${JSON.stringify(url)}; postMessage(Object.keys(all).join());`);
    const ways = {
        computed: async (url, type) =>
            gave((await import(url, type ? { with: { type } } : {})).default),
        data: (url, type) => nested("data:application/javascript," + encodeURIComponent(telling(url, type))),
        blob: (url, type) => nested(URL.createObjectURL(
            new Blob([telling(url, type)], { type: "application/javascript" }))),
        entry: (url) => nested(url),
        fetched: async (url) => gave(await (await fetch(url)).text()),
        required: async (url) => {
            const { createRequire } = await import("node:module");
            return gave(createRequire(import.meta.url)(url.replace("file://", "")));
        },
    };
    /** What came of each way, for each address and each kind of content; those that were refused are left out. */
    export async function reached(urls, types, names = Object.keys(ways)) {
        const came = {};
        for (const url of urls) for (const type of types) {
            for (const name of names) { // a nested Worker takes much of what a process may have: one at a time
                const late = new Promise((resolve) => setTimeout(() => resolve("nothing happened"), 3000));
                const outcome = await Promise.race([
                    Promise.resolve().then(() => ways[name](url, type)).catch((error) => error.message), late]);
                if (outcome.startsWith("gave") || !REFUSED.test(outcome)) came[`${name} ${type} ${url}`] = outcome;
            }
        }
        return came;
    }
"""
KINDS = ("", "text", "json")


async def fails_to_load(
    arena: Arena, source: str, files: dict[str, str | bytes] | None = None, more: str = ""
) -> str:
    """Load a plugin that cannot be: what it raised."""
    with pytest.raises(CoreDenoError) as caught:
        await arena.attacker(source, more, code="early", files=files)
    assert isinstance(caught.value, PluginRaised), caught.value
    assert arena.host.modules["early"].state is ModuleState.ERRORED
    await arena.host.modules["early"].unload()
    return caught.value.message


def secret_files(arena: Arena) -> list[str]:
    """Addresses of files that are none of a plugin's business; each is there, and readable by the host."""
    canary = arena.folder / "canary.json"
    canary.write_text(json.dumps(SECRET))
    return ["file:///etc/passwd", canary.as_uri(), (arena.root / ".core" / "lock").as_uri()]


def early(urls: Iterable[str], attributes: Sequence[str] = ("",)) -> dict[str, str | bytes]:
    """Files of a plugin that import these addresses before any of their code runs, in every form that there is."""
    forms = {
        "import text from '{url}'{attribute}; export default text;",
        "import * as all from '{url}'{attribute}; export default all;",
        "export {{ default }} from '{url}'{attribute};",
        "export default (await import('{url}', {{{option}}})).default;",
        "import '{url}'{attribute}; export default 1;",
    }
    sources = [
        form.format(
            url=url,
            attribute=f" with {{ type: '{kind}' }}" if kind else "",
            option=f" with: {{ type: '{kind}' }} " if kind else "",
        )
        for url, kind, form in itertools.product(urls, attributes, sorted(forms))
    ]
    return {f"early/{number}.ts": source for number, source in enumerate(sources)}


async def test_read_passwd_text_import(arena: Arena):
    """A file outside is no module and no text, to a static import, a literal or computed one, or a Worker's own."""
    secrets = secret_files(arena)
    for kind, url in (("text", secrets[0]), ("json", secrets[1])):
        static = f'import text from "{url}" with {{ type: "{kind}" }}; export const f = () => text;'
        said = await fails_to_load(arena, static)
        assert "Requires read access" in said
        assert "root:" not in said
        assert SECRET not in said
    files = early(secrets, KINDS)
    attacker = await arena.attacker(LATE, files=files)
    own = [f"./{name}" for name in files]
    assert await attacker.call("reached", own, [""], ["computed"], timeout_s=20) == {}
    base = f"file://{arena.host._parts.loader._placement.place_of(attacker).root}/"
    assert (
        await attacker.call("reached", [base + name for name in own[::15]], [""], ["entry"], timeout_s=20)
        == {}
    )
    assert await attacker.call("reached", secrets[1:2], ["text"], timeout_s=20) == {}
    assert await attacker.call("reached", secrets, KINDS, ["computed", "required"], timeout_s=20) == {}
    assert "gave" in (await attacker.call("reached", ["./main.ts"], ["text"], ["computed"])).popitem()[1]


async def test_import_sibling(arena: Arena):
    """Files of another module are out of reach, in its group and outside, where they run and where they came from."""
    source = f"export const secret = () => '{SECRET}';"
    sibling = await arena.attacker(source, code="sibling", group="attackers")
    attacker = await arena.attacker(LATE, group="attackers")
    places = arena.host._parts.loader._placement._places
    targets = [place.root / "main.ts" for module, place in places.items() if module is not attacker]
    targets.append(arena.folder / "plugins" / "sibling" / "main.ts")
    assert all(target.is_file() for target in targets)
    own = int(places[attacker].root.name)
    outside = [target.as_uri() for target in targets]
    urls = outside + [f"../{near}/main.ts" for near in range(3) if near != own]
    assert await attacker.call("reached", urls, ["", "text"], ["computed", "required"], timeout_s=20) == {}
    assert await attacker.call("reached", outside[:1], ["text"], timeout_s=20) == {}
    files = early(urls)
    attacker = await arena.attacker(LATE, code="second", group="attackers", files=files)
    assert (
        await attacker.call("reached", [f"./{name}" for name in files], [""], ["computed"], timeout_s=20)
        == {}
    )
    assert sibling.state is ModuleState.RUNNING
    assert await sibling.call("secret") == SECRET


TURNED = """
    let core, outbox;
    export async function init(c) {
        core = c;
        Error.stackTraceLimit = 100;
        const [runtime] = /file:\\S*\\/runtime\\//.exec(new Error().stack);
        const { Outbox } = await import(runtime + "channel.ts");
        const { put } = Outbox.prototype;
        Outbox.prototype.put = function (...args) { outbox = this; return put.apply(this, args); };
    }
    export const holds = () => core.services.echo.echo(1).then(() => outbox !== undefined);
    export async function say(entries) {
        for (const entry of entries) outbox.put(JSON.stringify(entry));
        outbox.flush();
        await new Promise(() => {});
    }
    export const ask = () => new Promise((resolve) => {
        const { stringify } = JSON;
        outbox.put(stringify(["ask", 999999, "store.set", { key: "planted", value: "x", group: "sibling" }, [], null]));
        setTimeout(() => resolve(true), 200);
    });
"""


async def test_import_runtime(arena: Arena):
    """A plugin that gets hold of what runs round it in its Worker speaks as itself still; if it lies it goes, alone."""
    sibling = await arena.attacker("export const echo = (value) => value;", code="sibling", group="attackers")
    heard = arena.host.events()
    attacker = await arena.attacker(TURNED, "services: {echo: []}")
    assert await attacker.call("holds") is True
    await attacker.call("ask")
    async with asyncio.timeout(5):
        denial = await anext(event async for event in heard if isinstance(event, PermissionDenied))
    assert (denial.module, denial.permission, denial.resource) == ("attacker", "store.write", "sibling")
    for lie in (
        ["loaded", ["again"]],
        ["done", 4711, 1, []],
        ["ask", 1, "store.get", None, [{"at": ["params", "__proto__"], "len": 5}], None],
        ["no such thing"],
        [],
    ):
        if attacker.state is not ModuleState.RUNNING:
            attacker = await arena.attacker(TURNED, "services: {echo: []}")
            await attacker.call("holds")
        with pytest.raises(PluginCrashed, match="protocol error"):
            await attacker.call("say", [lie], timeout_s=5)
        assert attacker.state is ModuleState.ERRORED, lie
        assert await sibling.call("echo", "well") == "well"
    assert await arena.host.store.get("sibling", "planted") is None


class Counted:
    """An HTTP server that gives a module to anybody, and counts who comes."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await reader.read(4096)
        body = b"export default 'downloaded'; globalThis.postMessage?.('downloaded');"
        head = f"HTTP/1.1 200 OK\r\ncontent-type: text/javascript\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        writer.close()


@asynccontextmanager
async def counting() -> AsyncIterator[Counted]:
    counted = Counted()
    async with await asyncio.start_server(counted.answer, "127.0.0.1", 0) as server:
        counted.port = server.sockets[0].getsockname()[1]
        yield counted


async def test_remote_import(unopened_arena: Arena):
    """No code comes from elsewhere, from a host neither that the plugin may speak to; nobody is even connected to."""
    async with counting() as server:
        name = f"127.0.0.1:{server.port}"
        grant = f"permissions: {{net: ['{name}']}}"
        unopened_arena.config["policy"] = Policy(net=(name,))
        remote = [
            f"http://{name}/main.ts",
            f"https://{name}/main.ts",
            "npm:left-pad@1.3.0",
            "jsr:@std/path@1",
        ]
        async with unopened_arena.open():
            jsx = f"/** @jsxImportSource http://{name} */\nexport const f = () => <p />;"
            assert name in await fails_to_load(
                unopened_arena, jsx, {"main.tsx": jsx}, f"entry: main.tsx\n{grant}"
            )
            files = early(remote)
            attacker = await unopened_arena.attacker(LATE, grant, files=files)
            own = [f"./{name}" for name in files]
            assert await attacker.call("reached", own, [""], ["computed"], timeout_s=20) == {}
            assert await attacker.call("reached", remote, [""], ["computed", "required"], timeout_s=20) == {}
            ways = ["data", "blob", "entry"]
            assert await attacker.call("reached", remote[:1], [""], ways, timeout_s=20) == {}
            assert server.connections == 0
            fetched = await attacker.call("reached", remote[:1], ("",), ["fetched"])
            assert "downloaded" in fetched.popitem()[1], "as data it may come; else this would show nothing"
            assert server.connections == 1


async def test_config_injection(unopened_arena: Arena, monkeypatch: pytest.MonkeyPatch):
    """Settings that a plugin ships, or that lie where the host works, change nothing: Deno hears of none of them."""
    arena = unopened_arena
    canary = arena.folder / "canary.txt"
    canary.write_text(SECRET)
    settings = {
        "imports": {"evil": canary.as_uri(), "more": "./evil.ts"},
        "unstable": ["unsafe-proto", "kv", "ffi"],
        "permissions": {"default": {"all": True}},
        "compilerOptions": {"jsx": "react-jsx", "jsxImportSource": "more"},
        "nodeModulesDir": "auto",
        "workspace": ["./x"],
    }
    injected: dict[str, str | bytes] = {
        "deno.json": json.dumps(settings),
        "deno.jsonc": json.dumps(settings),
        "import_map.json": json.dumps({"imports": settings["imports"]}),
        "package.json": json.dumps(
            {"dependencies": {"evil": "*"}, "imports": {"#evil": "./evil.ts"}, "type": "commonjs"}
        ),
        "node_modules/evil/package.json": json.dumps({"name": "evil", "main": "index.js"}),
        "node_modules/evil/index.js": "module.exports = 'evil';",
        ".env": "DENO_NO_PROMPT=0\nEVIL=1\nNODE_OPTIONS=--require ./evil.ts\n",
        ".npmrc": "registry=http://127.0.0.1:1/\n",
        "deno.lock": "{}",
        "tsconfig.json": "{ broken",
        "evil.ts": "export default 'evil';",
    }
    working = arena.folder / "cwd"
    for base in (working, arena.root):
        for name, content in injected.items():
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_text(str(content))
    monkeypatch.chdir(working)
    async with arena.open():
        bare = ["evil", "more", "#evil", "npm:evil"]
        injected |= early(bare)
        attacker = await arena.attacker(
            LATE
            + """
            const told = (one) => { try { return String(one()); } catch (error) { return error.name; } };
            export const seen = () => [
                told(() => Deno.env.get("EVIL")), told(() => typeof Deno.openKv), told(() => ({}).__proto__),
            ];
            """,
            files=injected,
        )
        own = [f"./{name}" for name in injected if name.startswith("early/")]
        assert await attacker.call("reached", [*own, *bare], [""], ["computed"], timeout_s=20) == {}
        assert await attacker.call("seen") == ["NotCapable", "undefined", "undefined"]
