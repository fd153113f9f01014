/**
 * What may cross between a plugin and the host, and how: one JSON text, and binary values beside it.
 * The rules are those of docs/wire.md, "Values". Pure: no I/O.
 */

import { Fault, type Fields } from "./check.ts";
import {
  apply,
  ArrayBuffer,
  defineProperty,
  getPrototypeOf,
  getterOf,
  includes,
  isArray,
  isInstance,
  isView,
  jsonStringify,
  keys,
  replace,
  slice,
  String,
  Uint8Array,
} from "./intrinsics.ts";
import { MAX_BINARY, type Path, type Slot } from "./slots.ts";
import { describeThrown } from "./thrown.ts";

/** A value made ready to cross: its JSON, with `null` where the binary values belong. */
export interface Packed {
  readonly text: string;
  readonly slots: readonly Slot[];
  readonly buffers: readonly ArrayBuffer[];
}

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export const MAX_DEPTH = 128;
/** In the params of a request a value of the plugin stands two levels down: `params.args[0]`. */
export const PARAMS_ENVELOPE = 2;

const NOTHING: readonly never[] = Object.freeze([]);

/** A value that cannot cross; the message names the place and what is there. */
export class DataError extends Error {
  override readonly name = "DataError";
}

/** A value that is too large to cross. */
export class TooLarge extends Error {
  override readonly name = "LimitExceeded";
  readonly code = "RESOURCE_EXHAUSTED";
}

/**
 * Read a value of a plugin once, and write it as JSON with its bytes beside it.
 *
 * @param root where the value will stand in its message, such as `["result"]`.
 * @param limitBytes more than this in binary values (which are copied here) is refused; the text is the caller's.
 * @param envelope how many outer levels of it are not the plugin's and do not count.
 * @throws {DataError} it has something that cannot cross, or reading it threw.
 * @throws {TooLarge} it has too many bytes.
 */
export function pack(value: unknown, root: Path, limitBytes: number, envelope = 0): Packed {
  switch (typeof value) {
    case "string":
      return { text: wellFormed(jsonStringify(value)), slots: NOTHING, buffers: NOTHING };
    case "number":
    case "boolean":
      return { text: jsonStringify(value), slots: NOTHING, buffers: NOTHING };
    case "undefined":
      return { text: "null", slots: NOTHING, buffers: NOTHING };
  }
  const walk = new Walk(root, limitBytes);
  try {
    const text = jsonStringify(walk.copy(value, -envelope));
    return { text: wellFormed(text), slots: walk.slots, buffers: walk.buffers };
  } catch (error) {
    // Made anew: a stack shows ten frames, and those of the walk would be all of them.
    if (error instanceof DataError) throw new DataError(error.message);
    if (error instanceof TooLarge) throw new TooLarge(error.message);
    const { name, message } = describeThrown(error);
    throw walk.refuse(`reading it threw ${name}: ${slice(message, 0, 256)}`);
  }
}

const ObjectPrototype = Object.prototype;
// `Object(1n)`: the constructor itself cannot be called by `new`, so TypeScript does not take it for a class.
const BigIntObject = globalThis.BigInt as unknown as new () => bigint;
const { Boolean, Number, SharedArrayBuffer } = globalThis;
const TypedArray = getPrototypeOf(Uint8Array.prototype) as object;
const typedBuffer = getterOf<ArrayBufferLike>(TypedArray, "buffer");
const typedOffset = getterOf<number>(TypedArray, "byteOffset");
const typedLength = getterOf<number>(TypedArray, "byteLength");
const typedName = getterOf<string | undefined>(TypedArray, Symbol.toStringTag);
const viewBuffer = getterOf<ArrayBufferLike>(DataView.prototype, "buffer");
const viewOffset = getterOf<number>(DataView.prototype, "byteOffset");
const viewLength = getterOf<number>(DataView.prototype, "byteLength");

/** One walk over one value: copies it into plain data, so that a getter is asked once and nothing is read twice. */
class Walk {
  readonly slots: Slot[] = [];
  readonly buffers: ArrayBuffer[] = [];
  readonly #path: (string | number)[] = [];
  #depth = 0; // entries of #path in use: cheaper than pushing and popping
  #bytes = 0;

  constructor(readonly root: Path, readonly limitBytes: number) {}

  copy(value: unknown, depth: number): Json {
    switch (typeof value) {
      case "string":
      case "boolean":
      case "number": // JSON writes NaN and infinities as null
        return value;
      case "undefined":
        return null;
      case "object":
        return value === null ? null : this.#object(value, depth, true);
      default:
        throw this.refuse(`a ${typeof value} cannot cross`);
    }
  }

  #object(value: object, depth: number, mayConvert: boolean): Json {
    const prototype: unknown = getPrototypeOf(value);
    const isList = isArray(value);
    if (prototype !== ObjectPrototype && !isList) {
      const bytes = bytesOf(value);
      if (bytes !== null) return this.#binary(bytes);
    }
    if (mayConvert) {
      const toJSON: unknown = (value as { toJSON?: unknown }).toJSON;
      if (typeof toJSON === "function") {
        const key = this.#depth === 0 ? "" : `${this.#path[this.#depth - 1]}`;
        const converted: unknown = apply(toJSON as () => unknown, value, [key]);
        return typeof converted === "object" && converted !== null
          ? this.#object(converted, depth, false)
          : this.copy(converted, depth);
      }
    }
    if (depth >= MAX_DEPTH) throw this.refuse(`deeper than ${MAX_DEPTH} levels, or a cycle`);
    if (isList) return this.#list(value as readonly unknown[], depth);
    if (prototype !== ObjectPrototype && prototype !== null) {
      if (isInstance(Number, value)) return apply(Number.prototype.valueOf, value, []);
      if (isInstance(String, value)) return apply(String.prototype.valueOf, value, []);
      if (isInstance(BigIntObject, value)) throw this.refuse("a bigint cannot cross");
      if (isInstance(Boolean, value)) return apply(Boolean.prototype.valueOf, value, []);
    }
    const result: { [key: string]: Json } = {};
    const names = keys(value);
    const level = this.#depth++;
    for (let i = 0; i < names.length; i++) {
      const name = names[i] as string;
      this.#path[level] = name;
      const item: unknown = (value as Record<string, unknown>)[name];
      if (item === undefined) continue;
      const copied = this.copy(item, depth + 1);
      if (name === "__proto__") define(result, name, copied);
      else result[name] = copied;
    }
    this.#depth = level;
    return result;
  }

  #list(value: readonly unknown[], depth: number): Json[] {
    const length = value.length;
    // Each item is two bytes of JSON at least. A sparse `new Array(4e9)` would otherwise fill the memory.
    if (length > this.limitBytes) {
      throw new TooLarge(`${this.#where()}: a list of ${length} is too long to cross`);
    }
    const result: Json[] = [];
    const level = this.#depth++;
    for (let i = 0; i < length; i++) {
      this.#path[level] = i;
      result[i] = this.copy(value[i], depth + 1);
    }
    this.#depth = level;
    return result;
  }

  #binary(bytes: Uint8Array<ArrayBufferLike>): null {
    this.#bytes += bytes.length;
    if (this.#bytes > this.limitBytes) {
      throw new TooLarge(`${this.#where()}: ${this.#bytes} bytes, wanted at most ${this.limitBytes}`);
    }
    if (this.buffers.length === MAX_BINARY) throw this.refuse(`over ${MAX_BINARY} binary values`);
    // A copy, never the plugin's own buffer: that goes on being the plugin's, and may be shared with another thread.
    const buffer = new Uint8Array(bytes).buffer as ArrayBuffer;
    this.slots[this.buffers.length] = { at: this.#absolute(), len: buffer.byteLength };
    this.buffers[this.buffers.length] = buffer;
    return null;
  }

  refuse(problem: string): DataError {
    return new DataError(`${this.#where()}: ${problem}`);
  }

  #absolute(): (string | number)[] {
    const result: (string | number)[] = [];
    for (let i = 0; i < this.root.length; i++) result[i] = this.root[i] as string | number;
    for (let i = 0; i < this.#depth; i++) result[result.length] = this.#path[i] as string | number;
    return result;
  }

  #where(): string {
    const path = this.#absolute();
    let where = "";
    // `params` is a word of the wire, not of the plugin; the innermost of a cycle's 128 steps say nothing more.
    for (let i = path[0] === "params" && path.length > 1 ? 1 : 0; i < path.length && i < 16; i++) {
      const step = path[i];
      where += typeof step === "number" ? `[${step}]` : where === "" ? `${step}` : `.${step}`;
    }
    return path.length > 16 ? `${where}…` : where;
  }
}

/** The bytes behind a buffer or a view, not copied; null for anything else. */
function bytesOf(value: object): Uint8Array<ArrayBufferLike> | null {
  if (isView(value)) {
    return typedName(value) === undefined
      ? new Uint8Array(viewBuffer(value), viewOffset(value), viewLength(value))
      : new Uint8Array(typedBuffer(value), typedOffset(value), typedLength(value));
  }
  return isInstance(ArrayBuffer, value) || isInstance(SharedArrayBuffer, value)
    ? new Uint8Array(value)
    : null;
}

function define(target: object, key: string, value: unknown): void {
  defineProperty(target, key, { value, enumerable: true, writable: true, configurable: true });
}

/** Write data of our own as JSON; a lone surrogate in it becomes U+FFFD. */
export function writeJson(value: unknown): string {
  return wellFormed(jsonStringify(value));
}

/**
 * Write data that a Worker sent as JSON again: what leaves is what we wrote, however it was put.
 *
 * @param envelope how many outer levels of it do not count.
 * @throws {Fault} it is deeper than {@link MAX_DEPTH}.
 */
export function render(value: unknown, envelope = 0): string {
  const text = writeJson(value);
  const levels = MAX_DEPTH + envelope;
  // A level costs two characters at least, so a short text is never too deep.
  if (text.length > 2 * levels && !isShallow(value, levels)) {
    throw new Fault(`value: deeper than ${levels} levels`);
  }
  return text;
}

function isShallow(value: unknown, levels: number): boolean {
  if (typeof value !== "object" || value === null) return true;
  if (levels === 0) return false;
  if (isArray(value)) {
    for (let i = 0; i < value.length; i++) if (!isShallow(value[i], levels - 1)) return false;
    return true;
  }
  for (const key in value) if (!isShallow((value as Fields)[key], levels - 1)) return false;
  return true;
}

// A backslash that is itself escaped does not begin an escape, hence the pairs before it.
const LONE_SURROGATE = /(?<!\\)((?:\\\\)*)\\ud[89a-f][0-9a-f]{2}/g;

/** Put U+FFFD for lone surrogates in a text by `JSON.stringify`, which writes only those as `\ud…`. */
function wellFormed(text: string): string {
  return includes(text, "\\ud") ? replace(text, LONE_SURROGATE, "$1\\ufffd") : text;
}

const encoder = new TextEncoder();

/** Whether a text and `extra` bytes beside it have more than `limit` bytes; measures only where it is not obvious. */
export function isOver(text: string, extra: number, limit: number): boolean {
  if (text.length * 3 + extra <= limit) return false;
  return text.length + extra > limit || encoder.encode(text).length + extra > limit;
}
