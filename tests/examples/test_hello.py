"""The example app: as its user runs it, and unit-tested as its author would, with no Deno at all."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from coredeno import PluginRaised
from coredeno.testing import MemoryFiles, fake_host

HELLO = Path(__file__).parents[2] / "examples" / "hello"


async def test_the_app_runs():
    """It boots, calls its plugin, shows what is refused, ends with 0, and says so in a few readable lines."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HELLO / "app.py"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, err.decode()
    assert err == b""
    assert "Hello Ada, visit 1. The app says hi. Oslo will be sunny for 2 days (said to hello)." in text
    assert "Hello Grace, visit 2." in text
    assert "refused   PermissionDenied (PERMISSION_DENIED)" in text
    assert text.endswith("host      stopped, nothing left behind\n")
    assert len(text.splitlines()) < 20
    root = text.partition("started on ")[2].split()[0].rstrip(",")
    left = [process for process in psutil.process_iter(["cmdline"]) if root in str(process.info["cmdline"])]
    assert root.startswith("/")
    assert not left


class FakeHello:
    """Stands for the plugin."""

    async def init(self, core):
        self.core = core
        await core.store.set("visits", "0")

    async def greet(self, name):
        note = await self.core.files.read("notes/today.txt")
        return f"Hello {name}. {note.decode()} {await self.core.services.weather.forecast('Oslo', 2)}"

    async def pry(self):
        return await self.core.files.read("secrets/key.txt")


@pytest.fixture
def app() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hello_app", HELLO / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_app_on_fakes(app: ModuleType, tmp_path: Path):
    """The app's own code and its service are tested in memory; the gate that refuses is the real one."""
    files = MemoryFiles({"notes/today.txt": b"In memory.", "secrets/key.txt": b"no"})
    async with fake_host(tmp_path, {"hello": FakeHello}, hooks=[app.App()], files=files) as host:
        module = await host.load_path(app.PLUGIN)
        assert await app.greet(host, "Ada") == (
            "Hello Ada. In memory. Oslo will be sunny for 2 days (said to hello)."
        )
        assert await host.store.get("hello", "visits") == "0"
        with pytest.raises(PluginRaised, match=r"permissions\.read in the manifest") as caught:
            await module.call("pry")
        assert caught.value.code == "PERMISSION_DENIED"
