import assert from "node:assert/strict";
import type { Limits } from "./boot.ts";
import { type Attachments, type LoadOrder, LOG_CREDIT, Outbox, readMessage } from "./channel.ts";
import { Fault } from "./check.ts";
import { Module, type ModuleLink, type Wires } from "./module.ts";

const test = (name: string, fn: () => void | Promise<void>) => Deno.test({ name, permissions: "none", fn });
const LIMITS: Limits = {
  message_bytes: 2000,
  calls_in_flight: 2,
  requests_in_flight: 3,
  log_line_bytes: 100,
};
const ORDER: LoadOrder = {
  id: 1,
  code: "a",
  url: "file:///stage/0/main.ts",
  entry: "main.ts",
  services: {},
  config: {},
  limits: LIMITS,
  deadline: null,
};
const NO_BYTES = { slots: [], buffers: [] };
const THROWN = { name: "E", message: "m", stack: "" };

class PlayedLink implements ModuleLink {
  readonly busyMs = 0;
  readonly tied = Promise.resolve();
  gone = Promise.resolve();
  isOver = false;

  constructor(readonly outbox: Outbox) {}

  attach(): void {}

  ping(): Promise<void> {
    return Promise.resolve();
  }

  close(): void {
    this.isOver = true;
  }
}

/** A module whose Worker is played by the test, and both wires. */
class Rig implements Wires {
  readonly limits = LIMITS;
  readonly toWorker: unknown[][] = [];
  readonly host: Record<string, unknown>[] = [];
  readonly session: Record<string, unknown>[] = [];
  readonly registered = new Set<number>();
  readonly module: Module;
  readonly link: PlayedLink;
  isCongested = false;

  constructor() {
    const outbox = new Outbox((message) => this.toWorker.push(...readMessage(message, Infinity).entries));
    this.link = new PlayedLink(outbox);
    this.module = new Module("a", this.link, this);
  }

  toHost(text: string): void {
    this.host.push(JSON.parse(text));
  }

  toSession(text: string): void {
    this.session.push(JSON.parse(text));
  }

  register(_: Module, id: number): number {
    this.registered.add(100 + id);
    return 100 + id;
  }

  forget(sessionId: number): void {
    this.registered.delete(sessionId);
  }

  /** What the Worker says, as `Link` passes it on. */
  says(...entry: unknown[]): void {
    const { attachments } = readMessage("[]", 9);
    this.module.receive(entry, attachments);
  }

  saysWith(buffers: ArrayBuffer[], ...entry: unknown[]): Attachments {
    const { attachments } = readMessage(["[]", ...buffers], 9999);
    this.module.receive(entry, attachments);
    return attachments;
  }

  running(): this {
    this.module.load(ORDER, undefined, NO_BYTES);
    this.says("loaded", ["init", "f"]);
    this.host.length = 0;
    return this;
  }

  call(id: number, record = {}): this {
    this.module.call(
      id,
      "{}",
      [],
      { deadline: undefined, trace: undefined, number: undefined, ...record },
      0,
    );
    return this;
  }
}

test("a load is answered once, with the exports", () => {
  const rig = new Rig().running();
  assert.equal(rig.module.state, "RUNNING");
  assert.throws(() => rig.says("loaded", ["init"]), Fault);
});

test("a load that fails is answered with what was thrown, and the Worker is told to end", () => {
  const rig = new Rig();
  rig.module.load(ORDER, undefined, NO_BYTES);
  rig.says("unloadable", { ...THROWN, code: "C" });
  assert.deepEqual(rig.host, [{
    jsonrpc: "2.0",
    id: 1,
    error: { code: -32007, message: "m", data: { ...THROWN, code: "C" } },
  }]);
  assert.deepEqual([rig.module.state, rig.link.isOver], ["ERRORED", true]);
});

test("a load is given up at its deadline", async () => {
  const rig = new Rig();
  rig.module.load(ORDER, 5, NO_BYTES);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal((rig.host[0]?.["error"] as { code: number }).code, -32004);
  assert.equal(rig.module.state, "ERRORED");
});

test("a call is answered with what main wrote, not with what the Worker wrote", () => {
  const rig = new Rig().running().call(7);
  rig.says("done", 7, { a: [1, "\u2028"], "": NaN }, []);
  assert.deepEqual(rig.host, [{ jsonrpc: "2.0", id: 7, result: { a: [1, "\u2028"], "": null } }]);
  assert.equal(rig.module.inflight, 0);
});

test("binary values of a result follow it", () => {
  const rig = new Rig().running().call(7);
  rig.saysWith([new ArrayBuffer(3)], "done", 7, [null], [{ at: ["result", 0], len: 3 }]).assertEmpty();
  assert.deepEqual(rig.host[0]?.["bytes"], [{ at: ["result", 0], len: 3 }]);
});

test("a request carries the module, and what is left of its call's time", () => {
  const rig = new Rig().running().call(7, { deadline: Date.now() + 500, trace: "t" });
  rig.says("ask", 1, "store.get", { key: "k" }, [], 7);
  rig.says("ask", 2, "store.get", { key: "k" }, [], 99);
  const [inside, outside] = rig.session as [Record<string, unknown>, Record<string, unknown>];
  const { deadline_ms, ...rest } = inside;
  assert.deepEqual(rest, {
    jsonrpc: "2.0",
    id: 101,
    method: "store.get",
    params: { key: "k" },
    module: "a",
    trace: "t",
  });
  assert.ok(Number(deadline_ms) <= 500 && Number(deadline_ms) > 400);
  assert.deepEqual(Object.keys(outside), ["jsonrpc", "id", "method", "params", "module"]);
});

test("a request that is dropped is cancelled at the host, and its answer is no matter", () => {
  const rig = new Rig().running();
  rig.says("ask", 1, "store.get", {}, [], null);
  rig.says("drop", 1);
  rig.says("drop", 1);
  assert.deepEqual(rig.session.slice(1), [{
    jsonrpc: "2.0",
    method: "cancel",
    params: { id: 101 },
    module: "a",
  }]);
  assert.equal(rig.registered.size, 0);
});

test("log records carry the module, and the number and trace of their call while it runs", () => {
  const rig = new Rig().running().call(7, { number: 3 }).call(9, {
    number: 4,
    trace: "\u{1f600}".repeat(200),
  });
  rig.says("log", "info", "inside", 7);
  rig.says("log", "info", "traced", 9);
  rig.says("log", "error", "forged", 8);
  rig.says("done", 7, 1, []);
  rig.says("log", "info", "late", 7);
  const record = { jsonrpc: "2.0", method: "log.write", module: "a" };
  assert.deepEqual(rig.session, [
    { ...record, params: { level: "info", message: "inside", call: 3 } },
    { ...record, params: { level: "info", message: "traced", call: 4 }, trace: "\u{1f600}".repeat(128) },
    { ...record, params: { level: "error", message: "forged" } },
    { ...record, params: { level: "info", message: "late" } },
  ]);
});

test("a trace that is cut within a character is text all the same", () => {
  const rig = new Rig().running().call(7, { trace: `a${"\u{1f600}".repeat(200)}` });
  rig.says("log", "info", "traced", 7);
  assert.equal(rig.session[0]?.["trace"], `a${"\u{1f600}".repeat(127)}\ufffd`);
});

test("while the Session does not keep up, a module gets no credit for more log records", async () => {
  const rig = new Rig().running();
  rig.isCongested = true;
  for (let i = 0; i < LOG_CREDIT; i++) rig.says("log", "info", "x", null);
  await Promise.resolve();
  assert.ok(!rig.toWorker.some(([kind]) => kind === "logged"));
  rig.module.releaseLogs();
  await Promise.resolve();
  assert.deepEqual(rig.toWorker.at(-1), ["logged", LOG_CREDIT]);
});

let deep: unknown = 1;
for (let i = 0; i < 400; i++) deep = [deep];
const faults: [string, unknown[]][] = [
  ["nothing", []],
  ["an unknown kind", ["shout"]],
  ["a kind that is no text", [null]],
  ["a forged load", ["loaded", ["f"]]],
  ["a forged failure of the load", ["unloadable", THROWN]],
  ["disposed, though nobody asked", ["disposed"]],
  ["an answer to a call that is not there", ["done", 8, 1, []]],
  ["an answer with an id that is a text", ["done", "7", 1, []]],
  ["an answer without an id", ["done"]],
  ["a result that is too deep", ["done", 7, deep, []]],
  ["a result over the limit", ["done", 7, "x".repeat(2000), []]],
  ["a result over the limit in UTF-8 only", ["done", 7, "é".repeat(990), []]],
  ["slots that are no list", ["done", 7, 1, null]],
  ["a slot without its bytes", ["done", 7, null, [{ at: ["result"], len: 1 }]]],
  ["a slot at a place that is not there", ["done", 7, {}, [{ at: ["result", "__proto__"], len: 0 }]]],
  ["a failure of no known kind", ["failed", 7, "InternalError", "x"]],
  ["a failure named __proto__", ["failed", 7, "__proto__", "x"]],
  ["a failure without its facts", ["failed", 7, "PluginRaised", null]],
  ["a failure whose facts are no texts", ["failed", 7, "PluginRaised", { ...THROWN, stack: [] }]],
  ["a request without a method", ["ask", 1, null, {}, [], null]],
  ["a request with a negative id", ["ask", -1, "m", {}, [], null]],
  ["a request with an id beyond all", ["ask", 1e300, "m", {}, [], null]],
  ["a request over the limit", ["ask", 1, "m", { a: "x".repeat(40_000) }, [], null]],
  ["a request that is too deep", ["ask", 1, "m", deep, [], null]],
  ["dropping an id that is none", ["drop", {}]],
  ["a log record at no level", ["log", "__proto__", "x", null]],
  ["a log record that is no text", ["log", "info", { toString: 1 }, null]],
  ["a log record over the limit", ["log", "info", "x".repeat(101), null]],
];
for (const [name, entry] of faults) {
  test(`${name}: a fault of the Worker`, () => {
    const rig = new Rig().running().call(7);
    assert.throws(() => rig.says(...entry), Fault);
  });
}

test("a second answer to a call, and a request's id that is in use, are faults", () => {
  const rig = new Rig().running().call(7);
  rig.says("done", 7, 1, []);
  assert.throws(() => rig.says("done", 7, 1, []), Fault);
  rig.says("ask", 1, "m", {}, [], null);
  assert.throws(() => rig.says("ask", 1, "m", {}, [], null), Fault);
});

test("more requests, bytes or log records than the bounds are faults", () => {
  const many = new Rig().running();
  for (let i = 1; i <= 3; i++) many.says("ask", i, "m", {}, [], null);
  assert.throws(() => many.says("ask", 4, "m", {}, [], null), Fault);
  const logs = new Rig().running();
  logs.isCongested = true;
  for (let i = 0; i < LOG_CREDIT; i++) logs.says("log", "info", "", null);
  assert.throws(() => logs.says("log", "info", "", null), Fault);
});

test("after a fault whoever waits is answered, the host is told, and nothing is sent for it any more", () => {
  const rig = new Rig().running().call(7).call(8);
  rig.says("ask", 1, "m", {}, [], 7);
  rig.module.broken("it lies", true);
  const error = { code: -32008, message: "a: protocol error: it lies", data: { module: "a" } };
  assert.deepEqual(rig.host, [
    { jsonrpc: "2.0", id: 7, error },
    { jsonrpc: "2.0", id: 8, error },
    { jsonrpc: "2.0", method: "ModuleExited", params: { code: "a", reason: "protocol error: it lies" } },
  ]);
  assert.deepEqual([rig.module.state, rig.link.isOver, rig.registered.size], ["ERRORED", true, 0]);
});

test("a Worker that ends while it loads answers the load", () => {
  const rig = new Rig();
  rig.module.load(ORDER, 1000, NO_BYTES);
  rig.module.broken("its Worker ended by itself", false);
  assert.equal((rig.host[0]?.["error"] as { code: number }).code, -32002);
  assert.equal(rig.host[1]?.["method"], "ModuleExited");
});

test("unloading lets dispose run, and answers the calls that are left", async () => {
  const rig = new Rig().running().call(7);
  const unloaded = rig.module.unload(1000);
  await Promise.resolve();
  assert.ok(rig.toWorker.some(([kind]) => kind === "dispose"));
  rig.says("ask", 1, "store.set", {}, [], null);
  assert.equal(rig.module.unload(0), unloaded);
  rig.says("disposed");
  assert.equal(await unloaded, true);
  assert.equal((rig.host[0]?.["error"] as { code: number }).code, -32005);
  assert.deepEqual([rig.module.state, rig.link.isOver, rig.registered.size], ["STOPPED", true, 0]);
});

test("a plugin that does not dispose in time is told to end, and clean is whether its thread has gone", async () => {
  const gone = new Rig().running();
  assert.equal(await gone.module.unload(1), true);
  assert.equal(gone.link.isOver, true);
  const spinning = new Rig().running();
  spinning.link.gone = new Promise(() => {});
  assert.equal(await spinning.module.unload(1), false);
});

test("without a grace a plugin is told to end and no more, and its thread has some time for that", async () => {
  const rig = new Rig().running();
  rig.link.gone = new Promise((resolve) => setTimeout(resolve, 200));
  const unloaded = rig.module.unload(0);
  assert.deepEqual([rig.module.state, rig.link.isOver], ["STOPPED", true]);
  assert.ok(!rig.toWorker.some(([kind]) => kind === "dispose"));
  assert.equal(await unloaded, true);
});

test("a module that ends while it is disposed is not told of as exited", async () => {
  const rig = new Rig().running();
  const unloaded = rig.module.unload(1000);
  rig.module.broken("its Worker ended by itself", false);
  assert.equal(await unloaded, true);
  assert.deepEqual(rig.host, []);
});

test("what a plugin throws once its time is over, or once it is unloaded, is told as that", async () => {
  const rig = new Rig().running().call(7, { deadline: Date.now() - 1 }).call(8);
  rig.says("failed", 7, "PluginRaised", THROWN);
  const unloaded = rig.module.unload(1000);
  rig.says("failed", 8, "PluginRaised", THROWN);
  assert.deepEqual(rig.host.map(({ error }) => (error as { code: number }).code), [-32004, -32005]);
  rig.says("disposed");
  await unloaded;
});

test("calls over the bound are refused, not queued", () => {
  const rig = new Rig().running().call(7).call(8);
  assert.throws(() => rig.call(9), { error: { code: -32003, message: "a: 2 calls in flight already" } });
});

test("an error is always answered, even where its stack is over the limit", () => {
  const rig = new Rig().running().call(7);
  rig.says("failed", 7, "PluginRaised", { name: "E", message: "m", stack: "s".repeat(5000) });
  assert.deepEqual(rig.host[0]?.["error"], { code: -32007, message: "m", data: { name: "E" } });
});

test("a call whose answer is a Fault is answered all the same, when the Worker is told to end for it", () => {
  for (
    const entry of [
      ["done", 2, null, 3],
      ["done", 2, null, [{ at: ["result"], len: 1 }]],
      ["done", 2, "x".repeat(LIMITS.message_bytes), []],
      ["failed", 2, "PluginRaised", null],
      ["failed", 2, "Other", "x"],
    ]
  ) {
    const rig = new Rig().running().call(2);
    assert.throws(() => rig.says(...entry), Fault);
    rig.module.broken("a fault", true); // as Link does
    assert.deepEqual(rig.host.filter(({ id }) => id === 2).length, 1, JSON.stringify(entry).slice(0, 80));
  }
});

test("a load whose answer is a Fault is answered all the same", () => {
  const rig = new Rig();
  rig.module.load(ORDER, undefined, NO_BYTES);
  assert.throws(() => rig.says("loaded", ["f".repeat(LIMITS.message_bytes)]), Fault);
  rig.module.broken("a fault", true);
  assert.deepEqual(rig.host.map(({ id }) => id), [1, undefined]);
  assert.equal(rig.module.state, "ERRORED");
});
