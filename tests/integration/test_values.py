"""The table "Values" of docs/wire.md with real values of both languages, on both wires, in both isolations."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio

from coredeno import Context, Module, PluginRaised, Service, UsageError, rpc

# What JavaScript has, as source, and what Python gets.
FROM_JAVASCRIPT: list[tuple[str, Any]] = [
    ("undefined", None),
    ("null", None),
    ("NaN", None),
    ("Infinity", None),
    ("-Infinity", None),
    ("-0", 0),
    ("true", True),
    ("0.1 + 0.2", 0.30000000000000004),
    ("1.0", 1),
    ("2 ** 53", 2**53),
    ("-(2 ** 53 - 1)", -(2**53) + 1),
    ("Number.MAX_VALUE", 1.7976931348623157e308),
    ("Number.MIN_VALUE", 5e-324),
    ("''", ""),
    (r"'\0\n\u2028\u2029\'\"\\'", "\0\n\u2028\u2029'\"\\"),
    (r"'é😀'", "é😀"),
    (r"'a\ud800b'", "a\ufffdb"),
    (r"'\udc00\ud800'", "\ufffd\ufffd"),
    (r"'\\ud800'", "\\ud800"),
    (r"({'\ud800': ['\udfff']})", {"\ufffd": ["\ufffd"]}),
    ("[]", []),
    ("({})", {}),
    ("[undefined, NaN, [Infinity], , null]", [None, None, [None], None, None]),
    ("new Array(3)", [None, None, None]),
    ("Object.assign([1], {extra: 2})", [1]),
    ("({a: undefined, b: null, c: NaN, d: {e: undefined}})", {"b": None, "c": None, "d": {}}),
    ("({z: 1, a: 2, 1: 3})", {"1": 3, "z": 1, "a": 2}),
    ("({'': 1, ' ': 2, 'a.b': 3, '\\n': 4})", {"": 1, " ": 2, "a.b": 3, "\n": 4}),
    ('JSON.parse(\'{"__proto__": {"a": 1}}\')', {"__proto__": {"a": 1}}),
    (
        "({constructor: 1, toString: 2, hasOwnProperty: 3})",
        {"constructor": 1, "toString": 2, "hasOwnProperty": 3},
    ),
    ("({then: 1})", {"then": 1}),
    ("[Promise.resolve(1)]", [{}]),
    ("({__proto__: null, a: 1})", {"a": 1}),
    ("Object.create({inherited: 1})", {}),
    ("Object.defineProperty({a: 1}, 'hidden', {value: 2})", {"a": 1}),
    ("({[Symbol('s')]: 1, a: 2})", {"a": 2}),
    ("({get a() { return 1 + 1; }})", {"a": 2}),
    ("((o) => ({get a() { return o.n++; }}))({n: 0})", {"a": 0}),
    ("({toJSON() { return {a: 1}; }})", {"a": 1}),
    ("({toJSON() { return undefined; }})", None),
    ("({toJSON() { return new Uint8Array([1]); }})", b"\x01"),
    (
        "({key: {toJSON(key) { return key; }}, list: [{toJSON(key) { return key; }}]})",
        {"key": "key", "list": ["0"]},
    ),
    ("({toJSON: 1})", {"toJSON": 1}),
    ("new Date(0)", "1970-01-01T00:00:00.000Z"),
    ("new Date(NaN)", None),
    ("new Map([[1, 2]])", {}),
    ("new Set([1])", {}),
    ("Object.assign(new Map([[1, 2]]), {own: 1})", {"own": 1}),
    ("/x/g", {}),
    ("new Error('secret')", {}),
    ("new (class A { own = 1; #secret = 2; get derived() { return 3; } })()", {"own": 1}),
    ("new Number(1.5)", 1.5),
    ("new String('s')", "s"),
    ("new Boolean(false)", False),
    ("new URL('https://a.example/b')", "https://a.example/b"),
    ("new Proxy([1, {a: 2}], {})", [1, {"a": 2}]),
    ("(function () { return arguments; })(1, 2)", {"0": 1, "1": 2}),
    ("((shared) => [shared, shared])({a: []})", [{"a": []}, {"a": []}]),
    ("new Uint8Array([0, 255])", b"\x00\xff"),
    ("new Uint8Array()", b""),
    ("new Uint8Array([1, 2, 3, 4]).subarray(1, 3)", b"\x02\x03"),
    ("new Uint8Array(1 << 20).subarray(5, 6)", b"\x00"),
    ("new Uint8Array([1, 2]).buffer", b"\x01\x02"),
    ("new ArrayBuffer(0)", b""),
    ("new ArrayBuffer(2, {maxByteLength: 8})", b"\x00\x00"),
    ("new DataView(new Uint8Array([1, 2, 3]).buffer, 1, 1)", b"\x02"),
    ("new SharedArrayBuffer(2)", b"\x00\x00"),
    ("new Uint8Array(new SharedArrayBuffer(3)).fill(7).subarray(1)", b"\x07\x07"),
    ("new DataView(new SharedArrayBuffer(1))", b"\x00"),
    ("new Uint8ClampedArray([300])", b"\xff"),
    ("new Int8Array([-1])", b"\xff"),
    ("new Uint16Array([1, 2]).subarray(1)", b"\x02\x00"),
    ("new Float64Array([1])", b"\x00\x00\x00\x00\x00\x00\xf0\x3f"),
    ("new BigInt64Array([-1n])", b"\xff" * 8),
    ("Buffer.from('ab')", b"ab"),
    ("new (class extends Uint8Array { get length() { return 99; } })([1])", b"\x01"),
    ("Object.assign(new Uint8Array([1]), {own: 2, toJSON() { return 3; }})", b"\x01"),
    ("[new Uint8Array([1]), {a: {b: [new ArrayBuffer(1)]}}]", [b"\x01", {"a": {"b": [b"\x00"]}}]),
    ("JSON.parse('{\"__proto__\": 1}', (k, v) => k ? new Uint8Array([1]) : v)", {"__proto__": b"\x01"}),
    ("((b) => [b, b])(new Uint8Array([1]))", [b"\x01", b"\x01"]),
]

# What cannot cross, and words of the message: where it is, and what.
NOT_FROM_JAVASCRIPT: list[tuple[str, str]] = [
    ("1n", "bigint"),
    ("Object(1n)", "bigint"),
    ("() => 1", "function"),
    ("class {}", "function"),
    ("Symbol('s')", "symbol"),
    ("({a: [0, {b: 1n}]})", ".a[1].b: a bigint"),
    ("({method() {}})", ".method: a function"),
    ("[Symbol.iterator]", "[0]: a symbol"),
    ("((o) => o.self = o)({})", "or a cycle"),
    ("((a) => (a.push([a]), a))([])", "or a cycle"),
    ("({get a() { throw new RangeError('no'); }})", ".a: reading it threw RangeError: no"),
    ("({get a() { throw null; }})", "reading it threw"),
    ("({toJSON() { throw new RangeError('no'); }})", "reading it threw RangeError: no"),
    ("({toJSON() { return 1n; }})", "bigint"),
    ("({toJSON() { return () => 1; }})", "function"),
    ("({get toJSON() { throw new RangeError('no'); }})", "reading it threw RangeError: no"),
    ("new Proxy({}, {ownKeys() { throw new RangeError('no'); }})", "reading it threw RangeError: no"),
    ("new Proxy({}, {getPrototypeOf() { throw new RangeError('no'); }})", "reading it threw RangeError: no"),
    ("((p) => (p.revoke(), [p.proxy]))(Proxy.revocable({}, {}))", "[0]: reading it threw TypeError"),
    ("((b) => (structuredClone(b, {transfer: [b]}), b))(new ArrayBuffer(8))", "reading it threw TypeError"),
    (
        "((b) => (structuredClone(0, {transfer: [b.buffer]}), [b]))(new Uint8Array(8))",
        "[0]: reading it threw TypeError",
    ),
    ("new Array(1025).fill(new Uint8Array(1))", "[1024]: over 1024 binary values"),
]


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Row(msgspec.Struct):
    name: str
    data: bytes


@dataclass
class Point:
    x: int
    y: float


class Pair(NamedTuple):
    left: int
    right: str


# What Python has, and how it looks to a plugin.
FROM_PYTHON: list[tuple[Any, str]] = [
    (None, "null"),
    (True, "true"),
    (0, "0"),
    (2**53 - 1, "9007199254740991"),
    (-(2**53) + 1, "-9007199254740991"),
    (0.1, "0.1"),
    (1e300, "1e+300"),
    ("", '""'),
    ("é😀\u2028\0\n", r'"é😀\u2028\x00\n"'.replace(r"\u2028", "\u2028")),
    ("\\ud800", r'"\\ud800"'),
    ([], "[]"),
    ((), "[]"),
    ((1, [2, None]), "[ 1, [ 2, null ] ]"),
    ({}, "{}"),
    ({"b": 1, "a": {"": None}}, '{ b: 1, a: { "": null } }'),
    ({"__proto__": {"a": 1}}, "{ ['__proto__']: { a: 1 } }"),
    ({"then": 1, "constructor": None, "toString": {}}, "{ then: 1, constructor: null, toString: {} }"),
    (b"", "Uint8Array(0) []"),
    (b"\x00\xff", "Uint8Array(2) [ 0, 255 ]"),
    (bytearray(b"\x01"), "Uint8Array(1) [ 1 ]"),
    (memoryview(b"\x01\x02\x03")[::2], "Uint8Array(2) [ 1, 3 ]"),
    ([b"\x01", {"a": [b"\x02"]}], "[ Uint8Array(1) [ 1 ], { a: [ Uint8Array(1) [ 2 ] ] } ]"),
    ({"__proto__": b"\x01"}, "{ ['__proto__']: Uint8Array(1) [ 1 ] }"),
    (Row("a", b"\x01"), '{ name: "a", data: Uint8Array(1) [ 1 ] }'),
    (Point(1, 2.5), "{ x: 1, y: 2.5 }"),
    (Point({1}, 0), "{ x: [ 1 ], y: 0 }"),  # type: ignore[arg-type] # as msgspec writes it
    (Pair(1, "r"), '[ 1, "r" ]'),
    (OrderedDict(z=1, a=2), "{ z: 1, a: 2 }"),
    (Colour.RED, '"red"'),
    (Number.ONE, "1"),
    (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), '"2026-01-02T03:04:05Z"'),
    (dt.date(2026, 1, 2), '"2026-01-02"'),
    (dt.time(1, 2, 3), '"01:02:03"'),
    (dt.timedelta(seconds=90), '"PT90S"'),
    (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
    (Decimal("1.10"), '"1.10"'),
]

CYCLE: list[Any] = []
CYCLE.append(CYCLE)

# What cannot cross, and words of the message.
NOT_FROM_PYTHON: list[tuple[Any, str]] = [
    (float("nan"), "nan"),
    (float("inf"), "inf"),
    ([0, {"a": -float("inf")}], "args[0][1].a is -inf"),
    (2**53, "integer of 54 bits"),
    (-(2**53), "integer of 54 bits"),
    (10**400, "integer of 1329 bits"),
    ("\ud800", "surrogate"),
    ({"a": "x\udfffy"}, "surrogate"),
    ({"\ud800": 1}, "surrogate"),
    ({1: 2}, "key that is a int"),
    ({None: 2}, "key that is a NoneType"),
    ({b"k": 2}, "key that is a bytes"),
    ({1, 2}, "set"),
    (frozenset(), "frozenset"),
    (1j, "complex"),
    (range(2), "range"),
    (iter([1]), "list_iterator"),
    (object(), "object"),
    (print, "builtin_function_or_method"),
    (int, "type"),
    (Row, "Struct"),
    (..., "ellipsis"),
    (Row("a", float("nan")), "nan"),  # type: ignore[arg-type]
    (Point(1, float("nan")), "nan"),
    (CYCLE, "or a cycle"),
    ([b""] * 1025, "at most 1024"),
]


class App(Service, name="app"):
    """Takes anything; gives what the test wants given."""

    def __init__(self) -> None:
        self.taken: Any = None
        self.gift: Any = None

    @rpc
    async def take(self, ctx: Context, value: Any) -> None:
        self.taken = value

    @rpc
    async def give(self, ctx: Context) -> Any:
        return self.gift

    @rpc
    async def echo(self, ctx: Context, value: Any) -> Any:
        return value


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def app() -> App:
    return App()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def values(shared_boot, plugins: Path, rested, app: App) -> Module:
    """The plugin, in a host that all tests share: they keep nothing in it."""
    host = await shared_boot(app)
    module = await host.load_path(plugins / "values")
    await rested(host)
    return module


@pytest.fixture(params=["result", "request"])
def made(request: pytest.FixtureRequest, app: App) -> Callable[[Module, str], Awaitable[Any]]:
    """Lets the plugin make a value; gives what came: as the result of the call, or as a service was given it."""

    async def result(values: Module, source: str) -> Any:
        return await values.call("give", source)

    async def asked(values: Module, source: str) -> Any:
        await values.call("pass", source)
        return app.taken

    return result if request.param == "result" else asked


async def test_from_javascript(values: Module, made):
    """What a plugin returns, or passes to a service, arrives as the table says."""
    for source, wanted in FROM_JAVASCRIPT:
        got = await made(values, source)
        assert got == wanted, source
        assert type(got) is type(wanted), source
    assert list(await made(values, "({z: 1, a: 2, 1: 3})")) == ["1", "z", "a"]  # JavaScript's order


async def test_not_from_javascript(values: Module, made):
    """What cannot cross fails that call, as `PluginRaised` named DataError with the place; the next works."""
    for source, words in NOT_FROM_JAVASCRIPT:
        with pytest.raises(PluginRaised) as caught:
            await made(values, source)
        assert caught.value.name == "DataError", source
        assert words in caught.value.message, source
        assert await made(values, "1") == 1


async def test_depth_from_javascript(values: Module, made):
    """128 levels cross, with a scalar or bytes within, lists and objects alike; 129 do not."""
    for leaf, wanted in (("7", 7), ("new Uint8Array([7])", b"\x07"), ("[]", [])):
        for begin, end in (("[", "]"), ("({k:", "})")):
            levels = 128 - (wanted == [])
            got = await made(values, begin * levels + leaf + end * levels)
            for _ in range(levels):
                got = got[0] if isinstance(got, list) else got["k"]
            assert got == wanted
            levels += 1
            with pytest.raises(PluginRaised, match=r"DataError: .*deeper than 128 levels"):
                await made(values, begin * levels + leaf + end * levels)
    assert await made(values, "new Array(1024).fill(new Uint8Array([1]))") == [b"\x01"] * 1024


async def test_what_is_awaited(values: Module, app: App):
    """A result that is a promise, or has a `then` that is a function, is awaited as JavaScript does."""
    assert await values.call("give", "Promise.resolve({a: 1})") == {"a": 1}
    assert await values.call("give", "({then(resolve) { resolve(2); }})") == 2
    with pytest.raises(PluginRaised, match="RangeError: no"):
        await values.call("give", "Promise.reject(new RangeError('no'))")
    with pytest.raises(PluginRaised, match="RangeError: no"):
        await values.call("give", "({get then() { throw new RangeError('no'); }})")


async def test_zero_may_lose_its_sign(values: Module, app: App):
    """-0 crosses both wires as a zero: JSON as JavaScript writes it has one zero only."""
    app.gift = -0.0
    assert await values.call("fetched") in ("0", "-0")
    assert await values.call("look", -0.0) in (["0"], ["-0"])


async def test_from_python(values: Module, app: App):
    """What the host passes to a plugin, or a service gives it, looks to the plugin as the table says."""
    assert await values.call("look", *(value for value, _ in FROM_PYTHON)) == [
        text for _, text in FROM_PYTHON
    ]
    for value, text in FROM_PYTHON:
        app.gift = value
        assert await values.call("fetched") == text
    assert await values.call("look") == []


async def test_not_from_python(values: Module, app: App):
    """What cannot cross is a `UsageError` that says where and what, before anything is sent; the next call works."""
    for value, words in NOT_FROM_PYTHON:
        with pytest.raises(UsageError) as caught:
            await values.call("look", value)
        assert words in str(caught.value), value
    with pytest.raises(UsageError, match=r"params\.args\[1\]"):
        await values.call("look", 1, {2})
    assert await values.call("look", 1) == ["1"]


async def test_what_a_service_must_not_give(values: Module, app: App):
    """What cannot cross as a service's result is an `InternalError` to that plugin's request, and harms no other."""
    for value, _ in NOT_FROM_PYTHON:
        app.gift = value
        with pytest.raises(PluginRaised) as caught:
            await values.call("fetched")
        assert (caught.value.name, caught.value.code) == ("InternalError", "INTERNAL"), value
        assert await values.call("give", "1") == 1


async def test_depth_from_python(values: Module, app: App):
    """128 levels cross, counted from each argument itself, and 1,024 binary values; one more of either does not."""
    for leaf, shown in ((7, "7"), (b"\x07", "Uint8Array(1) [ 7 ]")):
        app.gift = nested(128, leaf)
        assert await values.call("look", app.gift, app.gift) == ["[ " * 128 + shown + " ]" * 128] * 2
        assert await values.call("fetched") == "[ " * 128 + shown + " ]" * 128
        with pytest.raises(UsageError, match="deeper than 128 levels"):
            await values.call("look", nested(129, leaf))
    (shown,) = await values.call("look", [b"\x01"] * 1024)
    assert shown.count("Uint8Array(1) [ 1 ]") == 1024


async def test_one_bad_value_fails_alone(values: Module, app: App):
    """Of 50 calls at once, in one write, with one bad value among them, that one fails and all others are right."""

    async def fifty(call: Any, bad: int) -> BaseException:
        outcomes = await asyncio.gather(*(call(n, n == bad) for n in range(50)), return_exceptions=True)
        error = outcomes.pop(bad)
        assert outcomes == [n for n in range(50) if n != bad]
        assert isinstance(error, BaseException)
        return error

    for bad in (0, 25, 49):
        error = await fifty(lambda n, is_bad: values.call("give", f"{n}n" if is_bad else str(n)), bad)
        assert isinstance(error, PluginRaised)
        assert error.name == "DataError"
        error = await fifty(lambda n, is_bad: values.call("echo", f"{n}n" if is_bad else str(n)), bad)
        assert isinstance(error, PluginRaised)
        assert error.name == "DataError"
        for value in (float("nan"), "\ud800", {1, 2}, CYCLE):
            error = await fifty(lambda n, is_bad, value=value: send(values, value if is_bad else n), bad)
            assert type(error) is UsageError


async def test_protos_stay_clean(values: Module, app: App):
    """`__proto__` from the host is an own key, never a prototype; received bytes have a buffer of their own."""
    assert await values.call("harmless", {"__proto__": {"polluted": True}, "bytes": b"1"}) == {
        "polluted": None,
        "prototype": True,
        "isOwn": True,
        "alone": True,
    }


async def test_huge_values(values: Module, made):
    """Texts, keys, lists and bytes of megabytes cross in one piece, both ways, on both wires."""
    text = "é" * 1_000_000
    assert await values.call("size", text) == 1_000_000
    assert await values.call("size", bytes(4_000_000)) == 4_000_000
    assert await made(values, "'é'.repeat(1e6)") == text
    assert await made(values, "({['k'.repeat(1e6)]: 'é'.repeat(1e6)})") == {"k" * 1_000_000: text}
    assert await made(values, "new Uint8Array(4e6).fill(1)") == b"\x01" * 4_000_000
    assert await made(values, "Array.from({length: 1e5}, (_, i) => i)") == list(range(100_000))


def nested(levels: int, leaf: Any) -> Any:
    """So many lists in each other."""
    value = leaf
    for _ in range(levels):
        value = [value]
    return value


async def send(values: Module, value: Any) -> Any:
    """The value, by way of the plugin."""
    (shown,) = await values.call("look", value)
    return int(shown)
