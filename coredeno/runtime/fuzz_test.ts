/**
 * Whatever comes over a wire or from a Worker: a value or a {@link Fault}, never another throw. What was valid is
 * changed here and there by a generator with a seed, so each run tries the same; `scripts/fuzz` is Python's half.
 */

import assert from "node:assert/strict";
import { type Batch, decodeBatch, encodeFrame, FrameReader } from "./batch.ts";
import { type Boot, entryUrl, parseBoot } from "./boot.ts";
import { type Attachments, type LoadOrder, Outbox, readMessage } from "./channel.ts";
import { Fault, fields, milliseconds, text, texts, whole } from "./check.ts";
import { concat, type Line, LineReader } from "./lines.ts";
import { Module, type ModuleLink } from "./module.ts";
import { fill, readSlots } from "./slots.ts";
import { DataError, isOver, pack, render, TooLarge } from "./values.ts";

const TRIES = 600;
const LIMIT = 2000;
const test = (name: string, fn: () => void) => Deno.test({ name, permissions: "none", fn });
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** xorshift32: small, and the same everywhere. */
class Chance {
  #state = 0x9e3779b9;

  below(end: number): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) % end;
  }

  of<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)] as T;
  }
}

const PIECES = [
  ...["\0", "\n", "\r\n", "[", "]", "{", "}", '"', "\\", ":", ",", "null", "-0", "1e999", "9007199254740993"],
  ...[
    '"__proto__"',
    '"constructor"',
    '"bytes"',
    '"at"',
    "[[[[[[[[[[",
    '{"a":{"a":{"a":',
    "\\ud800",
    "\u202e",
    "é",
  ],
].map((piece) => encoder.encode(piece)).concat(
  [[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xff, 0xff, 0xff, 0xff, 0x0f]].map((bytes) =>
    Uint8Array.from(bytes)
  ),
);

/** The bytes after a few changes: flipped bits, cuts, pieces put in, parts repeated or from another seed. */
function changed(chance: Chance, seeds: readonly Uint8Array[]): Uint8Array {
  let data = chance.of(seeds).slice();
  for (let changes = chance.below(5); changes > 0; changes--) {
    const at = chance.below(data.length + 1);
    const to = Math.min(data.length, at + 1 + chance.below(32));
    const [before, part, after] = [data.subarray(0, at), data.subarray(at, to), data.subarray(to)];
    switch (chance.below(6)) {
      case 0:
        data[at] = (data[at] ?? 0) ^ (1 << chance.below(8));
        break;
      case 1:
        data = concat([before, after]);
        break;
      case 2:
        data = concat([before, chance.of(PIECES), part, after]);
        break;
      case 3:
        data = concat([before, ...new Array<Uint8Array>(1 + chance.below(40)).fill(part), after]);
        break;
      case 4:
        data = concat([before, chance.of(seeds).subarray(at)]);
        break;
      default:
        data = concat([
          before,
          ...new Array<Uint8Array>(1 + chance.below(300)).fill(chance.of(PIECES)),
          after,
        ]);
    }
    data = data.subarray(0, 4096).slice();
  }
  return data;
}

/** What `run` gives, or null where it throws one of these; every other throw comes out. */
function attempt<T>(run: () => T, ...declared: (new (message: string) => Error)[]): T | null {
  try {
    return run();
  } catch (error) {
    if ([Fault, ...declared].some((kind) => error instanceof kind)) return null;
    throw error;
  }
}

/** What a reader gives for these pieces, up to a fault, and whether there was one. */
function readAll<T>(reader: { push(chunk: Uint8Array): T[] }, pieces: readonly Uint8Array[]): [T[], boolean] {
  const found: T[] = [];
  for (const piece of pieces) {
    const more = attempt(() => reader.push(piece));
    if (more === null) return [found, true];
    found.push(...more);
  }
  return [found, false];
}

function cut(data: Uint8Array, step: number): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < data.length; at += step) pieces.push(data.subarray(at, at + step));
  return pieces;
}

const lines = (...values: unknown[]) =>
  encoder.encode(values.map((value) => JSON.stringify(value) + "\n").join(""));
const ask = (params: unknown, more = {}) => ({ jsonrpc: "2.0", id: 1, method: "Call", params, ...more });

test("lines: any bytes, however they are cut, give the same messages or a Fault", () => {
  const chance = new Chance();
  const named = ask([null, { a: null }], {
    bytes: [{ at: ["params", 0], len: 3 }, { at: ["params", 1, "a"], len: 0 }],
  });
  const seeds = [
    lines(ask({ code: "a" }), ask([1.5, "é", null], { id: 2 })),
    concat([lines(named), encoder.encode("abc"), lines(ask({}))]),
    lines(ask(null, { bytes: [] })),
  ];
  for (let i = 0; i < TRIES; i++) {
    const data = changed(chance, seeds);
    const [single, isSingleFault] = readAll(new LineReader(LIMIT), cut(data, 1));
    const [pieces, isFault] = readAll(new LineReader(LIMIT), cut(data, 1 + chance.below(64)));
    assert.equal(isFault, isSingleFault);
    // A reader that throws gives none of what one push brought, so the larger pieces may give fewer.
    assert.deepEqual(pieces.map(shown), single.slice(0, pieces.length).map(shown));
    if (!isFault) assert.equal(pieces.length, single.length);
    for (const line of single) fill(line.message, line.slots, line.buffers);
  }
});

function shown({ text, buffers }: Line): unknown {
  return [text, buffers.map((buffer) => new Uint8Array(buffer).toHex())];
}

test("frames and batches: any bytes give the same or a Fault, and what is read is written the same", () => {
  const chance = new Chance();
  const seeds = [
    { messages: encoder.encode('[{"jsonrpc":"2.0","id":1,"result":null}]'), attachments: [] },
    { messages: encoder.encode("[]"), attachments: [encoder.encode("abc"), new Uint8Array(0)] },
  ].map((batch) => concat(encodeFrame(batch)));
  for (let i = 0; i < TRIES; i++) {
    const data = changed(chance, seeds);
    const [single, isSingleFault] = readAll(new FrameReader(LIMIT), cut(data, 1));
    const [pieces, isFault] = readAll(new FrameReader(LIMIT), cut(data, 1 + chance.below(64)));
    assert.equal(isFault, isSingleFault);
    assert.deepEqual(pieces, single.slice(0, pieces.length));
    for (const bytes of [...single, data, data.subarray(5)]) {
      const batch = attempt(() => decodeBatch(bytes));
      if (batch !== null) assert.deepEqual(again(batch), batch);
    }
  }
});

function again(batch: Batch): Batch {
  const [message] = new FrameReader(1 << 20).push(concat(encodeFrame(batch)));
  return decodeBatch(message as Uint8Array);
}

const BOOT = {
  protocol: 1,
  token: "t",
  core_socket: "/run/a/core.sock",
  deno_socket: "/run/a/deno.sock",
  isolation: "process",
  worker: { root: "/stage/0", net: ["a.example:443"] },
  limits: { message_bytes: LIMIT, calls_in_flight: 2, requests_in_flight: 3, log_line_bytes: 100 },
} satisfies Boot & { protocol: number };

test("boot line: any text gives a boot whose paths lead nowhere else, or a Fault", () => {
  const chance = new Chance();
  const seeds = [BOOT, { ...BOOT, isolation: "worker" }].map((boot) => encoder.encode(JSON.stringify(boot)));
  for (let i = 0; i < TRIES; i++) {
    const line = decoder.decode(changed(chance, seeds));
    const boot = attempt(() => parseBoot(line));
    for (const path of boot === null ? [] : [boot.core_socket, boot.deno_socket, boot.worker.root]) {
      assert.ok(path.startsWith("/") && !path.split("/").includes(".."));
    }
    const url = attempt(() => entryUrl("/stage/0", line.slice(0, 40)));
    if (url !== null) {
      assert.ok(new URL(url).pathname.startsWith("/stage/0/") && new URL(url).search === "", url);
    }
  }
});

const ODD: readonly (() => unknown)[] = [
  () => null,
  () => undefined,
  () => -0,
  () => NaN,
  () => 2 ** 53,
  () => 1n,
  () => "\ud800",
  () => "\\ud800\ud800",
  () => Symbol("s"),
  () => () => 1,
  () => new Date(NaN),
  () => new Map([[1, 2]]),
  () => new Uint8Array(3),
  () => new SharedArrayBuffer(2),
  () => new DataView(new ArrayBuffer(4), 1, 2),
  () => new Uint16Array(new ArrayBuffer(8, { maxByteLength: 16 }), 2),
  () => new Array(4_000_000_000),
  () => Object(1n),
  () => Object.create(null),
  () => ({ ["__proto__"]: 1, constructor: { prototype: null } }),
  () => ({
    get a(): never {
      throw new RangeError("x");
    },
  }),
  () => ({
    get a(): never {
      // deno-lint-ignore no-throw-literal
      throw null;
    },
  }),
  () => ({ toJSON: () => ({ toJSON: 1, a: new Uint8Array(1) }) }),
  () => ({
    toJSON() {
      return this;
    },
  }),
  () => Proxy.revocable({}, {}).proxy,
  () => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    return proxy;
  },
  () =>
    new Proxy([], {
      get() {
        throw { toString: null };
      },
    }),
];

/** A value of anything, some levels deep, now and then with a cycle. */
function odd(chance: Chance, levels: number): unknown {
  const shape = levels === 0 ? 9 : chance.below(10);
  if (shape < 3) {
    const items: unknown[] = Array.from({ length: chance.below(4) }, () => odd(chance, levels - 1));
    if (chance.below(40) === 0) items.push(items);
    return items;
  }
  if (shape < 6) return { [chance.of(["a", "__proto__", "toJSON", "0", "é"])]: odd(chance, levels - 1) };
  return shape < 8 ? chance.below(1000) / 8 : chance.of(ODD)();
}

test("values of a plugin: anything crosses as JSON that its slots fit, or a DataError or TooLarge says why not", () => {
  const chance = new Chance();
  for (let i = 0; i < TRIES * 4; i++) {
    const value = odd(chance, 6);
    const packed = attempt(() => pack(value, ["result"], LIMIT), DataError, TooLarge);
    if (packed === null) continue;
    assert.ok(packed.text.isWellFormed());
    const message = { result: JSON.parse(packed.text) };
    const slots = readSlots(message, JSON.parse(JSON.stringify(packed.slots)));
    fill(message, slots, packed.buffers);
    assert.equal(typeof render(JSON.parse(packed.text)), "string");
  }
});

test("checks: any value that JSON can write is given back or a Fault", () => {
  const chance = new Chance();
  for (let i = 0; i < TRIES; i++) {
    const packed = attempt(() => pack(odd(chance, 2), ["result"], LIMIT), DataError, TooLarge);
    const value: unknown = packed === null ? null : JSON.parse(packed.text);
    for (const check of [fields, milliseconds, text, whole]) {
      const found = attempt(() => check(value, "value"));
      if (found !== null) assert.equal(found, value);
    }
    const found = attempt(() => texts(value, "value"));
    if (found !== null) assert.deepEqual(found, value);
  }
});

const ORDER: LoadOrder = {
  id: 1,
  code: "a",
  url: "file:///stage/0/main.ts",
  entry: "main.ts",
  services: {},
  config: {},
  limits: BOOT.limits,
  deadline: null,
};

/** A module that was loaded, or is being loaded, with two calls under way; counts what the host is answered. */
function rig(isLoaded: boolean): { module: Module; answered: Map<unknown, number>; calls: number } {
  const answered = new Map<unknown, number>();
  let sessionId = 100;
  const link: ModuleLink = {
    busyMs: 0,
    tied: Promise.resolve(),
    gone: Promise.resolve(),
    isOver: false,
    outbox: new Outbox(() => {}),
    attach() {},
    ping: () => Promise.resolve(),
    close() {},
  };
  const module = new Module("a", link, {
    limits: BOOT.limits,
    isCongested: false,
    register: () => sessionId++,
    forget() {},
    toHost(line) {
      const { id } = JSON.parse(line);
      if (id !== undefined) answered.set(id, (answered.get(id) ?? 0) + 1);
      assert.ok(!isOver(line, 0, LIMIT), "an answer over the limit");
    },
    toSession: (line) => assert.equal(JSON.parse(line).module, "a"),
  });
  module.load(ORDER, undefined, { slots: [], buffers: [] });
  if (isLoaded) module.receive(["loaded", ["f"]], readMessage("[]", LIMIT).attachments);
  const calls = isLoaded ? 2 : 0;
  for (let id = 2; id < 2 + calls; id++) {
    module.call(id, "{}", [], { deadline: undefined, trace: undefined, number: undefined }, 0);
  }
  return { module, answered, calls };
}

test("a Worker's messages: whatever they are, a Fault or nothing, and each call is answered once", () => {
  const chance = new Chance();
  const thrown = { name: "E", message: "m", stack: "", code: "C" };
  const seeds = [
    [["loaded", ["init", "f"]], ["log", "info", "hello", 2], ["done", 2, { a: [1] }, []]],
    [["ask", 1, "store.get", { key: "k" }, [], 2], ["drop", 1], ["failed", 3, "PluginRaised", thrown]],
    [["done", 2, [null], [{ at: ["result", 0], len: 3 }]], ["failed", 3, "MethodNotFound", "x"]],
    [["ask", 7, "files.write", { data: null }, [{ at: ["params", "data"], len: 3 }], null], ["disposed"]],
    [["unloadable", thrown], ["pong", 1]],
  ].map((entries) => encoder.encode(JSON.stringify(entries)));
  for (let i = 0; i < TRIES * 2; i++) {
    const { module, answered, calls } = rig(chance.below(4) > 0);
    const data = decoder.decode(changed(chance, seeds));
    const buffers = Array.from({ length: chance.below(3) }, () => new ArrayBuffer(chance.of([0, 3])));
    const message = attempt(() => readMessage(chance.below(2) ? [data, ...buffers] : data, 10 * LIMIT));
    attempt(() => {
      for (const entry of message?.entries ?? []) module.receive(entry, message?.attachments as Attachments);
      message?.attachments.assertEmpty();
    });
    module.broken("the test ends it", false); // as Link does after a Fault
    assert.deepEqual([...answered].sort(), Array.from({ length: 1 + calls }, (_, id) => [1 + id, 1]));
  }
});
