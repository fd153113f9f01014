/**
 * A Worker's entry: trusted, loaded before the plugin and with main's permissions. It takes the port to main, and
 * runs the one plugin that main names. The plugin shares this realm: main believes nothing that comes from here.
 */

import { Calls } from "./calls.ts";
import { type Attachments, type LoadOrder, Outbox, readMessage } from "./channel.ts";
import { buildCore } from "./core.ts";
import { guard } from "./guard.ts";
import { uncurry } from "./intrinsics.ts";
import { Logs, replaceConsole } from "./logs.ts";
import { Plugin } from "./plugin.ts";
import { Requests } from "./requests.ts";
import { fill, type Slot } from "./slots.ts";

const post = uncurry(
  MessagePort.prototype.postMessage as (message: unknown, transfer?: Transferable[]) => void,
);

interface Parts {
  readonly plugin: Plugin;
  readonly requests: Requests;
  readonly calls: Calls;
  readonly logs: Logs;
}

addEventListener("message", (event) => start((event as MessageEvent).ports[0] as MessagePort), {
  once: true,
});

function start(port: MessagePort): void {
  const outbox = new Outbox((message, transfer) => {
    if (transfer === undefined) post(port, message);
    else post(port, message, transfer);
  });
  let parts: Parts | null = null;
  const held: MessagePort[] = []; // never spoken on; they end with this thread, and main notices
  guard((what, thrown) => parts?.logs.write("error", [`${what}:`, thrown]));
  port.onmessage = (event) => {
    const { entries, attachments } = readMessage(event.data, Infinity);
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i] as unknown[];
      if (entry[0] === "load") parts = load(entry, attachments, outbox);
      else if (entry[0] === "ping") outbox.put(`["pong",${entry[1]}]`);
      else if (entry[0] === "leash") held[held.length] = event.ports[0] as MessagePort;
      else if (parts !== null) dispatch(parts, entry, attachments);
    }
  };
}

function load(entry: readonly unknown[], attachments: Attachments, outbox: Outbox): Parts {
  const order = entry[1] as LoadOrder;
  const slots = entry[2] as Slot[];
  fill({ params: order }, slots, attachments.take(slots));
  const { limits } = order;
  const calls = new Calls();
  const logs = new Logs(outbox, calls, limits.log_line_bytes);
  const requests = new Requests(outbox, calls, limits);
  const plugin = new Plugin(outbox, calls, logs, limits.message_bytes);
  replaceConsole(logs);
  plugin.load(order, buildCore(order, requests, logs, calls));
  return { plugin, requests, calls, logs };
}

function dispatch(
  { plugin, requests, calls, logs }: Parts,
  entry: readonly unknown[],
  attachments: Attachments,
): void {
  switch (entry[0]) {
    case "call":
      plugin.call(entry[1] as number, entry[2] as Parameters<Plugin["call"]>[1], attachments);
      break;
    case "answer": {
      const answer = entry[2] as { result: unknown } | { error: unknown };
      const slots = entry[3] as Slot[];
      fill(answer, slots, attachments.take(slots));
      requests.answered(entry[1] as number, answer);
      break;
    }
    case "abort":
      calls.abort(entry[1] as number);
      break;
    case "logged":
      logs.granted(entry[1] as number);
      break;
    case "dispose":
      plugin.dispose();
  }
}
