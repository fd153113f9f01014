"""The list of attacks in docs/security.md and the attacks in this folder are the same."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
LIST = HERE.parents[1] / "docs" / "security.md"
ARENAS = frozenset({"arena", "unopened_arena"})
"""A test that takes one of these fixtures is an attack."""
_ROW = re.compile(r"\|\s*`(\w+)`\s*\|(.*)\|(.*)\|")


class Found(NamedTuple):
    """A test of this folder."""

    name: str
    is_attack: bool
    rule: str


def found_in(source: str) -> Iterator[Found]:
    """All test functions of a file, by its text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            taken = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
            yield Found(node.name.removeprefix("test_"), bool(taken & ARENAS), ast.get_docstring(node) or "")


def rows_of(text: str) -> list[tuple[str, str, str]]:
    """The rows of all tables whose first column is a name in backticks."""
    return [(name, tried.strip(), outcome.strip()) for name, tried, outcome in _ROW.findall(text)]


def differences(text: str, tests: Iterable[Found]) -> list[str]:
    """What is wrong with the list, or with the tests."""
    tests = list(tests)
    rows = rows_of(text)
    listed = Counter(name for name, _, _ in rows)
    tested = Counter(test.name for test in tests)
    attacks = {test.name for test in tests if test.is_attack}
    return [
        *(f"{name} is listed and has no test" for name in listed if name not in tested),
        *(f"{name} is an attack and is not listed" for name in sorted(attacks) if name not in listed),
        *(f"{name} is listed {count} times" for name, count in listed.items() if count > 1),
        *(f"{name} has {count} tests" for name, count in tested.items() if count > 1 and name in listed),
        *(f"{name} does not say what is tried, or what comes of it" for name, *said in rows if not all(said)),
        *(f"{test.name} states no rule" for test in tests if test.name in listed and not test.rule),
    ]


def test_the_list_is_complete():
    """Each attack on the list has one test, and each test with an arena is on the list."""
    tests = [test for file in sorted(HERE.glob("test_*.py")) for test in found_in(file.read_text())]
    assert not differences(LIST.read_text(), tests)
    assert any(test.is_attack for test in tests)


def test_what_is_missing_is_found():
    """A name without a test, a test without a name, and what stands there twice or half are told, each by name."""
    text = (
        "| attack | tried | outcome |\n|---|---|---|\n| `a` | x | y |\n| `b` | | y |\n"
        + "| `c` | x | y |\n" * 2
    )
    source = """
async def test_a(arena): "It states a rule."
async def test_b(*, unopened_arena): "It states a rule."
def test_c(tmp_path): pass
async def test_d(arena): "It states a rule."
class TestMore:
    def test_a(self): "It states a rule."
def helper(arena): pass
"""
    assert differences(text, found_in(source)) == [
        "d is an attack and is not listed",
        "c is listed 2 times",
        "a has 2 tests",
        "b does not say what is tried, or what comes of it",
        "c states no rule",
    ]
    assert differences("| `gone` | x | y |", []) == ["gone is listed and has no test"]
