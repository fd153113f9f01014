"""Its first line does not end."""

import sys

sys.stdin.readline()
while True:
    sys.stdout.write("{" * 65536)
