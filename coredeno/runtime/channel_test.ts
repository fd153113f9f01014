import assert from "node:assert/strict";
import { Outbox, readMessage } from "./channel.ts";
import { Fault } from "./check.ts";

const LIMIT = 1000;
const test = (name: string, fn: () => void | Promise<void>) => Deno.test({ name, permissions: "none", fn });

function outbox(): { out: Outbox; posted: unknown[][] } {
  const posted: unknown[][] = [];
  return { out: new Outbox((...message) => posted.push(message)), posted };
}

test("what one turn brings is one message", async () => {
  const { out, posted } = outbox();
  out.put("[1]");
  out.put("[2]");
  assert.equal(posted.length, 0);
  await Promise.resolve();
  assert.deepEqual(posted, [["[[1],[2]]"]]);
  out.put("[3]");
  await Promise.resolve();
  assert.equal(posted.length, 2);
});

test("binary values go beside the text, transferred, in their order", async () => {
  const { out, posted } = outbox();
  const [a, b] = [new ArrayBuffer(1), new ArrayBuffer(2)];
  out.put("[1]", [a]);
  out.put("[2]");
  out.put("[3]", [b]);
  await Promise.resolve();
  assert.deepEqual(posted, [[["[[1],[2],[3]]", a, b], [a, b]]]);
});

test("a message that has grown large does not wait", () => {
  const { out, posted } = outbox();
  out.put(`["${"x".repeat(2_000_000)}"]`);
  assert.equal(posted.length, 1);
  out.put("[1]", [new ArrayBuffer(2_000_000)]);
  assert.equal(posted.length, 2);
});

test("a message is read with its binary values", () => {
  const buffers = [new ArrayBuffer(3), new ArrayBuffer(0)];
  const { entries, attachments } = readMessage(['[["a"],["b",1]]', ...buffers], LIMIT);
  assert.deepEqual(entries, [["a"], ["b", 1]]);
  assert.throws(() => attachments.assertEmpty(), Fault);
  assert.deepEqual(attachments.take([{ at: [], len: 3 }, { at: [], len: 0 }]), buffers);
  attachments.assertEmpty();
});

test("a binary value that is missing, or of another length, is a fault", () => {
  const slots = [{ at: ["result"], len: 4 }];
  assert.throws(() => readMessage("[]", LIMIT).attachments.take(slots), Fault);
  assert.throws(() => readMessage(["[]", new ArrayBuffer(3)], LIMIT).attachments.take(slots), Fault);
});

const cyclic: unknown[] = [];
cyclic.push(cyclic);
for (
  const [name, data] of Object.entries({
    null: null,
    undefined: undefined,
    "a number": 7,
    "an object": { length: 1, 0: "[]" },
    "a cycle": cyclic,
    "an empty list": [],
    "no JSON": "hello",
    "half a JSON": "[[1]",
    "two JSONs": "[] []",
    "JSON that is no list": '{"a":1}',
    "a list of other things than lists": '[["a"],1]',
    "an object with a length": '[{"length":1}]',
    "shared memory": ["[]", new SharedArrayBuffer(1)],
    "a view": ["[]", new Uint8Array(1)],
    "a text as a binary value": ["[]", "x"],
    "too long a text": `["${"x".repeat(LIMIT)}"]`,
    "too many bytes": ["[]", new ArrayBuffer(LIMIT)],
    "a list of four thousand million": new Array(4_000_000_000),
  })
) {
  test(`a message that is ${name}: a fault of the Worker`, () => {
    assert.throws(() => readMessage(data, LIMIT), Fault);
  });
}
