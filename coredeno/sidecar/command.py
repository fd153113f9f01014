"""The command line, the environment and the first line of a sidecar. Pure: no I/O."""

from __future__ import annotations

from pathlib import Path

import msgspec

from coredeno.denied_addresses import denied_addresses
from coredeno.errors import InvalidArgument, UsageError
from coredeno.interfaces import LaunchOrder
from coredeno.wire.codes import RUNTIME_FOLDER

PROTOCOL = 1
# Deno has many more ways to be told things; a sidecar hears none of them but these.
_FLAGS = (
    "--no-config",  # a deno.json or package.json in the plugin or the working directory says nothing
    "--no-lock",
    "--no-remote",  # `import: false` alone does not stop npm: and jsr: imports from being downloaded
    "--no-npm",
    "--cached-only",
    "--no-prompt",  # on a terminal a plugin could make Deno ask the user
    "--deny-import",
    "--deny-run",
    "--deny-ffi",
    "--deny-env",
    "--deny-sys",
    "--unstable-worker-options",  # without it Worker permissions do not exist (exit code 70)
)


def deno_socket(order: LaunchOrder) -> Path:
    """Where the sidecar of this order listens."""
    return order.socket_folder / f"{order.name}.sock"


def command_line(deno: Path, order: LaunchOrder) -> list[str]:
    """The whole command line. Everything that is not named here is denied.

    Raises:
        UsageError: a path has a comma or a control character, which would split or change a list, or a host is none.
    """
    own = deno_socket(order)
    unix = [f"unix:{order.core_socket}", f"unix:{own}"]
    reads = [RUNTIME_FOLDER, order.stage, order.core_socket, own]
    return [
        str(deno),
        "run",
        *_FLAGS,
        f"--v8-flags=--max-old-space-size={order.heap_mb},--max-semi-space-size={_semi_space_mb(order.heap_mb)}",
        f"--allow-read={_joined(reads)}",
        f"--allow-net={_joined([*unix, *order.worker.net])}",
        *_denied(order.worker.net),
        # A socket cannot be made or joined without; main revokes it once both wires stand.
        f"--allow-write={_joined([order.core_socket, own])}",
        str(RUNTIME_FOLDER / "main.ts"),
    ]


def _semi_space_mb(heap_mb: int) -> int:
    """How large V8 may make the three spaces for what is new, in each of our two heaps (main's and the Worker's).

    It makes them as large as it may under a steady load, 32 MiB each by default, garbage for the most part; and all of
    that counts as the module's memory. So they get three eighths of what it may use. More than 16 MiB gains nothing.
    """
    return max(1, min(heap_mb // 16, 16))


def _denied(net: tuple[str, ...]) -> list[str]:
    if not net:
        return []  # then nothing is allowed that could lead anywhere
    try:
        # A Worker has no list of its own for this, but it never gets more than its process has.
        return [f"--deny-net={_joined([*denied_addresses(net)])}"]
    except InvalidArgument as error:
        raise UsageError(f"launch: {error}") from None


def environment(order: LaunchOrder) -> dict[str, str]:
    """The whole environment, built from nothing: variables of the host could override every permission.

    `DENO_PERMISSION_BROKER_PATH` does, `NODE_OPTIONS` and `LD_PRELOAD` run code, `DENO_V8_FLAGS` changes V8.
    """
    return {
        "DENO_DIR": str(order.deno_dir),
        "DENO_CACHE_DB_MODE": "memory",
        "DENO_NO_PROMPT": "1",
        "DENO_NO_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
    }


def boot_line(order: LaunchOrder) -> bytes:
    """The line that the sidecar reads from its stdin; the only place where its token is written."""
    boot = {
        "protocol": PROTOCOL,
        "token": order.token,
        "core_socket": str(order.core_socket),
        "deno_socket": str(deno_socket(order)),
        "isolation": order.isolation,
        "worker": {"root": str(order.worker.root), "net": order.worker.net},
        "limits": {
            "message_bytes": order.message_bytes,
            "calls_in_flight": order.calls_in_flight,
            "requests_in_flight": order.requests_in_flight,
            "log_line_bytes": order.log_line_bytes,
        },
    }
    return msgspec.json.encode(boot) + b"\n"


def _joined(items: list[Path] | list[str] | list[Path | str]) -> str:
    texts = [str(item) for item in items]
    for text in texts:
        if "," in text or not text.isprintable():
            raise UsageError(f"launch: {text!a} has a comma or a control character, wanted a path without")
    return ",".join(texts)
