"""Says that it is ready, and listens nowhere."""

import signal
import sys

from playing import Sidecar

sys.stdin.readline()
Sidecar().say_ready()
signal.pause()
