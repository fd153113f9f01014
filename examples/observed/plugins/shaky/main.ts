/** Well, most of the time. */
export function work(): string {
  return "done";
}

/** Compute for ever: nobody can reach this module any more, but by ending its process. */
export function hang(): never {
  for (;;);
}

/** End the process that the host gave it. */
export function crash(): void {
  Deno.exit(1);
}

/** Throw; that is an error of this call alone. */
export function fail(): never {
  throw new RangeError("shaky does not feel like it");
}
