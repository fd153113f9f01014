import assert from "node:assert/strict";
import vectors from "../../tests/wire/batch.json" with { type: "json" };
import { type Batch, decodeBatch, encodeFrame, FrameReader } from "./batch.ts";
import { Fault } from "./check.ts";
import { concat } from "./lines.ts";

const FRAME_HEAD = 5;
const test = (name: string, fn: () => void) => Deno.test({ name, permissions: "none", fn });
const bytes = (hex: string) => Uint8Array.fromHex(hex);
const toHex = ({ messages, attachments }: Batch) => ({
  messages: messages.toHex(),
  attachments: attachments.map((attachment) => attachment.toHex()),
});

for (const { name, messages, attachments, encoded } of vectors.valid) {
  test(`${name}: written as protobuf writes it, behind a gRPC head`, () => {
    const frame = concat(encodeFrame({ messages: bytes(messages), attachments: attachments.map(bytes) }));
    assert.equal(frame.subarray(FRAME_HEAD).toHex(), encoded);
    assert.equal(frame[0], 0);
    assert.equal(new DataView(frame.buffer).getUint32(1), frame.length - FRAME_HEAD);
  });
}

for (const { name, messages, attachments, encoded } of [...vectors.valid, ...vectors.also_read]) {
  test(`${name}: read`, () =>
    assert.deepEqual(toHex(decodeBatch(bytes(encoded))), { messages, attachments }));
}

for (const { name, encoded } of [...vectors.broken, { name: "field number 0", encoded: "0200" }]) {
  test(`${name}: refused`, () => assert.throws(() => decodeBatch(bytes(encoded)), Fault));
}

test("every length reads back, and large values are passed on without a copy", () => {
  for (const length of [0, 127, 128, 16_383, 16_384, 65_535, 65_536, 300_000]) {
    const large = new Uint8Array(length).fill(length & 0xff);
    for (
      const batch of [{ messages: large, attachments: [] }, {
        messages: bytes("5b5d"),
        attachments: [large, bytes("01"), large],
      }]
    ) {
      const pieces = encodeFrame(batch);
      assert.equal(pieces.includes(large), length >= 65_536);
      assert.deepEqual(toHex(decodeBatch(concat(pieces).subarray(FRAME_HEAD))), toHex(batch));
    }
  }
});

test("frames are read the same, however they are cut", () => {
  const batches = vectors.valid.map(({ messages, attachments }) => ({
    messages: bytes(messages),
    attachments: attachments.map(bytes),
  }));
  const stream = concat(batches.flatMap(encodeFrame));
  for (const step of [1, 4, 6, 100, stream.length]) {
    const reader = new FrameReader(100_000);
    const read: Uint8Array[] = [];
    for (let at = 0; at < stream.length; at += step) read.push(...reader.push(stream.slice(at, at + step)));
    assert.deepEqual(read.map((message) => toHex(decodeBatch(message))), batches.map(toHex));
  }
});

test("a frame that is compressed or too long is refused by its head", () => {
  assert.throws(() => new FrameReader(10).push(bytes("010000000100")), /compressed/);
  assert.throws(() => new FrameReader(10).push(bytes("000000000b")), /11 bytes/);
  assert.throws(() => new FrameReader(10).push(bytes("00ffffffff")), Fault);
  assert.deepEqual(new FrameReader(10).push(bytes("0000000000")), [new Uint8Array()]);
});
