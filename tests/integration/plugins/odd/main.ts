/** Exports under names that mean something to JavaScript, and throws what can be thrown. */
// deno-lint-ignore-file no-explicit-any

export function then(...args: any[]): any {
  return ["then", ...args];
}
export function constructor(...args: any[]): any {
  return ["constructor", ...args];
}
function proto(...args: any[]): any {
  return ["__proto__", ...args];
}
export { proto as "", proto as "__proto__", proto as "default" };

/** `throws("null")` throws what the expression of JavaScript stands for; `await` or not. */
export function throws(source: string): never {
  throw make(source);
}
export async function rejects(source: string): Promise<never> {
  await Promise.resolve();
  throw make(source);
}
export const works = () => "works";

/** Nobody waits for what these throw. */
export function stray(how: string): string {
  const fail = () => {
    throw new RangeError(`stray ${how}`);
  };
  const ways: Record<string, () => void> = {
    rejection: () => void Promise.reject(new RangeError(`stray ${how}`)),
    "throw in a timer": () => void setTimeout(fail, 0),
    "async throw in a timer": () =>
      void setTimeout(async () => {
        await null;
        fail();
      }, 0),
    "throw in a microtask": () => queueMicrotask(fail),
    "throw in a listener": () => {
      const target = new EventTarget();
      target.addEventListener("x", fail);
      target.dispatchEvent(new Event("x"));
    },
    "rejection with null": () => void Promise.reject(null),
    "throw of null in a timer": () =>
      void setTimeout(() => {
        throw null;
      }, 0),
    reportError: () => reportError(new RangeError(`stray ${how}`)),
  };
  ways[how]!();
  return how;
}

export function consoles(): void {
  console.debug("debug", 1);
  console.log("log %s", { a: [1] });
  console.info("info");
  console.warn("warn");
  console.error("error", new RangeError("out of it").message);
  console.table([{ a: 1 }]);
  console.assert(true, "no");
  console.assert(false, "assert");
  console.log("x".repeat(100_000));
  console.log("é".repeat(100_000));
  console.log("two\nlines \x1b[31mred\u202e");
  console.log({
    get [Symbol.toStringTag]() {
      throw new Error("no");
    },
  });
  console.log("end");
}

function make(source: string): any {
  return new Function(`return (${source});`)();
}
