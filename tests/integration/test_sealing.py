"""Sealing a staged tree: what it measures, and what it refuses, whatever a fetcher of the app's own left there."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from coredeno.errors import FetchLimitExceeded, InstallError, UnsafePath
from coredeno.install.release import ReleaseFile
from coredeno.install.sealing import add_sealed, seal


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "lib" / "deep").mkdir(parents=True)
    (folder / "main.ts").write_text("x")
    (folder / "lib" / "deep" / "b.ts").write_text("y" * 3_000_000)
    return folder


def modes(folder: Path) -> set[tuple[bool, int]]:
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in folder.rglob("*")}


def test_what_it_measures(tree: Path):
    """Path, SHA-256 and size of every file, in the order of their paths; and all modes are the same then."""
    (tree / "main.ts").chmod(0o4777)
    (tree / "lib").chmod(0o700)
    found = seal(tree)
    assert found == [
        ReleaseFile(
            path, hashlib.sha256((tree / path).read_bytes()).hexdigest(), (tree / path).stat().st_size
        )
        for path in ("lib/deep/b.ts", "main.ts")
    ]
    assert modes(tree) == {(True, 0o755), (False, 0o444)}


def test_many_files(tree: Path):
    """More than are worked on at once."""
    for number in range(300):
        (tree / f"{number:03}.ts").write_text(str(number))
    assert len(seal(tree)) == 302


def test_what_it_refuses(tree: Path, tmp_path: Path):
    """A second name of a file, a symlink, a fifo, a name that is not safe: each by its name."""
    for name, make in {
        "hard.ts": lambda path: path.hardlink_to(tree / "main.ts"),
        "link.ts": lambda path: path.symlink_to(tmp_path),
        "fifo": os.mkfifo,
        "nul.ts": Path.touch,
        "MAIN.ts": Path.touch,
    }.items():
        make(tree / name)
        with pytest.raises(UnsafePath):
            seal(tree)
        (tree / name).unlink()
    seal(tree)


def test_too_deep(tree: Path):
    """More folders within one another than a plugin may have."""
    (tree / "/".join("d" * 40)).mkdir(parents=True)
    with pytest.raises(FetchLimitExceeded, match="folders within one another"):
        seal(tree)


def test_one_more_file(tree: Path):
    """It is sealed as the others are; one that is there is not replaced."""
    seal(tree)
    add_sealed(tree, "lib/list.json", b"{}")
    assert (tree / "lib" / "list.json").read_bytes() == b"{}"
    assert modes(tree) == {(True, 0o755), (False, 0o444)}
    with pytest.raises(InstallError, match=r"lib/list\.json cannot be written: File exists"):
        add_sealed(tree, "lib/list.json", b"other")
