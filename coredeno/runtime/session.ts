/**
 * The sidecar → host wire: one gRPC call, `coredeno.CoreService/Session`, for as long as the process lives. Deno's own
 * `node:http2` speaks it; its import costs 50 ms, so it is loaded here, beside the first Worker, and not before.
 */

import type { ClientHttp2Session, ClientHttp2Stream, IncomingHttpHeaders } from "node:http2";
import { decodeBatch, encodeFrame, FrameReader } from "./batch.ts";
import type { Boot } from "./boot.ts";

/** What the Session tells its owner. */
export interface SessionOwner {
  /** @throws {Fault} it cannot be read; then the Session is over. */
  receiveBatch(messages: Uint8Array, attachments: readonly Uint8Array[]): void;
  /** The host takes more again, after the Session was congested. */
  drained(): void;
}

interface Message {
  readonly text: string;
  readonly buffers: readonly ArrayBuffer[];
}

/** What a batch may have beyond `message_bytes`; docs/wire.md. */
export const BATCH_ROOM = 65_536;
// The window that the host may fill: 4 MiB reaches nearly all of the throughput of 64 (160 MB/s from 1 MiB up).
const WINDOW = 4_194_304;
// A batch that has grown to this leaves: larger ones let small requests wait behind them for nothing.
const BATCH_GOAL = 262_144;
// More the host does not take, since it works on a batch in one turn; docs/wire.md.
const BATCH_MESSAGES = 1024;
// With more than this queued, log records wait in their modules, which drop what is over their credit.
const CONGESTED_BYTES = 1_048_576;
const NO_BUFFERS: readonly ArrayBuffer[] = [];

export class Session {
  /** Settles when the wire stands, or never if it ends before. */
  readonly stands: Promise<void>;
  /** Resolves to the reason when the wire has ended. */
  readonly ended: Promise<string>;
  readonly #boot: Boot;
  #owner: SessionOwner | null = null;
  readonly #goal: number;
  readonly #encoder = new TextEncoder();
  readonly #stands = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<string>();
  #stream: ClientHttp2Stream | null = null;
  #queue: Message[] = [];
  #queued = 0;
  #isScheduled = false;
  #isBlocked = true; // until the stream stands
  #wasCongested = false;

  constructor(boot: Boot) {
    this.#boot = boot;
    this.stands = this.#stands.promise;
    this.ended = this.#ended.promise;
    // In characters, of which one may be three bytes.
    this.#goal = Math.min(BATCH_GOAL, Math.floor((boot.limits.message_bytes + BATCH_ROOM) / 4));
  }

  /** The queue is long: the host does not keep up. */
  get isCongested(): boolean {
    return this.#queued > CONGESTED_BYTES;
  }

  /** Queue a message. What one turn queues leaves as one batch, as soon as the host takes it. */
  send(text: string, buffers: readonly ArrayBuffer[] = NO_BUFFERS): void {
    this.#queue.push({ text, buffers });
    this.#queued += size(text, buffers);
    this.#wasCongested ||= this.isCongested;
    this.#schedule();
  }

  /** Load what is needed, and connect; what comes in goes to `owner`. */
  async open(owner: SessionOwner): Promise<void> {
    this.#owner = owner;
    const [http2, net] = await Promise.all([import("node:http2"), import("node:net")]);
    const client = http2.connect("http://coredeno", {
      createConnection: () => net.connect(this.#boot.core_socket),
      settings: { enablePush: false, initialWindowSize: WINDOW },
    });
    client.on("error", (error) => this.#end(error.message));
    client.on("close", () => this.#end("closed"));
    client.on("connect", () => {
      client.setLocalWindowSize(WINDOW);
      this.#openStream(client, owner);
      this.#stands.resolve();
    });
  }

  #openStream(client: ClientHttp2Session, owner: SessionOwner): void {
    const stream = client.request({
      ":method": "POST",
      ":path": "/coredeno.CoreService/Session",
      "content-type": "application/grpc+proto",
      te: "trailers",
      authorization: `Bearer ${this.#boot.token}`,
    }, { endStream: false });
    const reader = new FrameReader(this.#boot.limits.message_bytes + BATCH_ROOM);
    stream.on("data", (chunk: Uint8Array) => {
      try {
        for (const message of reader.push(chunk)) {
          const { messages, attachments } = decodeBatch(message);
          owner.receiveBatch(messages, attachments);
        }
      } catch (error) {
        this.#end(`unreadable: ${(error as Error).message}`);
      }
    });
    stream.on("drain", () => {
      this.#isBlocked = false;
      this.#flush();
    });
    stream.on("response", (headers) => this.#status(headers));
    stream.on("trailers", (headers) => this.#status(headers));
    stream.on("error", (error) => this.#end(error.message));
    stream.on("end", () => this.#end("the host ended it"));
    stream.on("close", () => this.#end("closed"));
    this.#stream = stream;
    this.#isBlocked = false;
    this.#flush();
  }

  #status(headers: IncomingHttpHeaders): void {
    const http = headers[":status"] as unknown;
    const grpc = headers["grpc-status"];
    if (http !== undefined && http !== 200) this.#end(`HTTP status ${http}`);
    if (grpc !== undefined) this.#end(`gRPC status ${grpc}: ${headers["grpc-message"] ?? "no message"}`);
  }

  #end(reason: string): void {
    this.#isBlocked = true;
    this.#ended.resolve(reason);
  }

  #schedule(): void {
    if (this.#isScheduled || this.#isBlocked) return;
    this.#isScheduled = true;
    queueMicrotask(() => {
      this.#isScheduled = false;
      this.#flush();
    });
  }

  #flush(): void {
    while (!this.#isBlocked && this.#queue.length > 0) this.#writeBatch();
    if (this.#wasCongested && !this.isCongested) {
      this.#wasCongested = false;
      this.#owner?.drained();
    }
  }

  #writeBatch(): void {
    const first = this.#queue[0] as Message;
    let count = 1;
    let weight = size(first.text, first.buffers);
    for (; count < Math.min(this.#queue.length, BATCH_MESSAGES); count++) {
      const { text, buffers } = this.#queue[count] as Message;
      const more = size(text, buffers);
      if (weight + more > this.#goal) break;
      weight += more;
    }
    const batch = this.#queue.splice(0, count);
    this.#queued -= weight;
    const messages = this.#encoder.encode(`[${batch.map(({ text }) => text).join(",")}]`);
    const attachments = batch.flatMap(({ buffers }) => buffers).map((buffer) => new Uint8Array(buffer));
    for (const piece of encodeFrame({ messages, attachments })) {
      // `write` takes it in any case; false means that no more should follow before `drain`.
      if (this.#stream?.write(piece) === false) this.#isBlocked = true;
    }
  }
}

function size(text: string, buffers: readonly ArrayBuffer[]): number {
  let sum = text.length;
  for (const buffer of buffers) sum += buffer.byteLength;
  return sum;
}
