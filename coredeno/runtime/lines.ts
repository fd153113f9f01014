/**
 * The host → sidecar wire as bytes: a JSON text a line, and after the newline the raw bytes that it announces.
 * Pure: no I/O.
 */

import { Fault, type Fields, fields } from "./check.ts";
import { readSlots, type Slot } from "./slots.ts";

/** One message, with its line as it came. */
export interface Line {
  readonly text: string;
  readonly message: Fields;
  readonly slots: readonly Slot[];
  readonly buffers: readonly ArrayBuffer[];
}

const NEWLINE = 10;
const NO_SLOTS: readonly Slot[] = [];
const NO_BUFFERS: readonly ArrayBuffer[] = [];

/** Cuts a stream of bytes into messages. After a {@link Fault} it is of no use any more. */
export class LineReader {
  // Without `fatal` a broken text would become another text; a byte order mark is no JSON.
  readonly #decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  #parts: Uint8Array[] = []; // of the line that has not ended yet
  #partsSize = 0;
  #open: Open | null = null; // the message whose bytes are coming in

  /** @param limitBytes the most that a line, together with its bytes, may have. */
  constructor(readonly limitBytes: number) {}

  /**
   * Take what was read, which the caller may overwrite afterwards.
   *
   * @returns the messages that are complete by it.
   * @throws {Fault} it is not readable, or over the limit.
   */
  push(chunk: Uint8Array): Line[] {
    const lines: Line[] = [];
    let at = 0;
    while (at < chunk.length) {
      if (this.#open !== null) {
        at += this.#open.fill(chunk, at);
        if (this.#open.isComplete) {
          lines.push(this.#open);
          this.#open = null;
        }
        continue;
      }
      const end = chunk.indexOf(NEWLINE, at);
      const part = chunk.subarray(at, end === -1 ? chunk.length : end);
      if (this.#partsSize + part.length > this.limitBytes) {
        throw new Fault(`line: over ${this.limitBytes} bytes`);
      }
      if (end === -1) {
        this.#parts.push(part.slice());
        this.#partsSize += part.length;
        break;
      }
      at = end + 1;
      const line = this.#read(this.#parts.length === 0 ? part : this.#join(part));
      if (line instanceof Open) this.#open = line;
      else lines.push(line);
    }
    return lines;
  }

  #join(last: Uint8Array): Uint8Array {
    const whole = concat([...this.#parts, last]);
    this.#parts = [];
    this.#partsSize = 0;
    return whole;
  }

  #read(bytes: Uint8Array): Line | Open {
    let text: string, value: unknown;
    try {
      text = this.#decoder.decode(bytes);
      value = JSON.parse(text);
    } catch {
      throw new Fault("line: not readable, wanted one JSON text in UTF-8");
    }
    const message = fields(value, "line");
    if (message["jsonrpc"] !== "2.0") throw new Fault("line: no JSON-RPC 2.0");
    if (message["bytes"] === undefined) return { text, message, slots: NO_SLOTS, buffers: NO_BUFFERS };
    const slots = readSlots(message, message["bytes"]);
    const size = slots.reduce((sum, slot) => sum + slot.len, 0);
    if (bytes.length + size > this.limitBytes) {
      throw new Fault(`line: over ${this.limitBytes} bytes with its own`);
    }
    const open = new Open(text, message, slots);
    return open.isComplete ? { text, message, slots, buffers: open.buffers } : open;
  }
}

/** A message that waits for the rest of its bytes. */
class Open implements Line {
  readonly buffers: readonly ArrayBuffer[];
  #next = 0;
  #filled = 0;

  constructor(readonly text: string, readonly message: Fields, readonly slots: readonly Slot[]) {
    this.buffers = slots.map((slot) => new ArrayBuffer(slot.len));
    this.#skipFull();
  }

  get isComplete(): boolean {
    return this.#next === this.buffers.length;
  }

  /** Take what belongs to it from `chunk`, beginning at `at`; returns how much that was. */
  fill(chunk: Uint8Array, at: number): number {
    const begin = at;
    while (at < chunk.length) {
      const buffer = this.buffers[this.#next];
      if (buffer === undefined) break;
      const part = chunk.subarray(at, at + buffer.byteLength - this.#filled);
      new Uint8Array(buffer).set(part, this.#filled);
      this.#filled += part.length;
      at += part.length;
      this.#skipFull();
    }
    return at - begin;
  }

  #skipFull(): void {
    for (
      let buffer;
      (buffer = this.buffers[this.#next]) !== undefined && this.#filled === buffer.byteLength;
    ) {
      this.#next++;
      this.#filled = 0;
    }
  }
}

/** One array of bytes from many. */
export function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
