"""Writes what a plugin says, or what is said of it, to the app's log."""

from __future__ import annotations

import logging

from coredeno.wire.text import printable

# A trace is the app's own, but comes back through the plugin's sidecar.
_CALL_ID_CHARACTERS = 256


def log_of_plugin(
    code: str, version: str, level: int, text: str, *, trace: str | None = None, number: int | None = None
) -> None:
    """Write a record to the log `coredeno.plugin.<code>`, with `plugin`, `plugin_version` and `call_id` as attributes.

    Args:
        code: the module's code.
        version: its version.
        level: as `logging` has it.
        text: what is said, by anybody: it goes in as an argument, never as the format, and must be printable.
        trace: the trace of the call in which it was said, as the sidecar has it; of a longer one the first 256
            characters are told.
        number: the number of that call, by which it is told if it has no trace.

    Raises:
        Exception: whatever a handler of the app raises.
    """
    if trace is not None:
        call_id: str | None = printable(trace[:_CALL_ID_CHARACTERS], one_line=True)
    else:
        call_id = None if number is None else str(number)
    extra = {"plugin": code, "plugin_version": version, "call_id": call_id}
    logging.getLogger(f"coredeno.plugin.{code}").log(level, "%s", text, extra=extra)
