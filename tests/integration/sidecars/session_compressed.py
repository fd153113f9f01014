"""Sends a batch that it says is compressed: what it would unpack to is anybody's guess."""

import struct

from playing import Sidecar


class Zipper(Sidecar):
    def misbehave(self, request) -> None:
        self.session.stream.send_raw(struct.pack(">BI", 1, 10) + b"x" * 10)


Zipper().run()
