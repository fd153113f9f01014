"""Ends its Session in the middle of a message."""

import struct

from playing import Sidecar


class Stutterer(Sidecar):
    def misbehave(self, request) -> None:
        self.session.stream.send_raw(struct.pack(">BI", 0, 10) + b"half", end=True)


Stutterer().run()
