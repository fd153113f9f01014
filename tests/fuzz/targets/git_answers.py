"""What the fetching process says: a revision or an error of installing, whatever comes, however it is cut."""

from __future__ import annotations

import asyncio

from coredeno.config import FetchLimits
from coredeno.errors import InstallError
from coredeno.install.git_process import LIMIT_LINE_BYTES, _Process
from coredeno.interfaces import Fetched
from coredeno.wire.text import printable
from tests.fuzz.shape import cuts, require, require_equal

SEEDS = [
    b"\xff" + b'{"type": "progress", "phase": "receiving", "done": 4096, "total": null}\n'
    b'{"type": "fetched", "revision": "' + b"ab" * 20 + b'"}\n',
    b"\x03" + b'{"type": "failed", "kind": "UnsafePath", "text": "is a link", "path": "main.ts"}\n',
    b"\x03" + b'{"type": "failed", "kind": "FetchLimitExceeded", "text": "pack", "limit": "objects"}\n',
    b"\x00" + b'{"type": "failed", "kind": "InstallError", "text": "\\u202e"}\n',
]


class _Transport(asyncio.SubprocessTransport):
    """Of a process that has ended by itself."""

    def get_returncode(self) -> int:
        return 0

    def close(self) -> None:
        pass


def target(data: bytes) -> None:
    pattern, stream = data[:1], data[1:]
    loop = asyncio.new_event_loop()
    try:
        at_once = loop.run_until_complete(_hear([stream]))
        require_equal(loop.run_until_complete(_hear(list(cuts(stream, pattern)))), at_once, "in pieces")
    finally:
        loop.close()


async def _hear(pieces: list[bytes]) -> object:
    process = _Process(b"", FetchLimits(), lambda _progress: None)
    process._exited = True  # there is nothing to kill
    process._transport = _Transport()
    for piece in pieces:
        process.pipe_data_received(1, piece)
        require(len(process._pending) <= LIMIT_LINE_BYTES, "holds no more than a line")
    process.connection_lost(None)
    try:
        found = process.result()
    except InstallError as error:
        require_equal(printable(str(error), one_line=True), str(error), "the error can be shown")
        return type(error), str(error)
    require(isinstance(found, Fetched) and bytes.fromhex(found.revision), "a revision")
    return found
