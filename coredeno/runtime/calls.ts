/** The calls of the host that are running in a Worker: their signals, their deadlines, what they asked for. */

import { AsyncLocalStorage } from "node:async_hooks";
import { ownError } from "./errors.ts";
import { AbortController, clearTimeout, max, min, now, ownMap, setTimeout, uncurry } from "./intrinsics.ts";
import { LONGEST_TIMER_MS } from "./timing.ts";
import type { Call } from "./types.ts";

const getStore = uncurry(
  AsyncLocalStorage.prototype.getStore as (this: AsyncLocalStorage<CallContext>) => CallContext | undefined,
);
const runIn = uncurry(
  AsyncLocalStorage.prototype.run as (
    this: AsyncLocalStorage<CallContext>,
    store: CallContext,
    callback: () => unknown,
  ) => unknown,
);
const abort = uncurry(AbortController.prototype.abort);

/** One call, as `core.call` gives it. Its signal is made when somebody wants it. */
export class CallContext implements Call {
  #controller: AbortController | null = null;
  #reason: Error | null = null;
  #onAbort: Map<number, (reason: Error) => void> | null = null;

  constructor(
    readonly id: number | undefined,
    readonly deadline: number | undefined,
    readonly trace: string | undefined,
  ) {}

  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController();
      if (this.#reason !== null) abort(this.#controller, this.#reason);
    }
    return this.#controller.signal;
  }

  /** Why it was aborted, or null. */
  static reason(context: CallContext): Error | null {
    return context.#reason;
  }

  /** Be told, once, if it is aborted; `id` is for {@link forget}. */
  static listen(context: CallContext, id: number, listener: (reason: Error) => void): void {
    (context.#onAbort ??= ownMap()).set(id, listener);
  }

  static forget(context: CallContext, id: number): void {
    context.#onAbort?.delete(id);
  }

  static abort(context: CallContext, reason: Error): void {
    if (context.#reason !== null) return;
    context.#reason = reason;
    const listeners = context.#onAbort;
    context.#onAbort = null;
    listeners?.forEach((listener) => listener(reason));
    if (context.#controller !== null) abort(context.#controller, reason);
  }
}

const OUTSIDE = new CallContext(undefined, undefined, undefined);

/** All calls that are running, with one timer for all their deadlines. */
export class Calls {
  readonly #running = ownMap<number, CallContext>();
  readonly #storage = new AsyncLocalStorage<CallContext>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #timerAt = Infinity;

  /** The call that the running code belongs to, or undefined. */
  get current(): CallContext | undefined {
    return getStore(this.#storage);
  }

  /** The same, for plugins: outside of a call, one without deadline whose signal is never aborted. */
  get face(): Call {
    return getStore(this.#storage) ?? OUTSIDE;
  }

  /** Begin a call. Until `end`, it can be aborted by its id. */
  begin(id: number, deadline: number | undefined, trace: string | undefined): CallContext {
    const context = new CallContext(id, deadline, trace);
    this.#running.set(id, context);
    if (deadline !== undefined && deadline < this.#timerAt) this.#arm(deadline);
    return context;
  }

  /** Run `work` as a part of this call. */
  run(context: CallContext, work: () => unknown): unknown {
    return runIn(this.#storage, context, work);
  }

  end(context: CallContext): void {
    this.#running.delete(context.id as number);
  }

  /** The host cancels a call; one that has ended is no matter. */
  abort(id: number): void {
    const context = this.#running.get(id);
    if (context !== undefined) {
      this.#abort(context, ownError("Cancelled", "the host cancelled the call"));
    }
  }

  abortAll(why: string): void {
    this.#running.forEach((context) => this.#abort(context, ownError("Cancelled", why)));
  }

  /** The plugin's listeners run as a part of the call that they belong to. */
  #abort(context: CallContext, reason: Error): void {
    this.run(context, () => CallContext.abort(context, reason));
  }

  // One timer for the nearest deadline, and not one a call: calls mostly end long before, and cost nothing then.
  #arm(at: number): void {
    clearTimeout(this.#timer);
    this.#timerAt = at;
    this.#timer = setTimeout(() => this.#sweep(), min(max(0, at - now()), LONGEST_TIMER_MS));
  }

  #sweep(): void {
    this.#timerAt = Infinity;
    const time = now();
    let next = Infinity;
    this.#running.forEach((context) => {
      const { deadline } = context;
      if (deadline === undefined || CallContext.reason(context) !== null) return;
      if (deadline <= time) {
        this.#abort(context, ownError("PluginTimeout", "the call's deadline has passed"));
      } else if (deadline < next) next = deadline;
    });
    if (next < Infinity) this.#arm(next);
  }
}
