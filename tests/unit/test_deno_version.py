"""Which Deno versions are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from coredeno.errors import DenoNotFound
from coredeno.sidecar.deno import NEWEST, OLDEST, check_version, find_deno


@pytest.mark.parametrize("version", ["2.9.0", "2.9.8", "2.9", "2.9.0-rc.1", "2.9.10+abc"])
@pytest.mark.parametrize("allow_untested", [False, True])
def test_versions_that_passed(version, allow_untested):
    """Any patch version of a minor version that was tested."""
    check_version(version, allow_untested=allow_untested)


@pytest.mark.parametrize("version", ["2.8.9", "2.0.0", "1.46.0", "0.0.0", "-3.0.0"])
@pytest.mark.parametrize("allow_untested", [False, True])
def test_versions_that_are_too_old(version, allow_untested):
    """An older one is refused whatever the app allows: it cannot confine a Worker."""
    with pytest.raises(DenoNotFound) as caught:
        check_version(version, allow_untested=allow_untested)
    assert f"its version is {version}, wanted at least 2.9" in str(caught.value)
    assert "pip install" in str(caught.value)


@pytest.mark.parametrize("version", ["2.10.0", "2.100", "3.0.0", "10.0.0"])
def test_versions_that_nobody_has_tested(version):
    """A newer one is refused, and the message says how to take the risk."""
    with pytest.raises(DenoNotFound) as caught:
        check_version(version, allow_untested=False)
    assert f"its version is {version}, wanted at most 2.9" in str(caught.value)
    assert "HostConfig(allow_untested_deno=True)" in str(caught.value)
    check_version(version, allow_untested=True)


@pytest.mark.parametrize(
    "version", ["", "2", "two.nine", "2.x", "v2.9.0", "2..9", "x" * 5000, "9" * 5000 + ".1"]
)
@pytest.mark.parametrize("allow_untested", [False, True])
def test_what_is_no_version(version, allow_untested):
    """Anything else is refused, and shown cut."""
    with pytest.raises(DenoNotFound, match="wanted 2\\.9") as caught:
        check_version(version, allow_untested=allow_untested)
    assert len(str(caught.value)) < 300


def test_the_range_is_that_of_the_package(project: Path):
    """What `pip` installs with coredeno is what coredeno takes."""
    newer = f"{NEWEST[0]}.{NEWEST[1] + 1}"
    assert f'"deno>={OLDEST[0]}.{OLDEST[1]},<{newer}"' in (project / "pyproject.toml").read_text()


def test_a_path_that_the_app_names(tmp_path: Path):
    """It is taken as it is, made absolute; one that is no file is refused."""
    program = tmp_path / "deno"
    with pytest.raises(DenoNotFound, match="there is no file"):
        find_deno(program)
    with pytest.raises(DenoNotFound, match="there is no file"):
        find_deno(tmp_path)
    program.touch()
    assert find_deno(str(program)) == program.resolve()


def test_the_one_that_came_with_coredeno():
    """Without a path it is the program of the `deno` wheel."""
    assert find_deno(None).is_file()
