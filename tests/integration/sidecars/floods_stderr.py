"""Writes 16 MiB of text before it shakes hands, in short lines and in one that is very long."""

import sys

from playing import Sidecar

sys.stderr.write("x" * 79 + "\n")
for _ in range(64):
    sys.stderr.write(("y" * 1023 + "\n") * 128)
sys.stderr.write("z" * (8 * 1024 * 1024))
sys.stderr.flush()
Sidecar().run()
