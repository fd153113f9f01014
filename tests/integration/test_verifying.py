"""What is said of a plugin that is not what was signed: which plugin, which file, and what helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from coredeno import ModuleState
from coredeno.errors import IntegrityError
from coredeno.install.release import MANIFEST, Release, ReleaseFile
from coredeno.install.verifying import compare, copy_verified
from tests.shops import URL, Shop, damage

MAIN = ReleaseFile("main.ts", "a" * 64, 10)
VIEW = ReleaseFile(MANIFEST, "b" * 64, 20)
RELEASE = Release(code="tagger", version="2.0.0", seq=2, entry="main.ts", files=(VIEW, MAIN), digest="c" * 64)
CHANGED = " (not what its author signed: it was changed, or not signed anew)"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    shop.publish("1.0.0")
    return shop


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            [VIEW, ReleaseFile("main.ts", "d" * 64, 11)],
            f"main.ts: is 11 bytes with SHA-256 {'d' * 64}, wanted 10 bytes with SHA-256 {'a' * 64}{CHANGED}",
        ),
        (
            [VIEW, MAIN, ReleaseFile("extra.ts", "d" * 64, 0)],
            f"extra.ts: is a file that is not listed in the release, wanted absent{CHANGED}",
        ),
        (
            [VIEW],
            "main.ts: is missing, wanted a file that the release lists (ignored by git when it was signed?)",
        ),
    ],
)
def test_what_is_said_at_install(found: list[ReleaseFile], message: str):
    """The plugin stands in front, and the message ends with how that may have come about; both are fields too."""
    with pytest.raises(IntegrityError) as caught:
        compare(RELEASE, found)
    error = caught.value
    assert str(error) == f"tagger 2.0.0: {message}"
    assert error.plugin == "tagger 2.0.0"
    assert message.startswith(f"{error.path}: is {error.actual}, wanted {error.expected}")
    assert message.endswith(error.hint)


def test_an_error_of_no_plugin():
    """Where it is not known which it is about, the message begins with the path."""
    error = IntegrityError("main.ts", expected="absent", actual="a file")
    assert str(error) == "main.ts: is a file, wanted absent"
    assert (error.plugin, error.hint) == ("", "")


def test_what_cannot_be_looked_at_says_why():
    """The system's own error is in the chain, for whoever tries again: no descriptor left is no change of a file."""
    with pytest.raises(IntegrityError, match="Bad file descriptor") as caught:
        copy_verified(-1, RELEASE, None, signed=True)
    reason = caught.value.__cause__
    assert reason is not None
    assert isinstance(reason.__cause__, OSError)


DAMAGED = {
    "changed": (lambda folder: (folder / "main.ts").write_text("changed"), "main.ts: is 7 bytes, wanted "),
    "the release": (
        lambda folder: (folder / ".core" / "release.json").write_text("{}"),
        ".core/release.json: ",
    ),
    "the manifest": (
        lambda folder: (folder / MANIFEST).write_text("code: x\n"),
        ".core/view.yml: is SHA-256 ",
    ),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), ".core/view.yml: is "),
    "no signature": (lambda folder: (folder / ".core" / "release.sig").unlink(), ".core/release.sig: is "),
    "removed": (lambda folder: (folder / "main.ts").unlink(), "main.ts: is missing, wanted "),
    "a folder": (lambda folder: (folder / "lib").mkdir(), "lib: is a folder in which no listed file lies, "),
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_what_is_said_at_load(shop: Shop, name: str):
    """Plugin and file, and that an update puts it right, whatever it was that was damaged."""
    change, message = DAMAGED[name]
    async with shop.host() as host:
        plugin = await host.install(URL, ref="1.0.0")
        damage(shop.plugin_folder / "tagger" / plugin.digest, change)
        with pytest.raises(IntegrityError) as caught:
            await host.load("tagger")
        assert str(caught.value).startswith(f"tagger 1.0.0: {message}")
        assert str(caught.value).endswith("; update('tagger') fetches it anew")
        assert caught.value.plugin == "tagger 1.0.0"
        await host.update("tagger")
        assert host.modules["tagger"].state is ModuleState.RUNNING


@pytest.mark.parametrize("mode", [0o644, 0o444])
async def test_a_file_that_was_added(shop: Shop, mode: int):
    """It is not listed: that matters, and not what mode it has."""
    async with shop.host() as host:
        plugin = await host.install(URL, ref="1.0.0")
        folder = shop.plugin_folder / "tagger" / plugin.digest
        damage(folder, lambda folder: (folder / "extra.ts").write_text(""))
        (folder / "extra.ts").chmod(mode)
        with pytest.raises(IntegrityError, match=r"extra\.ts: is a file that is not listed in the release"):
            await host.load("tagger")
        (folder / "extra.ts").unlink()
        (folder / ".core" / "release.sig").chmod(0o644)
        with pytest.raises(IntegrityError, match=r"release\.sig: is mode 0644, wanted the mode"):
            await host.load("tagger")
