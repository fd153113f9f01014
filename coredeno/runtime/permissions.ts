/** What a Worker may do. Pure: no I/O. */

import { Fault } from "./check.ts";

/** Deno's permissions for a Worker, every key said: one that is missing or null would inherit main's. */
export interface WorkerPermissions {
  readonly read: readonly string[];
  readonly net: readonly string[] | false;
  readonly write: false;
  readonly run: false;
  readonly env: false;
  readonly sys: false;
  readonly ffi: false;
  readonly import: false;
}

const KEYS = ["read", "write", "net", "run", "env", "sys", "ffi", "import"] as const;

/** It may read `root` and reach the hosts in `net`; nothing else. */
export function workerPermissions(root: string, net: readonly string[]): WorkerPermissions {
  return Object.freeze({
    read: Object.freeze([root]),
    net: net.length === 0 ? false : Object.freeze([...net]),
    write: false,
    run: false,
    env: false,
    sys: false,
    ffi: false,
    import: false,
  });
}

/**
 * The last look before a Worker is made, on what is really handed to Deno.
 *
 * @throws {Fault} a key is missing or is anything but `false` or a list of texts that are not empty.
 */
export function assertComplete(permissions: unknown): asserts permissions is WorkerPermissions {
  if (typeof permissions !== "object" || permissions === null) {
    throw new Fault("permissions: none, wanted all");
  }
  for (const key of KEYS) {
    const value: unknown = Object.hasOwn(permissions, key) ? Reflect.get(permissions, key) : undefined;
    const isList = Array.isArray(value) && value.every((item) => typeof item === "string" && item !== "");
    if (value !== false && !((key === "read" || key === "net") && isList)) {
      throw new Fault(`permissions: ${key} must be said, as false or as a list`);
    }
  }
}

/** Whether a Worker made with `a` can stand for one that wants `b`. */
export function samePermissions(a: WorkerPermissions, b: WorkerPermissions): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
