import type { Core } from "coredeno";

let core: Core;

export function init(c: Core): void {
  core = c;
}

/** Count a visitor, durably. */
export async function visit(name: string): Promise<number> {
  const count = Number(await core.store.get(name) ?? 0) + 1;
  await core.store.set(name, String(count));
  return count;
}
