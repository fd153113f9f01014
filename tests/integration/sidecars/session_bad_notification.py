"""Notifies its host of what is no notification."""

from playing import Sidecar


class Notifier(Sidecar):
    def misbehave(self, request) -> None:
        message = {"jsonrpc": "2.0", "method": "store.delete_group", "params": {}, "module": "bad"}
        self.session.send([message])


Notifier().run()
