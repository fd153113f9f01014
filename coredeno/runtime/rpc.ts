/** The host → sidecar wire on its connection: reads messages, writes all that one turn brings at once. */

import { type Line, LineReader } from "./lines.ts";

/** The part of `Deno.Conn` that is used. */
export interface Connection {
  read(into: Uint8Array): Promise<number | null>;
  write(bytes: Uint8Array): Promise<number>;
}

const READ_BYTES = 131_072;
// A text or a buffer from here on is written by itself: joining it would copy it once more.
const WORTH_A_WRITE = 65_536;

export class RpcWire {
  /** Resolves to the reason when the wire has ended. */
  readonly ended: Promise<string>;
  readonly #ended = Promise.withResolvers<string>();
  #connection: Connection | null = null; // until it stands, what is sent waits
  readonly #reader: LineReader;
  readonly #encoder = new TextEncoder();
  #queue: (string | ArrayBuffer)[] = [];
  #writing: Promise<void> | null = null;

  /** @param messageBytes the most that a message, its bytes included, may have. */
  constructor(messageBytes: number) {
    this.#reader = new LineReader(messageBytes);
    this.ended = this.#ended.promise;
  }

  /** Serve this connection: give every message to `receive`, until either side ends it or breaks its rules. */
  serve(connection: Connection, receive: (line: Line) => void): void {
    this.#connection = connection;
    this.#schedule();
    this.#read(connection, receive).catch((error: Error) => this.#ended.resolve(error.message));
  }

  /** Queue a message, without its newline, and its binary values. What one turn queues leaves as one write. */
  send(text: string, buffers?: readonly ArrayBuffer[]): void {
    this.#queue.push(text, "\n");
    if (buffers !== undefined) this.#queue.push(...buffers);
    this.#schedule();
  }

  async #read(connection: Connection, receive: (line: Line) => void): Promise<void> {
    const buffer = new Uint8Array(READ_BYTES);
    for (;;) {
      const size = await connection.read(buffer);
      if (size === null) return this.#ended.resolve("the host closed it");
      for (const line of this.#reader.push(buffer.subarray(0, size))) receive(line);
    }
  }

  /** Resolves when all that was sent is written, or cannot be. */
  async flushed(): Promise<void> {
    await this.#writing;
  }

  #schedule(): void {
    const connection = this.#connection;
    if (connection === null || this.#writing !== null) return;
    this.#writing = this.#drain(connection);
  }

  async #drain(connection: Connection): Promise<void> {
    try {
      await Promise.resolve(); // for the rest of what this turn queues
      while (this.#queue.length > 0) {
        const queue = this.#queue;
        this.#queue = [];
        for (const piece of join(queue)) {
          await writeAll(
            connection,
            typeof piece === "string" ? this.#encoder.encode(piece) : new Uint8Array(piece),
          );
        }
      }
    } catch (error) {
      this.#ended.resolve((error as Error).message);
    } finally {
      this.#writing = null;
    }
  }
}

async function writeAll(connection: Connection, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await connection.write(at === 0 ? bytes : bytes.subarray(at));
}

/** Join small texts that follow each other. */
function* join(queue: readonly (string | ArrayBuffer)[]): Generator<string | ArrayBuffer> {
  let small = "";
  for (const piece of queue) {
    if (typeof piece === "string" && piece.length < WORTH_A_WRITE) {
      small += piece;
      continue;
    }
    if (small !== "") yield small;
    small = "";
    yield piece;
  }
  if (small !== "") yield small;
}
