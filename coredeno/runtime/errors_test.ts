import assert from "node:assert/strict";
import vectors from "../../tests/wire/values.json" with { type: "json" };
import { errorFromHost, ownError, wireError } from "./errors.ts";

const test = (name: string, fn: () => void | Promise<void>) => Deno.test({ name, permissions: "none", fn });

for (const { name, wire, plugin_sees: wanted } of vectors.errors) {
  test(`${name}: the plugin sees an Error with its class, status and facts`, () => {
    const error = errorFromHost(wire);
    assert.ok(error instanceof Error);
    const { code, ...fields } = error as Error & Record<string, unknown>;
    assert.deepEqual({ name: error.name, code, message: error.message, fields }, { ...wanted });
    assert.equal(Object.getPrototypeOf(error), Error.prototype);
    assert.match(error.stack ?? "", /errors_test/);
  });
}

for (const odd of [null, undefined, 7, "no", {}, { code: "x", message: 1, data: 7 }]) {
  test(`an answer that is no error (${JSON.stringify(odd)}) is still an Error`, () => {
    assert.equal(errorFromHost(odd).name, "InternalError");
  });
}

test("an error of our own has the table's code and status", () => {
  assert.deepEqual(wireError("PluginTimeout", "late"), { code: -32004, message: "late" });
  assert.equal((ownError("Cancelled", "x") as Error & { code: string }).code, "CANCELLED");
});

test("its stack goes on into the code that awaits", async function plugin() {
  const ask = async () => {
    await Promise.resolve();
    throw errorFromHost({ code: -32001, message: "none" });
  };
  await ask().catch((error: Error) => assert.match(error.stack ?? "", /at async plugin/));
  await assert.rejects(ask);
});
