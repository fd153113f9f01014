/** Exports a function of every kind, and some that wait until the test lets them go. */
import type { Core } from "coredeno";

let core: Core;
let inits = 0;
let isReady = false;
let last: Record<string, unknown> = {};

export async function init(c: Core): Promise<void> {
  inits++;
  core = c;
  await core.services.app.note("init begins");
  isReady = true;
}

export const life = () => ({ inits, isReady });

export function plain(...args: unknown[]): unknown[] {
  return args;
}
export const arrow = (...args: unknown[]): unknown[] => args;
export async function later(...args: unknown[]): Promise<unknown[]> {
  await new Promise((resolve) => setTimeout(resolve, 1));
  return args;
}
export default function (...args: unknown[]): unknown[] {
  return args;
}
export const bound = function (this: unknown[], ...args: unknown[]): unknown[] {
  return [...this, ...args];
}.bind([]);
export { plain as "a name with spaces" };
export const notAFunction = 1;

/** What a plugin sees of what it was passed, beside the values. */
export function seen(a: unknown, b: unknown = "default"): unknown[] {
  return [arguments.length, a === undefined, b];
}
export function receiver(this: unknown): string {
  return typeof this;
}

/** Waits until its call is aborted; `lastWait` tells how that was. */
export async function wait(name: string): Promise<never> {
  const { signal } = core.call;
  last = { name, aborted: signal.aborted };
  const aborted = new Promise<void>((resolve) =>
    signal.addEventListener("abort", () => {
      last = { name, aborted: signal.aborted, reason: signal.reason.name };
      resolve();
    })
  );
  core.services.app.note(`waiting ${name}`).catch(() => {});
  await aborted;
  throw signal.reason;
}
/** Waits until its call is aborted, and tells nobody. */
export function waitUnheard(): Promise<never> {
  const { signal } = core.call;
  signal.throwIfAborted();
  return new Promise((_resolve, reject) =>
    signal.addEventListener("abort", () => reject(signal.reason as Error))
  );
}
/** Waits in a service of the app, which never answers. */
export async function ask(name: string): Promise<unknown> {
  try {
    return await core.services.app.block(name);
  } catch (error) {
    const { name: kind, code } = error as { name: string; code: string };
    last = { name, kind, code, aborted: core.call.signal.aborted };
    throw error;
  }
}
export const lastWait = () => last;

/** Spins for ever: nothing in this Worker goes on after it. */
export async function spin(): Promise<never> {
  await core.services.app.note("spinning");
  for (;;);
}

/** The call as the plugin sees it, at once, after awaits, in a timer and in a callback; and as a service sees it. */
export async function context(): Promise<Record<string, unknown>[]> {
  const look = () => ({ trace: core.call.trace ?? null, deadline: core.call.deadline ?? null });
  const seen = [look()];
  await Promise.resolve();
  seen.push(look());
  await new Promise<void>((resolve) => setTimeout(() => resolve(void seen.push(look())), 1));
  queueMicrotask(() => seen.push(look()));
  await core.services.app.note("between");
  seen.push(look());
  return [...seen, await core.services.app.context() as Record<string, unknown>];
}
export const now = () => Date.now();

/** Asks a service after its own call has ended. */
export function afterwards(): void {
  setTimeout(() => core.services.app.note("after the call").catch((error) => console.error(error)), 1);
}

/** A call that itself calls a service. */
export async function through(value: unknown): Promise<unknown> {
  return await core.services.app.echo(value);
}
export async function gated(n: number): Promise<number> {
  return await core.services.app.take_turn(n) as number;
}

export const pid = () => Deno.pid;
