import assert from "node:assert/strict";
import vectors from "../../tests/wire/values.json" with { type: "json" };
import { Fault } from "./check.ts";
import { fill, MAX_BINARY, type Path, readSlots } from "./slots.ts";
import { DataError, isOver, MAX_DEPTH, pack, type Packed, render, TooLarge } from "./values.ts";

const LIMIT = 1_000_000;
const test = (name: string, fn: () => void) => Deno.test({ name, permissions: "none", fn });
const packResult = (value: unknown, limit = LIMIT): Packed => pack(value, ["result"], limit);

function hex(text: string): ArrayBuffer {
  return Uint8Array.fromHex(text).buffer;
}

/** The value that a message's text and bytes stand for, as a Worker puts it together. */
function unpack({ text, slots, buffers }: Packed): unknown {
  const message = { result: JSON.parse(text) };
  fill(message, readSlots(message, slots), buffers);
  return message.result;
}

function boom(thrown: unknown): never {
  throw thrown;
}

function nested(levels: number, leaf: unknown): unknown {
  let value = leaf;
  for (let i = 0; i < levels; i++) value = [value];
  return value;
}

const cyclic: Record<string, unknown> = { list: [] };
(cyclic["list"] as unknown[]).push(cyclic);

for (const { name, text, bytes } of vectors.values) {
  test(`${name}: crosses as the same text, with the same bytes`, () => {
    const slots = bytes.map(({ at, hex }) => ({ at: ["result", ...at] as Path, len: hex.length / 2 }));
    const packed: Packed = { text, slots, buffers: bytes.map(({ hex: digits }) => hex(digits)) };
    assert.deepEqual(packResult(unpack(packed)), packed);
  });
}

for (const { name, levels, leaf, crosses } of vectors.depth) {
  test(`${name}: ${crosses ? "crosses" : "is too deep"}`, () => {
    const value = nested(levels, leaf === "bytes" ? new Uint8Array(1) : 1);
    if (!crosses) {
      assert.throws(() => packResult(value), DataError);
      assert.throws(() => render(nested(levels, 1)), Fault);
    } else {
      assert.equal(packResult(value).slots.length, leaf === "bytes" ? 1 : 0);
      render(nested(levels, 1));
    }
  });
}

class Point {
  x = 1;
  get y(): number {
    return 2;
  }
}

const becomes: [string, unknown, string][] = [
  ["undefined", undefined, "null"],
  ["NaN", NaN, "null"],
  ["infinities and minus zero", [Infinity, -Infinity, -0], "[null,null,0]"],
  ["an undefined item, and a hole", [undefined, , 1], "[null,null,1]"],
  ["an undefined property is left out", { a: undefined, b: 1 }, '{"b":1}'],
  ["a lone surrogate", "\ud800", '"\\ufffd"'],
  ["lone surrogates, one after the other", "\udc00\udc00x\ud83d", '"\\ufffd\\ufffdx\\ufffd"'],
  ["a lone surrogate in a key", { "\ud800": 1 }, '{"\\ufffd":1}'],
  ["text that looks like an escaped surrogate", "\\ud800", '"\\\\ud800"'],
  ["a backslash before a lone surrogate", "\\\ud800", '"\\\\\\ufffd"'],
  ["a pair of surrogates", "\u{1f600}", '"\u{1f600}"'],
  ["a date", new Date(0), '"1970-01-01T00:00:00.000Z"'],
  ["a date that is none", new Date(NaN), "null"],
  [
    "a map, a set, an expression, a promise",
    [new Map([[1, 2]]), new Set([1]), /x/, Promise.resolve()],
    "[{},{},{},{}]",
  ],
  ["an instance: its own properties", new Point(), '{"x":1}'],
  ["an object without a prototype", Object.assign(Object.create(null), { a: 1 }), '{"a":1}'],
  ["wrapped primitives", [new Number(1), new String("s"), new Boolean(false)], '[1,"s",false]'],
  ["toJSON, with its key", { a: [{ toJSON: (key: string) => ({ key }) }] }, '{"a":[{"key":"0"}]}'],
  ["toJSON at the root", { toJSON: (key: string) => [key] }, '[""]'],
  ["toJSON is asked once", { toJSON: () => ({ toJSON: 1, a: 2 }) }, '{"toJSON":1,"a":2}'],
  ["a symbol as a key is left out", { [Symbol("s")]: 1 }, "{}"],
  ["one object at two places is no cycle", ((o) => [o, o])({ a: 1 }), '[{"a":1},{"a":1}]'],
  ["a proxy", new Proxy({ a: 1 }, {}), '{"a":1}'],
];
for (const [name, value, text] of becomes) {
  test(`${name}: becomes ${text}`, () =>
    assert.deepEqual(packResult(value), { text, slots: [], buffers: [] }));
}

const shared = new Uint8Array(new SharedArrayBuffer(2)).fill(7);
const binary: [string, ArrayBufferView | ArrayBufferLike, string][] = [
  ["an ArrayBuffer", hex("0102"), "0102"],
  ["a part of a buffer", new Uint8Array(hex("01020304")).subarray(1, 3), "0203"],
  ["numbers of two bytes: all their bytes", new Uint16Array(hex("01020304")), "01020304"],
  ["a DataView", new DataView(hex("010203"), 1), "0203"],
  ["a shared buffer", shared.buffer, "0707"],
  ["a view on a shared buffer", shared, "0707"],
];
for (const [name, value, digits] of binary) {
  test(`${name}: its bytes cross, as a copy`, () => {
    const { text, slots, buffers } = packResult({ b: value });
    assert.equal(text, '{"b":null}');
    assert.deepEqual(slots, [{ at: ["result", "b"], len: digits.length / 2 }]);
    assert.equal(new Uint8Array(buffers[0] as ArrayBuffer).toHex(), digits);
    assert.notEqual(buffers[0], value);
    assert.ok(buffers[0] instanceof ArrayBuffer);
  });
}

const refused: [string, () => unknown, RegExp][] = [
  ["a BigInt", () => [{ n: 1n }], /^result\[0\]\.n: a bigint cannot cross$/],
  ["a wrapped BigInt", () => Object(1n), /a bigint/],
  ["a function", () => ({ f() {} }), /^result\.f: a function/],
  ["a symbol", () => Symbol("s"), /a symbol/],
  ["a cycle", () => cyclic, /cycle/],
  ["a getter that throws", () => ({
    get a() {
      throw new Error("no");
    },
  }), /^result\.a: reading it threw Error: no$/],
  ["toJSON that throws nothing", () => ({
    toJSON() {
      boom(undefined);
    },
  }), /reading it threw/],
  ["toJSON that gives a function", () => ({ toJSON: () => () => 1 }), /a function/],
  ["a proxy whose trap throws", () =>
    new Proxy({}, {
      ownKeys() {
        throw new Error("trap");
      },
    }), /trap/],
  ["a revoked proxy", () => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    return proxy;
  }, /TypeError/],
  ["a view on a detached buffer", () => {
    const view = new DataView(new ArrayBuffer(1));
    structuredClone(view.buffer, { transfer: [view.buffer] });
    return view;
  }, /TypeError/],
  [
    "over 1,024 binary values",
    () => Array.from({ length: MAX_BINARY + 1 }, () => new Uint8Array()),
    /over 1024/,
  ],
];
for (const [name, make, message] of refused) {
  test(`${name}: that call fails with a DataError that names the place`, () => {
    assert.throws(
      () => packResult(make()),
      (error: Error) => error instanceof DataError && message.test(error.message),
    );
  });
}

test("1,024 binary values cross", () => {
  assert.equal(
    packResult(Array.from({ length: MAX_BINARY }, () => new Uint8Array())).slots.length,
    MAX_BINARY,
  );
});

test("a getter is read once", () => {
  let reads = 0;
  assert.equal(
    packResult({
      get a() {
        return ++reads;
      },
    }).text,
    '{"a":1}',
  );
  assert.equal(reads, 1);
});

test("too many bytes are refused before they are copied together", () => {
  assert.throws(() => packResult([new Uint8Array(60), new Uint8Array(41)], 100), TooLarge);
});

test("a list that is longer than any text could be is refused at once", () => {
  assert.throws(() => packResult(new Array(4_000_000_000)), TooLarge);
});

test("in a request the levels of its params do not count", () => {
  assert.ok(pack({ args: [nested(MAX_DEPTH, 1)] }, ["params"], LIMIT, 2));
  assert.throws(
    () => pack({ args: [nested(MAX_DEPTH + 1, 1)] }, ["params"], LIMIT, 2),
    /^DataError: args\[0\]/,
  );
});

test("a long flat value is not deep", () => assert.ok(render(Array.from({ length: 1000 }, () => [[]]))));

for (
  const [name, bytes] of [
    ["no list", {}],
    ["a path that is no list", [{ at: "result", len: 1 }]],
    ["over 1,024 entries", Array.from({ length: MAX_BINARY + 1 }, () => ({ at: ["result"], len: 0 }))],
    ["an infinite length", [{ at: ["result"], len: Infinity }]],
    ["null", null],
  ] as [string, unknown][]
) {
  test(`bytes, ${name}: refused`, () => assert.throws(() => readSlots({ result: null }, bytes), Fault));
}

test("a size is measured in UTF-8", () => {
  assert.equal(isOver("aaaa", 0, 4), false);
  assert.equal(isOver("aaaa", 1, 4), true);
  assert.equal(isOver("éé", 0, 4), false);
  assert.equal(isOver("ééé", 0, 4), true);
});
