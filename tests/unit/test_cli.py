"""The command `python -m coredeno`."""

from __future__ import annotations

import runpy
import sys

import pytest

import coredeno
from coredeno.__main__ import main


def test_version_is_printed(capsys):
    """`--version` prints name and version, and ends with 0."""
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"coredeno {coredeno.__version__}\n"


def test_without_arguments_help_is_printed(capsys):
    """No argument is no mistake."""
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: coredeno")


def test_a_wrong_argument_is_refused(capsys):
    """What it does not know ends with 2, as everywhere on Unix."""
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--no-such-thing"])
    assert "--no-such-thing" in capsys.readouterr().err


def test_the_package_can_be_run_as_a_module(monkeypatch, capsys):
    """`python -m coredeno` is that command."""
    monkeypatch.setattr(sys, "argv", ["coredeno"])
    monkeypatch.delitem(sys.modules, "coredeno.__main__")
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("coredeno", run_name="__main__")
    assert capsys.readouterr().out.startswith("usage: coredeno")
