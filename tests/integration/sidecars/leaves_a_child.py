"""Starts a process that holds its pipes open and ignores what it is told, and ends."""

import subprocess
import sys

sys.stdin.readline()
child = subprocess.Popen(
    ["/bin/sh", "-c", "trap '' TERM HUP INT; echo set >&2; exec sleep 1000"],
    stderr=subprocess.PIPE,
)
assert child.stderr is not None
child.stderr.readline()
print(f"child {child.pid}", file=sys.stderr, flush=True)
sys.exit(4)
