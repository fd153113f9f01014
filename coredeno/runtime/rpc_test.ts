import assert from "node:assert/strict";
import type { Line } from "./lines.ts";
import { type Connection, RpcWire } from "./rpc.ts";

const test = (name: string, fn: () => Promise<void>) => Deno.test({ name, permissions: "none", fn });
const encoder = new TextEncoder();

/** A connection in memory: takes `taken` bytes a write, gives what `come` says, one part a read, then its end. */
class MemoryConnection implements Connection {
  readonly writes: string[] = [];
  readonly #come: Uint8Array[];
  #opened = Promise.withResolvers<void>();

  constructor(readonly taken = Infinity, come: string[] = [], readonly staysOpen = true) {
    this.#come = come.map((part) => encoder.encode(part));
  }

  async read(into: Uint8Array): Promise<number | null> {
    const part = this.#come.shift();
    if (part === undefined && this.staysOpen) await this.#opened.promise;
    if (part === undefined) return null;
    into.set(part);
    return part.length;
  }

  write(bytes: Uint8Array): Promise<number> {
    const size = Math.min(bytes.length, this.taken);
    this.writes.push(new TextDecoder().decode(bytes.subarray(0, size)));
    return Promise.resolve(size);
  }
}

test("what one turn sends leaves as one write, in order", async () => {
  const connection = new MemoryConnection();
  const wire = new RpcWire(1000);
  wire.serve(connection, () => {});
  wire.send("a");
  wire.send("b", [encoder.encode("12").buffer, new ArrayBuffer(0)]);
  wire.send("c");
  await wire.flushed();
  assert.equal(connection.writes.join(""), "a\nb\n12c\n");
  connection.writes.length = 0;
  wire.send("d");
  wire.send("e");
  await wire.flushed();
  assert.deepEqual(connection.writes, ["d\ne\n"]);
});

test("what is sent before the connection stands waits for it", async () => {
  const connection = new MemoryConnection();
  const wire = new RpcWire(1000);
  wire.send("early");
  wire.serve(connection, () => {});
  await wire.flushed();
  assert.deepEqual(connection.writes, ["early\n"]);
});

test("a write that takes only a part is gone on with", async () => {
  const connection = new MemoryConnection(3);
  const wire = new RpcWire(1000);
  wire.serve(connection, () => {});
  wire.send("x".repeat(70_000));
  wire.send("12345", [encoder.encode("67890").buffer]);
  await wire.flushed();
  assert.equal(connection.writes.join(""), `${"x".repeat(70_000)}\n12345\n67890`);
});

test("messages come as they are, and the host's end ends the wire", async () => {
  const lines: Line[] = [];
  const wire = new RpcWire(1000);
  wire.serve(
    new MemoryConnection(1, ['{"jsonrpc":"2.0","id":1}\n{"json', 'rpc":"2.0","id":2}\n'], false),
    (line) => lines.push(line),
  );
  assert.equal(await wire.ended, "the host closed it");
  assert.deepEqual(lines.map(({ message }) => message["id"]), [1, 2]);
});

test("what cannot be read ends the wire, with the reason", async () => {
  const wire = new RpcWire(1000);
  wire.serve(new MemoryConnection(1, ["hello\n"]), () => {});
  assert.match(await wire.ended, /not readable/);
});

test("a write that fails ends the wire", async () => {
  const connection = new MemoryConnection();
  connection.write = () => Promise.reject(new Error("broken pipe"));
  const wire = new RpcWire(1000);
  wire.serve(connection, () => {});
  wire.send("x");
  assert.equal(await wire.ended, "broken pipe");
});
