"""Attacks by values and names: what JSON, Unicode and JavaScript's objects make possible."""

from __future__ import annotations

import json
import logging
import math

import pytest

from coredeno import CoreDenoError, ModuleState, PluginRaised, UsageError
from tests.security.arena import Arena

NAMES = ("constructor", "__proto__", "prototype", "toString", "hasOwnProperty", "valueOf", "then")


async def test_proto_keys(arena: Arena):
    """JavaScript's own names, as function, key, group, path, service or field, are names like others, or no names."""
    evil = await arena.attacker(
        """
        let core;
        export function init(c) { core = c; }
        export const names = async (names) => {
            const came = {};
            for (const name of names) {
                const got = [await core.store.get(name)];
                await core.store.set(name, `value of ${name}`);
                got.push(await core.store.get(name));
                const ways = [
                    () => core.store.group(name).get("k"),
                    () => core.files.readText(name),
                    () => core.services[name].x(),
                ];
                for (const one of ways) {
                    got.push(await Promise.resolve().then(one).catch((error) => error.name));
                }
                got.push(typeof core.services[name], typeof core.services.echo[name]);
                came[`of ${name}`] = got;
            }
            return came;
        };
        export const carry = (value) => [value, Object.getPrototypeOf(value) === Object.prototype, ({}).polluted];
        export const back = () => JSON.parse('{"__proto__": {"polluted": 1}, "constructor": {"prototype": 2}}');
        """,
        "services: {echo: []}\npermissions: {read: [data]}",
    )
    for name in NAMES:
        with pytest.raises(UsageError, match="exports no function"):
            await evil.call(name)
    came = await evil.call("names", NAMES)
    for name in NAMES:
        assert came[f"of {name}"] == [
            None, f"value of {name}", "PermissionDenied", "PermissionDenied", "TypeError", "undefined", "undefined",
        ]  # fmt: skip
    sent = {"__proto__": {"polluted": True}, "constructor": {"prototype": {"polluted": True}}}
    assert await evil.call("carry", sent) == [sent, True, None]
    assert await evil.call("back") == {"__proto__": {"polluted": 1}, "constructor": {"prototype": 2}}


async def test_deep_nesting(arena: Arena):
    """Depth is refused on both sides, in values, arguments and errors, long before any stack ends."""
    evil = await arena.attacker(
        """
        let core;
        export function init(c) { core = c; }
        const nest = (depth) => { let value = 0; while (depth-- > 0) value = [value]; return value; };
        export const give = nest;
        export const ask = async (depth) => { await core.services.echo.echo(nest(depth)); return "went"; };
        export const raise = (depth) => {
            throw Object.assign(new Error("deep"), { code: nest(depth), cause: nest(depth) });
        };
        export const lazy = () => { const up = { get up() { return { get up() { return up; } }; } }; return up; };
        export const json = () => { const more = { toJSON: () => [more] }; return more; };
        """,
        "services: {echo: []}",
    )
    for depth in (129, 5_000, 100_000):
        for name in ("give", "ask"):
            with pytest.raises(PluginRaised, match="deeper than 128 levels"):
                await evil.call(name, depth)
        with pytest.raises(PluginRaised, match="deep"):
            await evil.call("raise", depth)
    for name in ("json", "lazy"):
        with pytest.raises(PluginRaised, match="deeper than 128 levels"):
            await evil.call(name)
    assert await evil.call("ask", 100) == "went"
    assert evil.state is ModuleState.RUNNING


async def test_bad_unicode(arena: Arena, caplog: pytest.LogCaptureFixture):
    """Halves of characters arrive as U+FFFD, and what rules a terminal in values only: never in errors or logs."""
    caplog.set_level(logging.INFO, "coredeno.plugin")
    evil = await arena.attacker(
        r"""
        let core;
        export function init(c) { core = c; }
        const odd = [
            "\ud800", "a\udc00b", "\udc00\ud800", "\\\ud800", "\\\\\udfff", "\0", "\u2028\u202e\ufeff", "\uffff",
        ];
        export const give = () => odd;
        export const keys = () => Object.fromEntries(odd.map((key, i) => [key, i]));
        export const ask = () => Promise.all(odd.map((value) => core.services.echo.echo(value)));
        export const store = async () => { await core.store.set("\ud800", odd[1]); return await core.store.getAll(); };
        export const raise = () => { const e = new Error(odd[0] + "\x1b[2J"); e.name = odd[0]; throw e; };
        export const log = () => { for (const value of odd) core.log.info(value); return "logged"; };
        """,
        "services: {echo: []}",
    )
    whole = ["�", "a�b", "��", "\\�", "\\\\�", "\0", "\u2028\u202e\ufeff", "\uffff"]
    assert await evil.call("give") == whole
    assert set(await evil.call("keys")) == set(whole)
    assert await evil.call("ask") == whole
    assert await evil.call("store") == {"�": "a�b"}
    assert await evil.call("log") == "logged"
    await evil.call("ask")  # what was logged has gone the same way before
    assert "\\x00" in caplog.text
    assert not any(mark in caplog.text for mark in ("\0", "\u202e", "\ud800"))
    with pytest.raises(PluginRaised) as raised:
        await evil.call("raise")
    assert raised.value.name == "�"
    assert "\x1b" not in str(raised.value)
    with pytest.raises(UsageError):
        await evil.call("give", "\ud800")


async def test_nan_and_bigint(arena: Arena):
    """What JSON has no word for arrives as null, or is refused by name: numbers, bigints, symbols, functions."""
    evil = await arena.attacker(
        """
        export const numbers = () => [NaN, Infinity, -Infinity, -0, 1e308 * 10, new Number(NaN), new Date(NaN)];
        const odd = { big: 1n, boxed: Object(1n), symbol: Symbol("s"), function: () => 1, deep: [{ a: [2n ** 64n] }] };
        export const give = (what) => odd[what];
        export const what = () => Object.keys(odd);
        export const large = () => [2 ** 53 + 2, 1e300, Number.MIN_VALUE];
        export const typed = (value) => value;
        """
    )
    came = await evil.call("numbers")
    assert came[3] == 0
    assert [came[i] for i in (0, 1, 2, 4, 5, 6)] == [None] * 6
    for what in await evil.call("what", returns=list[str]):
        with pytest.raises(PluginRaised, match="cannot cross"):
            await evil.call("give", what)
    assert await evil.call("large") == [2**53 + 2, 1e300, 5e-324]
    for value in (math.nan, math.inf, 2**64, -(2**63) - 1):
        try:
            came = await evil.call("typed", value)
        except UsageError:
            continue
        assert came is None or math.isfinite(came), value
    json.dumps(came, allow_nan=False)


THENABLES = (
    "export function then(resolve) { resolve({ init() {}, forged() {} }); }",
    "export function then() { return new Promise(() => {}); }",
    "export function then(_, reject) { reject(new Error('from then')); }",
    "export const then = new Proxy(function () {}, { apply() { throw 1; } });",
)


async def test_then_export(arena: Arena):
    """A plugin that exports `then` is loaded like any other; what its `then` does is nobody's business."""

    async def loads(number: int, source: str) -> None:
        more = (
            "export const alive = () => ({ then: 1 }); export const answer = () => ({ then(r) { r(7); } });"
        )
        evil = await arena.attacker(source + more, code=f"thenable-{number}")
        assert evil.exports == {"then", "alive", "answer"}
        assert await evil.call("alive") == {"then": 1}
        assert await evil.call("answer") == 7

    for number, source in enumerate(THENABLES):
        await loads(number, source)


BROKEN = (
    ("export const f = {", "SyntaxError"),
    ("import './missing.ts'; export const f = () => 1;", "TypeError"),
    ("export { nothing } from './main.ts';", "SyntaxError"),
    ("\0\x7fELF", "SyntaxError"),
    ("await Promise.reject({ name: 'X'.repeat(1e6), message: 'y'.repeat(1e6) }); export const f = 1;", "X+"),
)


async def test_syntax_error(arena: Arena):
    """A plugin that is no program is ERRORED at once, by a bounded error that says where; its code can come again."""

    async def fails(number: int, source: str, name: str) -> None:
        with pytest.raises(PluginRaised) as raised:
            await arena.attacker(source, code=f"broken-{number}")
        assert raised.value.name.startswith(name.removesuffix("+"))
        assert len(str(raised.value)) < 20_000
        assert arena.host.modules[f"broken-{number}"].state is ModuleState.ERRORED

    for number, case in enumerate(BROKEN):
        await fails(number, *case)
    mended = await arena.attacker("export const f = () => 1;", code="broken-0")
    assert await mended.call("f") == 1


async def test_missing_init(arena: Arena):
    """Who exports no function is not loaded; an `init` that is none is none, and neither can be called by the app."""
    for number, source in enumerate(("", "export const init = 1;", "export default {};")):
        with pytest.raises(PluginRaised, match="exports nothing"):
            await arena.attacker(source, code=f"empty-{number}")
    without = await arena.attacker(
        "export const init = 1; export const dispose = null; export const f = () => 1;"
    )
    assert await without.call("f") == 1
    for name in ("init", "dispose"):
        with pytest.raises(UsageError, match="exports no function"):
            await without.call(name)
    await without.unload()
    with pytest.raises(CoreDenoError):
        await without.call("f")
