"""Sidecars whose Worker has lost its depth: the plugin is handed what our entry keeps to itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coredeno.sidecar import command, confinement

_KEPT = "  port.onmessage = (event) => {"
_GIVEN = f"  Object.assign(globalThis, {{ port }});\n{_KEPT}"


def give_port_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let plugins find the port to main in `globalThis.port`, as if each had stolen it.

    Args:
        folder: where a copy of our runtime may lie.
        monkeypatch: undoes it.
    """
    runtime = folder / "runtime"
    shutil.copytree(command.RUNTIME_FOLDER, runtime)
    entry = runtime / "worker.ts"
    source = entry.read_text()
    assert source.count(_KEPT) == 1
    entry.write_text(source.replace(_KEPT, _GIVEN))
    for module in (command, confinement):
        monkeypatch.setattr(module, "RUNTIME_FOLDER", runtime)
