"""Sends a batch over the limit: first it says how long it is, and that is enough."""

import struct

from playing import Sidecar


class Braggart(Sidecar):
    def misbehave(self, request) -> None:
        self.session.stream.send_raw(struct.pack(">BI", 0, 0xFFFFFFFF))


Braggart().run()
