// The floor for calls of the host: a socket, JSON lines, one Worker that echoes. No coredeno code.
const listener = Deno.listen({ transport: "unix", path: Deno.args[0] as string });
const worker = new Worker(new URL("echo_worker.ts", import.meta.url), { type: "module" });
console.log("ready");
const connection = await listener.accept();
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const out: string[] = [];
let writing = false;

async function flush(): Promise<void> {
  writing = true;
  while (out.length > 0) {
    const data = encoder.encode(out.splice(0).join(""));
    for (let sent = 0; sent < data.length;) sent += await connection.write(data.subarray(sent));
  }
  writing = false;
}

worker.onmessage = (event: MessageEvent<{ id: number; args: unknown }[]>) => {
  for (const message of event.data) out.push(JSON.stringify(message) + "\n");
  if (!writing) flush();
};

let rest = "";
const chunk = new Uint8Array(65536);
for (;;) {
  const size = await connection.read(chunk);
  if (size === null) break;
  const lines = (rest + decoder.decode(chunk.subarray(0, size), { stream: true })).split("\n");
  rest = lines.pop() as string;
  worker.postMessage(lines.map((line) => JSON.parse(line)));
}
Deno.exit(0);
