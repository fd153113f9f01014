"""The guards round every test, tried on tests that misbehave in each way."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests import leaks

pytest_plugins = ["pytester"]

CONFIG = """
[tool.pytest.ini_options]
addopts = ["--strict-markers", "-p", "no:cacheprovider"]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
filterwarnings = ["error"]
"""

LEAKS = """
import asyncio, os, socket, subprocess, tempfile, threading, time

import pytest

kept = []  # what is still referred to cannot be cleaned up by chance

def test_process():
    kept.append(subprocess.Popen("cat", stdin=subprocess.PIPE))  # ends with this process

def test_after_it(): ...

async def test_process_in_loop():
    kept.append(await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE))

def test_thread():
    thread = threading.Thread(target=time.sleep, args=(60,), name="forgotten", daemon=True)
    thread.start()

async def test_task():
    kept.append(asyncio.create_task(asyncio.sleep(60), name="forgotten"))

async def test_task_that_nobody_holds():
    asyncio.get_running_loop().create_task(asyncio.sleep(60), name="forgotten")

def test_descriptor():
    kept.append(os.open("/dev/null", os.O_RDONLY))

async def test_descriptor_in_loop():
    kept.append(socket.socket())

def test_file():
    tempfile.mkdtemp(prefix="coredeno-")

def test_socket_file():
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(tempfile.gettempdir() + "/forgotten.sock")

@pytest.fixture
async def careless():
    yield
    kept.append(asyncio.create_task(asyncio.sleep(60), name="forgotten"))

async def test_fixture(careless): ...

@pytest.mark.may_leave("threads")
def test_marker_without_reason(): ...

@pytest.mark.may_leave("thread", reason="misspelt")
def test_marker_without_such_a_kind(): ...
"""

CLEAN = """
import asyncio, os, subprocess, tempfile, threading, time

import pytest

def test_process_that_ended():
    subprocess.run("true", check=True)

async def test_process_in_loop_that_ended():
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()

def test_thread_on_its_way_out():
    threading.Thread(target=time.sleep, args=(0.05,)).start()

async def test_task_on_its_way_out():
    asyncio.get_running_loop().create_task(asyncio.sleep(0.05))

async def test_default_executor():
    await asyncio.to_thread(time.sleep, 0)

async def test_transport_on_its_way_out():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1")
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.close()
    server.close()

@pytest.fixture(scope="module")
def shared():
    with tempfile.TemporaryDirectory(prefix="coredeno-"), open("/dev/null"):
        yield

def test_fixture_of_a_wider_scope(shared): ...

async def test_fixture_of_a_wider_scope_in_loop(shared): ...

@pytest.fixture
async def task():
    running = asyncio.create_task(asyncio.sleep(60))
    yield
    running.cancel()

async def test_fixture_that_cleans_up(task): ...

@pytest.mark.may_leave("descriptors", reason="to try the marker")
def test_marker():
    os.open("/dev/null", os.O_RDONLY)
"""

BLOCKING = """
import asyncio, time

import coredeno
import pytest
from blockbuster import BlockingError

def in_coredeno(code):
    names = {}
    exec(compile(code, coredeno.__path__[0] + "/blocking.py", "exec"), names)
    return names

@pytest.mark.parametrize("code", [
    "import time; time.sleep(0)",
    "import os; os.stat('/')",
    "import os; os.listdir('/')",
    "import pathlib; pathlib.Path('/dev/null').read_text()",
    "import socket\\nwith socket.socket() as s: s.connect(('127.0.0.1', 9))",
    "import contextlib as c, sqlite3 as s\\nwith c.closing(s.connect(':memory:')) as d: d.execute('')",
])
async def test_on_the_loop(code):
    with pytest.raises(BlockingError):
        in_coredeno(code)

def test_without_a_loop():
    in_coredeno("import time; time.sleep(0)")

async def test_in_a_thread():
    await asyncio.to_thread(in_coredeno, "import time; time.sleep(0)")

async def test_outside_of_coredeno():
    time.sleep(0)

async def test_start_of_a_process():
    code = "import asyncio\\nasync def start(): return await asyncio.create_subprocess_exec('true')"
    process = await in_coredeno(code)["start"]()
    await process.wait()
"""


@pytest.fixture
def run(pytester, project: Path, monkeypatch) -> Callable[..., dict[str, str]]:
    """Run tests under the real tests/conftest.py, in a process of its own; tell what was said of each."""

    def run_tests(code: str, *, grace_s: float = leaks.GRACE_S) -> dict[str, str]:
        pytester.makepyprojecttoml(CONFIG)
        conftest = (project / "tests" / "conftest.py").read_text()
        pytester.makeconftest(f"{conftest}\n\nleaks.GRACE_S = {grace_s}")
        pytester.makepyfile(code)
        monkeypatch.setenv("PYTHONPATH", str(project))
        pytester.runpytest_subprocess("--junitxml=report.xml")
        report = ET.parse(pytester.path / "report.xml")
        cases = report.iter("testcase")
        return {str(case.get("name")): "".join(str(fault.text) for fault in case) for case in cases}

    return run_tests


def test_a_test_that_leaves_something_behind_fails_and_names_it(run):
    """Each kind of leak, in a loop or not, is blamed on the test that made it, and on no other."""
    outcomes = run(LEAKS, grace_s=0.1)
    wanted = {
        "test_process": "processes: *cat*",
        "test_after_it": "",
        "test_process_in_loop": "processes: *cat*",
        "test_thread": "threads: forgotten (daemon)*",
        "test_task": "tasks: <Task pending name='forgotten'*",
        "test_task_that_nobody_holds": "tasks: <Task pending name='forgotten'*",
        "test_descriptor": "descriptors: * -> /dev/null*",
        "test_descriptor_in_loop": "descriptors: * -> socket:*",
        "test_file": "files: */coredeno-*",
        "test_socket_file": "files: */forgotten.sock*",
        "test_fixture": "tasks: <Task pending name='forgotten'*",
        "test_marker_without_reason": "may_leave: *",
        "test_marker_without_such_a_kind": "may_leave: *",
    }
    assert outcomes.keys() == wanted.keys()
    for test, said in outcomes.items():
        assert fnmatch.fnmatchcase(said, f"*{wanted[test]}" if wanted[test] else ""), (test, said)


def test_a_test_that_cleans_up_passes(run):
    """What ends by itself in a moment, or belongs to a fixture of a wider scope, is no leak."""
    outcomes = run(CLEAN)
    assert len(outcomes) == CLEAN.count("def test_")
    assert not any(outcomes.values()), outcomes


def test_a_blocking_call_on_the_loop_is_an_error(run):
    """Only calls made by coredeno, and only while a loop runs in that thread."""
    outcomes = run(BLOCKING)
    assert len(outcomes) == BLOCKING.count("def test_") + 5
    assert not any(outcomes.values()), outcomes
