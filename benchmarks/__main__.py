"""All benchmarks, one after the other: `python -m benchmarks [--short] [--json]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAMS = ("benchmarks.calls", "benchmarks.installs")

if __name__ == "__main__":
    for program in PROGRAMS:  # each in a process of its own, so that none warms up or burdens the next
        done = subprocess.run(
            [sys.executable, "-m", program, *sys.argv[1:]], cwd=Path(__file__).parents[1], check=False
        )
        if done.returncode:
            sys.exit(f"{program} ended with {done.returncode}")
        print(flush=True)
