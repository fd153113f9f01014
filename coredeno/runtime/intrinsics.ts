/**
 * The language's own functions, copied before a plugin's code runs in the same realm: what the plugin later puts
 * in their place (a patched `JSON.stringify`, a `Map.prototype.get` that throws) breaks only its own code.
 * Pure: no I/O.
 */

export const { parse: jsonParse, stringify: jsonStringify } = JSON;
export const { apply, get: reflectGet } = Reflect;
export const {
  create,
  defineProperty,
  freeze,
  getOwnPropertyDescriptor,
  getPrototypeOf,
  hasOwn,
  keys,
  setPrototypeOf,
} = Object;
export const { isArray } = Array;
export const { isView } = globalThis.ArrayBuffer;
export const { now } = Date;
export const { min, max } = Math;
export const { setTimeout, clearTimeout, queueMicrotask } = globalThis;
export const { AbortController, ArrayBuffer, Error, Map, Promise, String, Uint8Array } = globalThis;

const { bind, call } = Function.prototype;

/** A method as a function whose first argument is `this`. */
export function uncurry<This, Args extends unknown[], Result>(
  method: (this: This, ...args: Args) => Result,
): (self: This, ...args: Args) => Result {
  return bind.call(call as never, method as never) as never;
}

export const slice: (self: string, start: number, end?: number) => string = uncurry(String.prototype.slice);
export const startsWith: (self: string, part: string) => boolean = uncurry(String.prototype.startsWith);
export const includes: (self: string, part: string) => boolean = uncurry(String.prototype.includes);
export const toWellFormed: (self: string) => string = uncurry(String.prototype.toWellFormed);
export const replace: (self: string, pattern: RegExp, by: string) => string = uncurry(
  String.prototype.replace as (this: string, pattern: RegExp, by: string) => string,
);

/** `instanceof`, whatever a `Symbol.hasInstance` would say. */
export const isInstance = uncurry(Function.prototype[Symbol.hasInstance]) as <T>(
  constructor: abstract new (...args: never[]) => T,
  value: unknown,
) => value is T;

/** Get a property by the getter that `prototype` has now, whatever stands there later. */
export function getterOf<T>(prototype: object, name: string | symbol): (self: unknown) => T {
  const getter = getOwnPropertyDescriptor(prototype, name)?.get;
  if (getter === undefined) throw new TypeError(`${String(name)}: no getter, wanted one`);
  return uncurry(getter) as (self: unknown) => T;
}

const mapMethods = freeze(create(null, Object.getOwnPropertyDescriptors(Map.prototype)));

/** A `Map` whose methods are copies too. */
export function ownMap<K, V>(): Map<K, V> {
  return setPrototypeOf(new Map<K, V>(), mapMethods) as Map<K, V>;
}
