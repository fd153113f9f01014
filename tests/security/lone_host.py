"""A host that is a program of its own, with a plugin in it: it can be killed, and have a terminal.

It is told its root, the isolation, the plugin's folder and what to do. `loop` calls the plugin's `go`; `thread` does
so in a thread that then ends and leaves the host open; `call` writes what `go` gave to a file beside the root.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
import termios
import threading
from pathlib import Path
from typing import Any

from coredeno import HostConfig, Limits, PluginHost

LIMITS = Limits(hang_s=60, call_timeout_s=60, memory_mb=64)


async def main(root: Path, isolation: Any, plugin: Path, mode: str) -> None:
    """Start the host, and do what the mode says."""
    config = HostConfig(allow_unsigned=True, isolation=isolation, limits=LIMITS)
    host = PluginHost(root, config=config)
    await host.start()
    module = await host.load_path(plugin)
    if mode == "call":
        came = await module.call("go")
        typed = await asyncio.to_thread(sys.stdin.readline)
        text = json.dumps({"came": came, "typed": typed, "has_terminal": os.isatty(0)})
        await asyncio.to_thread(root.with_suffix(".json").write_text, text)
        await host.stop()
        return
    HELD.append(asyncio.ensure_future(module.call("go")))
    await asyncio.sleep(0.3)
    HELD.append(host)
    print("looping", flush=True)
    if mode == "loop":
        await asyncio.Event().wait()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


HELD: list[object] = []
"""What shall not be collected while the program lives."""


def in_a_thread(*args: Any) -> None:
    """Run the host in this thread, whose loop is never closed."""
    loop = asyncio.new_event_loop()
    HELD.append(loop)
    loop.run_until_complete(main(*args))


if __name__ == "__main__":
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # its controlling terminal: what /dev/tty means
    arguments = (Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    if sys.argv[4] == "thread":
        thread = threading.Thread(target=in_a_thread, args=arguments)
        thread.start()
        thread.join()
        print("thread ended", flush=True)
        sys.stdin.readline()
    else:
        asyncio.run(main(*arguments))
