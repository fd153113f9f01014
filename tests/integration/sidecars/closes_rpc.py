"""Closes the wire on which it is called, and lives on."""

import signal

from playing import Sidecar


class Hermit(Sidecar):
    def misbehave(self, request) -> None:
        self.wire.close()
        signal.pause()


Hermit().run()
