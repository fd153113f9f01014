"""What a sidecar's process may have and do at most, as `confine.py` is told it, and what it says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from coredeno.errors import ProtocolError
from coredeno.health import Layer
from coredeno.interfaces import LaunchOrder, SidecarWorker
from coredeno.sidecar import confinement
from coredeno.sidecar.confinement import CONFINE, LAYERS, confined, ports, read_exec_failure, read_report
from coredeno.sidecar.programs import Program

DENO = Path("/venv/bin/deno")
PROGRAM = Program(DENO, (DENO, Path("/lib64/ld.so")))


def order(net: tuple[str, ...] = (), isolation: str = "process", heap_mb: int = 128) -> LaunchOrder:
    return LaunchOrder(
        name="sidecar-1",
        token="secret",
        socket_folder=Path("/run/s"),
        core_socket=Path("/run/s/core.sock"),
        stage=Path("/app/.core/run/stage"),
        deno_dir=Path("/app/.core/run/deno"),
        worker=SidecarWorker(Path("/app/.core/run/stage/0"), net),
        isolation=isolation,
        heap_mb=heap_mb,
        message_bytes=1,
        calls_in_flight=1,
        requests_in_flight=1,
        log_line_bytes=1,
    )


def options(made: LaunchOrder, *, landlock: bool = True) -> list[str]:
    line = confined(
        ["/venv/bin/deno", "run"], made, program=PROGRAM, python="/venv/python", parent=7, landlock=landlock
    )
    assert line[:5] == ["/venv/python", "-I", "-S", "-B", str(CONFINE)]
    assert line[-3:] == ["--", "/venv/bin/deno", "run"]
    return line[5:-3]


def test_a_sidecar_may_touch_its_own_files_only():
    """Written is Deno's cache; run are Deno and what loads it; read are the libraries, our runtime and its stage."""
    told = options(order())
    assert told[0] == "parent=7"
    assert [each for each in told if each.startswith("exec=")] == ["exec=/venv/bin/deno", "exec=/lib64/ld.so"]
    assert [each for each in told if each.startswith(("write=", "sockets=", "device="))] == [
        "device=/dev/null",
        "write=/app/.core/run/deno",
        "sockets=/run/s",
    ]
    assert "read=/app/.core/run/stage" in told
    assert f"read={confinement.RUNTIME_FOLDER}" in told
    assert not {"read=/", "read=/etc", "read=/proc", "read=/app", "read=/etc/passwd"} & set(told)


def test_nothing_secret_is_on_the_command_line():
    """The token goes over stdin only: command lines are read by anybody."""
    assert not any("secret" in each for each in options(order()))


def test_names_are_looked_up_by_those_only_who_may_connect():
    """The resolver's files are read by a sidecar with hosts only."""
    assert "read=/etc/hosts" not in options(order())
    assert "read=/etc/hosts" in options(order(("a.example",)))


@pytest.mark.parametrize(
    ("net", "wanted"),
    [
        ((), []),
        (("a.example:443",), ["53", "443"]),
        (("a.example:8080", "10.0.0.1:443", "[::1]:443"), ["53", "443", "8080"]),
        (("a.example:443", "b.example"), ["any"]),
    ],
)
def test_the_ports_are_those_of_the_granted_hosts(net: tuple[str, ...], wanted: list[str]):
    """None without a grant, all if a host was granted with all, else those, and the resolver's."""
    assert ports(net) == wanted
    assert [each for each in options(order(net)) if each.startswith("port=")] == [
        f"port={port}" for port in wanted
    ]


def test_the_memory_of_a_shared_sidecar_has_no_limit_of_the_system():
    """Each module more would take half a gigabyte of it, and it cannot be raised: the watch over memory bounds it."""
    assert confinement.limits(order(heap_mb=64))["DATA"] == (1076 + 2 * 523 + 192 + 64) * 1024 * 1024
    assert set(confinement.limits(order())) - set(confinement.limits(order(isolation="worker"))) == {"DATA"}


def test_without_landlock_no_rule_is_told():
    """A program in Deno's place that needs more files gets all other layers."""
    told = options(order(), landlock=False)
    assert told[-1] == "landlock=off"
    assert not any(each.startswith(("exec=", "read=", "write=", "port=")) for each in told)


def test_a_report_names_each_layer_and_why_it_is_off():
    """On without a reason, off with one; a long reason is cut."""
    line = "\t".join(f"{name}={'x' * 300 if name == 'tcp' else ''}" for name in LAYERS)
    layers = read_report(line)
    assert [layer.name for layer in layers] == list(LAYERS)
    assert [layer for layer in layers if not layer.on] == [Layer("tcp", on=False, why="x" * 200)]


@pytest.mark.parametrize("line", ["", "limits=", '{"ready":true}', "\t".join(f"{n}=" for n in LAYERS[1:])])
def test_another_report_is_none(line: str):
    """A process that does not say how it is confined is not taken for one that is."""
    with pytest.raises(ProtocolError, match="report of the confining process is"):
        read_report(line)


def test_a_program_that_cannot_be_run_is_told_by_its_number():
    """Only that very line says so; what a sidecar says otherwise is no number."""
    assert read_exec_failure("cannot exec 13") == 13
    for line in ("cannot exec", "cannot exec x", "cannot exec ²", "cannot exec -1", '{"ready":true} 13', ""):
        assert read_exec_failure(line) is None


def test_what_nothing_confines_says_so():
    """Each layer is off, with the same reason."""
    layers = confinement.unconfined()
    assert [layer.name for layer in layers] == list(LAYERS)
    assert not any(layer.on for layer in layers)
    assert len({layer.why for layer in layers}) == 1
