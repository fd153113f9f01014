"""Says that it does not speak the host's protocol, with control characters in its reason."""

import sys

from playing import Sidecar


class Refuses(Sidecar):
    def say_ready(self) -> None:
        self.say({"protocol": 7, "ready": False, "error": "boot line: protocol 1,\x1b[2J\nthis one speaks 7"})
        sys.exit(78)


Refuses().run()
