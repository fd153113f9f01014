// The floor for requests of a module: a Worker, main, one bare bidirectional gRPC stream. No coredeno code.
import http2 from "node:http2";
import net from "node:net";
import { Buffer } from "node:buffer";

const worker = new Worker(new URL("requests_worker.ts", import.meta.url), { type: "module" });
const session = http2.connect("http://localhost", {
  createConnection: () => net.connect(Deno.args[0] as string),
});
const stream = session.request({
  ":method": "POST",
  ":path": "/floor.Floor/Echo",
  "content-type": "application/grpc",
  "te": "trailers",
});
const encoder = new TextEncoder();
const decoder = new TextDecoder();

worker.onmessage = (event: MessageEvent<{ batch?: unknown[]; done?: unknown }>) => {
  if (event.data.done !== undefined) {
    console.log(JSON.stringify(event.data.done));
    Deno.exit(0);
  }
  const body = encoder.encode(JSON.stringify(event.data.batch));
  const frame = new Uint8Array(5 + body.length);
  new DataView(frame.buffer).setUint32(1, body.length);
  frame.set(body, 5);
  stream.write(frame);
};

let rest: Buffer = Buffer.alloc(0);
stream.on("data", (data: Buffer) => {
  rest = rest.length === 0 ? data : Buffer.concat([rest, data]);
  while (rest.length >= 5) {
    const size = rest.readUInt32BE(1);
    if (rest.length < 5 + size) return;
    worker.postMessage(JSON.parse(decoder.decode(rest.subarray(5, 5 + size))));
    rest = rest.subarray(5 + size);
  }
});
stream.on("response", () => worker.postMessage({ start: JSON.parse(Deno.args[1] as string) }));
