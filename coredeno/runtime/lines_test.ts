import assert from "node:assert/strict";
import vectors from "../../tests/wire/rpc.json" with { type: "json" };
import { Fault } from "./check.ts";
import { resultText } from "./jsonrpc.ts";
import { type Line, LineReader } from "./lines.ts";
import type { Slot } from "./slots.ts";

const LIMIT = 1_000_000;
const test = (name: string, fn: () => void) => Deno.test({ name, permissions: "none", fn });

interface Answer {
  id: number;
  result?: unknown;
  bytes?: Slot[];
}

function read(bytes: Uint8Array, step: number, limit = LIMIT): Line[] {
  const reader = new LineReader(limit);
  const lines: Line[] = [];
  const buffer = new Uint8Array(step); // used again for each read, as the wire does
  for (let at = 0; at < bytes.length; at += step) {
    const part = bytes.subarray(at, at + step);
    buffer.set(part);
    lines.push(...reader.push(buffer.subarray(0, part.length)));
  }
  return lines;
}

for (const { name, hex, messages } of [...vectors.to_sidecar, ...vectors.to_host]) {
  test(`${name}: read the same, however it is cut`, () => {
    const bytes = Uint8Array.fromHex(hex);
    for (const step of [1, 2, 3, 7, bytes.length]) {
      const lines = read(bytes, step).map(({ text, message, buffers }) => {
        assert.deepEqual(JSON.parse(text), message);
        return { message, bytes: buffers.map((buffer) => new Uint8Array(buffer).toHex()) };
      });
      assert.deepEqual(lines, messages);
    }
  });
}

for (const { name, hex, limit_bytes } of [...vectors.unreadable, ...vectors.unplaceable]) {
  test(`${name}: refused, however it is cut`, () => {
    const bytes = Uint8Array.fromHex(hex);
    for (const step of [1, bytes.length]) assert.throws(() => read(bytes, step, limit_bytes), Fault);
  });
}

test("what we write is what the host reads", () => {
  for (const { hex, messages } of vectors.to_host) {
    let written = "";
    for (const { message, bytes } of messages as { message: Answer; bytes: string[] }[]) {
      const { id, result } = message;
      const text = result === undefined
        ? JSON.stringify(message)
        : resultText(id, JSON.stringify(result), message.bytes ?? []);
      written += new TextEncoder().encode(text + "\n").toHex() + bytes.join("");
    }
    assert.equal(written, hex);
  }
});

test("a line of just the limit passes, with its bytes as well", () => {
  const text = '{"jsonrpc":"2.0","id":1,"result":null,"bytes":[{"at":["result"],"len":9}]}';
  const bytes = new TextEncoder().encode(`${text}\n123456789`);
  assert.equal(read(bytes, bytes.length, text.length + 9).length, 1);
  assert.throws(() => read(bytes, bytes.length, text.length + 8), Fault);
});

test("a slow line costs no more than its length", () => {
  const bytes = new TextEncoder().encode(`{"jsonrpc":"2.0","id":1,"result":"${"x".repeat(900_000)}"}\n`);
  assert.equal(read(bytes, 100).length, 1);
});
