"""The example of a marketplace, as its user runs it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import psutil

MARKETPLACE = Path(__file__).parents[2] / "examples" / "marketplace"
LINES = r"""
published  wordcount 1\.0\.0 and receipt 1\.0\.0, signed by the key [0-9a-f]{12}…
index      Acme's plugins: 2 plugins, about money, text
search     'count words' finds wordcount 1\.0\.0: Counts the words of a note\.
plan       wordcount 1\.0\.0, 3 files, \d+ bytes
  signed   by the key [0-9a-f]{12}…, every file
  file     main\.ts +\d+ bytes
  may      read notes beneath the app's folder
installed  wordcount 1\.0\.0: RUNNING
  may      use the app's service rates \(read\)
installed  receipt 1\.0\.0: RUNNING
called     wordcount 1\.0\.0: {'words': 9, 'different': 7}
called     receipt: coffee\.+51\.75 NOK \| cake\.+57\.50 NOK \| total\.+109\.25 NOK
published  wordcount 2\.0\.0
consent    wordcount 2\.0\.0 wants to change reports beneath the app's folder, .*: yes
called     wordcount 2\.0\.0: {'words': 9, 'different': 7, 'report': 'reports/today\.txt'}
report     2 the, 2 hi, .*
rollback   wordcount 1\.0\.0, kept are 2\.0\.0
called     wordcount 1\.0\.0: {'words': 9, 'different': 7}
tampered   .*
restarted  receipt 1\.0\.0: QUARANTINED
restarted  wordcount 1\.0\.0: RUNNING
refused    receipt, because main\.ts is not the file that was signed
mended     receipt: RUNNING
called     receipt: coffee\.+51\.75 NOK \| .*
removed    installed are now \[\]
host       stopped, nothing left behind
"""


async def test_the_app_runs(tmp_path: Path):
    """It goes the whole way from author to removal, ends with 0, says so in few lines, and leaves nothing."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(MARKETPLACE / "app.py"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    out, err = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, err.decode()
    assert err == b""
    assert len(text.splitlines()) < 40
    lines = iter(text.splitlines())
    for wanted in LINES.strip().splitlines():  # in this order, with others between them
        assert any(re.fullmatch(wanted, line) for line in lines), f"{wanted}\n\n{text}"
    assert next(lines, None) is None
    assert not list(tmp_path.iterdir())
    left = [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(each.info["cmdline"])]
    assert not left
