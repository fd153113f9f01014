import assert from "node:assert/strict";
import { MessageChannel as NodeMessageChannel } from "node:worker_threads";
import type { Boot } from "./boot.ts";
import { LineReader } from "./lines.ts";
import type { EventEmitterPort, TieMaker } from "./link.ts";
import { Modules } from "./modules.ts";

type Message = Record<string, unknown>;

const makeTie: TieMaker = () => {
  const { port1, port2 } = new NodeMessageChannel();
  return { near: port1 as EventEmitterPort, far: port2 as unknown as MessagePort };
};

/** A whole sidecar without its process and its sockets: real Workers, the host played by the test. */
class Sidecar {
  readonly root = Deno.makeTempDirSync();
  readonly notifications: Message[] = [];
  readonly session: Message[] = [];
  readonly modules: Modules;
  answerOf: (request: Message) => Message = () => ({ result: null });
  isFinished = false;
  readonly #answers = new Map<number, (message: Message) => void>();
  readonly #reader = new LineReader(1_000_000);
  #lastId = 0;

  constructor(isolation: Boot["isolation"] = "worker") {
    const boot: Boot = {
      token: "",
      core_socket: "",
      deno_socket: "",
      isolation,
      worker: { root: this.root, net: [] },
      limits: { message_bytes: 100_000, calls_in_flight: 100, requests_in_flight: 4, log_line_bytes: 1000 },
    };
    this.modules = new Modules(boot, {
      toHost: (text) => this.#toHost(JSON.parse(text)),
      toSession: (text) => this.#toSession(JSON.parse(text)),
      isCongested: () => false,
      memory: () => ({ heap_bytes: 1, rss_bytes: 2 }),
      finish: () => {
        this.isFinished = true;
      },
    }, Promise.resolve(makeTie));
  }

  /** Ask as the host does: the answer, whole. */
  ask(method: string, params: unknown = {}): Promise<Message> {
    const id = ++this.#lastId;
    const { promise, resolve } = Promise.withResolvers<Message>();
    this.#answers.set(id, resolve);
    this.line({ jsonrpc: "2.0", id, method, params });
    return promise;
  }

  line(message: unknown): void {
    const bytes = new TextEncoder().encode(JSON.stringify(message) + "\n");
    for (const line of this.#reader.push(bytes)) this.modules.receive(line);
  }

  /** Load this source as the module `code`. */
  load(code: string, source: string, params: Message = {}): Promise<Message> {
    Deno.writeTextFileSync(`${this.root}/${code}.ts`, source);
    return this.ask("LoadModule", {
      code,
      entry_point: `${code}.ts`,
      root: this.root,
      permissions: { net: [] },
      services: { weather: { forecast: "unary", watch: "stream" } },
      config: { units: ["C"] },
      deadline_ms: 5000,
      ...params,
    });
  }

  call(code: string, name: string, ...args: unknown[]): Promise<Message> {
    return this.ask("Call", { code, function: name, args });
  }

  async result(code: string, name: string, ...args: unknown[]): Promise<unknown> {
    const { result, error } = await this.call(code, name, ...args);
    assert.equal(error, undefined);
    return result;
  }

  async end(): Promise<void> {
    await this.ask("Shutdown", { grace_ms: 1000 });
    Deno.removeSync(this.root, { recursive: true });
  }

  #toHost(message: Message): void {
    if (message["id"] === undefined) return void this.notifications.push(message);
    const resolve = this.#answers.get(message["id"] as number);
    assert.ok(resolve !== undefined, `answered twice: ${JSON.stringify(message)}`);
    this.#answers.delete(message["id"] as number);
    resolve(message);
  }

  #toSession(message: Message): void {
    this.session.push(message);
    if (message["id"] === undefined) return;
    const answer = { jsonrpc: "2.0", id: message["id"], ...this.answerOf(message) };
    queueMicrotask(() => this.modules.receiveBatch(new TextEncoder().encode(JSON.stringify([answer])), []));
  }
}

function test(name: string, fn: (sidecar: Sidecar) => Promise<void>, isolation?: Boot["isolation"]): void {
  Deno.test({
    name,
    permissions: { read: true, write: true },
    // Deno counts the ops of a Worker that was told to end as leaks until its thread is gone.
    sanitizeOps: false,
    sanitizeResources: false,
    async fn() {
      const sidecar = new Sidecar(isolation);
      try {
        await fn(sidecar);
      } finally {
        await sidecar.end();
      }
    },
  });
}

const codeOf = ({ error }: Message) => (error as Message | undefined)?.["code"];
const dataOf = ({ error }: Message) => (error as Message)["data"] as Message;

test("a module is loaded, called and unloaded", async (sidecar) => {
  const { result } = await sidecar.load(
    "a",
    "export function init() {}\nexport const add = (a: number, b: number) => a + b;",
  );
  assert.deepEqual(result, { ok: true, exports: ["add", "init"], load_ms: (result as Message)["load_ms"] });
  assert.equal(await sidecar.result("a", "add", 1, 2), 3);
  assert.deepEqual((await sidecar.ask("ModuleStatus", { code: "a" })).result, {
    code: "a",
    status: "RUNNING",
  });
  assert.deepEqual((await sidecar.ask("UnloadModule", { code: "a", grace_ms: 1000 })).result, {
    ok: true,
    clean: true,
  });
  assert.deepEqual((await sidecar.ask("ModuleStatus", { code: "a" })).result, {
    code: "a",
    status: "STOPPED",
  });
  assert.equal(codeOf(await sidecar.call("a", "add", 1, 2)), -32002);
  assert.equal((await sidecar.load("a", "export function init() {}")).error, undefined);
});

test("names that JavaScript has by itself are functions only if they are exported", async (sidecar) => {
  const names = ["then", "constructor", "toString", "hasOwnProperty", "valueOf"];
  await sidecar.load("plain", "export function f() {}");
  await sidecar.load(
    "odd",
    names.map((name) => `function f_${name}() { return "${name}" } export { f_${name} as ${name} };`).join(
      "\n",
    ),
  );
  for (const name of [...names, "__proto__"]) {
    assert.equal(codeOf(await sidecar.call("plain", name)), -32601);
    if (name !== "__proto__") assert.equal(await sidecar.result("odd", name), name);
  }
});

test("init and dispose are never called by the host", async (sidecar) => {
  await sidecar.load("a", "export function init() {}\nexport function dispose() {}");
  assert.equal(codeOf(await sidecar.call("a", "init")), -32601);
  assert.equal(codeOf(await sidecar.call("a", "dispose")), -32601);
});

const failures: [string, string, string, RegExp][] = [
  ["a syntax error", "export const x = ;", "SyntaxError", /^Expression expected[^]*a\.ts:1:18/],
  [
    "nothing exported",
    "const a = 1;",
    "LoadError",
    /^a\.ts exports nothing: wanted init or at least one function$/,
  ],
  [
    "too much exported",
    `const f = () => 1;\nexport { ${Array.from({ length: 4097 }, (_, i) => `f as f${i}`)} };`,
    "LoadError",
    /^a\.ts: exports 4097 functions, wanted at most 4096$/,
  ],
  [
    "a long name exported",
    `export const ${"f".repeat(257)} = () => 1;`,
    "LoadError",
    /exports f{40}…, a name of 257 letters, wanted at most 256$/,
  ],
  ["no function exported", "export const a = 1;", "LoadError", /exports nothing/],
  ["a throw at the top", "throw new RangeError('top')", "RangeError", /^top$/],
  ["a throw in init", "export function init() { throw new RangeError('in') }", "RangeError", /^in$/],
  ["null thrown in init", "export function init() { throw null }", "Error", /^null$/],
  [
    "init rejects",
    "export async function init() { await null; throw new Error('later') }",
    "Error",
    /^later$/,
  ],
  [
    "a file that is not there",
    "import './nope.ts'; export function f() {}",
    "TypeError",
    /nope\.ts[^]*a\.ts/,
  ],
  [
    "a file that is not its own",
    "import t from '/etc/passwd' with { type: 'text' }; export const f = () => t",
    "TypeError",
    /Requires read access/,
  ],
];
for (const [name, source, error, message] of failures) {
  test(`${name}: the load fails, and says so`, async (sidecar) => {
    const answer = await sidecar.load("a", source);
    assert.equal(codeOf(answer), -32007);
    assert.equal(dataOf(answer)["name"], error);
    assert.match(String(dataOf(answer)["message"]), message);
    assert.ok(!JSON.stringify(answer).includes("data:application"));
    assert.deepEqual((await sidecar.ask("ModuleStatus", { code: "a" })).result, {
      code: "a",
      status: "ERRORED",
    });
    assert.equal((await sidecar.load("a", "export function f() {}")).error, undefined);
  });
}

for (const init of ["new Promise(() => {})", "(() => { for (;;); })()"]) {
  test(`an init of ${init} is given up at its deadline, and others go on`, async (sidecar) => {
    await sidecar.load("good", "export const f = () => 1;");
    const loading = sidecar.load("a", `export function init() { return ${init} }`, { deadline_ms: 50 });
    assert.equal(await sidecar.result("good", "f"), 1);
    assert.equal(codeOf(await loading), -32004);
    assert.equal(await sidecar.result("good", "f"), 1);
  });
}

for (
  const end of ["self.close()", "Deno.exit(0)", "postMessage(null)", "postMessage(new SharedArrayBuffer(1))"]
) {
  test(`a plugin that does ${end} is ERRORED, its calls are answered, and others go on`, async (sidecar) => {
    await sidecar.load("good", "export const f = () => 1;");
    await sidecar.load("a", `export function f() { ${end}; return new Promise(() => {}) }`);
    assert.ok([-32002, -32008].includes(codeOf(await sidecar.call("a", "f")) as number));
    assert.deepEqual((await sidecar.ask("ModuleStatus", { code: "a" })).result, {
      code: "a",
      status: "ERRORED",
    });
    assert.deepEqual(sidecar.notifications.map(({ method }) => method), ["ModuleExited"]);
    assert.equal(await sidecar.result("good", "f"), 1);
  });
}

test("what a plugin does not catch is logged, and it lives on", async (sidecar) => {
  await sidecar.load(
    "a",
    `export async function f() {
    setTimeout(() => { throw new Error("stray") }); setTimeout(() => { throw null });
    Promise.reject(new Error("unheard")); Promise.reject();
    await new Promise((resolve) => setTimeout(resolve, 20));
    return 1;
  }`,
  );
  assert.equal(await sidecar.result("a", "f"), 1);
  const records = sidecar.session.map((
    { method, module, params },
  ) => [method, module, (params as Message)["level"]]);
  assert.deepEqual(records, Array(4).fill(["log.write", "a", "error"]));
});

test("values are what the wire says, both ways", async (sidecar) => {
  await sidecar.load(
    "a",
    "export const echo = (x: unknown) => x; export const big = () => [1n]; export const long = () => 'x'.repeat(100_000);",
  );
  const value = { a: [1, null, "\u{1f600}"], ["__proto__"]: null, b: { c: false } };
  assert.deepEqual(await sidecar.result("a", "echo", value), value);
  const answer = await sidecar.call("a", "big");
  assert.deepEqual([codeOf(answer), dataOf(answer)["name"]], [-32007, "DataError"]);
  assert.equal(codeOf(await sidecar.call("a", "long")), -32003);
});

test("core asks the host as the module, over its bound in turn", async (sidecar) => {
  let most = 0;
  sidecar.answerOf = ({ params }) => {
    most = Math.max(most, sidecar.session.length);
    return { result: (params as Message)["key"] };
  };
  await sidecar.load(
    "a",
    `let core: any; export const init = (c: unknown) => { core = c };
    export const get = (n: number) => Promise.all(Array.from({ length: n }, (_, i) => core.store.get("k" + i)));
    export const shape = () => [core.code, core.config, Object.keys(core.services.weather), core.services.constructor === undefined,
      Object.isFrozen(core), Object.isFrozen(core.config.units)];`,
  );
  assert.deepEqual(await sidecar.result("a", "get", 20), Array.from({ length: 20 }, (_, i) => `k${i}`));
  assert.ok(sidecar.session.every(({ method, module }) => method === "store.get" && module === "a"));
  assert.deepEqual(await sidecar.result("a", "shape"), [
    "a",
    { units: ["C"] },
    ["forecast"],
    true,
    true,
    true,
  ]);
});

test("a cancelled call's requests are cancelled with it", async (sidecar) => {
  await sidecar.load(
    "a",
    `export async function f(core: any) {} let core: any; export const init = (c: unknown) => { core = c };
    export const wait = () => core.processes.start("sleep").then(() => new Promise((_, reject) =>
      core.call.signal.addEventListener("abort", () => reject(core.call.signal.reason))));`,
  );
  sidecar.answerOf = () => ({ result: { process_id: "1" } });
  const called = sidecar.call("a", "wait");
  while (sidecar.session.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  sidecar.line({ jsonrpc: "2.0", method: "Cancel", params: { id: 2 } });
  assert.equal(dataOf(await called)["name"], "Cancelled");
});

test("a ping tells of each module, busy ones too", async (sidecar) => {
  await sidecar.load(
    "a",
    "export const spin = (ms: number) => { const end = Date.now() + ms; while (Date.now() < end); };",
  );
  assert.deepEqual((await sidecar.ask("Ping", { session: true })).result, {
    modules: { a: { state: "RUNNING", busy_ms: 0, inflight: 0 } },
    heap_bytes: 1,
    rss_bytes: 2,
  });
  const spun = sidecar.call("a", "spin", 300);
  const { a } = ((await sidecar.ask("Ping")).result as { modules: Record<string, Message> }).modules;
  assert.ok(Number(a?.["busy_ms"]) > 20 && a?.["inflight"] === 1);
  await spun;
});

test("the host's error on the Session is the answer to such a ping", async (sidecar) => {
  sidecar.answerOf = () => ({ error: { code: -32006, message: "no disk" } });
  assert.deepEqual((await sidecar.ask("Ping", { session: true })).error, {
    code: -32006,
    message: "no disk",
  });
});

test("a second module has no place in process isolation", async (sidecar) => {
  await sidecar.load("a", "export function f() {}");
  assert.equal(codeOf(await sidecar.load("b", "export function f() {}")), -32002);
  await sidecar.ask("UnloadModule", { code: "a", grace_ms: 1000 });
  assert.equal((await sidecar.load("b", "export function f() {}")).error, undefined);
}, "process");

test("a code that is loaded is not loaded again", async (sidecar) => {
  await sidecar.load("a", "export function f() {}");
  assert.equal(codeOf(await sidecar.load("a", "export function f() {}")), -32002);
  assert.equal(await sidecar.result("a", "f"), null);
});

test("what cannot be is refused, each with its own code", async (sidecar) => {
  assert.equal(codeOf(await sidecar.call("none", "f")), -32001);
  assert.equal(codeOf(await sidecar.ask("Nope")), -32601);
  assert.equal(codeOf(await sidecar.ask("Call", { code: "a" })), -32602);
  assert.equal(codeOf(await sidecar.load("a", "", { entry_point: "../a.ts" })), -32602);
  assert.equal(codeOf(await sidecar.load("a", "", { permissions: null })), -32602);
  assert.equal(codeOf(await sidecar.load("a", "", { permissions: { net: null } })), -32602);
  assert.equal(codeOf(await sidecar.load("a", "", { permissions: { net: ["example.com"] } })), -32002);
  assert.deepEqual((await sidecar.ask("ModuleStatus", { code: "a" })).result, {
    code: "a",
    status: "UNKNOWN",
  });
  assert.deepEqual((await sidecar.ask("UnloadModule", { code: "a", grace_ms: 0 })).result, {
    ok: true,
    clean: true,
  });
});

test("a host that does not keep to the wire is not served", (sidecar) => {
  sidecar.line({ jsonrpc: "2.0", method: "Unknown" });
  for (
    const message of [{ id: 5 }, { id: "5", method: "Ping" }, { id: -1, method: "Ping" }, {
      method: "Cancel",
    }]
  ) {
    assert.throws(() => sidecar.line({ jsonrpc: "2.0", ...message }), { name: "Fault" });
  }
  const batch = (...messages: unknown[]) => new TextEncoder().encode(JSON.stringify(messages));
  sidecar.modules.receiveBatch(batch({ jsonrpc: "2.0", id: 99, result: 1 }), []);
  for (
    const [messages, attachments] of [
      [batch({ id: 1 }), []],
      [batch({ jsonrpc: "2.0" }), []],
      [batch(1), []],
      [new Uint8Array([0xff]), []],
      [batch(), [new Uint8Array(1)]],
      [batch({ jsonrpc: "2.0", id: 1, result: null, bytes: [{ at: ["result"], len: 1 }] }), []],
    ] as [Uint8Array, Uint8Array[]][]
  ) {
    assert.throws(() => sidecar.modules.receiveBatch(messages, attachments), { name: "Fault" });
  }
  return Promise.resolve();
});

test("a shutdown disposes all, and ends the process after its answer", async (sidecar) => {
  await sidecar.load("a", "export const dispose = () => console.log('bye a')");
  await sidecar.load("b", "export const dispose = () => { for (;;); }");
  assert.deepEqual((await sidecar.ask("Shutdown", { grace_ms: 100 })).result, { ok: true });
  assert.equal(sidecar.isFinished, true);
  assert.deepEqual(sidecar.session.map(({ method }) => method), ["log.write", "health.check"]);
});
