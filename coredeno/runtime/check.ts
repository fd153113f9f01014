/**
 * Looking at values of unknown shape: each function gives the value back with its type, or throws a {@link Fault}.
 * Pure: no I/O.
 */

/** Somebody on a wire did not keep to it. Whose fault it is, and what follows, is for the catcher to say. */
export class Fault extends Error {
  override readonly name = "Fault";
}

export type Fields = Readonly<Record<string, unknown>>;

/** An object that is no array, as `JSON.parse` makes it. */
export function fields(value: unknown, what: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Fault(`${what}: ${kind(value)}, wanted an object`);
  }
  return value as Fields;
}

export function text(value: unknown, what: string): string {
  if (typeof value !== "string") throw new Fault(`${what}: ${kind(value)}, wanted a text`);
  return value;
}

export function list(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new Fault(`${what}: ${kind(value)}, wanted a list`);
  return value;
}

export function texts(value: unknown, what: string): readonly string[] {
  return list(value, what).map((item, i) => text(item, `${what}[${i}]`));
}

/** A whole number from 0 to 2⁵³−1. */
export function whole(value: unknown, what: string): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
    throw new Fault(`${what}: ${kind(value)}, wanted a whole number`);
  }
  return value;
}

/** A length of time in milliseconds; fractions are welcome. */
export function milliseconds(value: unknown, what: string): number {
  if (typeof value !== "number" || !(value >= 0 && value <= Number.MAX_SAFE_INTEGER)) {
    throw new Fault(`${what}: ${kind(value)}, wanted milliseconds`);
  }
  return value;
}

/** What a value is, in words for a message; never its content. */
export function kind(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (value === undefined) return "missing";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}
