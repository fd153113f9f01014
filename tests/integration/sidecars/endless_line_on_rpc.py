"""Its answer does not end."""

from playing import Sidecar


class Rambler(Sidecar):
    def misbehave(self, request) -> None:
        self.wire.sendall(b'{"jsonrpc":"2.0","id":1,"result":"')
        while True:
            self.wire.sendall(b"x" * 65536)


Rambler().run()
