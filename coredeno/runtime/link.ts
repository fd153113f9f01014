/** Main's end of one Worker: makes it, reads what it says, notices its end. */

import { CHANNEL_SLACK, Outbox, readMessage } from "./channel.ts";
import type { Attachments } from "./channel.ts";
import { Fault } from "./check.ts";
import { assertComplete, type WorkerPermissions } from "./permissions.ts";
import { describeThrown } from "./thrown.ts";

/** What a link tells its owner. After `broken` it says nothing more. */
export interface LinkOwner {
  /** One entry of a message; a {@link Fault} that it throws is the Worker's. */
  receive(entry: readonly unknown[], attachments: Attachments): void;
  /** The Worker has ended by itself, or has said what it must not: it was told to end. */
  broken(reason: string, isFault: boolean): void;
}

/** Gives a channel whose `close` event fires when the other side's thread is gone; see {@link Link.tie}. */
export type TieMaker = () => { near: EventEmitterPort; far: MessagePort };

/** The part of node's MessagePort that a tie needs. */
export interface EventEmitterPort {
  on(event: "close", listener: () => void): unknown;
  start(): void;
}

const WORKER_ENTRY = new URL("./worker.ts", import.meta.url);

export class Link {
  readonly outbox: Outbox;
  readonly permissions: WorkerPermissions;
  readonly #worker: Worker;
  readonly #port: MessagePort;
  readonly #limit: number;
  #owner: LinkOwner | null = null;
  readonly #tied = Promise.withResolvers<void>();
  readonly #gone = Promise.withResolvers<void>();
  #isOver = false;
  #broken: { reason: string; isFault: boolean } | null = null;
  #pings = 0;
  #ping: { sent: number; answered: PromiseWithResolvers<void> } | null = null;

  /**
   * Makes the Worker, with exactly these permissions.
   *
   * @param messageBytes the host's limit for one message.
   * @param entry for tests: another entry than worker.ts.
   */
  constructor(permissions: WorkerPermissions, messageBytes: number, entry: URL = WORKER_ENTRY) {
    assertComplete(permissions);
    this.permissions = permissions;
    this.#limit = messageBytes + CHANNEL_SLACK;
    this.#worker = new Worker(entry, { type: "module", deno: { permissions } } as WorkerOptions);
    // Before all else: an error that nobody prevents ends the whole process.
    this.#worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.#end(`its Worker ended: ${describeThrown(event).message || "uncaught error"}`, false);
    });
    this.#worker.addEventListener("messageerror", (event) => {
      event.preventDefault();
      this.#end("it posted what cannot be read", true);
    });
    // Our own entry never speaks here, so it is the plugin.
    this.#worker.addEventListener("message", () => this.#end("it posted to the Worker's own channel", true));
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    port1.onmessage = (event) => this.#receive(event.data);
    port1.onmessageerror = () => this.#end("it posted what cannot be read", true);
    this.#worker.postMessage(null, [port2]);
    this.outbox = new Outbox((message, transfer) => {
      if (this.#isOver) return;
      if (transfer === undefined) this.#port.postMessage(message);
      else this.#port.postMessage(message, transfer);
    });
  }

  /** From now on `owner` is told. If the Worker is gone already, it is told so at once. */
  attach(owner: LinkOwner): void {
    this.#owner = owner;
    if (this.#broken !== null) owner.broken(this.#broken.reason, this.#broken.isFault);
  }

  /**
   * Notice the Worker's end. `self.close()` and `Deno.exit()` in a Worker raise no event in Deno; but a port of
   * `node:worker_threads` has a `close` event, raised when the thread that holds its other side is gone.
   */
  tie(make: TieMaker): void {
    if (this.#isOver) return;
    const { near, far } = make();
    near.on("close", () => {
      this.#gone.resolve();
      this.#end("its Worker ended by itself", false);
    });
    near.start();
    this.outbox.flush();
    this.#port.postMessage('[["leash"]]', [far]);
    this.#tied.resolve();
  }

  /** Resolves once its end would be noticed. No plugin's code may run before: an end before is never noticed. */
  get tied(): Promise<void> {
    return this.#tied.promise;
  }

  /** Ask whether the Worker's loop turns. Resolves when it answers or is over; one question is open at a time. */
  ping(): Promise<void> {
    if (this.#isOver) return Promise.resolve();
    if (this.#ping === null) {
      this.#ping = { sent: performance.now(), answered: Promise.withResolvers() };
      this.outbox.put(`["ping",${++this.#pings}]`);
    }
    return this.#ping.answered.promise;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** Resolves when the Worker's thread is seen to be gone, which may be never. */
  get gone(): Promise<void> {
    return this.#gone.promise;
  }

  /** How long the open question has not been answered; 0 if there is none. */
  get busyMs(): number {
    return this.#ping === null ? 0 : performance.now() - this.#ping.sent;
  }

  /** Tell the Worker to end, and forget it. A Worker in a loop without end runs on: only killing the process helps. */
  close(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#ping?.answered.resolve();
    this.#ping = null;
    this.#port.onmessage = null; // closing hands out what is waiting
    this.#port.close();
    this.#worker.terminate();
  }

  #receive(data: unknown): void {
    if (this.#isOver) return;
    try {
      const { entries, attachments } = readMessage(data, this.#limit);
      for (const entry of entries) {
        if (entry[0] === "pong") {
          this.#pong(entry[1]);
        } else if (this.#owner === null) {
          throw new Fault("message: before anything was asked");
        } else {
          this.#owner.receive(entry, attachments);
          if (this.#isOver) return;
        }
      }
      attachments.assertEmpty();
    } catch (error) {
      // Anything but a Fault would be a mistake of ours, brought about by what the Worker said: it pays, main lives.
      this.#end(error instanceof Fault ? error.message : `main cannot take it: ${error}`, true);
    }
  }

  #pong(n: unknown): void {
    if (this.#ping === null || n !== this.#pings) throw new Fault("pong: without a ping");
    this.#ping.answered.resolve();
    this.#ping = null;
  }

  #end(reason: string, isFault: boolean): void {
    if (this.#isOver) return;
    this.close();
    this.#broken = { reason, isFault };
    this.#owner?.broken(reason, isFault);
  }
}
