"""Opens its Session with a token that nobody gave it, and says what came of it."""

import sys

from playing import Sidecar
from session import Session


class Forger(Sidecar):
    def open_session(self) -> Session:
        session = Session(self.boot["core_socket"], "forged")
        print("status", session.stream.status(), file=sys.stderr, flush=True)
        sys.exit(3)


Forger().run()
