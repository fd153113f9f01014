"""Comes from another time."""

from playing import Sidecar


class FromTheFuture(Sidecar):
    def say_ready(self) -> None:
        super().say_ready(protocol=99)


FromTheFuture().run()
