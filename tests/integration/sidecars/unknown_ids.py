"""Answers a call that nobody made."""

from playing import Sidecar


class Guesser(Sidecar):
    def misbehave(self, request) -> None:
        self.answer({"id": 4711}, "for whom?")


Guesser().run()
