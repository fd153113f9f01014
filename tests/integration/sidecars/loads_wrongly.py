"""Says that a module is loaded, in words of its own."""

from playing import Sidecar


class Mumbler(Sidecar):
    def load(self, request) -> None:
        self.answer(request, {"ok": "certainly", "exports": 7})


Mumbler().run()
