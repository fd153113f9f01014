"""Attacks on what a plugin may reach over the network, and on what it may listen on."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import deno
import pytest

from coredeno import Module, PermissionDenied, Policy
from coredeno.interfaces import LaunchOrder, SidecarWorker
from coredeno.sidecar.command import command_line
from tests.security.arena import Arena

ATTACKER = """
    import { lookup } from "node:dns";
    import { createSocket } from "node:dgram";
    import { get } from "node:http";
    import { connect, createServer } from "node:net";

    const settled = (start) => new Promise((resolve, reject) => start(resolve, reject));
    const asked = (url, client) => fetch(url, { client }).then((response) => response.text());
    const opened = (conn) => (conn.close(), "open");

    const ways = {
        fetch: (host, port) => asked(`http://${host}:${port}/`),
        redirect: (host, port, path) => asked(`http://${host}:${port}${path}`),
        connect: async (hostname, port) => opened(await Deno.connect({ hostname, port })),
        connectTls: async (hostname, port) => opened(await Deno.connectTls({ hostname, port })),
        websocket: (host, port) => settled((resolve, reject) => {
            const ws = new WebSocket(`ws://${host}:${port}/`);
            ws.onopen = () => resolve("open");
            ws.onerror = (event) => reject(new Error(event.message));
        }),
        nodeNet: (host, port) => settled((resolve, reject) => {
            const conn = connect(port, host, () => resolve(opened({ close: () => conn.destroy() })));
            conn.on("error", reject);
        }),
        ownLookup: (host, port) => settled((resolve, reject) => {
            const found = (_host, options, answer) =>
                options.all ? answer(null, [{ address: "127.0.0.1", family: 4 }]) : answer(null, "127.0.0.1", 4);
            const conn = connect({ host, port, lookup: found }, () => resolve("open"));
            conn.on("error", reject);
        }),
        nodeHttp: (host, port) => settled((resolve, reject) => {
            get(`http://${host}:${port}/`, () => resolve("open")).on("error", reject);
        }),
        proxy: (host, port) => asked("http://example.com/",
            Deno.createHttpClient({ proxy: { url: `http://${host}:${port}` } })),
        tcpProxy: (hostname, port) => asked("http://example.com/",
            Deno.createHttpClient({ proxy: { transport: "tcp", hostname, port } })),
        unix: async (path) => opened(await Deno.connect({ transport: "unix", path })),
        unixProxy: (path) => asked("http://example.com/",
            Deno.createHttpClient({ proxy: { transport: "unix", path } })),
        nodeUnix: (path) => settled((resolve, reject) => connect(path, () => resolve("open")).on("error", reject)),
        listen: (hostname, port) => opened(Deno.listen({ hostname, port })),
        listenUnix: (path) => opened(Deno.listen({ transport: "unix", path })),
        serve: async (hostname, port) => {
            await Deno.serve({ hostname, port, onListen() {} }, () => new Response("")).shutdown();
            return "served";
        },
        nodeListen: (host, port) => settled((resolve, reject) => {
            const server = createServer();
            server.on("error", reject).listen(port, host, () => (server.close(), resolve("listens")));
        }),
        datagram: (host, port) => settled((resolve, reject) => {
            const socket = createSocket("udp4");
            socket.on("error", reject).send("secret", port, host, (error) => error ? reject(error) : resolve("sent"));
        }),
        resolve: (name, ipAddr, port) => Deno.resolveDns(name, "A", { nameServer: { ipAddr, port } }),
        resolveBySystem: (name) => Deno.resolveDns(name, "A"),
        lookup: (name) => settled((resolve, reject) =>
            lookup(name, (error, address) => error ? reject(error) : resolve(address))),
    };

    /** "gave …" if it works, else what Deno says. */
    export async function attempt(way, ...args) {
        const late = new Promise((_resolve, reject) => setTimeout(() => reject(new Error("nothing happens")), 1500));
        try {
            return `gave ${await Promise.race([ways[way](...args), late])}`;
        } catch (error) {
            return `${error.name}: ${error.message} ${error.cause ?? ""}`;
        }
    }
"""

TO_A_HOST = ("fetch", "connect", "connectTls", "websocket", "nodeNet", "nodeHttp", "proxy", "tcpProxy")


class Server:
    """An HTTP server of the test's own; `heard` has the paths that were asked for."""

    def __init__(self, redirects: Mapping[str, str]) -> None:
        self.heard: list[str] = []
        self.connections = 0
        self.port = 0
        self._redirects = redirects

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = request.split(" ")[1]
            self.heard.append(path)
            to = self._redirects.get(path)
            head = f"302 Found\r\nLocation: {to}" if to else "200 OK"
            writer.write(f"HTTP/1.1 {head}\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello".encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # a client that only connected
        finally:
            writer.close()


@asynccontextmanager
async def serving(redirects: Mapping[str, str] = {}, address: str = "127.0.0.1") -> AsyncIterator[Server]:
    server = Server(redirects)
    listening = await asyncio.start_server(server.answer, address, 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await listening.wait_closed()


@asynccontextmanager
async def granted(arena: Arena, *hosts: str) -> AsyncIterator[Module]:
    """The attacker in a running host, with these hosts, which the app's policy names beside public ones."""
    arena.config["policy"] = Policy(net=("public", *hosts))
    async with arena.open():
        yield await arena.attacker(ATTACKER, f"permissions: {{net: {[*hosts]!r}}}")


def was_refused(outcome: str) -> bool:
    """Whether Deno refused it, before anything went out."""
    return "Requires net access" in outcome or "EPERM" in outcome or "EACCES" in outcome


async def test_net_other_host(unopened_arena: Arena):
    """A granted host and port is reached, and no other port, name or spelling, by whichever way."""
    async with (
        serving() as mine,
        serving() as other,
        granted(unopened_arena, f"127.0.0.1:{mine.port}") as evil,
    ):
        assert await evil.call("attempt", "fetch", "127.0.0.1", mine.port) == "gave hello"
        for way in TO_A_HOST:
            for host in ("127.0.0.1", "0x7f.1", "[::1]", "localhost", "example.com"):
                outcome = await evil.call("attempt", way, host, other.port)
                assert not outcome.startswith("gave"), (way, host, outcome)
        assert was_refused(await evil.call("attempt", "ownLookup", "127.0.0.1", other.port))
        assert not (await evil.call("attempt", "datagram", "127.0.0.1", other.port)).startswith("gave")
        assert other.connections == 0


async def test_net_without_a_grant(arena: Arena):
    """A plugin without `net` reaches nothing at all, this machine and its own host's socket included."""
    evil = await arena.attacker(ATTACKER)
    async with serving() as server:
        for way in (*TO_A_HOST, "ownLookup", "datagram"):
            for host in ("127.0.0.1", "localhost", "93.184.215.14", "[::1]"):
                outcome = await evil.call("attempt", way, host, server.port)
                assert not outcome.startswith("gave"), (way, host, outcome)
        assert server.connections == 0


async def test_net_redirect_to_denied(unopened_arena: Arena):
    """A redirect is followed to a granted host only; the other one hears nothing."""
    async with serving() as other:
        redirects = {
            "/port": f"http://127.0.0.1:{other.port}/stolen",
            "/name": f"http://localhost:{other.port}/stolen",
            "/spelling": f"http://2130706433:{other.port}/stolen",
            "/self": "/",
        }
        async with serving(redirects) as mine, granted(unopened_arena, f"127.0.0.1:{mine.port}") as evil:
            for path in ("/port", "/name", "/spelling"):
                assert was_refused(await evil.call("attempt", "redirect", "127.0.0.1", mine.port, path))
            assert await evil.call("attempt", "redirect", "127.0.0.1", mine.port, "/self") == "gave hello"
            assert mine.heard == ["/port", "/name", "/spelling", "/self", "/"]
            assert other.connections == 0


def names_of_loopback() -> Iterator[tuple[str, str]]:
    """Names that lead to this machine and are not `localhost`: such a one stands for a domain of the attacker's."""
    for line in Path("/etc/hosts").read_text().splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if address.startswith("127.") or address == "::1":
            yield from ((name, address) for name in names if name != "localhost" and name.isascii())


async def test_net_dns_to_loopback(unopened_arena: Arena):
    """A granted name that leads to loopback leads nowhere: to connect, to listen, by whichever way."""
    name, address = next(names_of_loopback())
    async with serving(address=address) as server, granted(unopened_arena, name) as evil:
        for way in (*TO_A_HOST[:6], "listen", "serve", "nodeListen"):
            outcome = await evil.call("attempt", way, name, server.port)
            assert not outcome.startswith("gave"), (way, outcome)
            assert not outcome.startswith("AddrInUse"), (way, outcome)
        assert was_refused(await evil.call("attempt", "fetch", name, server.port))
        assert server.connections == 0


async def test_net_dns_to_loopback_of_a_public_name(short_folder: Path):
    """With the very flags of a module that has public hosts, a name that Deno allows does not lead to loopback."""
    order = LaunchOrder(
        name="sidecar-1",
        token="",
        socket_folder=short_folder,
        core_socket=short_folder / "core.sock",
        stage=short_folder,
        deno_dir=short_folder / "deno",
        worker=SidecarWorker(short_folder, ("rebound.example",)),
        isolation="process",
        heap_mb=64,
        message_bytes=4096,
        calls_in_flight=1,
        requests_in_flight=1,
        log_line_bytes=100,
    )
    (short_folder / "try.js").write_text(
        "const name = 'localhost', port = Number(Deno.args[0]);"
        "for (const way of [() => fetch(`http://${name}:${port}/`), () => Deno.connect({ hostname: name, port })])"
        "  await way().then(() => console.log('open'), (error) => console.log(String(error.cause ?? error)));"
    )
    *flags, _main = command_line(Path(deno.find_deno_bin()), order)
    flags = [f"{flag},localhost" if flag.startswith("--allow-net") else flag for flag in flags]
    async with serving() as server:
        said = await _output(*flags, str(short_folder / "try.js"), str(server.port), folder=short_folder)
        assert said.count("Requires net access to") == 2, said
        assert server.connections == 0
        open_flags = [flag for flag in flags if not flag.startswith("--deny-net")]
        said = await _output(*open_flags, str(short_folder / "try.js"), str(server.port), folder=short_folder)
        assert said.split() == ["open", "open"], "without that flag it does, or this shows nothing"


async def _output(*command: str, folder: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, env={"DENO_DIR": str(folder / "deno"), "NO_COLOR": "1"}, stdout=-1, stderr=-2
    )
    output, _none = await process.communicate()
    return output.decode()


async def test_net_to_unix_sockets(arena: Arena):
    """No Unix socket is reached or made, the host's own included, whatever `net` says."""
    evil = await arena.attacker(ATTACKER)
    folder = arena.host.socket.parent
    for way in ("unix", "unixProxy", "nodeUnix"):
        for path in (arena.host.socket, Path("/run/docker.sock")):
            outcome = await evil.call("attempt", way, str(path))
            assert not outcome.startswith("gave"), (way, path, outcome)
    assert not (await evil.call("attempt", "listenUnix", str(folder / "mine.sock"))).startswith("gave")
    assert not (folder / "mine.sock").exists()


async def test_net_port_steal(unopened_arena: Arena):
    """A plugin listens on no port and address that it was not granted."""
    async with serving() as mine, granted(unopened_arena, f"127.0.0.1:{mine.port}", "example.com") as evil:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for way in ("listen", "serve", "nodeListen"):
            for host, number in (("127.0.0.1", port), ("0.0.0.0", port), ("127.0.0.1", 0), ("::", port)):
                outcome = await evil.call("attempt", way, host, number)
                assert not outcome.startswith("gave"), (way, host, outcome)
        with socket.create_server(("127.0.0.1", port)):
            pass  # it is free as before


class Resolver(asyncio.DatagramProtocol):
    """A name server that hears everything and answers nothing."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.heard.append(data)


async def test_net_names_as_letters(unopened_arena: Arena):
    """Names that were not granted are not looked up, so no secret leaves in them."""
    loop = asyncio.get_running_loop()
    transport, resolver = await loop.create_datagram_endpoint(Resolver, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    try:
        async with granted(unopened_arena, "example.com") as evil:
            assert was_refused(
                await evil.call("attempt", "resolve", "secret.evil.example", "127.0.0.1", port)
            )
            assert was_refused(await evil.call("attempt", "resolveBySystem", "secret.evil.example"))
            assert was_refused(await evil.call("attempt", "lookup", "secret.evil.example"))
    finally:
        transport.close()
    assert resolver.heard == []


async def test_net_not_public(arena: Arena):
    """The default policy loads no plugin that asks for loopback, link-local or private hosts."""
    for host in ("127.0.0.1", "localhost", "169.254.169.254", "192.168.0.1", "[::1]", "nas.local"):
        with pytest.raises(PermissionDenied, match="not a public host"):
            await arena.attacker(ATTACKER, f"permissions: {{net: ['{host}']}}")


NESTED = """
    const told = (source, deno) => new Promise((resolve) => {
        const url = URL.createObjectURL(new Blob([source], { type: "application/javascript" }));
        try {
            const worker = new Worker(url, { type: "module", ...deno });
            worker.onmessage = (event) => (worker.terminate(), resolve(event.data));
            worker.onerror = (event) => (event.preventDefault(), worker.terminate(), resolve("refused"));
        } catch (error) {
            resolve(`refused: ${error.name}`);
        }
    });
    const source = `
        const tries = [
            () => Deno.readTextFileSync("/etc/passwd"),
            () => Deno.env.get("PATH"),
            () => new Deno.Command("/bin/true").outputSync(),
            () => Deno.writeTextFileSync("/tmp/coredeno-attack", "x"),
            () => Deno.listen({ hostname: "127.0.0.1", port: 0 }),
            () => Deno.hostname(),
        ];
        const gave = [];
        for (const one of tries) { try { one(); gave.push(String(one)); } catch (error) { String(error); } }
        postMessage(gave.join());
    `;
    export const nested = (options) => told(source, options);
    export const missing = () => told(source, { deno: { permissions: undefined } });
"""


async def test_perms_null(arena: Arena):
    """A nested Worker with null, missing or no permissions has its parent's at most, which are none of these."""
    evil = await arena.attacker(NESTED)
    assert await evil.call("missing") == ""
    for permissions in (None, "inherit", "none", {}, {"read": None, "net": None}):
        outcome = await evil.call("nested", {"deno": {"permissions": permissions}})
        assert outcome == "" or outcome.startswith("refused"), (permissions, outcome)
    for permissions in ("all", True, {"read": True}, {"net": ["127.0.0.1"]}, {"run": True}, {"env": True}):
        outcome = await evil.call("nested", {"deno": {"permissions": permissions}})
        assert outcome.startswith("refused"), (permissions, outcome)


async def test_perms_null_from_the_host(arena: Arena):
    """The sidecar makes no Worker for an order whose permissions are null or not complete."""
    evil = await arena.attacker(NESTED)
    place = arena.host._parts.loader._placement.place_of(evil)
    shutil.copytree(arena.folder / "plugins" / "attacker", place.root / "again")
    order = {"code": "again", "entry_point": "again/main.ts", "root": str(place.root)}
    rest = {"services": {}, "config": {}, "deadline_ms": 5000}
    for permissions in (None, {}, {"net": None}, {"net": "example.com"}, {"read": ["/"]}, []):
        params = {**order, **rest, "permissions": permissions}
        reply = await place.sidecar.rpc.request("LoadModule", params, timeout_s=10)
        assert reply.error is not None
        assert "permissions" in reply.error.message
