import type { Core } from "coredeno";

let core: Core;

/** Runs once, when the host loads the plugin. */
export async function init(c: Core): Promise<void> {
  core = c;
  await core.store.set("visits", "0");
  console.log("hello is ready");
}

/** Reads a file of the app, counts in the store, and asks a service of the app. */
export async function greet(name: string): Promise<string> {
  const note = await core.files.readText("notes/today.txt");
  const visits = Number(await core.store.get("visits")) + 1;
  await core.store.set("visits", String(visits));
  const weather = await core.services.weather.forecast("Oslo", 2) as string;
  return `Hello ${name}, visit ${visits}. ${note.trim()} ${weather}`;
}

/** Tries to read what nobody granted. */
export async function pry(): Promise<string> {
  return await core.files.readText("secrets/key.txt");
}
