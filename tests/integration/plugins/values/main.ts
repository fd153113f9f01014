/** Makes values of JavaScript from their source, and tells what values it was given. */
import type { Core } from "coredeno";

let core: Core;
export function init(c: Core): void {
  core = c;
}

/** What `source`, an expression of JavaScript, stands for; by way of the result of the call. */
export function give(source: string): unknown {
  return make(source);
}

/** The same by way of a request. */
export async function pass(source: string): Promise<void> {
  await core.services.app.take(make(source));
}

/** The same by way of a request and its answer. */
export async function echo(source: string): Promise<unknown> {
  return await core.services.app.echo(make(source));
}

/** How values look here that came as arguments. */
export function look(...values: unknown[]): string[] {
  return values.map(show);
}

/** How a value looks here that came as the answer to a request. */
export async function fetched(): Promise<string> {
  return show(await core.services.app.give());
}

/** Whether a value that came has left the prototypes as they were, and whether bytes are a copy of one's own. */
export function harmless(value: unknown): unknown {
  const bytes = (value as { bytes: Uint8Array }).bytes;
  return {
    polluted: (({}) as { polluted?: boolean }).polluted ?? null,
    prototype: Object.getPrototypeOf(value) === Object.prototype,
    isOwn: Object.hasOwn(value as object, "__proto__"),
    alone: bytes.buffer.byteLength === bytes.byteLength,
  };
}

export const size = (value: string | Uint8Array): number => value.length;

function make(source: string): unknown {
  return new Function(`return (${source});`)();
}

function show(value: unknown): string {
  const options = { depth: 200, iterableLimit: 2000, strAbbreviateSize: 10_000, breakLength: Infinity };
  return Deno.inspect([value], { ...options, compact: true }).slice(2, -2);
}
