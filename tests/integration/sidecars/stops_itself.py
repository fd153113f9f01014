"""Freezes: it does not run, and does not end."""

import os
import signal

from playing import Sidecar


class Freezer(Sidecar):
    def misbehave(self, request) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


Freezer().run()
