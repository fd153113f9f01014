"""Defences of the sidecar's own TypeScript, each with the attacks that it stops. Pure: no I/O."""

from __future__ import annotations

from tests.mutants.mutant import Cut, Mutant

OF_RUNTIME = (
    Mutant(
        "the Worker's entry prevents the default of stray errors",
        "runtime/guard.ts",
        """  addEventListener("error", (event) => {
    event.preventDefault();""",
        """  addEventListener("error", (event) => {""",
        ("async_throw", "throw_null"),
    ),
    Mutant(
        "the Worker's entry prevents the default of stray rejections",
        "runtime/guard.ts",
        """  addEventListener("unhandledrejection", (event) => {
    event.preventDefault();""",
        """  addEventListener("unhandledrejection", (event) => {""",
        ("reject",),
    ),
    Mutant(
        "a Worker is handed permissions, or it inherits main's",
        "runtime/link.ts",
        '{ type: "module", deno: { permissions } } as WorkerOptions',
        '{ type: "module" } as WorkerOptions',
        ("read_passwd_text_import", "import_sibling", "net_to_unix_sockets"),
    ),
    Mutant(
        "permissions that are not said are refused",
        "runtime/modules.ts",
        'texts(fields(params["permissions"], "permissions")["net"], "permissions.net")',
        'Object(params["permissions"])["net"] ?? []',
        ("perms_null_from_the_host",),
    ),
    Mutant(
        "a Worker's `net` is the granted list",
        "runtime/permissions.ts",
        "net: net.length === 0 ? false : Object.freeze([...net]),",
        'net: Object.freeze([...net, "127.0.0.1"]),',
        ("net_without_a_grant",),
        (
            Cut(
                "sidecar/command.py",
                "_joined([*unix, *order.worker.net])",
                "_joined([*unix, '127.0.0.1', *order.worker.net])",
            ),
            Cut(
                "sidecar/confine.py",
                'ruleset.tcp = _BIND_TCP if "any" in ports else _BIND_TCP | _CONNECT_TCP',
                "ruleset.tcp = 0",
            ),
        ),
    ),
    Mutant(
        "main survives what a Worker says",
        "runtime/link.ts",
        "this.#end(error instanceof Fault ? error.message : `main cannot take it: ${error}`, true);",
        "throw error;",
        ("null_message", "forge_loaded"),
    ),
    Mutant(
        "the plugin is imported through a wrapper",
        "runtime/plugin.ts",
        "return await import(`data:application/javascript,${encodeURIComponent(wrapper)}`);",
        "void wrapper; return { namespace: await import(url) };",
        ("then_export",),
    ),
    Mutant(
        "the names of services have no prototype",
        "runtime/core.ts",
        "const services = create(null);",
        "const services = create(Object.prototype);",
        ("proto_keys",),
    ),
    Mutant(
        "values that a plugin gives have a bounded depth",
        "runtime/values.ts",
        "if (depth >= MAX_DEPTH) throw",
        "if (depth >= 1e6) throw",
        ("deep_nesting", "cyclic_or_sab_message"),
    ),
    Mutant(
        "a plugin's bytes are copied, not shared",
        "runtime/values.ts",
        "const buffer = new Uint8Array(bytes).buffer as ArrayBuffer;",
        "const buffer = bytes.buffer as ArrayBuffer;",
        ("cyclic_or_sab_message",),
    ),
    Mutant(
        "halves of characters are not passed on",
        "runtime/values.ts",
        """return includes(text, "\\\\ud") ?""",
        """return includes(text, "\\\\never") ?""",
        ("bad_unicode",),
    ),
    Mutant(
        "a module has so many requests in flight, as main counts them",
        "runtime/module.ts",
        "if (this.#asked.size >= limits.requests_in_flight) throw",
        "if (this.#asked.size >= Infinity) throw",
        ("flood_small",),
    ),
    Mutant(
        "a module sends so many log records and no more, as main counts them",
        "runtime/module.ts",
        "if (++this.#logs > LOG_CREDIT) throw",
        "if (++this.#logs > Infinity) throw",
        ("flood_small", "flood_large"),
    ),
    Mutant(
        "what a Worker posts has a bounded size",
        "runtime/link.ts",
        "this.#limit = messageBytes + CHANNEL_SLACK;",
        "this.#limit = Infinity; void [messageBytes, CHANNEL_SLACK];",
        ("oversize_frame", "flood_large"),
    ),
    Mutant(
        "an answer to no call is a fault",
        "runtime/module.ts",
        """if (call === undefined) throw new Fault("answer: to a call that is not under way");
    return call;""",
        "return call as CallRecord;",
        ("forge_loaded",),
    ),
    Mutant(
        "nobody is loaded twice, or without being asked",
        "runtime/module.ts",
        """if (this.#load === null) throw new Fault("loaded: nothing is being loaded");
    return this.#load;""",
        "return this.#load ?? { id: 0, started: 0, timer: undefined };",
        ("forge_loaded",),
    ),
    Mutant(
        "a Worker that is unloaded is ended",
        "runtime/link.ts",
        "this.#worker.terminate();",
        "",
        ("eval_after_unload", "reload_race"),
    ),
    Mutant(
        "a Worker that closes itself is noticed",
        "runtime/link.ts",
        """      this.#end("its Worker ended by itself", false);""",
        "",
        ("self_close", "process_exit"),
    ),
    Mutant(
        "the way to main's port is locked",
        "runtime/guard.ts",
        "    lock(prototype as object);",
        "    void lock; void prototype;",
        ("port_steal",),
    ),
)
