"""Defences round a sidecar's process, each with the attacks that it stops. Pure: no I/O."""

from __future__ import annotations

from tests.mutants.mutant import Cut, Mutant

_COMMAND = "sidecar/command.py"
_CONFINE = "sidecar/confine.py"
_CONFINEMENT = "sidecar/confinement.py"

OF_SIDECAR = (
    Mutant(
        "Deno downloads nothing",
        _COMMAND,
        '    "--no-remote",  # `import: false` alone does not stop npm: and jsr: imports from being downloaded\n',
        "",
        ("remote_import",),
        (
            Cut(_COMMAND, '    "--no-npm",\n', ""),
            Cut(_COMMAND, '    "--cached-only",\n', ""),
            Cut(_COMMAND, '    "--deny-import",\n', ""),
        ),
    ),
    Mutant(
        "addresses that were not granted are denied by their address",
        _COMMAND,
        "        *_denied(order.worker.net),\n",
        "",
        ("net_dns_to_loopback",),
    ),
    Mutant(
        "the environment is built from nothing",
        _COMMAND,
        '    return {\n        "DENO_DIR"',
        '    import os\n\n    return {\n        **os.environ,\n        "DENO_DIR"',
        ("env_injection_host", "env_probe"),
    ),
    Mutant(
        "no secret stands in a command line",
        _COMMAND,
        '        str(RUNTIME_FOLDER / "main.ts"),\n',
        '        str(RUNTIME_FOLDER / "main.ts"),\n        order.token,\n',
        ("secrets_in_argv",),
    ),
    Mutant(
        "a path that would split a list is refused",
        _COMMAND,
        """if "," in text or not text.isprintable():""",
        """if text == "":""",
        ("comma_in_path",),
    ),
    Mutant(
        "the kernel fences a sidecar in",
        _CONFINEMENT,
        """_fence(order, program) if landlock else ["landlock=off"]""",
        """["landlock=off"]""",
        ("escaped_sandbox",),
    ),
    Mutant(
        "the fence has no hole for the app's root",
        _CONFINEMENT,
        "RUNTIME_FOLDER, order.stage]\n    reads +=",
        "RUNTIME_FOLDER, order.stage, order.stage.parents[-1]]\n    reads +=",
        ("escaped_sandbox",),
    ),
    Mutant(
        "a sidecar signals nobody else",
        _CONFINE,
        "ruleset.scopes = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS",
        "ruleset.scopes = _SCOPE_ABSTRACT_SOCKETS",
        ("escaped_sandbox",),
    ),
    Mutant(
        "a sidecar joins no abstract socket",
        _CONFINE,
        "ruleset.scopes = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS",
        "ruleset.scopes = _SCOPE_SIGNALS",
        ("escaped_sandbox",),
    ),
    Mutant(
        "a sidecar joins and opens no TCP port that was not granted",
        _CONFINE,
        'ruleset.tcp = _BIND_TCP if "any" in ports else _BIND_TCP | _CONNECT_TCP',
        "ruleset.tcp = 0",
        ("escaped_sandbox",),
    ),
    Mutant(
        "a sidecar dies with its host",
        _CONFINE,
        "        _prctl(_PR_SET_PDEATHSIG, _SIGKILL)\n",
        "        pass\n",
        ("host_sigkill",),
    ),
    Mutant(
        "a sidecar has so many files open at most",
        _CONFINEMENT,
        '"NOFILE": _OPEN_FILES, ',
        "",
        ("descriptor_bomb",),
    ),
    Mutant(
        "a sidecar writes no large file",
        _CONFINEMENT,
        ', "FSIZE": _FILE_BYTES}',
        "}",
        ("huge_file",),
    ),
    Mutant(
        "a sidecar leaves no image of its memory",
        _CONFINEMENT,
        'wanted = {"CORE": 0, ',
        "wanted = {",
        ("core_dump",),
    ),
    Mutant(
        "who does not answer is killed",
        "sidecar/watch.py",
        """            await self._sleep(self._heartbeat_s)
            try:
                self._kill(home, await self._beat(home))""",
        """            await self._sleep(self._heartbeat_s)
            try:
                pass""",
        ("sync_loop", "sigstop_self"),
    ),
    Mutant(
        "who uses too much memory is killed",
        "sidecar/vitals.py",
        "        if not self._was_over or not (was_over or grown > _AT_ONCE_FACTOR * allowed_bytes):",
        "        if self._was_over or was_over or True:",
        ("arraybuffer_bomb", "wasm_memory_bomb"),
    ),
    Mutant(
        "a sidecar that will not stop is killed",
        "sidecar/launcher.py",
        """        if self._transport is not None and self._transport.get_returncode() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)""",
        """        if self._transport is not None and self._transport.get_returncode() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)""",
        ("swallow_sigterm", "sigstop_self"),
    ),
    Mutant(
        "what a sidecar writes cannot rule a terminal",
        "wire/text.py",
        """    shown = _UNPRINTABLE.sub(lambda match: f"\\\\x{ord(match[0]):02x}", text)""",
        "    shown = text",
        ("stdout_forge", "bad_unicode"),
    ),
)
