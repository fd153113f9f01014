"""Greets instead of shaking hands, and tries to paint the reader's terminal."""

import signal
import sys

sys.stdin.readline()
print("\x1b[31mHello, I am Deno\x07", flush=True)
signal.pause()
