/**
 * What main and its Workers say to each other, over a MessagePort. Pure: no I/O.
 *
 * One message is one JSON text, a list of entries, each a list that begins with its kind; where there are binary
 * values it is `[text, ...ArrayBuffer]`, in the order of the entries that name them. Text, because it is both
 * the fastest and the safest: a structured clone of objects costs three times what `JSON.parse` does, and a
 * string can hold no getter, no cycle and no shared memory.
 *
 * | Worker → main | |
 * |---|---|
 * | `["loaded", exports]` | `init` has returned |
 * | `["unloadable", thrown]` | the import or `init` threw |
 * | `["done", id, value, slots]` | what a call returned |
 * | `["failed", id, error name, message or thrown]` | why it did not |
 * | `["ask", id, method, params, slots, call id or null]` | a request to the host |
 * | `["drop", id]` | the plugin no longer waits for that request |
 * | `["log", level, message, call id or null]` | a log record |
 * | `["pong", n]`, `["disposed"]` | |
 *
 * | main → Worker | |
 * |---|---|
 * | `["load", order, slots]` | see {@link LoadOrder}; the slots' paths are those of `LoadModule`'s params |
 * | `["call", arrived, line]` | the host's `Call`, as it came, and when, in milliseconds of the epoch |
 * | `["abort", id]` | cancel that call |
 * | `["answer", id, answer, slots]` | the host's answer to a request: `{result}` or `{error}` |
 * | `["logged", n]` | n more log records may come |
 * | `["ping", n]`, `["dispose"]`, `["leash"]` | the last one brings a port whose end tells main of the Worker's |
 */

import type { Limits } from "./boot.ts";
import { Fault } from "./check.ts";
import { ArrayBuffer, isArray, isInstance, jsonParse, queueMicrotask } from "./intrinsics.ts";
import type { Slot } from "./slots.ts";
import type { Json } from "./values.ts";

/** What a Worker has to load. */
export interface LoadOrder {
  /** The host's id of the request, under which it can be cancelled. */
  readonly id: number;
  readonly code: string;
  readonly url: string;
  readonly entry: string;
  readonly services: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly config: Readonly<Record<string, Json>>;
  readonly limits: Limits;
  /** Milliseconds of the epoch; null if there is none. */
  readonly deadline: number | null;
}

export const LOG_LEVELS = ["debug", "info", "warning", "error"] as const;
export type LogLevel = typeof LOG_LEVELS[number];

/** How many log records a module may send before main has said that it passed some on. */
export const LOG_CREDIT = 1024;

/** A module waits with more requests while those that wait for an answer have this many times `message_bytes`. */
export const REQUEST_BYTES_FACTOR = 4;

// A message that has grown to this goes out at once: nothing is gained by making it larger.
const FULL = 1_048_576;
/** How much larger than `message_bytes` a message of the channel may be: what was gathered before its last entry. */
export const CHANNEL_SLACK = 2 * FULL;

/** Gathers entries, and posts all that one turn brings as one message. */
export class Outbox {
  readonly #post: (message: unknown, transfer?: ArrayBuffer[]) => void;
  #texts = "";
  #buffers: ArrayBuffer[] = [];
  #bytes = 0;
  #isScheduled = false;

  constructor(post: (message: unknown, transfer?: ArrayBuffer[]) => void) {
    this.#post = post;
  }

  /** Add an entry, written as JSON, and the binary values that it names (which are transferred). */
  put(entry: string, buffers?: readonly ArrayBuffer[]): void {
    this.#texts = this.#texts === "" ? entry : `${this.#texts},${entry}`;
    if (buffers !== undefined) {
      for (let i = 0; i < buffers.length; i++) {
        const buffer = buffers[i] as ArrayBuffer;
        this.#buffers[this.#buffers.length] = buffer;
        this.#bytes += buffer.byteLength;
      }
    }
    if (this.#texts.length + this.#bytes >= FULL) {
      this.flush();
    } else if (!this.#isScheduled) {
      this.#isScheduled = true;
      queueMicrotask(() => this.flush());
    }
  }

  flush(): void {
    this.#isScheduled = false;
    if (this.#texts === "") return;
    const text = `[${this.#texts}]`;
    const buffers = this.#buffers;
    this.#texts = "";
    this.#bytes = 0;
    if (buffers.length === 0) {
      this.#post(text);
    } else {
      this.#buffers = [];
      const message: unknown[] = [text];
      for (let i = 0; i < buffers.length; i++) message[i + 1] = buffers[i];
      this.#post(message, buffers);
    }
  }
}

/** The binary values of one message, taken in their order. */
export class Attachments {
  readonly #message: readonly unknown[];
  #next = 1;

  constructor(message: readonly unknown[]) {
    this.#message = message;
  }

  /** The next ones, one for each slot. */
  take(slots: readonly Slot[]): ArrayBuffer[] {
    const buffers: ArrayBuffer[] = [];
    for (let i = 0; i < slots.length; i++) {
      const buffer = this.#message[this.#next++];
      if (!isInstance(ArrayBuffer, buffer) || buffer.byteLength !== (slots[i] as Slot).len) {
        throw new Fault("message: a binary value is missing or not as long as it says");
      }
      buffers[i] = buffer;
    }
    return buffers;
  }

  assertEmpty(): void {
    if (this.#next < this.#message.length) throw new Fault("message: a binary value that nothing names");
  }
}

/**
 * Take a message apart.
 *
 * @param limit the most that its text and its binary values may have together.
 * @throws {Fault} it is not one.
 */
export function readMessage(
  data: unknown,
  limit: number,
): { entries: unknown[][]; attachments: Attachments } {
  const message: readonly unknown[] = isArray(data) ? data : [data];
  const text = message[0];
  if (typeof text !== "string") throw new Fault("message: wanted a text");
  let size = text.length;
  for (let i = 1; i < message.length; i++) {
    const buffer = message[i];
    if (!isInstance(ArrayBuffer, buffer)) throw new Fault("message: wanted a text and plain buffers");
    size += buffer.byteLength;
  }
  if (size > limit) throw new Fault(`message: ${size} long, wanted at most ${limit}`);
  let entries: unknown;
  try {
    entries = jsonParse(text);
  } catch {
    throw new Fault("message: no JSON");
  }
  if (!isArray(entries)) throw new Fault("message: wanted a list");
  for (let i = 0; i < entries.length; i++) if (!isArray(entries[i])) throw new Fault("message: wanted lists");
  return { entries: entries as unknown[][], attachments: new Attachments(message) };
}
