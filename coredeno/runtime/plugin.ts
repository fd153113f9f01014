/** A plugin in its Worker: loading it, calling it, ending it. */

import type { Calls } from "./calls.ts";
import type { Attachments, LoadOrder, Outbox } from "./channel.ts";
import { problemOfExports } from "./exports.ts";
import { apply, hasOwn, jsonStringify, keys, replace, slice, startsWith } from "./intrinsics.ts";
import type { Logs } from "./logs.ts";
import { fill, type Slot } from "./slots.ts";
import { describeThrown, type Thrown } from "./thrown.ts";
import type { Core } from "./types.ts";
import { isOver, pack, TooLarge } from "./values.ts";

type Exported = (...args: unknown[]) => unknown;
type Namespace = Readonly<Record<string, unknown>>;

/** The host's `Call`, as far as a Worker reads it; main has looked at it. */
interface CallRequest {
  readonly id: number;
  readonly params: {
    readonly function: string;
    readonly args: unknown[];
    readonly deadline_ms?: number;
    readonly trace?: string;
  };
  readonly bytes?: readonly Slot[];
}

// Called by us, at the beginning and at the end; never by the host's `Call`.
const INIT = "init";
const DISPOSE = "dispose";
// Around a result in its line: the id, the names.
const RESULT_OVERHEAD = 64;
const SYNTAX = "SyntaxError: ";
const BOOTSTRAP_FRAMES = /\n\s+at (?:async )?data:application\/javascript,[^\n]*/g;

class LoadError extends Error {
  override readonly name = "LoadError";
}

export class Plugin {
  #namespace: Namespace | null = null;

  constructor(
    readonly outbox: Outbox,
    readonly calls: Calls,
    readonly logs: Logs,
    readonly messageBytes: number,
  ) {}

  /** Import it and run its `init`; main is told how that went. */
  async load(order: LoadOrder, core: Core): Promise<void> {
    const context = this.calls.begin(order.id, order.deadline ?? undefined, undefined);
    try {
      const { namespace } = await importPlugin(order.url);
      const exports = functionsOf(namespace);
      if (exports.length === 0) {
        throw new LoadError(`${order.entry} exports nothing: wanted init or at least one function`);
      }
      const problem = problemOfExports(exports);
      if (problem !== null) throw new LoadError(`${order.entry}: ${problem}`);
      this.#namespace = namespace;
      const init = this.#exported(INIT);
      if (init !== undefined) await this.calls.run(context, () => init(core));
      this.outbox.put(`["loaded",${jsonStringify(exports)}]`);
    } catch (thrown) {
      this.outbox.put(`["unloadable",${jsonStringify(describeLoadError(thrown))}]`);
    } finally {
      this.calls.end(context);
    }
  }

  /** Run one call of the host, and answer it. */
  async call(arrived: number, request: CallRequest, attachments: Attachments): Promise<void> {
    const { id, params } = request;
    if (request.bytes !== undefined) {
      fill(request as unknown as Namespace, request.bytes, attachments.take(request.bytes));
    }
    const deadline = params.deadline_ms === undefined ? undefined : arrived + params.deadline_ms;
    const context = this.calls.begin(id, deadline, params.trace);
    try {
      const name = params.function;
      const exported = name === INIT || name === DISPOSE ? undefined : this.#exported(name);
      if (exported === undefined) {
        return this.#failed(
          id,
          "MethodNotFound",
          `${slice(name, 0, 64)}: no function of this name is exported`,
        );
      }
      this.#done(id, await this.calls.run(context, () => apply(exported, undefined, params.args)));
    } catch (thrown) {
      this.#failed(id, "PluginRaised", describeThrown(thrown));
    } finally {
      this.calls.end(context);
    }
  }

  /** Abort what is running, and let the plugin's `dispose` run. */
  async dispose(): Promise<void> {
    this.calls.abortAll("the plugin is being unloaded");
    try {
      await this.#exported(DISPOSE)?.();
    } catch (thrown) {
      this.logs.write("error", ["dispose:", thrown]);
    }
    this.outbox.put('["disposed"]');
  }

  /** An exported function, by own property: `constructor` and `toString` are names like others. */
  #exported(name: string): Exported | undefined {
    const namespace = this.#namespace;
    if (namespace === null || !hasOwn(namespace, name)) return undefined;
    const value = namespace[name];
    return typeof value === "function" ? value as Exported : undefined;
  }

  #done(id: number, value: unknown): void {
    let packed;
    try {
      packed = pack(value, ["result"], this.messageBytes);
    } catch (error) {
      if (error instanceof TooLarge) return this.#failed(id, "LimitExceeded", error.message);
      throw error;
    }
    const { text, slots, buffers } = packed;
    const places = jsonStringify(slots);
    let bytes = RESULT_OVERHEAD;
    for (let i = 0; i < buffers.length; i++) bytes += (buffers[i] as ArrayBuffer).byteLength;
    if (isOver(text, bytes + 3 * places.length, this.messageBytes)) {
      return this.#failed(
        id,
        "LimitExceeded",
        `result: too large, wanted at most ${this.messageBytes} bytes`,
      );
    }
    this.outbox.put(`["done",${id},${text},${places}]`, buffers);
  }

  #failed(id: number, name: string, detail: string | Thrown): void {
    this.outbox.put(`["failed",${id},"${name}",${jsonStringify(detail)}]`);
  }
}

/** The names of the functions that it exports; a loop, as the plugin may have put something in the place of `filter`. */
function functionsOf(namespace: Namespace): string[] {
  const names = keys(namespace);
  const functions: string[] = [];
  for (let i = 0; i < names.length; i++) {
    const name = names[i] as string;
    if (typeof namespace[name] === "function") functions[functions.length] = name;
  }
  return functions;
}

/**
 * Import a plugin through a wrapper: a namespace that exports `then` is a thenable, and would hang a plain `import()`.
 * The wrapper is a `data:` URL, which needs no permission; the plugin behind it is read with the Worker's own.
 */
async function importPlugin(url: string): Promise<{ readonly namespace: Namespace }> {
  const wrapper = `import * as namespace from ${jsonStringify(url)}; export { namespace };`;
  return await import(`data:application/javascript,${encodeURIComponent(wrapper)}`);
}

/** Deno tells a syntax error as the text of a TypeError, and names our wrapper; neither helps a plugin's author. */
function describeLoadError(thrown: unknown): Thrown {
  const { name, message, stack, code } = describeThrown(thrown);
  const told = {
    name,
    message: replace(message, BOOTSTRAP_FRAMES, ""),
    stack: replace(stack, BOOTSTRAP_FRAMES, ""),
  };
  if (startsWith(told.message, SYNTAX)) {
    return { ...told, name: "SyntaxError", message: slice(told.message, SYNTAX.length) };
  }
  return code === undefined ? told : { ...told, code };
}
