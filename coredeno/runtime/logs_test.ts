import assert from "node:assert/strict";
import { Calls } from "./calls.ts";
import { LOG_CREDIT, Outbox, readMessage } from "./channel.ts";
import { Logs, replaceConsole } from "./logs.ts";

const test = (name: string, fn: () => void) => Deno.test({ name, permissions: "none", fn });

function logs(lineBytes = 100): { logs: Logs; calls: Calls; take: () => unknown[][] } {
  let posted: unknown[][] = [];
  const outbox = new Outbox((message) => posted.push(...readMessage(message, Infinity).entries));
  const calls = new Calls();
  return {
    logs: new Logs(outbox, calls, lineBytes),
    calls,
    take: () => {
      outbox.flush();
      const taken = posted;
      posted = [];
      return taken;
    },
  };
}

test("a record has its level, its parts as text, and the call that it was written in", () => {
  const { logs: log, calls, take } = logs();
  log.face.warning("a", { b: [1] }, 2n, undefined);
  calls.run(calls.begin(7, undefined, undefined), () => log.face.debug("inside"));
  assert.deepEqual(take(), [
    ["log", "warning", "a { b: [ 1 ] } 2n undefined", null],
    ["log", "debug", "inside", 7],
  ]);
});

test("what cannot be shown does not throw", () => {
  const { logs: log, take } = logs();
  log.face.info({
    [Symbol.for("Deno.customInspect")]() {
      throw new Error("no");
    },
  });
  assert.match(String(take()[0]?.[2]), /cannot be shown/);
});

for (const text of ["x".repeat(101), "é".repeat(60), "\u{1f600}".repeat(30), "\ud800".repeat(40)]) {
  test(`a record of ${JSON.stringify(text.slice(0, 2))} is cut to its bytes, between characters`, () => {
    const { logs: log, take } = logs();
    log.face.info(text);
    const message = String(take()[0]?.[2]);
    const { length } = new TextEncoder().encode(message);
    assert.ok(length <= 100 && length > 96, `${length}`);
    assert.ok(message.isWellFormed());
  });
}

test("over its credit a module drops records, and says how many", () => {
  const { logs: log, take } = logs();
  for (let i = 0; i < LOG_CREDIT + 5; i++) log.face.info(i);
  assert.equal(take().length, LOG_CREDIT);
  log.granted(10);
  log.face.info("on");
  const [first, second] = take();
  assert.deepEqual(first?.slice(0, 2), ["log", "warning"]);
  assert.match(String(first?.[2]), /^5 log records were dropped/);
  assert.equal(second?.[2], "on");
});

test("console writes records", () => {
  const { logs: log, take } = logs(10_000);
  const real = { ...console };
  try {
    replaceConsole(log);
    console.log("l");
    console.warn("w");
    console.error("e");
    console.debug("d");
    console.trace("t");
    console.assert(true, "fine");
    console.assert(false, "bad");
    console.count();
    console.count();
    console.groupEnd();
    console.timeEnd("none");
  } finally {
    Object.assign(console, real);
  }
  const records = take().map(([, level, message]) => `${level} ${message}`);
  assert.deepEqual(records.slice(0, 4), ["info l", "warning w", "error e", "debug d"]);
  assert.match(records[4] ?? "", /^debug t Error: Trace\n/);
  assert.deepEqual(records.slice(5, 8), ["error Assertion failed bad", "info default: 1", "info default: 2"]);
});
