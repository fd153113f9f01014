/** What a plugin writes to the log: `core.log` and `console`, as records to the host. */

import type { Calls } from "./calls.ts";
import { LOG_CREDIT, type LogLevel, type Outbox } from "./channel.ts";
import { defineProperty, jsonStringify, ownMap, slice, toWellFormed, uncurry } from "./intrinsics.ts";
import { describeThrown } from "./thrown.ts";
import type { Log } from "./types.ts";

const { inspect } = Deno;
const encodeInto = uncurry(TextEncoder.prototype.encodeInto);
// As deep as Deno's own console goes.
const INSPECT_OPTIONS = { colors: false, depth: 4 };

export class Logs {
  readonly #outbox: Outbox;
  readonly #calls: Calls;
  readonly #cut: Uint8Array<ArrayBuffer>;
  readonly #encoder = new TextEncoder();
  #credit = LOG_CREDIT;
  #dropped = 0;

  /** Records longer than `lineBytes` in UTF-8 are cut. */
  constructor(outbox: Outbox, calls: Calls, lineBytes: number) {
    this.#outbox = outbox;
    this.#calls = calls;
    this.#cut = new Uint8Array(lineBytes);
  }

  /** Write one record. While the host does not keep up, it is dropped and counted. */
  write(level: LogLevel, parts: readonly unknown[]): void {
    if (this.#credit === 0) {
      this.#dropped++;
      return;
    }
    this.#credit--;
    let message = "";
    for (let i = 0; i < parts.length; i++) message += (i === 0 ? "" : " ") + show(parts[i]);
    const callId = this.#calls.current?.id ?? null;
    this.#outbox.put(`["log","${level}",${jsonStringify(this.#fit(message))},${callId}]`);
  }

  /** Main passed records on: as many may follow. */
  granted(count: number): void {
    this.#credit += count;
    if (this.#dropped === 0) return;
    const dropped = this.#dropped;
    this.#dropped = 0;
    this.write("warning", [`${dropped} log records were dropped: too many at once`]);
  }

  /** `core.log`. */
  get face(): Log {
    return Object.freeze({
      debug: (...parts: unknown[]) => this.write("debug", parts),
      info: (...parts: unknown[]) => this.write("info", parts),
      warning: (...parts: unknown[]) => this.write("warning", parts),
      error: (...parts: unknown[]) => this.write("error", parts),
    });
  }

  #fit(message: string): string {
    const text = toWellFormed(message);
    if (text.length * 3 <= this.#cut.length) return text;
    return slice(text, 0, encodeInto(this.#encoder, text, this.#cut).read);
  }
}

/** Put records in the place of what `console` prints. */
export function replaceConsole(logs: Logs): void {
  const to = (level: LogLevel) => (...parts: unknown[]): void => logs.write(level, parts);
  const counts = ownMap<string, number>();
  const times = ownMap<string, number>();
  const elapsed = (label: string) =>
    `${label}: ${performance.now() - (times.get(label) ?? performance.now())}ms`;
  const methods: Record<string, (...parts: never[]) => void> = {
    debug: to("debug"),
    log: to("info"),
    info: to("info"),
    warn: to("warning"),
    error: to("error"),
    dir: (value: unknown) => logs.write("info", [value]),
    dirxml: to("info"),
    table: (value: unknown) => logs.write("info", [value]),
    group: to("info"),
    groupCollapsed: to("info"),
    groupEnd: () => {},
    clear: () => {},
    trace: (...parts: unknown[]) => logs.write("debug", [...parts, new Error("Trace").stack]),
    assert: (condition: unknown, ...parts: unknown[]) => {
      if (!condition) logs.write("error", ["Assertion failed", ...parts]);
    },
    count: (label = "default") => {
      counts.set(label, (counts.get(label) ?? 0) + 1);
      logs.write("info", [`${label}: ${counts.get(label)}`]);
    },
    countReset: (label = "default") => void counts.delete(label),
    time: (label = "default") => void times.set(label, performance.now()),
    timeLog: (label = "default", ...parts: unknown[]) => logs.write("info", [elapsed(label), ...parts]),
    timeEnd: (label = "default") => {
      logs.write("info", [elapsed(label)]);
      times.delete(label);
    },
  };
  for (const [name, value] of Object.entries(methods)) {
    defineProperty(console, name, { value, writable: true, enumerable: true, configurable: true });
  }
}

function show(part: unknown): string {
  if (typeof part === "string") return part;
  try {
    return inspect(part, INSPECT_OPTIONS);
  } catch (error) {
    // A custom inspect, a getter or a Proxy of the plugin's threw.
    return `(cannot be shown: ${describeThrown(error).name})`;
  }
}
