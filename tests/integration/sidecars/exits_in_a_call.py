"""Ends while it is called."""

import os
import sys

from playing import Sidecar


class Leaver(Sidecar):
    def misbehave(self, request) -> None:
        print("I quit", file=sys.stderr, flush=True)
        os._exit(3)


Leaver().run()
