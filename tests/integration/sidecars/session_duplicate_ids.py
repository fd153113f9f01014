"""Gives two requests one number."""

from playing import Sidecar


class Doubler(Sidecar):
    def misbehave(self, request) -> None:
        message = {"jsonrpc": "2.0", "id": 1, "method": "store.get", "params": {"key": "k"}, "module": "bad"}
        self.session.send([message, message])


Doubler().run()
