import assert from "node:assert/strict";
import { absolute, entryUrl, parseBoot, readyLine, refusalLine } from "./boot.ts";
import { Fault } from "./check.ts";

const test = (name: string, fn: () => void) => Deno.test({ name, permissions: "none", fn });
const BOOT = {
  protocol: 1,
  token: "secret",
  core_socket: "/run/core.sock",
  deno_socket: "/run/1.sock",
  isolation: "process",
  worker: { root: "/stage/0", net: ["example.com:443"] },
  limits: {
    message_bytes: 16_777_216,
    calls_in_flight: 1024,
    requests_in_flight: 1024,
    log_line_bytes: 8192,
  },
};

test("a boot line gives all that it says, and what it says beyond is left out", () => {
  const { protocol: _, ...boot } = BOOT;
  assert.deepEqual(parseBoot(JSON.stringify({ ...BOOT, later: 1 })), boot);
});

test("another protocol is refused with both numbers", () => {
  assert.throws(() => parseBoot('{"protocol":2}'), /protocol 2, this sidecar speaks 1/);
});

for (
  const [name, change] of Object.entries({
    "no token": { token: undefined },
    "a relative socket": { core_socket: "core.sock" },
    "a socket with a way back": { deno_socket: "/run/../x" },
    "an isolation that does not exist": { isolation: "thread" },
    "no worker": { worker: undefined },
    "a worker without net": { worker: { root: "/stage/0" } },
    "net of null": { worker: { root: "/stage/0", net: null } },
    "net of numbers": { worker: { root: "/stage/0", net: [1] } },
    "a limit of 0": { limits: { ...BOOT.limits, message_bytes: 0 } },
    "a limit that is a text": { limits: { ...BOOT.limits, log_line_bytes: "8192" } },
  })
) {
  test(`a boot line with ${name} is refused`, () => {
    assert.throws(() => parseBoot(JSON.stringify({ ...BOOT, ...change })), Fault);
  });
}

for (const line of ["", "x", "[]", "null", "{}"]) {
  test(`${line || "nothing"} is no boot line`, () => assert.throws(() => parseBoot(line), Fault));
}

test("the first line back is one line", () => {
  assert.equal(readyLine("2.9.8", 7), '{"protocol":1,"deno":"2.9.8","pid":7,"ready":true}\n');
  assert.equal(refusalLine("a\nb"), '{"protocol":1,"ready":false,"error":"a\\nb"}\n');
});

test("every character of a file's name stays a part of it", () => {
  assert.equal(
    entryUrl("/stage/0", "src/a'b \"c%20é#?.ts"),
    "file:///stage/0/src/a'b%20%22c%2520%C3%A9%23%3F.ts",
  );
});

for (
  const path of [
    "",
    "/etc/passwd",
    "../x.ts",
    "a/../../x.ts",
    "./a.ts",
    "a\\b.ts",
    "a\nb.ts",
    "a\0",
    "\ud800.ts",
  ]
) {
  test(`${JSON.stringify(path)} is no entry`, () => assert.throws(() => entryUrl("/stage/0", path), Fault));
}

for (const path of [undefined, "", "stage", "/a/./b", "/a/..", "/a\tb"]) {
  test(`${JSON.stringify(path)} is no absolute path`, () =>
    assert.throws(() => absolute(path, "root"), Fault));
}
