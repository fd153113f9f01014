/** Where binary values stand in a message: beside it, each named by its place. Pure: no I/O. */

import { Fault, type Fields, fields, list, whole } from "./check.ts";
import { hasOwn, isArray, jsonStringify, Uint8Array } from "./intrinsics.ts";

/** A way into a value: object keys and array indexes, from its root. */
export type Path = readonly (string | number)[];

/** Where in a message a binary value belongs, and how long it is. */
export interface Slot {
  readonly at: Path;
  readonly len: number;
}

/** The most binary values that a message may have. */
export const MAX_BINARY = 1024;

/**
 * Read a message's `bytes`, and see that each entry names a place of its own that holds `null`.
 *
 * @throws {Fault} it does not.
 */
export function readSlots(message: Fields, bytes: unknown): Slot[] {
  const entries = list(bytes, "bytes");
  if (entries.length === 0) return []; // nearly always
  if (entries.length > MAX_BINARY) {
    throw new Fault(`bytes: ${entries.length} entries, wanted at most ${MAX_BINARY}`);
  }
  const seen = new Set<string>();
  return entries.map((entry, i) => {
    const { at, len } = fields(entry, `bytes[${i}]`);
    const path = list(at, `bytes[${i}].at`) as Path;
    const name = jsonStringify(path);
    if (seen.has(name)) throw new Fault(`bytes[${i}].at: ${name} twice`);
    seen.add(name);
    locate(message, path);
    return { at: path, len: whole(len, `bytes[${i}].len`) };
  });
}

/** Put binary values where they belong, in place. What `readSlots` let pass is never refused here. */
export function fill(message: Fields, slots: readonly Slot[], buffers: readonly ArrayBuffer[]): void {
  for (let i = 0; i < slots.length; i++) {
    const { at } = slots[i] as Slot;
    const parent = locate(message, at);
    parent[at[at.length - 1] as string] = new Uint8Array(buffers[i] as ArrayBuffer);
  }
}

function locate(message: Fields, at: Path): Record<string, unknown> {
  if (at[0] !== "params" && at[0] !== "result") throw new Fault("bytes: a path begins with params or result");
  let parent: unknown = null;
  let value: unknown = message;
  for (let i = 0; i < at.length; i++) {
    const step = at[i];
    const isStep = isArray(value) ? typeof step === "number" : typeof step === "string";
    if (!isStep || typeof value !== "object" || value === null || !hasOwn(value, step as string)) {
      throw new Fault("bytes: no such place");
    }
    parent = value;
    value = (value as Fields)[step as string];
  }
  if (value !== null) throw new Fault("bytes: the place does not hold null");
  return parent as Record<string, unknown>;
}
