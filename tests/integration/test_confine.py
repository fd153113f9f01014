"""What the operating system takes from a sidecar, tried on the real kernel with native programs and a real Deno."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from coredeno import HostConfig, Limits, PluginHost, Policy
from coredeno.sidecar.confinement import CONFINE, LAYERS, read_report
from coredeno.sidecar.programs import read_program
from tests.hosts import RememberingLauncher

Write = Callable[..., Path]

PYTHON = Path(sys.executable).resolve()


def run(
    script: str, *options: str, parent: int | None = None
) -> tuple[list[str], subprocess.CompletedProcess]:
    """Run a script, confined, that may read Python and nothing else; the options that it was confined with."""
    readable = {
        "/lib",
        "/lib64",
        "/usr/lib",
        "/etc/ld.so.cache",
        sys.base_prefix,
        str(Path(os.__file__).parent),
    }
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-S", "-B", str(CONFINE)),
            f"parent={os.getpid() if parent is None else parent}",
            *(f"exec={path}" for path in read_program(PYTHON).opened),
            *(f"read={path}" for path in sorted(readable)),
            *options,
            *("--", str(PYTHON), "-I", "-S", "-B", "-c", script),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
        start_new_session=True,
    )
    report, _, said = done.stdout.partition("\n")
    done.stdout = said
    return [layer.name for layer in read_report(report) if layer.on] if report else [], done


def outcome(script: str, *options: str) -> str:
    """The error that a confined script meets, by its name; empty if it meets none."""
    _, done = run(f"try:\n    {script}\nexcept OSError as e: print(type(e).__name__)", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_layers_hold_on_this_kernel():
    """Nothing is off, on a Linux that has all of them (6.12 or newer): what is tried below is really tried."""
    on, done = run("print('here')", f"limit=FSIZE:{1 << 20}")
    assert done.stdout == "here\n"
    assert on == list(LAYERS)


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/etc/passwd')",
        "open('/proc/1/environ')",
        "open(f'/proc/{__import__(\"os\").getppid()}/environ')",
        "__import__('os').listdir('/')",
        "open('/tmp/coredeno-was-here', 'w')",
        "__import__('os').execv('/bin/sh', ['sh', '-c', 'echo run'])",
        "__import__('os').symlink('/etc', '/tmp/coredeno-link')",
        "__import__('os').truncate('/etc/hostname', 0)",
    ],
)
def test_other_files_are_out_of_reach(attempt: str):
    """Reading, listing, writing, running, linking, cutting: the kernel refuses whatever was not named, even to root."""
    assert outcome(attempt) == "PermissionError"


def test_what_is_named_is_within_reach_and_what_lies_beside_it_is_not(tmp_path: Path):
    """A cache is written, a folder of sockets has sockets, and neither is left by a name or a rename."""
    for name in ("cache", "sockets", "stage"):
        (tmp_path / name).mkdir()
    (tmp_path / "stage" / "a").write_text("a")
    options = [f"write={tmp_path}/cache", f"sockets={tmp_path}/sockets", f"read={tmp_path}/stage"]
    s = "__import__('os')"
    assert outcome(f"open('{tmp_path}/cache/a', 'w').write('x')", *options) == ""
    assert outcome(f"{s}.rename('{tmp_path}/cache/a', '{tmp_path}/cache/b')", *options) == ""
    assert outcome(f"{s}.remove('{tmp_path}/cache/b')", *options) == ""
    assert outcome(f"open('{tmp_path}/stage/a')", *options) == ""
    assert outcome(f"open('{tmp_path}/stage/a', 'w')", *options) == "PermissionError"
    assert outcome(f"open('{tmp_path}/sockets/a', 'w')", *options) == "PermissionError"
    assert outcome(f"{s}.symlink('/etc', '{tmp_path}/cache/etc')", *options) == "PermissionError"
    assert outcome(f"{s}.rename('{tmp_path}/stage/a', '{tmp_path}/cache/a')", *options) == "PermissionError"


def test_no_signal_is_ignored():
    """Whatever its host ignores, such as one under `nohup`."""
    quitting = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        _, done = run("print(__import__('_signal').getsignal(3))")
    finally:
        signal.signal(signal.SIGQUIT, quitting)
    assert done.stdout == f"{int(signal.SIG_DFL)}\n"


def test_no_process_outside_can_be_signalled():
    """Neither its host nor anybody else, also by root: the signals' scope is its own domain."""
    for pid in (os.getpid(), 1):
        assert outcome(f"__import__('os').kill({pid}, 0)") == "PermissionError"
    assert outcome("__import__('os').kill(__import__('os').getpid(), 0)") == ""


@contextlib.contextmanager
def listening(family: int, address: object) -> Iterator[socket.socket]:
    with socket.socket(family) as server:
        server.bind(address)
        server.listen()
        yield server


def test_tcp_reaches_the_named_ports_only():
    """No port without a grant, and none is listened on; `any` leaves connecting free."""
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"__import__('socket').create_connection(('127.0.0.1', {port})).close()"
        sockets = [f"read={Path(sys.modules['_socket'].__file__).parent}"]
        assert outcome(connect, *sockets) == "PermissionError"
        assert outcome(connect, *sockets, "port=1") == "PermissionError"
        assert outcome(connect, *sockets, f"port={port}") == ""
        assert outcome(connect, *sockets, "port=any") == ""
    bind = "__import__('socket').socket().bind(('127.0.0.1', 4711))"
    assert outcome(bind, *sockets, "port=any") == "PermissionError"


def test_ports_left_free_are_reported():
    """A host that was granted with all its ports takes a part of the layer away, and the report says so."""
    assert "tcp" not in run("", "port=any")[0]
    assert "tcp" in run("", "port=443")[0]


def test_abstract_sockets_of_others_are_out_of_reach():
    """A desktop's session bus and the like listen on names without a file, which no rule on files would cover."""
    name = f"\0coredeno-{os.getpid()}"
    connect = f"__import__('socket').socket(__import__('socket').AF_UNIX).connect({name!r})"
    with listening(socket.AF_UNIX, name):
        assert outcome(connect, f"read={Path(sys.modules['_socket'].__file__).parent}") == "PermissionError"


def test_no_capability_is_kept_but_reading():
    """Root's rights are gone, and stay so at an exec: `no-new-privileges` is set."""
    _, done = run("print(open('/proc/self/status').read())", "read=/proc/self")
    status = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    kept = f"{1 << 2 if os.geteuid() == 0 else 0:016x}"
    assert (status["CapEff"], status["CapPrm"], status["CapInh"]) == (kept, kept, f"{0:016x}")
    assert status["NoNewPrivs"] == "1"
    assert status["Umask"] == "0077"


def test_whose_host_is_gone_already_does_not_begin():
    """If the host died before it could be watched, there is no program and no report."""
    on, done = run("print('here')", parent=1)
    assert (on, done.stdout, done.returncode) == ([], "", signal.SIGKILL)


def test_a_layer_that_cannot_be_had_is_named_and_the_others_hold():
    """Best effort: a limit that there is not turns off one layer, and says which one."""
    _, done = run("print('here')")
    assert done.stdout == "here\n"
    line = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-B",
            str(CONFINE),
            f"parent={os.getpid()}",
            "limit=NONE:7",
            "limit=CORE:0",
            "landlock=off",
            "--",
            "/bin/true",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    layers = {layer.name: layer for layer in read_report(line.strip("\n"))}
    assert not layers["limits"].on
    assert layers["limits"].why.startswith("NONE: ")
    assert layers["files"].why == "the launcher was told to leave Landlock off"
    assert [name for name, layer in layers.items() if layer.on] == [
        "no-new-privileges",
        "capabilities",
        "parent-death",
    ]


def test_a_program_is_known_by_what_the_kernel_opens(tmp_path: Path):
    """A script names its interpreter, a binary its loader; what is neither names nothing, and a circle ends."""
    script = tmp_path / "script"
    script.write_text("#! /bin/sh -e\nexit\n")
    opened = [str(path) for path in read_program(script).opened]
    assert opened[:2] == [str(script), "/bin/sh"]
    assert "/ld-linux" in opened[2]
    for number, content in enumerate(
        [b"", b"#!", b"#!sh", b"\x7fELF\x02\x01", b"\x7fELF\x02\x01" + b"\xff" * 90, b"#!/\0"]
    ):
        odd = tmp_path / str(number)
        odd.write_bytes(content)
        assert read_program(odd).opened == (odd,)
    circle = tmp_path / "circle"
    circle.write_text(f"#!{circle}\n")
    assert len(read_program(circle).opened) <= 6
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 0x20, 64)
    struct.pack_into("<HH", header, 0x36, 56, 1)
    static = tmp_path / "static"
    static.write_bytes(bytes(header) + bytes(56))
    assert read_program(static).opened == (static,)


# --- a real Deno

KILLER = """
import process from "node:process";
export function attack(pid) {
  const said = [];
  const kills = [() => Deno.kill(pid, "SIGKILL"), () => process.kill(pid, "SIGKILL"), () => process.kill(pid, 0)];
  for (const kill of kills) {
    try { kill(); said.push("killed"); } catch (error) { said.push(error.name); }
  }
  return said;
}
"""


async def test_a_real_sidecar_is_confined_in_every_layer(tmp_path: Path, write: Write):
    """What a running Deno says it is confined with is what the system says of its process."""
    launcher = RememberingLauncher()
    config = HostConfig(allow_unsigned=True, limits=Limits(memory_mb=64))
    async with PluginHost(tmp_path / "app", config=config, launcher=launcher) as host:
        module = await host.load_path(write("killer", KILLER))
        (process, *_) = launcher.processes
        said = await process.ready()
        assert [layer.name for layer in said.layers if layer.on] == list(LAYERS)
        limits = psutil.Process(process.pid)
        assert limits.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert limits.rlimit(psutil.RLIMIT_NOFILE) == (1024, 1024)
        assert limits.rlimit(psutil.RLIMIT_DATA)[1] == (1076 + 2 * 523 + 192 + 64) * 1024 * 1024
        assert os.getsid(process.pid) == process.pid
        assert set(await module.call("attack", os.getpid())) <= {"NotCapable", "PermissionDenied", "Error"}
        assert await module.call("attack", os.getpid())  # and it is there to be asked again


async def test_a_granted_host_is_reached_by_its_name(tmp_path: Path, write: Write):
    """The resolver has the files that it needs, and the kernel lets the granted port through."""
    config = HostConfig(allow_unsigned=True, policy=Policy(net=("localhost",)))
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = """
            export async function connect(port) {
              (await Deno.connect({ hostname: "localhost", port })).close();
              return true;
            }
        """
        async with PluginHost(tmp_path / "app", config=config) as host:
            manifest = f"permissions: {{net: ['localhost:{port}']}}"
            module = await host.load_path(write("net", source, manifest))
            assert await module.call("connect", port) is True
