"""What the launcher's process makes of what asyncio tells it, where a real one would not come to it by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coredeno.interfaces import LaunchOrder, SidecarWorker
from coredeno.sidecar.launcher import DenoProcess

NOWHERE = Path("/nowhere")
ORDER = LaunchOrder(
    name="sidecar-1",
    token="t",
    socket_folder=NOWHERE,
    core_socket=NOWHERE,
    stage=NOWHERE,
    deno_dir=NOWHERE,
    worker=SidecarWorker(NOWHERE, ()),
    isolation="process",
    heap_mb=10,
    message_bytes=1,
    calls_in_flight=1,
    requests_in_flight=1,
    log_line_bytes=100,
    log_lines_per_s=5,
)


class Transport:
    """What asyncio shows of a process that has ended."""

    def get_pid(self):
        return None

    def get_pipe_transport(self, _fd):
        return self

    def write(self, _data):
        pass

    def get_returncode(self):
        return 7

    def close(self):
        pass


class Door:
    """A host whose app has a log handler that raises when it is told of dropped lines."""

    def __init__(self):
        self.lines = []

    def output(self, line):
        self.lines.append(line)
        if "dropped" in line:
            raise RuntimeError("a handler of the app")


async def test_its_end_is_known_though_a_log_handler_raises():
    """Else whoever waits for that would wait for ever."""
    door = Door()
    process = DenoProcess(ORDER, door, deno=NOWHERE, is_confined=False)
    process.connection_made(Transport())
    process.pipe_data_received(1, b'{"ready":true}\n')
    process.pipe_data_received(2, b"x\n" * 50)
    process.pipe_connection_lost(1, None)
    with pytest.raises(RuntimeError, match="of the app"):
        process.pipe_connection_lost(2, None)
    process.process_exited()
    assert (await asyncio.wait_for(process.wait(), 5)).exit_code == 7
    assert door.lines == ["x"] * 5 + ["45 lines were dropped: more than 5 a second"]
