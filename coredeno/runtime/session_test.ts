import assert from "node:assert/strict";
import http2 from "node:http2";
import { decodeBatch, encodeFrame, FrameReader } from "./batch.ts";
import type { Boot } from "./boot.ts";
import { Session, type SessionOwner } from "./session.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

interface Host {
  readonly headers: Record<string, unknown>;
  readonly batches: { messages: unknown[]; attachments: Uint8Array[] }[];
  send(messages: unknown[], attachments?: Uint8Array[]): void;
  end(status: string): void;
}

function boot(socket: string): Boot {
  return {
    token: "secret",
    core_socket: socket,
    deno_socket: "",
    isolation: "process",
    worker: { root: "/", net: [] },
    limits: { message_bytes: 1_000_000, calls_in_flight: 1, requests_in_flight: 1, log_line_bytes: 1 },
  };
}

/** A host that speaks gRPC, as little as it takes. */
async function listen(socket: string): Promise<{ connected: Promise<Host>; close: () => void }> {
  const connected = Promise.withResolvers<Host>();
  const server = http2.createServer();
  const sessions: http2.ServerHttp2Session[] = [];
  server.on("session", (session) => sessions.push(session));
  server.on("stream", (stream, headers) => {
    const batches: Host["batches"] = [];
    const reader = new FrameReader(10_000_000);
    stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
    stream.on("data", (chunk: Uint8Array) => {
      for (const message of reader.push(chunk)) {
        const { messages, attachments } = decodeBatch(message);
        batches.push({ messages: JSON.parse(decoder.decode(messages)), attachments: [...attachments] });
      }
    });
    connected.resolve({
      headers,
      batches,
      send: (messages, attachments = []) => {
        for (
          const piece of encodeFrame({ messages: encoder.encode(JSON.stringify(messages)), attachments })
        ) {
          stream.write(piece);
        }
      },
      end: (status) => {
        stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": status }));
        stream.end();
      },
    });
  });
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  return {
    connected: connected.promise,
    close: () => {
      for (const session of sessions) session.destroy();
      server.close();
    },
  };
}

function test(
  name: string,
  fn: (session: Session, host: Promise<Host>, owner: Owner) => Promise<void>,
): void {
  Deno.test({
    name,
    permissions: { read: true, write: true, net: true },
    sanitizeOps: false, // the connection is cut at the end, not closed
    sanitizeResources: false,
    async fn() {
      const folder = await Deno.makeTempDir();
      const { connected, close } = await listen(`${folder}/core.sock`);
      const session = new Session(boot(`${folder}/core.sock`));
      const owner = new Owner();
      try {
        await session.open(owner);
        await session.stands;
        await fn(session, connected, owner);
      } finally {
        close();
        await session.ended;
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}

class Owner implements SessionOwner {
  readonly batches: [string, number[]][] = [];
  drains = 0;

  receiveBatch(messages: Uint8Array, attachments: readonly Uint8Array[]): void {
    this.batches.push([decoder.decode(messages), attachments.map(({ length }) => length)]);
  }

  drained(): void {
    this.drains++;
  }
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}

test("it calls the one method, with its token", async (session, connected) => {
  session.send("1");
  const { headers } = await connected;
  assert.deepEqual(
    [headers[":method"], headers[":path"], headers["content-type"], headers["te"], headers["authorization"]],
    ["POST", "/coredeno.CoreService/Session", "application/grpc+proto", "trailers", "Bearer secret"],
  );
});

test("what one turn sends is one batch, with the bytes in their order", async (session, connected) => {
  const { batches } = await connected;
  session.send("1", [new Uint8Array([1]).buffer]);
  session.send('"two"', [new ArrayBuffer(0), new Uint8Array(70_000).fill(2).buffer]);
  session.send("3");
  await until(() => batches.length > 0);
  assert.deepEqual(batches.map(({ messages }) => messages), [[1, "two", 3]]);
  assert.deepEqual(batches[0]?.attachments.map(({ length }) => length), [1, 0, 70_000]);
});

test("what is too much for one batch leaves as several, in order", async (session, connected) => {
  const { batches } = await connected;
  for (let i = 0; i < 20; i++) session.send(JSON.stringify([i, "é".repeat(50_000)]));
  await until(() => batches.flatMap(({ messages }) => messages).length === 20);
  assert.ok(batches.length >= 4);
  assert.deepEqual(batches.flatMap(({ messages }) => messages as [number][]).map(([i]) => i), [
    ...Array(20).keys(),
  ]);
});

test("a batch has no more messages than the host takes", async (session, connected) => {
  const { batches } = await connected;
  for (let i = 0; i < 3000; i++) session.send(`${i}`);
  await until(() => batches.flatMap(({ messages }) => messages).length === 3000);
  assert.deepEqual(batches.map(({ messages }) => messages.length), [1024, 1024, 952]);
  assert.deepEqual(batches.flatMap(({ messages }) => messages), [...Array(3000).keys()]);
});

test("a long queue is congestion, and its end is told", async (session, connected, owner) => {
  await connected;
  assert.equal(session.isCongested, false);
  for (let i = 0; i < 30; i++) session.send(JSON.stringify("x".repeat(100_000)));
  assert.equal(session.isCongested, true);
  await until(() => owner.drains > 0);
  assert.deepEqual([session.isCongested, owner.drains], [false, 1]);
});

test("batches of the host come in, however large", async (_, connected, owner) => {
  const host = await connected;
  host.send([1, 2]);
  host.send([3], [new Uint8Array(900_000), new Uint8Array(0)]);
  await until(() => owner.batches.length === 2);
  assert.deepEqual(owner.batches, [["[1,2]", []], ["[3]", [900_000, 0]]]);
});

test("a batch over the limit ends it", async (session, connected) => {
  (await connected).send(["x".repeat(1_100_000)]);
  assert.match(await session.ended, /^unreadable: frame: \d+ bytes/);
});

test("a status ends it, with its number", async (session, connected) => {
  (await connected).end("16");
  assert.match(await session.ended, /16/);
});
