import type { Core } from "coredeno";

let core: Core;

export function init(c: Core): void {
  core = c;
}

export function echo(value: unknown): unknown {
  return value;
}

/** Asks a service of the host, one request at a time and many at once; measured here, in the plugin. */
export async function requests(
  alone: number,
  together: number,
  inFlight: number,
): Promise<{ alone_us: number; per_second: number }> {
  return await measure((i) => core.services.echo.echo(i), alone, together, inFlight);
}

/** The same for reads of the store. */
export async function reads(
  alone: number,
  together: number,
  inFlight: number,
): Promise<{ alone_us: number; per_second: number }> {
  await core.store.set("key", "value");
  return await measure(() => core.store.get("key"), alone, together, inFlight);
}

/** The same for durable writes to the store. */
export async function writes(
  alone: number,
  together: number,
  inFlight: number,
): Promise<{ alone_us: number; per_second: number }> {
  return await measure((i) => core.store.set(`key-${i % 100}`, `value ${i}`), alone, together, inFlight);
}

async function measure(
  request: (i: number) => Promise<unknown>,
  alone: number,
  together: number,
  inFlight: number,
): Promise<{ alone_us: number; per_second: number }> {
  for (let i = 0; i < alone / 4; i++) await request(i);
  let start = performance.now();
  for (let i = 0; i < alone; i++) await request(i);
  const alone_us = (performance.now() - start) * 1000 / alone;
  let left = together;
  const run = async () => {
    while (left-- > 0) await request(left);
  };
  start = performance.now();
  await Promise.all(Array.from({ length: inFlight }, run));
  return { alone_us, per_second: together * 1000 / (performance.now() - start) };
}
