"""Ends as a Deno does that does not know one of its flags."""

import sys

sys.stdin.readline()
print("error: --unstable-worker-options: unknown", file=sys.stderr, flush=True)
sys.exit(70)
