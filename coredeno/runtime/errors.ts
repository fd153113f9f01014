/** Errors as the wires carry them: the one table that both halves read. Pure: no I/O. */

import { defineProperty, Error, keys, ownMap } from "./intrinsics.ts";
import table from "./error_codes.json" with { type: "json" };

/** The name of an error class that may cross a wire. */
export type ErrorName = keyof typeof table;

/** A JSON-RPC error object. */
export interface WireError {
  readonly code: number;
  readonly message: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

/** A request that is refused: carried to whoever asked. */
export class Refusal extends Error {
  constructor(readonly error: WireError) {
    super(error.message);
  }
}

export function refusal(name: ErrorName, message: string): Refusal {
  return new Refusal(wireError(name, message));
}

export function wireError(
  name: ErrorName,
  message: string,
  data?: Readonly<Record<string, unknown>>,
): WireError {
  const code = table[name].code;
  return data === undefined ? { code, message } : { code, message, data };
}

const byCode = ownMap<number, { readonly name: string; readonly status: string }>();
for (const [name, { code, status }] of Object.entries(table)) byCode.set(code, { name, status });

// Of `Error` itself, or dangerous to set: a field of these names in `data` never replaces them.
const RESERVED = ownMap<string, true>();
for (const name of ["__proto__", "constructor", "prototype", "name", "message", "stack", "code"]) {
  RESERVED.set(name, true);
}

/**
 * The JavaScript error that a plugin sees for an error of the host: `name` is its class, `code` the gRPC status,
 * and the fields of `data` are properties. Make it in an `async` function right after its `await`: then its stack
 * goes on into the plugin's code at no cost before an error happens.
 */
export function errorFromHost(error: unknown): Error {
  const { code, message, data } = (typeof error === "object" && error !== null ? error : {}) as Partial<
    WireError
  >;
  const known = byCode.get(code as number) ?? { name: "InternalError", status: "INTERNAL" };
  const result = namedError(known.name, known.status, typeof message === "string" ? message : "no message");
  if (typeof data === "object" && data !== null) {
    const names = keys(data);
    for (let i = 0; i < names.length; i++) {
      const name = names[i] as string;
      if (!RESERVED.has(name)) define(result, name, data[name]);
    }
  }
  return result;
}

/** An error like those of the host, made here. */
export function ownError(name: ErrorName, message: string): Error {
  return namedError(name, table[name].status, message);
}

function namedError(name: string, code: string, message: string): Error {
  const error = new Error(message);
  define(error, "name", name, false);
  define(error, "code", code);
  return error;
}

function define(target: object, key: string, value: unknown, enumerable = true): void {
  defineProperty(target, key, { value, enumerable, writable: true, configurable: true });
}
