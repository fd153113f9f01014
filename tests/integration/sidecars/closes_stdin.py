"""Closes the pipe by which it would notice the end of its host. That harms nobody else."""

import os

from playing import Sidecar


class Careless(Sidecar):
    def watch_stdin(self) -> None:
        os.close(0)


Careless().run()
