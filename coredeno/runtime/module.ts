/** One module, as main sees it: its state, what it was asked, what it asked. Nothing that its Worker says is believed. */

import type { Limits } from "./boot.ts";
import {
  type Attachments,
  type LoadOrder,
  LOG_CREDIT,
  LOG_LEVELS,
  type LogLevel,
  REQUEST_BYTES_FACTOR,
} from "./channel.ts";
import { Fault, text, texts, whole } from "./check.ts";
import { problemOfExports } from "./exports.ts";
import { refusal, type WireError, wireError } from "./errors.ts";
import { errorText, notificationText, requestText, resultText } from "./jsonrpc.ts";
import { LONGEST_TIMER_MS, within } from "./timing.ts";
import type { Link, LinkOwner } from "./link.ts";
import { readSlots, type Slot } from "./slots.ts";
import type { Line } from "./lines.ts";
import { readThrown } from "./thrown.ts";
import { isOver, PARAMS_ENVELOPE, render, writeJson } from "./values.ts";

export type ModuleState = "LOADING" | "RUNNING" | "STOPPED" | "ERRORED";

/** What a module needs of its Worker's end. */
export type ModuleLink = Pick<
  Link,
  "outbox" | "isOver" | "tied" | "gone" | "busyMs" | "attach" | "ping" | "close"
>;

/** What a module needs of the two wires. */
export interface Wires {
  readonly limits: Limits;
  /** Send a message on the JSON-RPC wire. */
  toHost(text: string, buffers?: readonly ArrayBuffer[]): void;
  /** Send a message on the Session. */
  toSession(text: string, buffers?: readonly ArrayBuffer[]): void;
  /** The Session does not keep up. When it does again, it tells each module: `releaseLogs`. */
  readonly isCongested: boolean;
  /** A new id on the Session, whose answer goes to `module` as the answer to its `id`. */
  register(module: Module, id: number): number;
  /** Nobody waits for that id any more. */
  forget(sessionId: number): void;
}

interface CallRecord {
  /** Milliseconds of the epoch. */
  readonly deadline: number | undefined;
  readonly trace: string | undefined;
  /** By which the host counts the calls of this module. */
  readonly number: number | undefined;
}

interface Asked {
  readonly sessionId: number;
  readonly size: number;
}

// A thread that is not busy is gone a few milliseconds after it was told to end, however short the grace; on a busy
// machine later, and where there is no grace, nothing else is waited for.
const THREAD_END_MS = 100;
const THREAD_END_AT_ONCE_MS = 500;
// Acknowledging each log record would cost more than sending it.
const LOGS_AT_ONCE = LOG_CREDIT / 8;
// Around the params of a request: ids, the module's code, a trace. A batch has 64 KiB of room for it.
const REQUEST_OVERHEAD = 32_768;
// As much of a trace goes with each log record.
const LOGGED_TRACE_CHARACTERS = 256;

export class Module implements LinkOwner {
  state: ModuleState = "LOADING";
  readonly #calls = new Map<number, CallRecord>();
  readonly #asked = new Map<number, Asked>();
  #askedBytes = 0;
  #logs = 0; // records that the Worker has not been told of
  #load: { id: number; started: number; timer: ReturnType<typeof setTimeout> | undefined } | null = null;
  readonly #disposed = Promise.withResolvers<void>();
  #unloading: Promise<boolean> | null = null;

  constructor(readonly code: string, readonly link: ModuleLink, readonly wires: Wires) {}

  get inflight(): number {
    return this.#calls.size;
  }

  /** Whether its Worker may still speak: while it loads, runs, or is being unloaded. */
  get isAlive(): boolean {
    return !this.link.isOver;
  }

  /** Whether the host waits for anything from it. */
  get isAwaited(): boolean {
    return this.#calls.size > 0 || this.#load !== null;
  }

  /**
   * Begin to load; the answer to the request `order.id` follows by itself.
   *
   * @param line the request, for the binary values in its config.
   */
  load(order: LoadOrder, deadline_ms: number | undefined, line: Pick<Line, "slots" | "buffers">): void {
    const timer = deadline_ms === undefined ? undefined : setTimeout(() => {
      const message = `${this.code}: load: not done after ${Math.round(deadline_ms)} ms`;
      this.#loadFailed(wireError("PluginTimeout", message));
    }, Math.min(deadline_ms, LONGEST_TIMER_MS));
    this.#load = { id: order.id, started: performance.now(), timer };
    this.link.attach(this);
    const entry = `["load",${writeJson(order)},${writeJson(line.slots)}]`;
    this.link.tied.then(() => this.link.outbox.put(entry, line.buffers));
  }

  /** Pass a call on, as the line that it came in. */
  call(id: number, line: string, buffers: readonly ArrayBuffer[], record: CallRecord, arrived: number): void {
    if (this.#calls.size >= this.wires.limits.calls_in_flight) {
      throw refusal("LimitExceeded", `${this.code}: ${this.#calls.size} calls in flight already`);
    }
    this.#calls.set(id, record);
    this.link.outbox.put(`["call",${arrived},${line}]`, buffers);
  }

  /** Cancel a call, or the load; false if it is none of this module. */
  abort(id: number): boolean {
    if (!this.#calls.has(id) && this.#load?.id !== id) return false;
    this.link.outbox.put(`["abort",${id}]`);
    return true;
  }

  /** Give the host's answer to the Worker. `answer` is JSON, an object with `result` or `error`. */
  answered(id: number, answer: string, slots: readonly Slot[], buffers: readonly ArrayBuffer[]): void {
    this.#settle(id);
    this.link.outbox.put(`["answer",${id},${answer},${writeJson(slots)}]`, buffers);
  }

  /**
   * Let the Worker run `dispose` within the grace, then end it; with no grace, or if it does not run, only end it.
   *
   * @returns whether the Worker's thread was seen to be gone.
   */
  unload(grace_ms: number): Promise<boolean> {
    this.#unloading ??= this.#unload(grace_ms);
    return this.#unloading;
  }

  async #unload(grace_ms: number): Promise<boolean> {
    const started = performance.now();
    if (this.state === "RUNNING") {
      this.state = "STOPPED";
      if (grace_ms > 0) {
        this.link.outbox.put('["dispose"]');
        await within(grace_ms, this.#disposed.promise);
      }
    }
    this.#over("STOPPED", wireError("Cancelled", `${this.code}: unloaded`));
    const left_ms = grace_ms - (performance.now() - started);
    const least_ms = grace_ms > 0 ? THREAD_END_MS : THREAD_END_AT_ONCE_MS;
    return await within(Math.max(left_ms, least_ms), this.link.gone);
  }

  /** The Session keeps up again. */
  releaseLogs(): void {
    if (this.#logs === 0) return;
    this.link.outbox.put(`["logged",${this.#logs}]`);
    this.#logs = 0;
  }

  receive(entry: readonly unknown[], attachments: Attachments): void {
    switch (entry[0]) {
      case "done":
        return this.#done(whole(entry[1], "done"), entry[2], entry[3], attachments);
      case "failed":
        return this.#failed(whole(entry[1], "failed"), entry[2], entry[3]);
      case "ask":
        return this.#ask(
          whole(entry[1], "ask"),
          text(entry[2], "ask"),
          entry[3],
          entry[4],
          entry[5],
          attachments,
        );
      case "drop":
        return this.#drop(whole(entry[1], "drop"));
      case "log":
        return this.#log(entry[1], text(entry[2], "log"), entry[3]);
      case "loaded":
        return this.#loaded(texts(entry[1], "loaded"));
      case "unloadable":
        return this.#unloadable(entry[1]);
      case "disposed":
        if (this.#unloading === null) throw new Fault("disposed: nobody asked");
        return this.#disposed.resolve();
      default:
        throw new Fault("message: of no known kind");
    }
  }

  broken(reason: string, isFault: boolean): void {
    if (this.#unloading !== null) return this.#disposed.resolve();
    const problem = isFault ? `protocol error: ${reason}` : reason;
    this.#over(
      "ERRORED",
      wireError(isFault ? "ProtocolError" : "FailedPrecondition", `${this.code}: ${problem}`, {
        module: this.code,
      }),
    );
    this.wires.toHost(notificationText("ModuleExited", writeJson({ code: this.code, reason: problem })));
  }

  #loaded(exports: readonly string[]): void {
    const load = this.#loadUnderWay();
    const load_ms = Math.round((performance.now() - load.started) * 10) / 10;
    const problem = problemOfExports(exports);
    if (problem !== null) throw new Fault(`loaded: ${problem}`);
    const line = resultText(load.id, writeJson({ ok: true, exports, load_ms }), []);
    if (isOver(line, 0, this.wires.limits.message_bytes)) {
      throw new Fault("loaded: the names of the exports are too long");
    }
    this.#loadEnded();
    this.state = "RUNNING";
    this.wires.toHost(line);
  }

  #unloadable(value: unknown): void {
    const thrown = readThrown(value);
    if (this.#load === null) throw new Fault("unloadable: nothing is being loaded");
    this.#loadFailed(wireError("PluginRaised", thrown.message, { ...thrown }));
  }

  #loadFailed(error: WireError): void {
    const { id } = this.#loadEnded();
    this.#over("ERRORED", error);
    this.#refuse(id, error);
  }

  #loadUnderWay(): { id: number; started: number; timer: ReturnType<typeof setTimeout> | undefined } {
    if (this.#load === null) throw new Fault("loaded: nothing is being loaded");
    return this.#load;
  }

  #loadEnded(): { id: number } {
    const load = this.#loadUnderWay();
    clearTimeout(load.timer);
    this.#load = null;
    return load;
  }

  #done(id: number, value: unknown, bytes: unknown, attachments: Attachments): void {
    this.#call(id);
    const slots = readSlots({ result: value }, bytes);
    const buffers = attachments.take(slots);
    const line = resultText(id, render(value), slots);
    if (isOver(line, total(slots), this.wires.limits.message_bytes)) {
      throw new Fault("done: a result over the limit");
    }
    this.#calls.delete(id);
    this.wires.toHost(line, buffers);
  }

  #failed(id: number, name: unknown, detail: unknown): void {
    const error = this.#failure(this.#call(id), name, detail);
    this.#calls.delete(id);
    this.#refuse(id, error);
  }

  #failure({ deadline }: CallRecord, name: unknown, detail: unknown): WireError {
    if (name === "PluginRaised") {
      const thrown = readThrown(detail);
      // Whatever a plugin throws then, mostly `core.call.signal.reason`, is not what went wrong.
      if (this.#unloading !== null) return wireError("Cancelled", `${this.code}: unloaded`);
      if (deadline !== undefined && Date.now() >= deadline) {
        return wireError("PluginTimeout", `${this.code}: not done at its deadline`);
      }
      return wireError(name, thrown.message, { ...thrown });
    }
    if (name === "MethodNotFound" || name === "LimitExceeded") {
      return wireError(name, text(detail, "failed").slice(0, 1024));
    }
    throw new Fault("failed: of no known kind");
  }

  /** A call under way. It stays so until its answer was read to the end: after a Fault it is yet to be answered. */
  #call(id: number): CallRecord {
    const call = this.#calls.get(id);
    if (call === undefined) throw new Fault("answer: to a call that is not under way");
    return call;
  }

  #ask(
    id: number,
    method: string,
    params: unknown,
    bytes: unknown,
    callId: unknown,
    attachments: Attachments,
  ): void {
    const { limits } = this.wires;
    if (this.#asked.has(id)) throw new Fault("ask: an id that is in use");
    if (this.#asked.size >= limits.requests_in_flight) throw new Fault("ask: too many requests in flight");
    const slots = readSlots({ params }, bytes);
    const buffers = attachments.take(slots);
    const written = render(params, PARAMS_ENVELOPE);
    const call = typeof callId === "number" ? this.#calls.get(callId) : undefined;
    const sessionId = this.wires.register(this, id);
    const deadline_ms = call?.deadline === undefined
      ? undefined
      : Math.max(0, Math.round(call.deadline - Date.now()));
    const message = requestText(sessionId, method, written, slots, {
      module: this.code,
      deadline_ms,
      trace: call?.trace,
    });
    const size = message.length + total(slots);
    this.#asked.set(id, { sessionId, size });
    this.#askedBytes += size;
    if (isOver(message, total(slots), limits.message_bytes + REQUEST_OVERHEAD)) {
      throw new Fault("ask: a request over the limit");
    }
    if (this.#askedBytes > (REQUEST_BYTES_FACTOR + 1) * (limits.message_bytes + REQUEST_OVERHEAD)) {
      throw new Fault("ask: too many bytes in flight");
    }
    this.wires.toSession(message, buffers);
  }

  #drop(id: number): void {
    const asked = this.#settle(id);
    // It may have crossed the answer on its way here.
    if (asked === undefined) return;
    this.wires.forget(asked.sessionId);
    this.wires.toSession(notificationText("cancel", `{"id":${asked.sessionId}}`, this.code));
  }

  #settle(id: number): Asked | undefined {
    const asked = this.#asked.get(id);
    if (asked !== undefined) {
      this.#asked.delete(id);
      this.#askedBytes -= asked.size;
    }
    return asked;
  }

  #log(level: unknown, message: string, callId: unknown): void {
    if (!LOG_LEVELS.includes(level as LogLevel)) throw new Fault("log: no such level");
    if (message.length > this.wires.limits.log_line_bytes) throw new Fault("log: a record over the limit");
    if (++this.#logs > LOG_CREDIT) throw new Fault("log: more records than it may send");
    const call = typeof callId === "number" ? this.#calls.get(callId) : undefined;
    const params = writeJson({ level, message, call: call?.number });
    const trace = call?.trace?.slice(0, LOGGED_TRACE_CHARACTERS).toWellFormed();
    this.wires.toSession(notificationText("log.write", params, this.code, trace));
    if (this.#logs >= LOGS_AT_ONCE && !this.wires.isCongested) this.releaseLogs();
  }

  /** Its end: whoever waits is answered, the Worker is told to end, and nothing is sent for it any more. */
  #over(state: ModuleState, error: WireError): void {
    this.state = state;
    this.link.close();
    for (const { sessionId } of this.#asked.values()) this.wires.forget(sessionId);
    this.#asked.clear();
    if (this.#load !== null) this.#refuse(this.#loadEnded().id, error);
    for (const id of this.#calls.keys()) this.#refuse(id, error);
    this.#calls.clear();
  }

  #refuse(id: number, error: WireError): void {
    const line = errorText(id, error);
    const { message_bytes } = this.wires.limits;
    // Where the limit is small, the stack goes first: a call is always answered.
    this.wires.toHost(
      isOver(line, 0, message_bytes)
        ? errorText(id, {
          ...error,
          message: error.message.slice(0, 256),
          data: { name: error.data?.["name"] },
        })
        : line,
    );
  }
}

function total(slots: readonly Slot[]): number {
  let sum = 0;
  for (let i = 0; i < slots.length; i++) sum += (slots[i] as Slot).len;
  return sum;
}
