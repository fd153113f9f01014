import type { Core } from "coredeno";
import { wordsOf } from "./words.ts";

let core: Core;

/** Runs once, when the host loads the plugin. */
export function init(c: Core): void {
  core = c;
}

/** Counts the words of one of the app's notes. */
export async function count(note: string): Promise<{ words: number; different: number }> {
  const words = wordsOf(await core.files.readText(`notes/${note}`));
  return { words: words.length, different: new Set(words).size };
}
