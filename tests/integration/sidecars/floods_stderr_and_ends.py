"""Its last words are long, many, and full of control characters."""

import sys

sys.stdin.readline()
sys.stderr.write(("\x1b[31m" + "w" * 100_000 + "\n") * 20)
sys.exit(1)
