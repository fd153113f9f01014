"""Closes its stdin before it has read anything from it, and waits."""

import os
import signal

os.close(0)
signal.pause()
