/**
 * What a plugin is given: `import type { Core } from "coredeno"`. Types only: nothing of this runs.
 *
 * Every method that asks the host gives a promise. Where the host refuses, it rejects with an `Error` whose `name` is
 * the class (`PermissionDenied`, `NotFound`, …), whose `code` is stable (`PERMISSION_DENIED`, …), and which has the
 * facts as properties (`permission`, `resource`, `remedy`). What is asked inside a call of the host ends with that call:
 * at its deadline, or when the host cancels it, the promise rejects with an error named `PluginTimeout` or `Cancelled`.
 */

/** The host, as a plugin's `init(core)` is given it. The object is frozen and good for the plugin's whole life. */
export interface Core {
  /** The plugin's own code. */
  readonly code: string;
  /** The settings that the host loaded it with. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Files beneath the app's root, as far as `permissions.read` and `permissions.write` of the manifest go. */
  readonly files: Files;
  /** Text by key, in the plugin's own group; other groups need `permissions.store`. */
  readonly store: OwnStore;
  /** Programs that the app approved and `permissions.run` lists. */
  readonly processes: Processes;
  /** What the manifest lists under `permissions.optional`, to be asked for while the plugin runs. */
  readonly permissions: Permissions;
  /** Log records; `console` writes to the same log. */
  readonly log: Log;
  /** The app's own services, by name and method: `core.services.weather.forecast("Oslo", 2)`. */
  readonly services: Services;
  /** The call that is running: it follows the code through `await`, timers and callbacks. */
  readonly call: Call;

  /** One key of a store group; `value` is empty if it was not found. */
  storeGet(group: string, key: string): Promise<{ value: string; found: boolean }>;
  /** Set one key of a store group. */
  storeSet(group: string, key: string, value: string): Promise<{ ok: true }>;
  /** A file as text (UTF-8). */
  fileRead(path: string): Promise<{ content: string }>;
  /** Make or replace a file. */
  fileWrite(path: string, content: string): Promise<{ ok: true }>;
  /** What is in a folder. */
  fileList(path: string): Promise<{ entries: FileEntry[] }>;
  /** Remove a file or an empty folder. */
  fileDelete(path: string): Promise<{ ok: true }>;
  /** Start a program. */
  processStart(command: string, args?: readonly string[]): Promise<{ process_id: string }>;
  /** End a program that this plugin started. */
  processStop(process_id: string): Promise<{ ok: true }>;
}

/** Files beneath the app's root. Paths are relative, with `/`. */
export interface Files {
  /** A whole file. */
  read(path: string): Promise<Uint8Array<ArrayBuffer>>;
  /** A whole file, as text (UTF-8; what is none becomes U+FFFD). */
  readText(path: string): Promise<string>;
  /** Make or replace a file, and the folders above it: all of it or nothing. */
  write(path: string, data: string | Uint8Array | ArrayBuffer): Promise<void>;
  /** The files and folders in a folder, by name. */
  list(path: string): Promise<FileEntry[]>;
  /** Remove a file or an empty folder. */
  delete(path: string): Promise<void>;
}

/** One entry of a folder; `size` is in bytes, 0 for a folder. */
export interface FileEntry {
  readonly name: string;
  readonly is_dir: boolean;
  readonly size: number;
}

/** One group of the store. */
export interface Store {
  /** The value of a key, or null if there is none. */
  get(key: string): Promise<string | null>;
  /** Set a key; when it returns, the value is on disk. */
  set(key: string, value: string): Promise<void>;
  /** Remove a key; harmless if there is none. */
  delete(key: string): Promise<void>;
  /** All keys and their values. */
  getAll(): Promise<Record<string, string>>;
  /** How many keys there are. */
  count(): Promise<number>;
  /** Remove the whole group. */
  deleteGroup(): Promise<void>;
  /** A template with the group's values put in for their keys. */
  render(template: string): Promise<string>;
}

/** The plugin's own group, and the way to others. */
export interface OwnStore extends Store {
  /** Another group, with the same methods. Nothing is asked before one of them is called. */
  group(name: string): Store;
}

/** Programs outside the sandbox. They die with the plugin. */
export interface Processes {
  /** Start a program by the name that the app approved; no shell is involved. */
  start(command: string, args?: readonly string[]): Promise<Process>;
}

/** A program that runs, or has run. */
export interface Process {
  readonly id: string;
  /** Wait for its end. */
  wait(): Promise<ProcessResult>;
  /** End it, with all that it started; harmless if it has ended. */
  stop(): Promise<void>;
}

/** How a program ended: `exitCode` is negative for a signal; the texts are the last 64 KiB of each stream. */
export interface ProcessResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Permissions as a manifest writes them; each list is what is wanted. */
export interface PermissionSet {
  readonly read?: readonly string[];
  readonly write?: readonly string[];
  readonly net?: readonly string[];
  readonly run?: readonly string[];
  readonly store?: { readonly read?: readonly string[]; readonly write?: readonly string[] };
  readonly services?: { readonly [name: string]: readonly string[] };
}

/** What came of a request: all of it was granted, or nothing. `reason` says why not, or that `net` waits for a load. */
export interface PermissionAnswer {
  readonly granted: boolean;
  readonly reason: string;
}

/** It has it all (without using up a grant for once), it may ask for the rest, or it need not ask. */
export type PermissionState = "granted" | "prompt" | "denied";

/** Asking the app for more. */
export interface Permissions {
  /**
   * Ask for what is optional in the manifest. The app may take its time: within a call the request ends with it.
   * @param reason one line for the user, at most 300 characters.
   */
  request(permissions: PermissionSet, reason?: string): Promise<PermissionAnswer>;
  /** How things stand; asks nobody. */
  query(permissions: PermissionSet): Promise<PermissionState>;
}

/** Log records. Texts are written as they are, all else as `Deno.inspect` shows it, with spaces between. */
export interface Log {
  debug(...parts: unknown[]): void;
  info(...parts: unknown[]): void;
  warning(...parts: unknown[]): void;
  error(...parts: unknown[]): void;
}

/** The app's services. An app can say more exactly what it has by declaring this interface again. */
export interface Services {
  readonly [name: string]: { readonly [method: string]: ServiceMethod };
}

/** A method of a service. What it returns is for the caller to know: `await forecast<Weather[]>("Oslo")`. */
export type ServiceMethod = <Result = unknown>(...args: unknown[]) => Promise<Result>;

/** The call that is running. Outside of one (a timer set by no call) there is neither deadline nor id. */
export interface Call {
  /** Aborted when the host cancels the call, at its deadline, and when the plugin is unloaded. */
  readonly signal: AbortSignal;
  /** When it must be done, in milliseconds of the epoch. */
  readonly deadline: number | undefined;
  /** The trace that the host gave it. */
  readonly trace: string | undefined;
  /** Its number, as log records carry it. */
  readonly id: number | undefined;
}
