"""Answers a call with neither a result nor an error."""

from playing import Sidecar


class Silent(Sidecar):
    def misbehave(self, request) -> None:
        self.tell({"jsonrpc": "2.0", "id": request["id"]})


Silent().run()
