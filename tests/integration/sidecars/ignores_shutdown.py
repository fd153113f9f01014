"""Ignores SIGTERM, and neither disposes nor ends when it is asked to."""

import signal

from playing import Sidecar

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)


class Stayer(Sidecar):
    def watch_stdin(self) -> None:
        pass

    def unload(self, request) -> None:
        pass

    def shut_down(self, request) -> None:
        pass


Stayer().run()
