"""The command `python -m coredeno`: tells which version is installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import coredeno


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and give back its exit code.

    Args:
        argv: the arguments, without the program's name; None for those of this process.

    Raises:
        SystemExit: after `--version` and `--help` (code 0) or a wrong argument (code 2), as argparse does.
    """
    parser = argparse.ArgumentParser(prog="coredeno", description=coredeno.__doc__)
    parser.add_argument("--version", action="version", version=f"coredeno {coredeno.__version__}")
    parser.parse_args(argv)
    parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
