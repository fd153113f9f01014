// grpc-js, driven by JSON lines; `client.py` says how.

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

interface Command {
  readonly op: string;
  readonly socket: string;
  readonly method: string;
  readonly token?: string;
  readonly timeout_s?: number;
  readonly request?: object;
  readonly call: number;
  readonly message?: object;
}

const PROTO = new URL("../../../coredeno/gateway/proto/", import.meta.url).pathname;
const options = { keepCase: true, longs: String, enums: String, bytes: String, defaults: true };
const services = new Map<string, grpc.MethodDefinition<object, object>>();
for (const file of ["coredeno.proto", "health.proto"]) {
  for (const [service, methods] of Object.entries(loadSync(PROTO + file, options))) {
    if ("format" in methods) continue; // a message
    for (const [name, method] of Object.entries(methods)) {
      services.set(`${service}/${name}`, method as grpc.MethodDefinition<object, object>);
    }
  }
}

/** One call: what is still to be sent, and what comes. */
class Call {
  readonly #incoming: unknown[] = [];
  #news = Promise.withResolvers<void>();
  readonly #stream: grpc.ClientDuplexStream<object, object> | grpc.ClientUnaryCall;

  constructor(client: grpc.Client, command: Command) {
    const method = services.get(command.method);
    if (method === undefined) throw new Error(`no method ${command.method}`);
    const { path, requestSerialize: write, responseDeserialize: read } = method;
    const metadata = new grpc.Metadata();
    if (command.token !== undefined) metadata.set("authorization", `Bearer ${command.token}`);
    const limits = command.timeout_s === undefined ? {} : { deadline: Date.now() + command.timeout_s * 1000 };
    if (!method.requestStream && !method.responseStream) {
      this.#stream = client.makeUnaryRequest(
        path,
        write,
        read,
        command.request ?? {},
        metadata,
        limits,
        (error, value) => {
          if (error === null) this.#add({ message: value });
          else this.#end(error);
        },
      );
      return;
    }
    const stream = method.requestStream
      ? client.makeBidiStreamRequest(path, write, read, metadata, limits)
      : client.makeServerStreamRequest(path, write, read, command.request ?? {}, metadata, limits);
    stream.on("data", (message: unknown) => this.#add({ message }));
    stream.on("error", () => {}); // its status says the same
    stream.on("status", (status: grpc.StatusObject) => this.#end(status));
    this.#stream = stream as grpc.ClientDuplexStream<object, object>;
  }

  send(message: object): void {
    (this.#stream as grpc.ClientDuplexStream<object, object>).write(message);
  }

  halfClose(): void {
    (this.#stream as grpc.ClientDuplexStream<object, object>).end();
  }

  cancel(): void {
    this.#stream.cancel();
  }

  async receive(): Promise<unknown> {
    while (this.#incoming.length === 0) await this.#news.promise;
    return this.#incoming.shift();
  }

  #end(status: { code: number; details: string }): void {
    this.#add({ status: status.code, details: status.details });
  }

  #add(entry: unknown): void {
    this.#incoming.push(entry);
    this.#news.resolve();
    this.#news = Promise.withResolvers();
  }
}

const clients = new Map<string, grpc.Client>();
const calls: Call[] = [];

async function carryOut(command: Command): Promise<unknown> {
  const call = calls[command.call - 1] as Call;
  switch (command.op) {
    case "begin": {
      const { socket } = command;
      const client = clients.get(socket) ??
        new grpc.Client(`unix:${socket}`, grpc.credentials.createInsecure());
      clients.set(socket, client);
      calls.push(new Call(client, command));
      return { call: calls.length };
    }
    case "receive":
      return await call.receive();
    case "send":
      call.send(command.message ?? {});
      return {};
    case "half_close":
      call.halfClose();
      return {};
    case "cancel":
      call.cancel();
      return {};
    default:
      clients.get(command.socket)?.close();
      clients.delete(command.socket);
      return {};
  }
}

let rest = "";
const decoder = new TextDecoder();
for await (const chunk of Deno.stdin.readable) {
  const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
  rest = lines.pop() as string;
  for (const line of lines) console.log(JSON.stringify(await carryOut(JSON.parse(line))));
}
Deno.exit(0);
