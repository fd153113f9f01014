import assert from "node:assert/strict";
import { MessageChannel as NodeMessageChannel } from "node:worker_threads";
import { type EventEmitterPort, Link, type LinkOwner, type TieMaker } from "./link.ts";
import { workerPermissions } from "./permissions.ts";

const ROOT = "/coredeno-test-root"; // need not exist: nothing is read
const MESSAGE_BYTES = 1000;
const PERMISSIONS = workerPermissions(ROOT, []);

const makeTie: TieMaker = () => {
  const { port1, port2 } = new NodeMessageChannel();
  return { near: port1 as EventEmitterPort, far: port2 as unknown as MessagePort };
};

/** A Worker whose entry is `script`: it has main's port as `port`, as if the plugin had stolen it. */
function hostile(script: string): Link {
  const entry = `onmessage = ({ ports: [port] }) => { const held = []; port.onmessage = (event) => {
    held.push(...event.ports); if (typeof onMain === "function") onMain(port, event); }; ${script} };
    addEventListener("error", (event) => event.preventDefault());`;
  return new Link(
    PERMISSIONS,
    MESSAGE_BYTES,
    new URL(`data:application/javascript,${encodeURIComponent(entry)}`),
  );
}

/** The end of a link, as its owner is told of it; entries that come before are refused by none. */
function brokenBy(link: Link): Promise<{ reason: string; isFault: boolean; entries: unknown[] }> {
  const { promise, resolve } = Promise.withResolvers<
    { reason: string; isFault: boolean; entries: unknown[] }
  >();
  const entries: unknown[] = [];
  const owner: LinkOwner = {
    receive: (entry) => void entries.push(entry),
    broken: (reason, isFault) => resolve({ reason, isFault, entries }),
  };
  link.attach(owner);
  return promise;
}

const test = (name: string, fn: () => Promise<void>) => {
  // Deno counts the ops of a Worker that was told to end as leaks until its thread is gone.
  Deno.test({ name, permissions: { read: [ROOT] }, sanitizeOps: false, sanitizeResources: false, fn });
};

for (
  const [name, script] of Object.entries({
    "null": "port.postMessage(null)",
    "a cycle": "const a = []; a.push(a); port.postMessage(a)",
    "shared memory": "port.postMessage(['[]', new SharedArrayBuffer(8)])",
    "an object with a getter": "port.postMessage({ get 0() { return '[]' }, length: 1 })",
    "text that is no JSON": "port.postMessage('[[1]')",
    "two texts in one": `port.postMessage('[["x"]]\\n[["y"]]')`,
    "a pong without a ping": `port.postMessage('[["pong",1]]')`,
    "more than its limit": "port.postMessage('x'.repeat(3_000_000))",
    "a binary value that nothing names": "port.postMessage(['[]', new ArrayBuffer(1)])",
    "anything on the Worker's own channel": "postMessage('hello')",
    "null on the Worker's own channel": "postMessage(null)",
    "a port": "const c = new MessageChannel(); port.postMessage([c.port1], [c.port1])",
  })
) {
  test(`a Worker that posts ${name} is told to end, and main lives`, async () => {
    const { isFault } = await brokenBy(hostile(script));
    assert.equal(isFault, true);
  });
}

test("a Worker that speaks before it is asked is at fault, even if the module comes later", async () => {
  const link = hostile(`port.postMessage('[["loaded",["f"]]]')`);
  while (!link.isOver) await new Promise((resolve) => setTimeout(resolve, 1));
  assert.match((await brokenBy(link)).reason, /before anything was asked/);
});

test("entries reach the owner in their order", async () => {
  const { entries } = await brokenBy(hostile(`port.postMessage('[["a"],["b",1]]'); port.postMessage(0)`));
  assert.deepEqual(entries, [["a"], ["b", 1]]);
});

test("a mistake of main's over what a Worker says ends the Worker, not main", async () => {
  const link = hostile(`port.postMessage('[["a"]]')`);
  const { promise, resolve } = Promise.withResolvers<[string, boolean]>();
  link.attach({
    receive: () => {
      throw new RangeError("ours");
    },
    broken: (...how) => resolve(how),
  });
  assert.deepEqual(await promise, ["main cannot take it: RangeError: ours", true]);
});

test("an error that the Worker does not catch ends it, and main lives", async () => {
  const entry = new URL("data:application/javascript,setTimeout(() => { throw null })");
  const { isFault } = await brokenBy(new Link(PERMISSIONS, MESSAGE_BYTES, entry));
  assert.equal(isFault, false);
});

for (const end of ["self.close()", "Deno.exit(3)", "close(); for (;;);"]) {
  test(`a Worker that ends itself by ${end} is noticed at once`, async () => {
    const link = hostile(`globalThis.onMain = () => { ${end} }`);
    link.tie(makeTie);
    await link.tied;
    link.outbox.put('["end"]');
    assert.deepEqual(await brokenBy(link), {
      reason: "its Worker ended by itself",
      isFault: false,
      entries: [],
    });
  });
}

test("closing tells the Worker to end, and its thread is seen to go", async () => {
  const link = hostile("");
  link.tie(makeTie);
  await new Promise((resolve) => setTimeout(resolve, 50));
  link.close();
  link.close();
  const alive = setInterval(() => {}, 1000);
  await link.gone;
  clearInterval(alive);
  assert.equal(link.isOver, true);
  link.outbox.put("[]");
  link.outbox.flush();
});

test("a ping is answered by a Worker that is free, and not by one in a loop", async () => {
  const free = hostile(`globalThis.onMain = (port) => port.postMessage('[["pong",1]]')`);
  await free.ping();
  assert.equal(free.busyMs, 0);
  free.close();
  const busy = hostile("globalThis.onMain = () => {}");
  let answered = false;
  busy.ping().then(() => answered = true);
  busy.ping();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.ok(busy.busyMs >= 15);
  assert.equal(answered, false);
  busy.close();
  await busy.ping();
});

test("without complete permissions there is no Worker", () => {
  for (const permissions of [null, {}, { ...PERMISSIONS, net: null }]) {
    assert.throws(() => new Link(permissions as never, MESSAGE_BYTES), { name: "Fault" });
  }
  return Promise.resolve();
});
