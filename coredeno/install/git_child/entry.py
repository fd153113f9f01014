"""Where the fetching process begins: `python -I -S entry.py`, the order as one line on stdin."""

from __future__ import annotations

import json
import os
import sys
from os import read
from types import ModuleType
from typing import Any

_HOST_GONE = 3  # the exit code
_READ_BYTES = 65536


def read_order() -> dict[str, Any] | None:
    """The order, or None if stdin ends before it."""
    line = b""
    while not line.endswith(b"\n"):
        data = read(0, _READ_BYTES)
        if not data:
            return None
        line += data
    order: dict[str, Any] = json.loads(line)
    return order


def prepare(order: dict[str, Any]) -> None:
    """Find modules where the host finds them, and coredeno's without what its face imports for host apps."""
    sys.path[:] = order.pop("sys_path")
    package = ModuleType("coredeno")
    package.__path__ = [order.pop("package")]
    sys.modules["coredeno"] = package


def main() -> None:
    """Read the order, carry it out, answer."""
    order = read_order()
    if order is None:
        sys.exit(_HOST_GONE)
    answer_fd = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    prepare(order)
    from coredeno.install.git_child.answers import Answers  # noqa: PLC0415 - found only now
    from coredeno.install.git_child.confine import confine, watch  # noqa: PLC0415
    from coredeno.install.git_child.fetching import Order, fetch  # noqa: PLC0415

    answers = Answers(answer_fd)
    try:
        watch(0, lambda: os._exit(_HOST_GONE))
        what = Order.from_plain(order)
        confine(what.bounds)
        fetch(what, answers)
    except BaseException as error:  # noqa: BLE001 - the libraries' own as well, down to a panic of theirs
        answers.failed(error)
    os._exit(0)  # at once: there is nothing to clean up, and much memory to walk through


if __name__ == "__main__":
    main()
