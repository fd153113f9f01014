"""Says on its own account what no wire knows."""

from playing import Sidecar


class Herald(Sidecar):
    def misbehave(self, request) -> None:
        self.tell({"jsonrpc": "2.0", "method": "HostShutdown", "params": {"now": True}})


Herald().run()
