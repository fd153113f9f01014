import type { Core } from "coredeno";
import { wordsOf } from "./words.ts";

let core: Core;

/** Runs once, when the host loads the plugin. */
export function init(c: Core): void {
  core = c;
}

/** Counts the words of one of the app's notes, and leaves a report of how often each occurs. */
export async function count(note: string): Promise<{ words: number; different: number; report: string }> {
  const words = wordsOf(await core.files.readText(`notes/${note}`));
  const often = new Map<string, number>();
  for (const word of words) often.set(word, (often.get(word) ?? 0) + 1);
  const lines = [...often].sort((a, b) => b[1] - a[1]).map(([word, times]) => `${times} ${word}\n`);
  const report = `reports/${note}`;
  await core.files.write(report, lines.join(""));
  return { words: words.length, different: often.size, report };
}
