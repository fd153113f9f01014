"""Reads its first line, and says nothing ever."""

import signal
import sys

sys.stdin.readline()
signal.pause()
