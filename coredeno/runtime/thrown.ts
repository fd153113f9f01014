/** Reading what a plugin threw, whatever that may be. Pure: no I/O. */

import { fields, text } from "./check.ts";
import { reflectGet, slice, String, toWellFormed } from "./intrinsics.ts";

/** What is told of a thrown value. Each text is well formed and at most {@link LONGEST} characters. */
export interface Thrown {
  readonly name: string;
  readonly message: string;
  readonly stack: string;
  readonly code?: string;
}

/** Enough for any honest stack; a dishonest one must not fill a log. */
export const LONGEST = 8192;

/** Read `name`, `message`, `stack` and `code` of anything: it never throws, and runs getters inside `try`. */
export function describeThrown(thrown: unknown): Thrown {
  if ((typeof thrown !== "object" || thrown === null) && typeof thrown !== "function") {
    return { name: "Error", message: cut(String(thrown)), stack: "" };
  }
  const code = property(thrown, "code");
  const result = {
    name: property(thrown, "name") || "Error",
    message: property(thrown, "message") ?? asText(thrown),
    stack: property(thrown, "stack") ?? "",
  };
  return code === undefined ? result : { ...result, code };
}

/** Check what a Worker says was thrown: main's own reading of it, every text cut again. */
export function readThrown(value: unknown): Thrown {
  const thrown = fields(value, "thrown");
  const result = {
    name: cut(text(thrown["name"], "thrown.name")),
    message: cut(text(thrown["message"], "thrown.message")),
    stack: cut(text(thrown["stack"], "thrown.stack")),
  };
  const code = thrown["code"];
  return code === undefined ? result : { ...result, code: cut(text(code, "thrown.code")) };
}

function property(thrown: object, key: string): string | undefined {
  try {
    const value: unknown = reflectGet(thrown, key);
    return typeof value === "string" ? cut(value) : undefined;
  } catch {
    return undefined;
  }
}

function asText(thrown: object): string {
  try {
    return cut(String(thrown));
  } catch {
    return "a thrown value that cannot be read";
  }
}

function cut(value: string): string {
  return toWellFormed(value.length > LONGEST ? slice(value, 0, LONGEST) : value);
}
