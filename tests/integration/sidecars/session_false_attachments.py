"""Names a binary value that it does not send."""

from playing import Sidecar


class Cheat(Sidecar):
    def misbehave(self, request) -> None:
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "files.write",
            "params": {"path": "a", "data": None},
            "module": "bad",
            "bytes": [{"at": ["params", "data"], "len": 1_000_000}],
        }
        self.session.send([message], b"short")


Cheat().run()
