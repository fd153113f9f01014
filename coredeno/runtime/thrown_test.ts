import assert from "node:assert/strict";
import { Fault } from "./check.ts";
import { describeThrown, LONGEST, readThrown } from "./thrown.ts";

const test = (name: string, fn: () => void) => Deno.test({ name, permissions: "none", fn });
const boom = (): never => {
  throw new Error("inner");
};

const cases: [string, unknown, { name: string; message: string; code?: string }][] = [
  ["null", null, { name: "Error", message: "null" }],
  ["undefined", undefined, { name: "Error", message: "undefined" }],
  ["a text", "oops", { name: "Error", message: "oops" }],
  ["a symbol", Symbol("s"), { name: "Error", message: "Symbol(s)" }],
  ["a BigInt", 7n, { name: "Error", message: "7" }],
  ["an error", new TypeError("bad"), { name: "TypeError", message: "bad" }],
  ["an error with a code", Object.assign(new Error("no"), { code: "NOPE" }), {
    name: "Error",
    message: "no",
    code: "NOPE",
  }],
  ["a code that is no text", { message: "m", code: 7 }, { name: "Error", message: "m" }],
  ["an object", { name: "Odd", message: "m" }, { name: "Odd", message: "m" }],
  ["an object that says nothing", {}, { name: "Error", message: "[object Object]" }],
  ["getters that throw", {
    get name() {
      return boom();
    },
    get message() {
      return boom();
    },
    get stack() {
      return boom();
    },
  }, { name: "Error", message: "[object Object]" }],
  ["a text that cannot be made", { toString: boom }, {
    name: "Error",
    message: "a thrown value that cannot be read",
  }],
  ["a proxy that refuses all", new Proxy({}, { get: boom, getPrototypeOf: boom }), {
    name: "Error",
    message: "a thrown value that cannot be read",
  }],
  ["a function", Object.assign(() => 1, { message: "f" }), { name: "Error", message: "f" }],
  ["a lone surrogate", "\ud800", { name: "Error", message: "\ufffd" }],
];
for (const [name, thrown, wanted] of cases) {
  test(`thrown ${name}: it is described, and nothing is thrown again`, () => {
    const { stack, ...told } = describeThrown(thrown);
    assert.equal(typeof stack, "string");
    assert.deepEqual(told, wanted);
  });
}

test("each text is cut, and stays well formed", () => {
  const long = "é".repeat(LONGEST - 1) + "\u{1f600}".repeat(9);
  const told = describeThrown({ name: long, message: long, stack: long, code: long });
  for (const text of [told.name, told.message, told.stack, told.code ?? ""]) {
    assert.equal(text.length, LONGEST);
    assert.ok(text.isWellFormed());
  }
});

test("what a Worker says of a thrown value is read again", () => {
  const told = { name: "E", message: "m".repeat(9000), stack: "", code: "C", other: 1 };
  assert.deepEqual(readThrown(told), { name: "E", message: "m".repeat(LONGEST), stack: "", code: "C" });
  for (
    const bad of [null, [], {}, { name: 1, message: "", stack: "" }, {
      name: "",
      message: "",
      stack: "",
      code: 1,
    }]
  ) {
    assert.throws(() => readThrown(bad), Fault);
  }
});
