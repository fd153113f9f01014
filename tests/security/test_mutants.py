"""Each defence is really what stops its attack; `scripts/mutants` shows it for all, here a sample is run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.mutants.mutant import Cut, Mutant, Stale
from tests.mutants.running import PROJECT, Survived, kill, sample
from tests.mutants.table import MUTANTS

SAMPLE = 3
"""So many are run in the suite; all of them take a quarter of an hour."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_source(mutant: Mutant, tmp_path: Path):
    """What a mutant takes out stands in the source, once; and its attacks are in the suite."""
    for name in (mutant.file, *(cut.file for cut in mutant.layers)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / "coredeno" / name, tmp_path / name)
    mutant.apply(tmp_path)
    suite = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert [attack for attack in mutant.attacks if f"def test_{attack}(" not in suite] == []


def test_no_mutant_is_let_loose_on_the_machine():
    """None is shown by the attack that signals every process: without its defence, as root, that would come true."""
    attacks = {f"test_{attack}" for mutant in MUTANTS for attack in mutant.attacks}
    # As `pytest -k` chooses: a part of a name is enough.
    assert [attack for attack in attacks if attack in "test_kill_host"] == []


def test_names_are_unique():
    """A mutant is named by the defence that it lacks."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", sample(MUTANTS, SAMPLE), ids=lambda mutant: mutant.name)
def test_a_missing_defence_is_noticed(mutant: Mutant, tmp_path: Path):
    """Without the defence one of its attacks succeeds."""
    assert kill(mutant, tmp_path)


@pytest.mark.parametrize(("count", "first", "last"), [(2, 0, 50), (4, 0, 75), (100, 0, 99), (500, 0, 99)])
def test_a_sample_is_spread_evenly(count: int, first: int, last: int):
    """A sample has as many as were asked for, each once, from the whole table; all if that is more than there are."""
    mutants = [Mutant(str(number), "f", "o", "n", ()) for number in range(100)]
    numbers = [int(mutant.name) for mutant in sample(mutants, count)]
    assert (len(numbers), numbers[0], numbers[-1]) == (min(count, 100), first, last)
    assert numbers == sorted(set(numbers))


def test_a_change_that_takes_nothing_out_survives(tmp_path: Path):
    """A mutant that is as good as the original is found out: the attacks do not just fail."""
    with pytest.raises(Stale):
        Cut("guard.ts", "preventDefault", "").apply("twice: preventDefault preventDefault")
    source = (PROJECT / "coredeno" / "errors.py").read_text()
    harmless = Mutant("harmless", "errors.py", source[:80], source[:80], ("throw_null",))
    with pytest.raises(Survived):
        kill(harmless, tmp_path)
