"""Sends bytes on its Session that are no batch."""

from playing import Sidecar


class Babbler(Sidecar):
    def misbehave(self, request) -> None:
        self.session.stream.send(b"\xff" * 100)


Babbler().run()
