"""Make .venv, or bring it up to date with pyproject.toml. Called by scripts/_venv; standard library only.

What was installed stands in a stamp inside .venv, written after all went well. A mark stands there while pip
works: where it was left, pip was killed half way, and .venv is made anew. One set-up at a time: others wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "coredeno-setup.json"
UNFINISHED = VENV / "coredeno-setup.unfinished"


def requirements(groups: dict[str, list[Any]], name: str) -> set[str]:
    """What a dependency group asks for, included groups too (PEP 735; pip itself knows them from 25.1 on)."""
    if name not in groups:
        sys.exit(f"scripts/_venv: dependency group {name!r}: not in pyproject.toml, which has {list(groups)}")
    found: set[str] = set()
    for entry in groups[name]:
        found |= {entry} if isinstance(entry, str) else requirements(groups, entry["include-group"])
    return found


@contextlib.contextmanager
def one_at_a_time() -> Iterator[int]:
    """Hold a lock on the project's folder: until all who have the descriptor are gone, killed or not."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of .venv")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)


def read_stamp() -> dict[str, Any]:
    """What the last set-up that succeeded left; empty if there was none."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def usable_venv() -> bool:
    """Whether there is one: whole, with pip, and made for this place, which its scripts name."""
    if UNFINISHED.exists() or read_stamp().get("root", str(ROOT)) != str(ROOT) or not PYTHON.exists():
        return False
    probe = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([PYTHON, "-I", "-c", probe], stderr=subprocess.DEVNULL, check=False).returncode == 0


def make_venv(lock: int) -> None:
    """Make .venv anew."""
    python = getattr(sys, "_base_executable", sys.executable)  # never that of the .venv which is cleared
    say(f"making .venv with Python {'.'.join(map(str, sys.version_info[:3]))} ({python})")
    if importlib.util.find_spec("ensurepip"):
        run([python, "-m", "venv", "--clear", VENV], lock)
    else:
        run([python, "-m", "venv", "--clear", "--without-pip", VENV], lock)
        run([python, "-m", "pip", "--python", PYTHON, "install", "-qq", "pip"], lock)


def say(what: str) -> None:
    """One line for the human; standard output belongs to the command that needs the set-up."""
    print(f"scripts/_venv: {what}", file=sys.stderr, flush=True)


def run(command: list[str | Path], lock: int) -> None:
    """Run it, or end with its failure. It shares the lock: where this process is killed, it may work on."""
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | quiet
    code = subprocess.run(command, env=env, stdout=sys.stderr, pass_fds=[lock], check=False).returncode
    if code != 0:
        UNFINISHED.unlink(missing_ok=True)  # pip undoes what it began when it fails by itself
        sys.exit(f"scripts/_venv: setting up .venv: {' '.join(map(str, command[:4]))} ended with code {code}")


def main(groups: list[str]) -> None:
    """Install what the named groups ask for, if the stamp does not show that it is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = set().union(*(requirements(project["dependency-groups"], name) for name in groups))
    # Only what pip acts on: a new rule for ruff is no reason to install anything.
    acted_on = [project["build-system"], project["project"], project["tool"]["hatch"]]
    digest = hashlib.sha256(json.dumps(acted_on, sort_keys=True).encode()).hexdigest()

    with one_at_a_time() as lock:
        stamp = read_stamp()
        installed = set(stamp.get("requirements", ()))
        same = (stamp.get("digest"), stamp.get("root")) == (digest, str(ROOT))
        if same and wanted <= installed and not UNFINISHED.exists():
            return
        if not usable_venv():
            make_venv(lock)
        # The groups of earlier set-ups are kept up to date too: `demo` after `check` leaves `check` whole.
        known = [name for name in stamp.get("groups", ()) if name in project["dependency-groups"]]
        groups = sorted({*groups, *known})
        wanted = set().union(*(requirements(project["dependency-groups"], name) for name in groups))
        say(f"installing coredeno{''.join(f', group {name}' for name in groups)} into .venv")
        UNFINISHED.touch()
        run([PYTHON, "-m", "pip", "install", "-qq", "--editable", ROOT, *sorted(wanted)], lock)
        stamp = {"digest": digest, "root": str(ROOT), "groups": groups, "requirements": sorted(wanted)}
        new = STAMP.with_suffix(".new")
        new.write_text(json.dumps(stamp))
        new.replace(STAMP)
        UNFINISHED.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
