"""Opens a second Session, and answers with the status that the host gave to it."""

from playing import Sidecar


class Twin(Sidecar):
    def misbehave(self, request) -> None:
        second = self.open_session()
        self.answer(request, second.stream.status())
        second.connection.close()


Twin().run()
