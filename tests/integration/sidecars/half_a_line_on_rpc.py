"""Begins an answer, and stays so."""

import signal

from playing import Sidecar


class Dreamer(Sidecar):
    def misbehave(self, request) -> None:
        self.wire.sendall(b'{"jsonrpc":"2.0","id":')
        signal.pause()


Dreamer().run()
