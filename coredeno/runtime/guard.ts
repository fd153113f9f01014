/** What is done in a Worker before a plugin's code runs in it. */

import { defineProperty, getOwnPropertyDescriptor, getPrototypeOf } from "./intrinsics.ts";

/**
 * Make the Worker outlive what the plugin does not catch, and make main's port hard to reach.
 *
 * Listeners for stray errors must be there first: one that nobody prevents ends the Worker. A port can be stolen
 * when its next message arrives: through a patched `dispatchEvent` or `currentTarget`, hence the locked prototypes;
 * through another class put beneath `MessageEvent`, hence the classes that cannot be extended; and through a setter
 * on `Object.prototype` for what Deno sets on an event, hence the properties that stand before it. A setter for `0` on
 * `Array.prototype` or `Object.prototype` still has it, by the event's path: forbidding those would break plugins.
 * That is depth only: main treats each Worker as if the plugin held the port.
 */
export function guard(report: (what: string, thrown: unknown) => void): void {
  addEventListener("error", (event) => {
    event.preventDefault();
    report("uncaught error", event.error ?? event.message);
  });
  addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    report("unhandled rejection", event.reason);
  });
  const port = MessagePort.prototype;
  for (const key of Reflect.ownKeys(new MessageEvent("message"))) {
    if (Reflect.has(MessageEvent.prototype, key)) continue;
    defineProperty(Event.prototype, key, { value: undefined, writable: true, configurable: false });
  }
  for (
    const prototype of [
      port,
      getPrototypeOf(port),
      EventTarget.prototype,
      Event.prototype,
      MessageEvent.prototype,
    ]
  ) {
    lock(prototype as object);
  }
  for (const kind of [MessagePort, EventTarget, Event, MessageEvent]) Object.preventExtensions(kind);
}

/**
 * Nothing on it can be changed any more, but for `constructor`: that leads to no port, and `node:worker_threads` sets
 * it when it is imported. A frozen method would also forbid `port.unref = …` on an instance, which that does as well:
 * hence methods become getters, with setters that define the property on whatever object they are called on.
 */
function lock(prototype: object): void {
  for (const key of Reflect.ownKeys(prototype)) {
    const { value, writable, configurable } = getOwnPropertyDescriptor(prototype, key) as PropertyDescriptor;
    if (key === "constructor" || configurable !== true) continue;
    if (writable !== true) {
      defineProperty(prototype, key, { configurable: false });
      continue;
    }
    defineProperty(prototype, key, {
      get: () => value,
      set(this: object, own: unknown) {
        if (this === prototype) throw new TypeError(`${String(key)}: cannot be changed here`);
        defineProperty(this, key, { value: own, writable: true, enumerable: true, configurable: true });
      },
      configurable: false,
    });
  }
  Object.preventExtensions(prototype);
}
