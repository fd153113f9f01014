"""Installs beside `git clone --depth=1` of the same: `python -m benchmarks.installs [--short] [--json]`.

All is fetched from git itself over HTTP on loopback. An install is what an app does, `plan_install` and `apply`: when
it returns, every file was verified, and every file and folder is on the disk, which `git clone` does not see to.

Nothing is removed before the end: an ext4 without a journal takes a millisecond for each new file where many were
removed in the last minutes, which would hide what is measured. Where others do that, have TMPDIR name another place.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from random import Random

from benchmarks.git_server import serving
from coredeno import PluginHost
from coredeno.install.signing import SigningKey, sign_folder
from coredeno.testing import FakeLauncher, MemoryListener
from tests.git.repositories import ENVIRONMENT, git

FOLDERS = 50
SMALL_BYTES = 100_000
_WHO = ("-c", "user.name=Acme", "-c", "user.email=dev@acme.example")
CLONE, IMPORTS, SERVER, INSTALL = ROWS = (
    "git clone --depth=1",
    "2 × import dulwich.client",
    "the server alone",
    "install",
)


async def main(*, megabytes: int, files: int, rounds: tuple[int, int], as_json: bool) -> None:
    """Measure everything and print a table."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        key = SigningKey.generate()
        (folder / "served").mkdir()
        _publish(folder, "large", key, files=files, size_bytes=megabytes * 1_000_000)
        _publish(folder, "small", key, files=20, size_bytes=SMALL_BYTES)
        with serving(folder / "served") as url:
            bench = _Bench(folder, url, key)
            large = await bench.run("large", rounds[0])
            small = await bench.run("small", rounds[1], imports=True)
    tables = {
        f"{megabytes} MB in {files:,} files": (large, 2 * large[CLONE]),
        "20 files": (small, small[CLONE] + small[IMPORTS]),
    }
    if as_json:
        print(json.dumps({title: {**rows, "target": target} for title, (rows, target) in tables.items()}))
        return
    for title, (rows, target) in tables.items():
        print(f"{title:36} {'seconds':>9} {'× clone':>9} {'target':>12}")
        for what, seconds in rows.items():
            wanted = f"≤ {target:.3f} s" if what == INSTALL else ""
            print(f"  {what:34} {seconds:9.3f} {seconds / rows[CLONE]:9.2f} {wanted:>12}")


class _Bench:
    """Measures by turns, so that what the machine does meanwhile meets all alike."""

    def __init__(self, folder: Path, url: str, key: SigningKey) -> None:
        self._folder = folder
        self._url = url
        self._key = key

    async def run(self, code: str, rounds: int, *, imports: bool = False) -> dict[str, float]:
        """Medians in seconds, by what was measured."""
        times: dict[str, list[float]] = {}
        for turn in range(rounds):
            folder = self._folder / f"{code}-{turn}"
            async with PluginHost(
                folder / "app", launcher=FakeLauncher({}), listener=MemoryListener()
            ) as host:
                steps = self._steps(host, code, folder)
                if not imports:
                    del steps[IMPORTS]
                for what in sorted(steps, reverse=bool(turn % 2)):
                    await asyncio.to_thread(os.sync)  # what was written before is nobody's cost here
                    begin = time.perf_counter()
                    await steps[what]()
                    times.setdefault(what, []).append(time.perf_counter() - begin)
        return {what: statistics.median(times[what]) for what in ROWS if what in times}

    def _steps(self, host: PluginHost, code: str, folder: Path) -> dict[str, Callable[[], Awaitable[None]]]:
        url = f"{self._url}/{code}.git"

        async def install() -> None:
            plan = await host.plan_install(url, signer=self._key.public_hex)
            await plan.apply()

        async def clone() -> None:
            await _run("git", "clone", "--quiet", "--depth=1", url, str(folder / "clone"))

        async def imports() -> None:
            for _ in range(2):
                await _run(sys.executable, "-I", "-c", "import dulwich.client")

        async def receive() -> None:
            await asyncio.to_thread(self._receive, code)

        return {CLONE: clone, INSTALL: install, IMPORTS: imports, SERVER: receive}

    def _receive(self, code: str) -> None:
        """Ask for what a clone asks for, and throw it away: no less can a fetch take."""
        commit = git(self._folder / "served" / f"{code}.git", "rev-parse", "HEAD").decode().strip()
        lines = (f"want {commit} ofs-delta side-band-64k", "deepen 1", "", "done")
        body = b"".join(b"%04x%s\n" % (len(line) + 5, line.encode()) if line else b"0000" for line in lines)
        with closing(http.client.HTTPConnection(self._url.removeprefix("http://"))) as connection:
            connection.request("POST", f"/{code}.git/git-upload-pack", body)
            answer = connection.getresponse()
            received = 0
            while piece := answer.read(1 << 20):
                received += len(piece)
        if received < SMALL_BYTES // 2:
            raise RuntimeError(f"the server gave {received} bytes only")


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, env=ENVIRONMENT)
    if await process.wait():
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")


def _publish(folder: Path, code: str, key: SigningKey, *, files: int, size_bytes: int) -> None:
    """A signed plugin of so many files, in one pack: so the server only copies what is compressed already."""
    random = Random(code)
    checkout = folder / code
    (checkout / ".core").mkdir(parents=True)
    (checkout / ".core" / "view.yml").write_text(f"code: {code}\nversion: 1.0.0\n")
    for number in range(files):
        data = base64.b64encode(random.randbytes(size_bytes // files * 3 // 4))
        where = checkout / (f"part{number % FOLDERS}/file{number}.ts" if number else "main.ts")
        where.parent.mkdir(exist_ok=True)
        where.write_bytes(data)
    sign_folder(checkout, key, seq=1)
    served = folder / "served" / f"{code}.git"
    served.mkdir()
    git(served, "init", "--quiet", "--bare", "--initial-branch=main")
    # Straight into a pack, without a search for deltas: that would take a minute, and nobody measures it.
    quick = ("-c", "core.bigFileThreshold=1k", "-c", "core.compression=1", f"--work-tree={checkout}")
    git(served, *quick, "add", "--all")
    git(served, *quick, *_WHO, "commit", "--quiet", "--message=all")
    git(served, *quick, "repack", "-a", "-d", "--quiet")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="2 MB in 50 files, and few rounds")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if options.short:
        asyncio.run(main(megabytes=2, files=50, rounds=(1, 1), as_json=options.json))
    else:
        asyncio.run(main(megabytes=200, files=5000, rounds=(3, 15), as_json=options.json))
