"""Begins to shake hands, and stays so."""

import signal
import sys

sys.stdin.readline()
print('{"protocol":1,"deno":"2.9.8","pid":1,"rea', end="", flush=True)
signal.pause()
