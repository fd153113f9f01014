import assert from "node:assert/strict";
import { Fault } from "./check.ts";
import { assertComplete, samePermissions, workerPermissions } from "./permissions.ts";

const test = (name: string, fn: () => void) => Deno.test({ name, permissions: "none", fn });
const WHOLE = workerPermissions("/stage/0", ["example.com"]);

test("a Worker may read its root and reach its hosts, and each of the other six keys is false", () => {
  assert.deepEqual(WHOLE, {
    read: ["/stage/0"],
    net: ["example.com"],
    write: false,
    run: false,
    env: false,
    sys: false,
    ffi: false,
    import: false,
  });
  assert.equal(workerPermissions("/stage/0", []).net, false);
  assertComplete(WHOLE);
});

for (const key of Object.keys(WHOLE)) {
  for (const value of [undefined, null, true, "inherit", "all", {}, [null], [""]]) {
    test(`${key}: ${JSON.stringify(value)} makes no Worker, because it could inherit`, () => {
      assert.throws(() => assertComplete({ ...WHOLE, [key]: value }), Fault);
    });
  }
  test(`without ${key} of its own there is no Worker`, () => {
    const { [key as "read"]: value, ...rest } = WHOLE;
    assert.throws(() => assertComplete(rest), Fault);
    assert.throws(() => assertComplete(Object.assign(Object.create({ [key]: value }), rest)), Fault);
  });
}

for (const key of ["write", "run", "env", "sys", "ffi", "import"]) {
  test(`${key} is never a list`, () =>
    assert.throws(() => assertComplete({ ...WHOLE, [key]: ["/"] }), Fault));
}

for (const nothing of [undefined, null, "none", 7]) {
  test(`${nothing} is no permissions`, () => assert.throws(() => assertComplete(nothing), Fault));
}

test("the Worker made ahead fits only the same root and the same hosts", () => {
  assert.ok(samePermissions(WHOLE, workerPermissions("/stage/0", ["example.com"])));
  assert.ok(!samePermissions(WHOLE, workerPermissions("/stage/1", ["example.com"])));
  assert.ok(!samePermissions(WHOLE, workerPermissions("/stage/0", [])));
});
