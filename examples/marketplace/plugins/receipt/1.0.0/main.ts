import type { Core } from "coredeno";

let core: Core;

/** Runs once, when the host loads the plugin. */
export function init(c: Core): void {
  core = c;
}

/** Lays out what was bought, in another currency: the app's own service knows its rate. */
export async function format(items: [name: string, euros: number][], currency: string): Promise<string[]> {
  const rate = await core.services.rates.rate(currency) as number;
  const total = items.reduce((sum, [, euros]) => sum + euros, 0);
  return [...items, ["total", total] as const].map(([name, euros]) =>
    `${name.padEnd(10, ".")}${(euros * rate).toFixed(2).padStart(8, ".")} ${currency}`
  );
}
