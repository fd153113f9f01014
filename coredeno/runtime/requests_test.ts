import assert from "node:assert/strict";
import type { Limits } from "./boot.ts";
import { Calls } from "./calls.ts";
import { Outbox, readMessage } from "./channel.ts";
import { Requests } from "./requests.ts";
import { DataError } from "./values.ts";

const test = (name: string, fn: () => Promise<void>) => Deno.test({ name, permissions: "none", fn });
const LIMITS: Limits = {
  message_bytes: 1000,
  calls_in_flight: 9,
  requests_in_flight: 3,
  log_line_bytes: 100,
};

class Rig {
  readonly posted: unknown[][] = [];
  readonly calls = new Calls();
  readonly requests: Requests;

  constructor(limits: Partial<Limits> = {}) {
    const outbox = new Outbox((message) => this.posted.push(...readMessage(message, Infinity).entries));
    this.requests = new Requests(outbox, this.calls, { ...LIMITS, ...limits });
  }

  get ids(): unknown[] {
    return this.posted.filter(([kind]) => kind === "ask").map(([, id]) => id);
  }
}

test("a request goes out with its method, params and call, and gives the result", async () => {
  const { posted, requests, calls } = new Rig();
  const asked = calls.run(
    calls.begin(7, undefined, undefined),
    () => requests.ask("store.get", { key: "a", group: undefined }),
  );
  await Promise.resolve();
  assert.deepEqual(posted, [["ask", 1, "store.get", { key: "a" }, [], 7]]);
  requests.answered(1, { result: "v" });
  assert.equal(await asked, "v");
  requests.answered(1, { result: "again" });
});

test("the host's error is thrown with its class and status", async () => {
  const { requests } = new Rig();
  const asked = requests.ask("files.read", { path: "x" });
  requests.answered(1, { error: { code: -32000, message: "no", data: { resource: "x" } } });
  await assert.rejects(asked, { name: "PermissionDenied", code: "PERMISSION_DENIED", resource: "x" });
});

test("over the bound of requests they wait, and go out in their order", async () => {
  const rig = new Rig();
  const asked = Array.from({ length: 5 }, (_, i) => rig.requests.ask("m", { i }));
  await Promise.resolve();
  assert.deepEqual(rig.ids, [1, 2, 3]);
  rig.requests.answered(2, { result: 2 });
  await asked[1];
  assert.deepEqual(rig.ids, [1, 2, 3, 4]);
  for (const id of [1, 3, 4, 5]) rig.requests.answered(id, { result: id });
  assert.deepEqual(await Promise.all(asked), [1, 2, 3, 4, 5]);
});

test("over the bound of bytes they wait, but one by itself never does", async () => {
  const rig = new Rig({ requests_in_flight: 100 });
  for (let i = 0; i < 9; i++) rig.requests.ask("m", { data: new Uint8Array(700) });
  await Promise.resolve();
  assert.equal(rig.ids.length, 5);
  rig.requests.answered(1, { result: null });
  await new Promise((resolve) => setTimeout(resolve));
  assert.equal(rig.ids.length, 6);
});

test("what cannot cross fails that request, at the place where it was made", async () => {
  const { posted, requests } = new Rig();
  await assert.rejects(requests.ask("m", { args: [{ n: 1n }] }), (error: Error) => {
    assert.match(error.message, /^args\[0\]\.n: a bigint/);
    assert.match(error.stack ?? "", /requests_test/);
    return error instanceof DataError;
  });
  await assert.rejects(requests.ask("m", { text: "x".repeat(1000) }), {
    name: "LimitExceeded",
    code: "RESOURCE_EXHAUSTED",
  });
  await assert.rejects(requests.ask("m", { data: new Uint8Array(1001) }), {
    name: "LimitExceeded",
    code: "RESOURCE_EXHAUSTED",
  });
  assert.deepEqual(posted, []);
});

test("a cancelled call takes its requests with it: those on their way are dropped, those that wait never leave", async () => {
  const rig = new Rig({ requests_in_flight: 1 });
  const other = rig.requests.ask("other", {});
  const context = rig.calls.begin(1, undefined, undefined);
  const waiting = rig.calls.run(context, () => rig.requests.ask("m", {})) as Promise<unknown>;
  rig.requests.answered(1, { result: 1 });
  await other;
  const unsent = rig.calls.run(context, () => rig.requests.ask("m", {})) as Promise<unknown>;
  rig.calls.abort(1);
  await assert.rejects(waiting, { name: "Cancelled", code: "CANCELLED" });
  await assert.rejects(unsent, { name: "Cancelled" });
  await assert.rejects(rig.calls.run(context, () => rig.requests.ask("m", {})) as Promise<unknown>, {
    name: "Cancelled",
  });
  assert.deepEqual(rig.posted.slice(1), [["ask", 2, "m", {}, [], 1], ["drop", 2]]);
  const next = rig.requests.ask("next", {});
  rig.requests.answered(2, { result: "late" });
  rig.requests.answered(4, { result: "next" });
  assert.equal(await next, "next");
});
