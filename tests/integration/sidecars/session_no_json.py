"""Sends a batch whose messages are no JSON."""

from playing import Sidecar


class Babbler(Sidecar):
    def misbehave(self, request) -> None:
        self.session.send(b"[{]")


Babbler().run()
