/** What a plugin may export: the host keeps the names as long as the module lives. Pure: no I/O. */

import { slice } from "./intrinsics.ts";

const MOST = 4_096;
const LONGEST = 256; // UTF-16 code units

/** What is wrong with the names of the exported functions, or null. */
export function problemOfExports(names: readonly string[]): string | null {
  if (names.length > MOST) return `exports ${names.length} functions, wanted at most ${MOST}`;
  for (let i = 0; i < names.length; i++) { // the plugin has run in this realm, and may have patched iteration
    const name = names[i] ?? "";
    if (name.length > LONGEST) {
      return `exports ${slice(name, 0, 40)}…, a name of ${name.length} letters, wanted at most ${LONGEST}`;
    }
  }
  return null;
}
