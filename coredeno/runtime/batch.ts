/**
 * The Session as bytes: gRPC's frames of five bytes and a message (grpc.io, "gRPC over HTTP2", Length-Prefixed-Message),
 * and in them `message Batch { bytes messages = 1; repeated bytes attachments = 2; }`, by hand: two fields are not worth
 * a library. Pure: no I/O.
 */

import { Fault } from "./check.ts";
import { concat } from "./lines.ts";

export interface Batch {
  readonly messages: Uint8Array;
  readonly attachments: readonly Uint8Array[];
}

const FRAME_HEAD = 5;
const MESSAGES_TAG = (1 << 3) | 2;
const ATTACHMENT_TAG = (2 << 3) | 2;
// From here on a buffer is passed on as it is; below, one copy is cheaper than one write more.
const WORTH_A_WRITE = 65_536;

/** Write a batch as one gRPC frame, in as many pieces as spare a copy of what is large. */
export function encodeFrame(batch: Batch): Uint8Array[] {
  let size = fieldSize(batch.messages.length);
  for (const attachment of batch.attachments) size += fieldSize(attachment.length);
  if (size < WORTH_A_WRITE) {
    const frame = new Uint8Array(FRAME_HEAD + size);
    let at = writeFrameHead(frame, size);
    at = writeField(frame, at, MESSAGES_TAG, batch.messages);
    for (const attachment of batch.attachments) at = writeField(frame, at, ATTACHMENT_TAG, attachment);
    return [frame];
  }
  const head = new Uint8Array(FRAME_HEAD);
  writeFrameHead(head, size);
  const pieces: Uint8Array[] = [];
  let small: Uint8Array[] = [head];
  const add = (tag: number, bytes: Uint8Array) => {
    const tagged = new Uint8Array(fieldSize(bytes.length) - bytes.length);
    writeTag(tagged, 0, tag, bytes.length);
    small.push(tagged);
    if (bytes.length < WORTH_A_WRITE) {
      small.push(bytes);
    } else {
      pieces.push(concat(small), bytes);
      small = [];
    }
  };
  add(MESSAGES_TAG, batch.messages);
  for (const attachment of batch.attachments) add(ATTACHMENT_TAG, attachment);
  if (small.length > 0) pieces.push(concat(small));
  return pieces;
}

/**
 * Read a batch. Fields that are not known are skipped, as protobuf wants it.
 *
 * @returns views on `bytes`, no copies.
 * @throws {Fault} it is no such message.
 */
export function decodeBatch(bytes: Uint8Array): Batch {
  let messages = new Uint8Array(0) as Uint8Array;
  const attachments: Uint8Array[] = [];
  let at = 0;
  const varint = (): number => {
    let value = 0;
    // Ten bytes hold 64 bits; multiplying, not shifting, keeps what is above 32 of them.
    for (let i = 0; i < 10; i++) {
      const byte = bytes[at++];
      if (byte === undefined) throw new Fault("batch: ends within a number");
      value += (byte & 0x7f) * 2 ** (7 * i);
      if (byte < 0x80) return value;
    }
    throw new Fault("batch: a number of over ten bytes");
  };
  const take = (length: number): Uint8Array => {
    if (length > bytes.length - at) throw new Fault("batch: ends within a field");
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const tag = varint();
    if (tag < 8 || tag >= 2 ** 32) throw new Fault("batch: no such field");
    if (tag === MESSAGES_TAG) messages = take(varint());
    else if (tag === ATTACHMENT_TAG) attachments.push(take(varint()));
    else if (tag % 8 === 0) varint();
    else if (tag % 8 === 1) take(8);
    else if (tag % 8 === 2) take(varint());
    else if (tag % 8 === 5) take(4);
    else throw new Fault("batch: no such wire type");
  }
  return { messages, attachments };
}

/** Cuts a stream of bytes into the messages of gRPC frames. After a {@link Fault} it is of no use any more. */
export class FrameReader {
  #parts: Uint8Array[] = [];
  #size = 0;

  /** @param limitBytes the most that one message may have. */
  constructor(readonly limitBytes: number) {}

  /**
   * Take what was read, which must stay as it is as long as the messages are used.
   *
   * @throws {Fault} a frame is compressed (nobody offered that) or over the limit.
   */
  push(chunk: Uint8Array): Uint8Array[] {
    const messages: Uint8Array[] = [];
    this.#parts.push(chunk);
    this.#size += chunk.length;
    while (this.#size >= FRAME_HEAD) {
      const head = this.#peekHead();
      if (head[0] !== 0) throw new Fault("frame: compressed, wanted plain");
      const length = new DataView(head.buffer, head.byteOffset).getUint32(1);
      if (length > this.limitBytes) {
        throw new Fault(`frame: ${length} bytes, wanted at most ${this.limitBytes}`);
      }
      if (this.#size < FRAME_HEAD + length) break;
      const whole = this.#parts.length === 1 ? this.#parts[0] as Uint8Array : concat(this.#parts);
      messages.push(whole.subarray(FRAME_HEAD, FRAME_HEAD + length));
      const rest = whole.subarray(FRAME_HEAD + length);
      this.#parts = rest.length > 0 ? [rest] : [];
      this.#size = rest.length;
    }
    return messages;
  }

  #peekHead(): Uint8Array {
    const first = this.#parts[0] as Uint8Array;
    if (first.length >= FRAME_HEAD) return first;
    const whole = concat(this.#parts); // a few bytes, or a head that was cut in two
    this.#parts = [whole];
    return whole;
  }
}

function fieldSize(length: number): number {
  let size = 2 + length; // the tag and the last byte of the length
  for (let rest = length; rest >= 0x80; rest = Math.floor(rest / 0x80)) size++;
  return size;
}

function writeTag(into: Uint8Array, at: number, tag: number, length: number): number {
  into[at++] = tag;
  for (; length >= 0x80; length = Math.floor(length / 0x80)) into[at++] = (length % 0x80) | 0x80;
  into[at++] = length;
  return at;
}

function writeField(into: Uint8Array, at: number, tag: number, bytes: Uint8Array): number {
  at = writeTag(into, at, tag, bytes.length);
  into.set(bytes, at);
  return at + bytes.length;
}

function writeFrameHead(into: Uint8Array, size: number): number {
  new DataView(into.buffer).setUint32(1, size);
  return FRAME_HEAD;
}
