"""The command line, the environment and the first line of a sidecar: security.md, rules 3 and 4, to the letter."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import coredeno
from coredeno.denied_addresses import denied_addresses
from coredeno.errors import UsageError
from coredeno.interfaces import LaunchOrder, SidecarWorker
from coredeno.sidecar.command import boot_line, command_line, deno_socket, environment

RUNTIME = Path(coredeno.__file__).parent / "runtime"
TOKEN = "a-very-secret-token"
ORDER = LaunchOrder(
    name="sidecar-7",
    token=TOKEN,
    socket_folder=Path("/tmp/cd"),
    core_socket=Path("/tmp/cd/core.sock"),
    stage=Path("/app/.core/run/sidecar-7/stage"),
    deno_dir=Path("/app/.core/run/sidecar-7/deno"),
    worker=SidecarWorker(Path("/app/.core/run/sidecar-7/stage/0"), ("api.example:443", "b.example")),
    isolation="process",
    heap_mb=128,
    message_bytes=1000,
    calls_in_flight=2,
    requests_in_flight=3,
    log_line_bytes=4,
)


def changed(**fields):
    return msgspec.structs.replace(ORDER, **fields)


def test_the_whole_command_line():
    """Every flag is named here; what is not named is denied by Deno."""
    assert command_line(Path("/opt/deno"), ORDER) == [
        "/opt/deno",
        "run",
        "--no-config",
        "--no-lock",
        "--no-remote",
        "--no-npm",
        "--cached-only",
        "--no-prompt",
        "--deny-import",
        "--deny-run",
        "--deny-ffi",
        "--deny-env",
        "--deny-sys",
        "--unstable-worker-options",
        "--v8-flags=--max-old-space-size=128,--max-semi-space-size=8",
        f"--allow-read={RUNTIME},/app/.core/run/sidecar-7/stage,/tmp/cd/core.sock,/tmp/cd/sidecar-7.sock",
        "--allow-net=unix:/tmp/cd/core.sock,unix:/tmp/cd/sidecar-7.sock,api.example:443,b.example",
        "--deny-net=" + ",".join(denied_addresses(())),
        "--allow-write=/tmp/cd/core.sock,/tmp/cd/sidecar-7.sock",
        f"{RUNTIME}/main.ts",
    ]


@pytest.mark.parametrize(
    ("heap_mb", "space_mb"), [(16, 1), (31, 1), (64, 4), (128, 8), (256, 16), (4096, 16)]
)
def test_what_is_new_has_its_part_of_the_memory(heap_mb, space_mb):
    """Three spaces in each of two heaps are three eighths at most: garbage alone brings no module over its limit."""
    line = command_line(Path("/opt/deno"), changed(heap_mb=heap_mb))
    assert f"--v8-flags=--max-old-space-size={heap_mb},--max-semi-space-size={space_mb}" in line


def test_addresses_are_denied_where_hosts_are_granted():
    """A sidecar with hosts is denied what none of them stands for; one without needs no such list."""
    lines = [
        command_line(Path("/opt/deno"), changed(worker=SidecarWorker(ORDER.worker.root, net)))
        for net in ((), ("a.example",), ("a.example", "127.0.0.1:80"))
    ]
    denied = [[flag for flag in line if flag.startswith("--deny-net")] for line in lines]
    assert denied[0] == []
    assert "127.0.0.0/8" in denied[1][0]
    assert "127.0.0.0/8" not in denied[2][0]


def test_what_is_no_host_is_not_launched():
    """An order with another spelling of an address is refused."""
    with pytest.raises(UsageError, match="0x7f"):
        command_line(Path("/opt/deno"), changed(worker=SidecarWorker(ORDER.worker.root, ("0x7f.1",))))


def test_no_net_and_nothing_else():
    """A module without hosts reaches the two sockets only; never is everything allowed."""
    line = command_line(Path("/opt/deno"), changed(worker=SidecarWorker(ORDER.worker.root)))
    assert "--allow-net=unix:/tmp/cd/core.sock,unix:/tmp/cd/sidecar-7.sock" in line
    assert [flag for flag in line if flag.startswith(("-A", "--allow")) and "=" not in flag] == []
    assert sorted(flag.split("=")[0] for flag in line if flag.startswith("--allow")) == [
        "--allow-net",
        "--allow-read",
        "--allow-write",
    ]


def test_the_whole_environment():
    """Five variables, whatever the host's own environment has."""
    assert environment(ORDER) == {
        "DENO_DIR": "/app/.core/run/sidecar-7/deno",
        "DENO_CACHE_DB_MODE": "memory",
        "DENO_NO_PROMPT": "1",
        "DENO_NO_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
    }


def test_the_first_line():
    """It says what docs/wire.md has it say, in one line."""
    line = boot_line(ORDER)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "protocol": 1,
        "token": TOKEN,
        "core_socket": "/tmp/cd/core.sock",
        "deno_socket": "/tmp/cd/sidecar-7.sock",
        "isolation": "process",
        "worker": {"root": "/app/.core/run/sidecar-7/stage/0", "net": ["api.example:443", "b.example"]},
        "limits": {
            "message_bytes": 1000,
            "calls_in_flight": 2,
            "requests_in_flight": 3,
            "log_line_bytes": 4,
        },
    }
    assert str(deno_socket(ORDER)) == json.loads(line)["deno_socket"]


def test_no_secret_where_others_can_read_it():
    """Other users see a process's arguments and its own code its environment: the token is in neither."""
    seen = "\0".join([*command_line(Path("/opt/deno"), ORDER), *environment(ORDER).values()])
    assert TOKEN not in seen
    assert TOKEN.encode() in boot_line(ORDER)


BAD = ["a,b", "a\nb", "a\0b", "a\x1bb", "a\x7fb", "a\x85b", "a\u2028b", "a\u202eb", "a\udcffb"]


@pytest.mark.parametrize("bad", BAD, ids=ascii)
@pytest.mark.parametrize(
    "spoilt",
    [
        lambda bad: changed(socket_folder=Path("/tmp") / bad),
        lambda bad: changed(core_socket=Path("/tmp") / bad),
        lambda bad: changed(stage=Path("/app") / bad),
        lambda bad: changed(name=bad),
        lambda bad: changed(worker=SidecarWorker(ORDER.worker.root, (bad,))),
    ],
    ids=["socket folder", "core socket", "stage", "name", "net"],
)
def test_what_would_split_or_change_a_list(bad, spoilt):
    """A comma or control character in any entry is refused, and shown escaped."""
    with pytest.raises(UsageError, match="has a comma or a control character") as caught:
        command_line(Path("/opt/deno"), spoilt(bad))
    assert str(caught.value).isascii()


@given(st.text(max_size=10), st.text(max_size=10))
def test_each_list_has_as_many_entries_as_were_meant(folder, host):
    """Whatever a path or host is called, it adds one entry to its list, or the whole is refused."""
    order = changed(
        stage=Path("/app") / folder.strip("/"),
        worker=SidecarWorker(ORDER.worker.root, (host,)),
    )
    try:
        line = command_line(Path("/opt/deno"), order)
    except UsageError:
        return
    lists = {flag.split("=", 1)[0]: flag.split("=", 1)[1].split(",") for flag in line if "--allow" in flag}
    assert {name: len(entries) for name, entries in lists.items()} == {
        "--allow-read": 4,
        "--allow-net": 3,
        "--allow-write": 2,
    }
    assert len(line) == len(command_line(Path("/opt/deno"), ORDER))
    assert lists["--allow-read"][1] == str(order.stage)
    assert lists["--allow-net"][2] == host
