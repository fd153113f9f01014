import assert from "node:assert/strict";
import { CallContext, Calls } from "./calls.ts";

const test = (name: string, fn: () => void | Promise<void>) => Deno.test({ name, permissions: "none", fn });
const abortOf = (signal: AbortSignal) => new Promise((resolve) => signal.addEventListener("abort", resolve));

test("a call is carried through awaits and timers, and each keeps its own", async () => {
  const calls = new Calls();
  const work = async () => {
    await new Promise((resolve) => setTimeout(resolve, 1));
    return calls.face.trace;
  };
  const contexts = ["a", "b", "c"].map((trace, i) => calls.begin(i, undefined, trace));
  assert.deepEqual(await Promise.all(contexts.map((context) => calls.run(context, work))), ["a", "b", "c"]);
  assert.equal(calls.current, undefined);
});

test("outside of a call there is no id and no deadline, and the signal is never aborted", () => {
  const { id, deadline, trace, signal } = new Calls().face;
  assert.deepEqual([id, deadline, trace, signal.aborted], [undefined, undefined, undefined, false]);
});

test("the host's cancel aborts the signal of that call and of no other", () => {
  const calls = new Calls();
  const [one, other] = [calls.begin(1, undefined, undefined), calls.begin(2, undefined, undefined)];
  calls.abort(1);
  calls.abort(1);
  calls.abort(99);
  assert.equal(one.signal.aborted, true);
  assert.equal(one.signal.reason.name, "Cancelled");
  assert.equal(one.signal.reason.code, "CANCELLED");
  assert.equal(other.signal.aborted, false);
});

test("a signal that is asked for too late is aborted already", () => {
  const calls = new Calls();
  const context = calls.begin(1, undefined, undefined);
  calls.abortAll("over");
  assert.equal(context.signal.reason.message, "over");
});

test("a call that has ended is not aborted any more", () => {
  const calls = new Calls();
  const context = calls.begin(1, undefined, undefined);
  calls.end(context);
  calls.abort(1);
  assert.equal(context.signal.aborted, false);
});

test("each call is aborted at its own deadline, whatever their order", async () => {
  const calls = new Calls();
  const now = Date.now();
  const late = calls.begin(1, now + 40, undefined);
  const soon = calls.begin(2, now + 10, undefined);
  await abortOf(soon.signal);
  assert.ok(Date.now() >= now + 10);
  assert.equal(late.signal.aborted, false);
  await abortOf(late.signal);
  assert.ok(Date.now() >= now + 40);
  assert.equal(late.signal.reason.name, "PluginTimeout");
  assert.equal(late.signal.reason.code, "DEADLINE_EXCEEDED");
});

test("a deadline that has passed aborts in the next turn", async () => {
  const calls = new Calls();
  await abortOf(calls.begin(1, Date.now() - 5, undefined).signal);
});

test("listeners are told once, and those that were taken back are not", () => {
  const context = new Calls().begin(1, undefined, undefined);
  const told: string[] = [];
  CallContext.listen(context, 1, (reason) => told.push(reason.message));
  CallContext.listen(context, 2, (reason) => told.push(reason.message));
  CallContext.forget(context, 2);
  CallContext.abort(context, new Error("first"));
  CallContext.abort(context, new Error("second"));
  assert.deepEqual(told, ["first"]);
});

test("what listens to the signal runs as a part of the call", async () => {
  const calls = new Calls();
  const context = calls.begin(7, Date.now() + 5, undefined);
  const id = new Promise((resolve) => context.signal.addEventListener("abort", () => resolve(calls.face.id)));
  assert.equal(await id, 7);
});
