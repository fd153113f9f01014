/** The first line from the host, and the first line back. Pure: no I/O. */

import { Fault, fields, text, texts, whole } from "./check.ts";

/** The version of both wires that this runtime speaks. */
export const PROTOCOL = 1;
/** EX_CONFIG of sysexits.h: started by a host that this runtime does not fit. */
export const EXIT_MISFIT = 78;

export interface Limits {
  /** The largest message on either wire, bytes included. */
  readonly message_bytes: number;
  /** How many calls of the host a module may have at once. */
  readonly calls_in_flight: number;
  /** How many requests to the host a module may have at once; more wait in the module. */
  readonly requests_in_flight: number;
  /** Longer log records are cut. */
  readonly log_line_bytes: number;
}

export interface Boot {
  readonly token: string;
  readonly core_socket: string;
  readonly deno_socket: string;
  readonly isolation: "process" | "worker";
  /** The Worker to make ahead. */
  readonly worker: { readonly root: string; readonly net: readonly string[] };
  readonly limits: Limits;
}

/**
 * Read the boot line.
 *
 * @throws {Fault} it is not one, or of another protocol.
 */
export function parseBoot(line: string): Boot {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new Fault("boot line: no JSON");
  }
  const boot = fields(value, "boot line");
  if (boot["protocol"] !== PROTOCOL) {
    throw new Fault(
      `boot line: protocol ${JSON.stringify(boot["protocol"])}, this sidecar speaks ${PROTOCOL}`,
    );
  }
  const isolation = boot["isolation"];
  if (isolation !== "process" && isolation !== "worker") {
    throw new Fault("boot line: isolation: wanted process or worker");
  }
  const worker = fields(boot["worker"], "worker");
  const limits = fields(boot["limits"], "limits");
  return {
    token: text(boot["token"], "token"),
    core_socket: absolute(boot["core_socket"], "core_socket"),
    deno_socket: absolute(boot["deno_socket"], "deno_socket"),
    isolation,
    worker: { root: absolute(worker["root"], "worker.root"), net: texts(worker["net"], "worker.net") },
    limits: {
      message_bytes: positive(limits["message_bytes"], "limits.message_bytes"),
      calls_in_flight: positive(limits["calls_in_flight"], "limits.calls_in_flight"),
      requests_in_flight: positive(limits["requests_in_flight"], "limits.requests_in_flight"),
      log_line_bytes: positive(limits["log_line_bytes"], "limits.log_line_bytes"),
    },
  };
}

/** The line that says: connect now. */
export function readyLine(deno: string, pid: number): string {
  return JSON.stringify({ protocol: PROTOCOL, deno, pid, ready: true }) + "\n";
}

/** The line that says why this will not work. */
export function refusalLine(error: string): string {
  return JSON.stringify({ protocol: PROTOCOL, ready: false, error }) + "\n";
}

/** An absolute path without parts that lead back, as the host makes it. */
export function absolute(value: unknown, what: string): string {
  const path = text(value, what);
  if (!path.startsWith("/") || !isPlain(path)) throw new Fault(`${what}: wanted a plain absolute path`);
  return path;
}

/** The `file:` URL of `entry`, a path relative to `root` that stays beneath it. */
export function entryUrl(root: string, entry: string): string {
  if (entry === "" || entry.startsWith("/") || !isPlain(entry)) {
    throw new Fault("entry_point: wanted a plain relative path");
  }
  // Each part by itself, so that quotes, percent signs, "?" and "#" in a name stay parts of the name.
  return `file://${`${root}/${entry}`.split("/").map(encodeURIComponent).join("/")}`;
}

function isPlain(path: string): boolean {
  const hasControl = Array.from(path).some((character) => character < " " || character === "\x7f");
  return path.isWellFormed() && !hasControl && !path.includes("\\") &&
    !path.split("/").some((part) => part === ".." || part === ".");
}

function positive(value: unknown, what: string): number {
  const number = whole(value, what);
  if (number === 0) throw new Fault(`${what}: 0, wanted more`);
  return number;
}
