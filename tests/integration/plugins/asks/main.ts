/** Does what the test tells it with `core`, and tells what came of it. */
import type { Core } from "coredeno";

let core: Core;
// deno-lint-ignore no-explicit-any
const kept = new Map<string, any>();

export function init(c: Core): void {
  core = c;
}

/** `ask("files.read", "a.txt")` gives what `core.files.read("a.txt")` gives. */
export async function ask(name: string, ...args: unknown[]): Promise<unknown> {
  const { owner, method } = name.split(".").reduce(
    // deno-lint-ignore no-explicit-any
    ({ method }: any, key) => ({ owner: method, method: method[key] }),
    { owner: null, method: core },
  );
  return await method.apply(owner, args);
}

/** What `ask` throws: all that a plugin can see of it. */
export async function refusal(name: string, ...args: unknown[]): Promise<Record<string, unknown>> {
  try {
    await ask(name, ...args);
  } catch (error) {
    const { name, message, stack } = error as Error;
    return {
      name,
      message,
      isError: error instanceof Error,
      isTold: String(error) === `${name}: ${message}`,
      stackLeadsHere: stack?.includes("main.ts") ?? false,
      ...error as Record<string, unknown>,
    };
  }
  throw new Error(`${name} was not refused`);
}

/** A store group with its methods. */
export async function inGroup(group: string, method: "get" | "set", ...args: string[]): Promise<unknown> {
  const store = core.store.group(group) as unknown as Record<string, (...args: string[]) => Promise<unknown>>;
  return await store[method]!(...args);
}

/** A program and its handle; the handle is kept by its name. */
export async function run(name: string, ...args: string[]): Promise<string> {
  kept.set(name, await core.processes.start("shell", ["-c", ...args]));
  return kept.get(name).id;
}
export const waitFor = (name: string): Promise<unknown> => kept.get(name).wait();
export const stop = (name: string): Promise<void> => kept.get(name).stop();

export const facts = (): unknown => ({ code: core.code, services: Object.keys(core.services) });
export const frozen = (): boolean =>
  [core, core.files, core.store, core.processes, core.log, core.services, core.services.app].every(
    Object.isFrozen,
  );

export function writeLogs(): void {
  core.log.debug("debug", 1, { a: [1, { b: undefined }] });
  core.log.info("info", "two words", null, undefined);
  core.log.warning("warning", new Map([["k", 1n]]));
  core.log.error("error", new RangeError("out of it"));
}
