"""Any bytes give a value or the declared error: each fuzz target on seeds, changed, for a bounded time.

`scripts/fuzz` runs the same targets longer, led by coverage.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import mutating, running, shape
from tests.fuzz.shape import LIMIT_INPUT_BYTES, Target, Violation
from tests.fuzz.table import NOT_READERS, READERS, readers_by_their_source

_CHANGES = st.lists(
    st.builds(
        mutating.Change,
        kind=st.integers(0, len(mutating.KINDS) - 1),
        place=st.integers(0, LIMIT_INPUT_BYTES),
        other=st.integers(0, LIMIT_INPUT_BYTES),
        length=st.integers(1, 32),
        piece=st.sampled_from(mutating.PIECES),
    ),
    max_size=5,
)
_load = lru_cache(shape.load)


@pytest.mark.parametrize("name", shape.names())
def test_valid_inputs_are_taken(name):
    """A target holds on the inputs that it begins with, within the bounds of time and memory."""
    target = _load(name)
    assert target.seeds
    for seed in target.seeds:
        shape.run_measured(target, seed)


@pytest.mark.parametrize("name", shape.names())
@given(data=st.data())
def test_any_bytes_give_a_value_or_the_declared_error(name, data):
    """What was valid and is changed here and there breaks no promise, nor do bytes that were never valid."""
    target = _load(name)
    seed = data.draw(st.one_of(st.sampled_from(target.seeds), st.binary(max_size=64)), "seed")
    changes = data.draw(_CHANGES, "changes")
    shape.run_measured(target, mutating.changed(seed, changes, target.seeds))


def test_a_broken_promise_is_seen():
    """An error that is not declared, and a bound of memory that is passed, come out of a target."""

    def breaks(_data: bytes) -> None:
        shape.value_of(lambda: {}["not there"], shape.CoreDenoError)

    def takes_memory(_data: bytes) -> None:
        bytearray(shape.LIMIT_MEMORY_BYTES + 1)

    with pytest.raises(KeyError):
        shape.run_measured(Target("breaks", breaks, ()), b"")
    with pytest.raises(Violation, match="bytes of memory"):
        shape.run_measured(Target("takes memory", takes_memory, ()), b"")


def test_every_reader_of_hostile_bytes_has_a_target(project: Path):
    """A module that takes bytes or text apart stands in the table: with its target, or why it needs none."""
    found = readers_by_their_source(project / "coredeno")
    assert found - READERS.keys() - NOT_READERS.keys() == set(), "wanted a line in tests/fuzz/table.py"
    assert not READERS.keys() & NOT_READERS.keys()
    for module in (*READERS, *NOT_READERS):
        assert (project / "coredeno" / module).is_file(), f"{module} is there no more"


def test_the_table_names_every_target(project: Path):
    """A target that tests nothing named in the table is a mistake in one of the two; and each imports its module."""
    assert {target for targets in READERS.values() for target in targets} == set(shape.names())
    for module, targets in READERS.items():
        dotted = "coredeno." + module.removesuffix(".py").replace("/", ".")
        for target in targets:
            source = (project / "tests" / "fuzz" / "targets" / f"{target}.py").read_text()
            assert dotted in source, f"the target {target} does not import {dotted}"


def test_what_broke_a_promise_is_kept_and_reproduced(tmp_path, capsys):
    """The loop of our own finds an input by changing seeds, writes it to a file, and that file shows it again."""

    def breaks(data: bytes) -> None:
        shape.require(b"__proto__" not in data, "a planted fault")

    target = Target("planted", breaks, (b'{"a": 1}', b"[]"))
    file = running.explore(target, seconds=20, seed=1, finds=tmp_path)
    assert file is not None
    assert f"written to {file}" in capsys.readouterr().out
    with pytest.raises(Violation, match="a planted fault"):
        shape.run_bounded(target, file.read_bytes())


def test_the_driver_runs_a_target_and_tells_what_it_did(capsys):
    """`scripts/fuzz` runs a target in a process of its own, and ends with 0 where nothing was found."""
    assert running.main(["--engine", "own", "--seconds", "0.2", "--seed", "1", "batch"]) == 0
    out = capsys.readouterr().out
    assert "batch: " in out
    assert " a second, coverage " in out
    assert out.endswith("found nothing\n")


def test_a_file_that_breaks_nothing_is_told(tmp_path, capsys):
    """`--input` runs one target on one file."""
    file = tmp_path / "input"
    file.write_bytes(b"[]")
    assert running.main(["values", "--input", str(file)]) == 0
    assert "holds" in capsys.readouterr().out
