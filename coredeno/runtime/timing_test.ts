import assert from "node:assert/strict";
import { within } from "./timing.ts";

const test = (name: string, fn: () => Promise<void>) => Deno.test({ name, permissions: "none", fn });

test("work that is done in time is done", async () => {
  assert.equal(await within(1000, Promise.resolve()), true);
  assert.equal(await within(Infinity, Promise.resolve()), true);
});

test("work that is not is not waited for", async () =>
  assert.equal(await within(1, new Promise(() => {})), false));

test("work that fails fails", async () => {
  await assert.rejects(within(1000, Promise.reject(new Error("no"))), /no/);
});
