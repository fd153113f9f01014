"""Answers a call with bytes that are no JSON."""

from playing import Sidecar


class Babbler(Sidecar):
    def misbehave(self, request) -> None:
        self.wire.sendall(b"\xff\xfe{]\x00\n")


Babbler().run()
