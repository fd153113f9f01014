/** What the host may ask of a sidecar, and the modules that it put here. */

import { absolute, type Boot, entryUrl, type Limits } from "./boot.ts";
import type { LoadOrder } from "./channel.ts";
import { Fault, type Fields, fields, list, milliseconds, text, texts, whole } from "./check.ts";
import { Refusal, refusal, type WireError, wireError } from "./errors.ts";
import { errorText, requestText, resultText } from "./jsonrpc.ts";
import { Link, type TieMaker } from "./link.ts";
import type { Line } from "./lines.ts";
import { Module, type Wires } from "./module.ts";
import { within } from "./timing.ts";
import { samePermissions, type WorkerPermissions, workerPermissions } from "./permissions.ts";
import { readSlots, type Slot } from "./slots.ts";
import { writeJson } from "./values.ts";

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** What {@link Modules} needs of the process around it. */
export interface Process {
  toHost(text: string, buffers?: readonly ArrayBuffer[]): void;
  toSession(text: string, buffers?: readonly ArrayBuffer[]): void;
  isCongested(): boolean;
  memory(): { readonly heap_bytes: number; readonly rss_bytes: number };
  /** End the process with 0, once what was sent is out. */
  finish(): void;
}

// A Worker that is not busy answers within a fraction of a millisecond; one that does not by then is told of as busy.
const PING_PATIENCE_MS = 50;
// A host that is well answers in a millisecond; one that does not is not waited for.
const LAST_WORDS_MS = 500;
// How often main asks by itself, and only while the host waits for something: an idle module costs nothing.
const BEAT_MS = 500;

export class Modules implements Wires {
  readonly limits: Limits;
  readonly #boot: Boot;
  readonly #process: Process;
  readonly #modules = new Map<string, Module>();
  readonly #requests = new Map<number, { module: Module; id: number } | PromiseWithResolvers<Fields>>();
  readonly #ties: Promise<TieMaker>;
  #ahead: Link | null;
  #lastCall = -1;
  #lastRequest = 0;
  #beat: ReturnType<typeof setInterval> | undefined;

  /** Makes the Worker ahead. */
  constructor(boot: Boot, process: Process, ties: Promise<TieMaker>) {
    this.#boot = boot;
    this.limits = boot.limits;
    this.#process = process;
    this.#ties = ties;
    this.#ahead = this.#link(workerPermissions(boot.worker.root, boot.worker.net));
  }

  /**
   * Take one message of the host. What can be refused is answered with an error.
   *
   * @throws {Fault} the host does not keep to the wire: nothing good can follow.
   */
  receive(line: Line): void {
    const { message } = line;
    const method = text(message["method"], "method");
    const params = message["params"] === undefined ? {} : fields(message["params"], "params");
    if (message["id"] === undefined) {
      if (method === "Cancel") this.#cancel(whole(params["id"], "params.id"));
      return; // JSON-RPC 2.0, section 4.1: a notification is never answered, so an unknown one is dropped
    }
    const id = whole(message["id"], "id");
    if (id <= this.#lastCall) throw new Fault("id: wanted one that counts up");
    this.#lastCall = id;
    try {
      const work = this.#dispatch(id, method, params, line);
      if (work !== undefined) work.catch((error) => this.#refuse(id, error));
    } catch (error) {
      this.#refuse(id, error);
    }
  }

  /**
   * Take one batch of the Session: answers to requests.
   *
   * @throws {Fault} it cannot be read.
   */
  receiveBatch(messages: Uint8Array, attachments: readonly Uint8Array[]): void {
    let next = 0;
    for (const item of list(parseMessages(messages), "batch")) {
      const message = fields(item, "batch");
      if (message["jsonrpc"] !== "2.0") throw new Fault("batch: no JSON-RPC 2.0");
      const slots = message["bytes"] === undefined ? [] : readSlots(message, message["bytes"]);
      const buffers = slots.map(({ len }) => {
        const attachment = attachments[next++];
        if (attachment?.length !== len) {
          throw new Fault("batch: an attachment is missing or not as long as it says");
        }
        return new Uint8Array(attachment).buffer; // a copy: `slice` of a node Buffer would be a view of its pool
      });
      this.#answered(message, slots, buffers);
    }
    if (next !== attachments.length) throw new Fault("batch: an attachment that nothing names");
  }

  /** The Session keeps up again. */
  drained(): void {
    for (const module of this.#modules.values()) module.releaseLogs();
  }

  get isCongested(): boolean {
    return this.#process.isCongested();
  }

  toHost(text: string, buffers?: readonly ArrayBuffer[]): void {
    this.#process.toHost(text, buffers);
  }

  toSession(text: string, buffers?: readonly ArrayBuffer[]): void {
    this.#process.toSession(text, buffers);
  }

  register(module: Module, id: number): number {
    this.#requests.set(++this.#lastRequest, { module, id });
    return this.#lastRequest;
  }

  forget(sessionId: number): void {
    this.#requests.delete(sessionId);
  }

  #dispatch(id: number, method: string, params: Fields, line: Line): Promise<void> | void {
    switch (method) {
      case "Call":
        return this.#call(id, params, line);
      case "Ping":
        return this.#ping(id, params["session"] === true);
      case "LoadModule":
        return this.#load(id, params, line);
      case "UnloadModule":
        return this.#unload(id, params);
      case "ModuleStatus": {
        const code = text(params["code"], "code");
        const status = this.#modules.get(code)?.state ?? "UNKNOWN";
        return this.#result(id, { code, status });
      }
      case "Shutdown":
        return this.#shutdown(id, params);
      default:
        throw refusal("MethodNotFound", `${method.slice(0, 64)}: no such method`);
    }
  }

  #call(id: number, params: Fields, line: Line): void {
    const code = text(params["code"], "code");
    text(params["function"], "function");
    list(params["args"], "args");
    const { deadline_ms, number, trace } = params;
    const arrived = Date.now();
    const record = {
      deadline: deadline_ms === undefined ? undefined : arrived + milliseconds(deadline_ms, "deadline_ms"),
      trace: trace === undefined ? undefined : text(trace, "trace"),
      number: number === undefined ? undefined : whole(number, "number"),
    };
    const module = this.#modules.get(code);
    if (module === undefined) throw refusal("NotFound", `${code}: no such module here`);
    if (module.state !== "RUNNING") throw refusal("FailedPrecondition", `${code}: ${module.state}`);
    module.call(id, line.text, line.buffers, record, arrived);
    this.#watch();
  }

  #cancel(id: number): void {
    for (const module of this.#modules.values()) if (module.abort(id)) return;
  }

  #load(id: number, params: Fields, line: Line): void {
    const order = this.#order(id, params);
    const root = absolute(params["root"], "root");
    const net = texts(fields(params["permissions"], "permissions")["net"], "permissions.net");
    const deadline_ms = params["deadline_ms"];
    const deadline = deadline_ms === undefined ? undefined : milliseconds(deadline_ms, "deadline_ms");
    for (const other of this.#modules.values()) {
      const isSame = other.code === order.code;
      if (!other.isAlive || (!isSame && this.#boot.isolation === "worker")) continue;
      throw refusal(
        "FailedPrecondition",
        `${order.code}: ${isSame ? "it" : other.code} is loaded here already`,
      );
    }
    const link = this.#takeLink(workerPermissions(root, net));
    const module = new Module(order.code, link, this);
    this.#modules.set(order.code, module);
    module.load(order, deadline, line);
    this.#watch();
  }

  #order(id: number, params: Fields): LoadOrder {
    const services = fields(params["services"], "services");
    for (const [name, methods] of Object.entries(services)) {
      for (const value of Object.values(fields(methods, `services.${name}`))) text(value, `services.${name}`);
    }
    const entry = text(params["entry_point"], "entry_point");
    const deadline_ms = params["deadline_ms"];
    return {
      id,
      code: text(params["code"], "code"),
      url: entryUrl(absolute(params["root"], "root"), entry),
      entry,
      services: services as LoadOrder["services"],
      config: fields(params["config"], "config") as LoadOrder["config"],
      limits: this.limits,
      deadline: deadline_ms === undefined ? null : Date.now() + milliseconds(deadline_ms, "deadline_ms"),
    };
  }

  #takeLink(permissions: WorkerPermissions): Link {
    const ahead = this.#ahead;
    if (ahead === null || !samePermissions(ahead.permissions, permissions)) return this.#link(permissions);
    this.#ahead = null;
    return ahead;
  }

  #link(permissions: WorkerPermissions): Link {
    let link: Link;
    try {
      link = new Link(permissions, this.limits.message_bytes);
    } catch (error) {
      if (error instanceof Fault) throw error;
      // Deno's own refusal: more than main has, or no host at all.
      throw refusal("FailedPrecondition", `its Worker cannot be made: ${(error as Error).message}`);
    }
    this.#ties.then((make) => link.tie(make));
    return link;
  }

  async #unload(id: number, params: Fields): Promise<void> {
    const code = text(params["code"], "code");
    const clean = await this.#end(this.#modules.get(code), milliseconds(params["grace_ms"], "grace_ms"));
    this.#result(id, { ok: true, clean });
  }

  async #end(module: Module | undefined, grace_ms: number): Promise<boolean> {
    return module === undefined ? true : await module.unload(grace_ms);
  }

  async #shutdown(id: number, params: Fields): Promise<void> {
    const grace_ms = milliseconds(params["grace_ms"], "grace_ms");
    await Promise.all([...this.#modules.values()].map((module) => this.#end(module, grace_ms)));
    // The Session keeps its order, so an answer says that the host has all that came before: the last log records.
    await within(LAST_WORDS_MS, this.#healthCheck().catch(() => {}));
    this.#result(id, { ok: true });
    this.#process.finish();
  }

  async #ping(id: number, withSession: boolean): Promise<void> {
    if (withSession) await this.#healthCheck();
    const awake = [...this.#modules.values()].filter((module) => module.isAlive);
    await within(PING_PATIENCE_MS, Promise.all(awake.map(({ link }) => link.ping())));
    const modules = [...this.#modules.values()].filter(({ state }) => state !== "STOPPED").map((module) => {
      const { code, state, inflight, link } = module;
      return [code, { state, busy_ms: Math.round(link.busyMs), inflight }];
    });
    this.#result(id, { modules: Object.fromEntries(modules), ...this.#process.memory() });
  }

  async #healthCheck(): Promise<void> {
    const answered = Promise.withResolvers<Fields>();
    this.#requests.set(++this.#lastRequest, answered);
    this.toSession(requestText(this.#lastRequest, "health.check", "{}", [], {}));
    const { error } = await answered.promise;
    if (error !== undefined) throw new Refusal(fields(error, "error") as unknown as WireError);
  }

  /** Ask busy modules by main's own beat, so that `busy_ms` is right however seldom the host asks. */
  #watch(): void {
    this.#beat ??= setInterval(() => {
      const awaited = [...this.#modules.values()].filter((module) => module.isAwaited);
      for (const { link } of awaited) link.ping();
      if (awaited.length > 0) return;
      clearInterval(this.#beat);
      this.#beat = undefined;
    }, BEAT_MS);
  }

  #answered(message: Fields, slots: readonly Slot[], buffers: readonly ArrayBuffer[]): void {
    const sessionId = whole(message["id"], "id");
    const request = this.#requests.get(sessionId);
    if (request === undefined) return; // it was dropped, or its module has ended, while the answer was on its way
    this.#requests.delete(sessionId);
    if ("promise" in request) return request.resolve(message);
    const { result, error } = message;
    const answer = error === undefined ? { result: result ?? null } : { error };
    request.module.answered(request.id, writeJson(answer), slots, buffers);
  }

  #result(id: number, result: unknown): void {
    this.toHost(resultText(id, writeJson(result), []));
  }

  #refuse(id: number, error: unknown): void {
    if (error instanceof Refusal) return this.toHost(errorText(id, error.error));
    if (error instanceof Fault) {
      return this.toHost(errorText(id, wireError("InvalidArgument", error.message)));
    }
    throw error;
  }
}

function parseMessages(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(decoder.decode(bytes));
  } catch {
    throw new Fault("batch: not readable, wanted JSON in UTF-8");
  }
}
