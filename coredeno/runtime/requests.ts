/** What a plugin asks of the host: requests under way, and those that wait for their turn. */

import type { Limits } from "./boot.ts";
import { CallContext, type Calls } from "./calls.ts";
import { type Outbox, REQUEST_BYTES_FACTOR } from "./channel.ts";
import { errorFromHost, ownError } from "./errors.ts";
import { jsonStringify, ownMap, Promise, queueMicrotask } from "./intrinsics.ts";
import { isOver, pack, type Packed, PARAMS_ENVELOPE } from "./values.ts";

/** What a request comes to: the host's answer, or an error of our own. */
type Outcome = { readonly result: unknown } | { readonly error: unknown } | { readonly reason: Error };

interface Pending {
  readonly id: number;
  readonly entry: string;
  readonly buffers: readonly ArrayBuffer[];
  readonly size: number;
  readonly context: CallContext | undefined;
  readonly settle: (outcome: Outcome) => void;
}

export class Requests {
  readonly #outbox: Outbox;
  readonly #calls: Calls;
  readonly #limits: Limits;
  readonly #pending = ownMap<number, Pending>();
  readonly #waiting = ownMap<number, Pending>(); // in the order in which they came
  #pendingBytes = 0;
  #lastId = 0;

  constructor(outbox: Outbox, calls: Calls, limits: Limits) {
    this.#outbox = outbox;
    this.#calls = calls;
    this.#limits = limits;
  }

  /**
   * Ask the host. Over the bound of requests in flight it waits for its turn, in order.
   *
   * @throws {DataError} a value in `params` cannot cross.
   * @throws {Error} the host's error; or named `Cancelled`, `PluginTimeout` with the call, `LimitExceeded`.
   */
  async ask(method: string, params: Readonly<Record<string, unknown>>): Promise<unknown> {
    const context = this.#calls.current;
    const packed = pack(params, ["params"], this.#limits.message_bytes, PARAMS_ENVELOPE);
    const outcome = await new Promise<Outcome>((settle) => this.#begin(method, packed, context, settle));
    // Made here, right after the await, the error's stack goes on into the plugin's code.
    if ("result" in outcome) return outcome.result;
    if ("reason" in outcome) throw ownError(outcome.reason.name as "Cancelled", outcome.reason.message);
    throw errorFromHost(outcome.error);
  }

  /** The host's answer to a request; one that nobody waits for any more is no matter. */
  answered(id: number, outcome: Outcome): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    this.#end(pending);
    this.#sendWaiting();
    if (pending.context !== undefined) CallContext.forget(pending.context, id);
    pending.settle(outcome);
  }

  #begin(
    method: string,
    { text, slots, buffers }: Packed,
    context: CallContext | undefined,
    settle: (outcome: Outcome) => void,
  ): void {
    const reason = context === undefined ? null : CallContext.reason(context);
    if (reason !== null) return settle({ reason });
    const id = ++this.#lastId;
    const callId = context?.id ?? null;
    const entry = `["ask",${id},${jsonStringify(method)},${text},${jsonStringify(slots)},${callId}]`;
    let size = entry.length;
    for (let i = 0; i < buffers.length; i++) size += (buffers[i] as ArrayBuffer).byteLength;
    if (isOver(entry, size - entry.length, this.#limits.message_bytes)) {
      const message = `${method}: its arguments are over ${this.#limits.message_bytes} bytes`;
      return settle({ reason: ownError("LimitExceeded", message) });
    }
    const pending = { id, entry, buffers, size, context, settle };
    if (context !== undefined) CallContext.listen(context, id, (reason) => this.#drop(pending, reason));
    if (this.#waiting.size === 0 && this.#hasRoom(size)) this.#send(pending);
    else this.#waiting.set(id, pending);
  }

  #hasRoom(size: number): boolean {
    return this.#pending.size < this.#limits.requests_in_flight &&
      (this.#pendingBytes === 0 ||
        this.#pendingBytes + size <= REQUEST_BYTES_FACTOR * this.#limits.message_bytes);
  }

  #send(pending: Pending): void {
    this.#pending.set(pending.id, pending);
    this.#pendingBytes += pending.size;
    this.#outbox.put(pending.entry, pending.buffers);
  }

  #drop(pending: Pending, reason: Error): void {
    if (!this.#waiting.delete(pending.id)) {
      this.#outbox.put(`["drop",${pending.id}]`);
      this.#end(pending);
      // Not at once: those next in line may be of the same call, and about to be dropped as well.
      queueMicrotask(() => this.#sendWaiting());
    }
    pending.settle({ reason });
  }

  #end(pending: Pending): void {
    this.#pending.delete(pending.id);
    this.#pendingBytes -= pending.size;
  }

  #sendWaiting(): void {
    while (this.#waiting.size > 0) {
      const next = this.#waiting.values().next().value as Pending;
      if (!this.#hasRoom(next.size)) return;
      this.#waiting.delete(next.id);
      this.#send(next);
    }
  }
}
