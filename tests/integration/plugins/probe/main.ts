/** Tries what Deno itself must refuse, however the plugin asks for it. */
// deno-lint-ignore-file no-explicit-any

/** Its own main.ts. */
export const where = (): string => new URL(import.meta.url).pathname;

/** What came of a try: the name of what it threw, or what it gave. */
export async function attempt(name: string, ...args: any[]): Promise<string> {
  try {
    return `gave ${await tries[name]!(...args)}`;
  } catch (error) {
    return (error as Error).name;
  }
}

const tries: Record<string, (...args: any[]) => unknown> = {
  read: (path) => Deno.readTextFile(path),
  readSync: (path) => Deno.readTextFileSync(path),
  open: async (path) => (await Deno.open(path, { read: true })).close(),
  stat: (path) => Deno.stat(path),
  list: (path) => [...Deno.readDirSync(path)],
  realPath: (path) => Deno.realPath(path),
  write: (path) => Deno.writeTextFile(path, "x"),
  append: async (path) => (await Deno.open(path, { append: true, create: true })).close(),
  mkdir: (path) => Deno.mkdir(path),
  remove: (path) => Deno.remove(path, { recursive: true }),
  rename: (path) => Deno.rename(path, `${path}.new`),
  symlink: (path) => Deno.symlink("/etc/passwd", path),
  link: (path) => Deno.link("/etc/passwd", path),
  chmod: (path) => Deno.chmod(path, 0o777),
  temporary: () => Deno.makeTempFile(),
  env: () => Deno.env.get("PATH"),
  environment: () => JSON.stringify(Deno.env.toObject()),
  setEnv: () => Deno.env.set("A", "b"),
  processEnv: () => (globalThis as any).process?.env?.PATH ?? Deno.env.get("PATH"),
  run: (program) => new Deno.Command(program).output(),
  spawn: (program) => new Deno.Command(program).spawn().status,
  connect: (port) => Deno.connect({ hostname: "127.0.0.1", port }),
  fetch: (port) => fetch(`http://127.0.0.1:${port}/`),
  listen: () => Deno.listen({ hostname: "127.0.0.1", port: 0 }),
  resolve: () => Deno.resolveDns("example.com", "A"),
  socket: (path) => Deno.connect({ transport: "unix", path }),
  listenSocket: (path) => Deno.listen({ transport: "unix", path }),
  webSocket: (port) => new WebSocket(`ws://127.0.0.1:${port}/`),
  hostname: () => Deno.hostname(),
  userInfo: () => Deno.uid(),
  load: () => Deno.systemMemoryInfo(),
  ffi: () => (Deno as any).dlopen("libc.so.6", {}),
  kill: (pid) => Deno.kill(pid, "SIGCONT"),
  nodeRead: async (path) => (await import("node:fs")).readFileSync(path, "utf8"),
  nodeRun: async (program) => (await import("node:child_process")).execFileSync(program),
  nodeConnect: async (port) => {
    const { connect } = await import("node:net");
    await new Promise((resolve, reject) => connect(port, "127.0.0.1", resolve as any).on("error", reject));
  },
  request: async (name) => (await Deno.permissions.request({ name })).state === "granted" || never(name),
  escalate: (permissions) =>
    new Worker("data:text/javascript,", { type: "module", deno: { permissions } } as any),
  import: async (path) => await import(`file://${path}`),
  fetchFile: async (path) => (await fetch(`file://${path}`)).text(),
};

function never(name: string): never {
  throw new Deno.errors.NotCapable(name);
}

/** What Deno says of its own permissions. */
export async function granted(): Promise<string[]> {
  const names = ["read", "write", "net", "run", "env", "sys", "ffi", "import"] as const;
  const states = await Promise.all(
    names.map(async (name) => [name, (await Deno.permissions.query({ name } as any)).state]),
  );
  return states.filter(([, state]) => state === "granted").map(([name]) => name as string);
}
