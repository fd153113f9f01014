"""Has more requests under way than it may."""

from playing import Sidecar


class Flooder(Sidecar):
    def misbehave(self, request) -> None:
        most = self.boot["limits"]["requests_in_flight"] + 500
        one = {"jsonrpc": "2.0", "method": "store.get", "params": {"key": "k"}, "module": "bad"}
        self.session.send([{**one, "id": number} for number in range(1, most)])


Flooder().run()
