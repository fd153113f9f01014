/**
 * The sidecar's main thread: reads the boot line, opens both wires, and relays between them and the Workers.
 * The only file that touches stdin, stdout, and the process's end.
 */

import { type Boot, EXIT_MISFIT, parseBoot, readyLine, refusalLine } from "./boot.ts";
import type { EventEmitterPort, TieMaker } from "./link.ts";
import { Modules } from "./modules.ts";
import { RpcWire } from "./rpc.ts";
import { Session } from "./session.ts";

const NEWLINE = 10;
const OWNER_ONLY = 0o600;
// A boot line is a few hundred bytes; whatever is far longer is none.
const LONGEST_BOOT_LINE = 1_048_576;

async function main(): Promise<void> {
  const boot = readBoot(await readBootLine());
  watchStdin();
  const listener = Deno.listen({ transport: "unix", path: boot.deno_socket });
  Deno.chmodSync(boot.deno_socket, OWNER_ONLY); // it is made by the umask, which is the launcher's affair
  Deno.stdout.writeSync(new TextEncoder().encode(readyLine(Deno.version.deno, Deno.pid)));
  const connected = acceptOne(listener);

  const rpc = new RpcWire(boot.limits.message_bytes);
  rpc.ended.then((reason) => die(`rpc: ${reason}`));
  const session = new Session(boot);
  session.ended.then((reason) => die(`session: ${reason}`));
  const ties = Promise.withResolvers<TieMaker>();
  const modules = new Modules(boot, {
    toHost: (text, buffers) => rpc.send(text, buffers),
    toSession: (text, buffers) => session.send(text, buffers),
    isCongested: () => session.isCongested,
    memory,
    finish: () => void rpc.flushed().then(() => Deno.exit(0)),
  }, ties.promise);
  const opened = session.open(modules).then(importTies).then(ties.resolve);
  opened.catch((error: Error) => die(`session: ${error.message}`));

  rpc.serve(await connected, (line) => modules.receive(line));
  await Promise.all([opened, session.stands]);
  for (const path of [boot.core_socket, boot.deno_socket]) {
    await Deno.permissions.revoke({ name: "write", path });
  }
}

async function readBootLine(): Promise<string> {
  const buffer = new Uint8Array(LONGEST_BOOT_LINE);
  for (let size = 0;;) {
    const end = buffer.subarray(0, size).indexOf(NEWLINE);
    if (end !== -1) return new TextDecoder().decode(buffer.subarray(0, end));
    const more = await Deno.stdin.read(buffer.subarray(size));
    if (more === null) Deno.exit(0);
    if (more === 0) refuse("boot line: too long");
    size += more;
  }
}

function readBoot(line: string): Boot {
  try {
    return parseBoot(line);
  } catch (error) {
    return refuse((error as Error).message);
  }
}

function refuse(reason: string): never {
  Deno.stdout.writeSync(new TextEncoder().encode(refusalLine(reason)));
  Deno.exit(EXIT_MISFIT);
}

/** The host says nothing more on stdin: its end is the host's end, and nobody is left to serve. */
async function watchStdin(): Promise<void> {
  const buffer = new Uint8Array(1024);
  while (await Deno.stdin.read(buffer).catch(() => null) !== null);
  Deno.exit(0);
}

async function acceptOne(listener: Deno.UnixListener): Promise<Deno.UnixConn> {
  const connection = await listener.accept();
  listener.close(); // and removes the socket file
  return connection;
}

/** Part of what `node:http2` has loaded already, so it costs nothing after it; by itself it would cost 15 ms. */
async function importTies(): Promise<TieMaker> {
  const { MessageChannel } = await import("node:worker_threads");
  return () => {
    const { port1, port2 } = new MessageChannel();
    return { near: port1 as EventEmitterPort, far: port2 as unknown as MessagePort };
  };
}

function memory(): { heap_bytes: number; rss_bytes: number } {
  const { heapUsed, rss } = Deno.memoryUsage();
  return { heap_bytes: heapUsed, rss_bytes: rss };
}

function die(reason: string): never {
  console.error(`coredeno: ${reason}`);
  Deno.exit(1);
}

main().catch((error) =>
  die(error instanceof Error && error.name === "Fault" ? `rpc: ${error.message}` : error.stack)
);
