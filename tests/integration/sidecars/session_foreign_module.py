"""Asks in the name of another module."""

from playing import Sidecar


class Impostor(Sidecar):
    def misbehave(self, request) -> None:
        message = {"jsonrpc": "2.0", "id": 1, "method": "store.get", "params": {"key": "k"}, "module": "good"}
        self.session.send([message])


Impostor().run()
