"""The public face: what `coredeno.__all__` promises."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_type_hints

import coredeno

SPECIAL = ("__init__", "__call__", "__aenter__", "__aexit__", "__aiter__", "__anext__")
"""Methods with fixed names: typed as all others, documented by their class."""


def public_classes() -> list[type]:
    return [thing for name in coredeno.__all__ if inspect.isclass(thing := getattr(coredeno, name))]


def public_functions() -> Iterator[tuple[str, Any]]:
    """Functions, and the methods and properties of classes and of their bases in coredeno, unwrapped."""
    for name in coredeno.__all__:
        if inspect.isfunction(function := getattr(coredeno, name)):
            yield name, function
    for owner in {base for cls in public_classes() for base in cls.__mro__}:
        if not owner.__module__.startswith("coredeno"):
            continue
        for name in vars(owner):
            member = inspect.getattr_static(owner, name)
            function = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
            public = not name.startswith("_") or name in SPECIAL
            # A Protocol is given an __init__ by `typing`.
            if public and inspect.isfunction(function) and function.__module__.startswith("coredeno"):
                yield f"{owner.__name__}.{name}", function


def evaluated_hints(thing: Any) -> dict[str, Any]:
    """With the public names at hand, for those that a module imports for type checkers only."""
    return get_type_hints(thing, localns={name: getattr(coredeno, name) for name in coredeno.__all__})


def without_hint(function: Any) -> list[str]:
    """The parameters, and `return`, that have no hint. A hint that cannot be evaluated is an error."""
    hints = evaluated_hints(function)
    signature = inspect.signature(function)
    wanted = [each for each in signature.parameters if each not in ("self", "cls")]
    return [each for each in [*wanted, "return"] if each not in hints]


def test_the_names_are_sorted_and_there_is_none_twice():
    """One place for each name, so that two changes cannot add it twice."""
    assert list(coredeno.__all__) == sorted(set(coredeno.__all__))


def test_what_is_public_in_the_package_is_in_the_list():
    """No class or function of ours can be had from `coredeno` by accident."""
    public = {
        name
        for name, value in vars(coredeno).items()
        if not name.startswith("_") and str(getattr(value, "__module__", "")).startswith("coredeno")
    }
    assert public <= set(coredeno.__all__)


def test_every_name_can_be_imported():
    """`from coredeno import *` works."""
    assert [name for name in coredeno.__all__ if not hasattr(coredeno, name)] == []


def test_every_class_and_function_is_documented():
    """A docstring on each, public methods too; an override may take that of what it overrides."""
    bare = [cls.__name__ for cls in public_classes() if not cls.__doc__]
    bare += [
        name
        for name, function in public_functions()
        if function.__name__ not in SPECIAL and not inspect.getdoc(function)
    ]
    assert bare == []


def test_every_class_and_function_has_type_hints():
    """Each parameter, result and field; a hint that cannot be evaluated is none."""
    for cls in public_classes():
        evaluated_hints(cls)
    missing = {name: without for name, function in public_functions() if (without := without_hint(function))}
    assert missing == {}
