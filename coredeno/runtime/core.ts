/** Builds the object that a plugin's `init(core)` is given. What it has is documented in types.ts. */

import type { Calls } from "./calls.ts";
import type { LoadOrder } from "./channel.ts";
import { create, freeze, keys, Uint8Array, uncurry } from "./intrinsics.ts";
import type { Logs } from "./logs.ts";
import type { Requests } from "./requests.ts";
import type {
  Core,
  FileEntry,
  Files,
  OwnStore,
  PermissionAnswer,
  Permissions,
  PermissionSet,
  PermissionState,
  Processes,
  ProcessResult,
  Services,
  Store,
} from "./types.ts";

const encode = uncurry(TextEncoder.prototype.encode);
const decode = uncurry(TextDecoder.prototype.decode);
const encoder = new TextEncoder();
const decoder = new TextDecoder();

type Ask = (method: string, params: Readonly<Record<string, unknown>>) => Promise<unknown>;

/** Build it; frozen through and through. */
export function buildCore(order: LoadOrder, requests: Requests, logs: Logs, calls: Calls): Core {
  const ask: Ask = (method, params) => requests.ask(method, params);
  const files = buildFiles(ask);
  const store = (group?: string) => buildStore(ask, group);
  const ownStore: OwnStore = freeze({ ...store(), group: (name: string) => store(name) });
  const ok = { ok: true } as const;
  return freeze({
    code: order.code,
    config: freezeDeep(order.config),
    files,
    store: ownStore,
    processes: buildProcesses(ask),
    permissions: buildPermissions(ask),
    log: logs.face,
    services: buildServices(ask, order.services),
    get call() {
      return calls.face;
    },

    async storeGet(group: string, key: string) {
      const value = await store(group).get(key);
      return { value: value ?? "", found: value !== null };
    },
    async storeSet(group: string, key: string, value: string) {
      await store(group).set(key, value);
      return ok;
    },
    async fileRead(path: string) {
      return { content: await files.readText(path) };
    },
    async fileWrite(path: string, content: string) {
      await files.write(path, content);
      return ok;
    },
    async fileList(path: string) {
      return { entries: await files.list(path) };
    },
    async fileDelete(path: string) {
      await files.delete(path);
      return ok;
    },
    async processStart(command: string, args: readonly string[] = []) {
      return await ask("processes.start", { command, args }) as { process_id: string };
    },
    async processStop(process_id: string) {
      await ask("processes.stop", { process_id });
      return ok;
    },
  });
}

function buildFiles(ask: Ask): Files {
  const read = async (path: string) => await ask("files.read", { path }) as Uint8Array<ArrayBuffer>;
  return freeze({
    read,
    async readText(path: string) {
      return decode(decoder, await read(path));
    },
    async write(path: string, data: string | Uint8Array | ArrayBuffer) {
      await ask("files.write", { path, data: typeof data === "string" ? encode(encoder, data) : data });
    },
    async list(path: string) {
      return await ask("files.list", { path }) as FileEntry[];
    },
    async delete(path: string) {
      await ask("files.delete", { path });
    },
  });
}

function buildStore(ask: Ask, group: string | undefined): Store {
  return freeze({
    async get(key: string) {
      return await ask("store.get", { key, group }) as string | null;
    },
    async set(key: string, value: string) {
      await ask("store.set", { key, value, group });
    },
    async delete(key: string) {
      await ask("store.delete", { key, group });
    },
    async getAll() {
      return await ask("store.get_all", { group }) as Record<string, string>;
    },
    async count() {
      return await ask("store.count", { group }) as number;
    },
    async deleteGroup() {
      await ask("store.delete_group", { group });
    },
    async render(template: string) {
      return await ask("store.render", { template, group }) as string;
    },
  });
}

function buildProcesses(ask: Ask): Processes {
  return freeze({
    async start(command: string, args: readonly string[] = []) {
      const { process_id } = await ask("processes.start", { command, args }) as { process_id: string };
      return freeze({
        id: process_id,
        async wait(): Promise<ProcessResult> {
          const ended = await ask("processes.wait", { process_id }) as Record<string, unknown>;
          return {
            exitCode: ended["exit_code"],
            stdout: ended["stdout"],
            stderr: ended["stderr"],
          } as ProcessResult;
        },
        async stop() {
          await ask("processes.stop", { process_id });
        },
      });
    },
  });
}

function buildPermissions(ask: Ask): Permissions {
  return freeze({
    async request(permissions: PermissionSet, reason = "") {
      return await ask("permissions.request", { permissions, reason }) as PermissionAnswer;
    },
    async query(permissions: PermissionSet) {
      const { state } = await ask("permissions.query", { permissions }) as { state: PermissionState };
      return state;
    },
  });
}

/** The names come from outside: without prototypes, `constructor` is as good a name as any, and no other is there. */
function buildServices(ask: Ask, listed: LoadOrder["services"]): Services {
  const services = create(null);
  for (const name of keys(listed)) {
    const methods = create(null);
    for (const [method, kind] of Object.entries(listed[name] ?? {})) {
      if (kind === "unary") {
        methods[method] = (...args: unknown[]) => ask(`services.${name}.${method}`, { args });
      }
    }
    services[name] = freeze(methods);
  }
  return freeze(services) as Services;
}

function freezeDeep<T>(value: T): T {
  if (typeof value === "object" && value !== null && !(value instanceof Uint8Array)) {
    Object.values(value).forEach(freezeDeep);
    freeze(value);
  }
  return value;
}
