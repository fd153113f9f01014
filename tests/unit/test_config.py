"""How a host is set up: wrong values are found where they are written."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from coredeno import HostConfig, Limits, Policy, UsageError
from coredeno.events import (
    Event,
    ModuleCrashed,
    ModuleStarted,
    ModuleStopped,
    PermissionDenied,
    ProtocolBroken,
)

FLOORS = {
    "memory_mb": 16,
    "message_bytes": 4096,
    "calls_in_flight": 1,
    "requests_in_flight": 1,
    "log_line_bytes": 1,
}
WHOLE = sorted(FLOORS)
TIMES = ["call_timeout_s", "load_timeout_s", "unload_grace_s"]


def test_the_defaults_are_valid():
    """Nothing needs to be set; what is approved by default is nothing."""
    config = HostConfig()
    assert config.isolation == "process"
    assert config.programs == {}
    assert not config.allow_unsigned
    assert not config.allow_untested_deno
    assert config.policy == Policy()
    assert config.limits == Limits()
    assert set(FLOORS) | set(TIMES) == set(Limits().__struct_fields__)


@pytest.mark.parametrize(("name", "floor"), FLOORS.items())
def test_the_smallest_limit_that_is_taken(name, floor):
    """Each limit has a floor; one below it is refused, by name."""
    assert getattr(Limits(**{name: floor}), name) == floor
    for wrong in (floor - 1, 0, -1):
        with pytest.raises(UsageError, match=rf"^Limits: {name} is {wrong}, wanted "):
            Limits(**{name: wrong})


@pytest.mark.parametrize("name", TIMES)
def test_times_are_more_than_nothing(name):
    """A deadline that has passed before it begins helps nobody."""
    assert getattr(Limits(**{name: 0.001}), name) == 0.001
    for wrong in (0, -1, float("nan")):
        with pytest.raises(UsageError, match=rf"^Limits: {name} is "):
            Limits(**{name: wrong})


@pytest.mark.parametrize("name", TIMES)
def test_times_are_finite(name):
    """No JSON carries an infinite deadline to a sidecar."""
    with pytest.raises(UsageError, match=rf"^Limits: {name} is inf"):
        Limits(**{name: float("inf")})


@pytest.mark.parametrize("name", WHOLE)
def test_counts_are_whole_numbers(name):
    """Half a byte or a true is no count."""
    for wrong in (FLOORS[name] + 0.5, float("inf"), True):
        with pytest.raises(UsageError, match=rf"^Limits: {name} is "):
            Limits(**{name: wrong})


@pytest.mark.parametrize("name", [*WHOLE, *TIMES])
@pytest.mark.parametrize("wrong", ["128", None, [1]])
def test_limits_are_numbers(name, wrong):
    """Anything else is a `UsageError`, as it is promised, and nothing of Python's own."""
    with pytest.raises(UsageError, match=rf"^Limits: {name} is "):
        Limits(**{name: wrong})


@pytest.mark.parametrize("isolation", ["Process", "", None, "thread", 1])
def test_isolation_is_one_of_two(isolation):
    """The error names both."""
    with pytest.raises(UsageError, match="wanted 'process' or 'worker'"):
        HostConfig(isolation=isolation)


def test_programs_have_absolute_paths(tmp_path: Path):
    """A relative one would be looked for in whatever folder the app runs in."""
    assert HostConfig(programs={"a": tmp_path, "b": "/usr/bin/b"}).programs["b"] == "/usr/bin/b"
    for wrong in ("ffmpeg", "./ffmpeg", "", "~/x"):
        with pytest.raises(UsageError, match=r"^HostConfig: programs\['p'\] is .*, wanted an absolute path"):
            HostConfig(programs={"p": wrong})


@pytest.mark.parametrize("name", ["start_timeout_s", "stop_timeout_s"])
def test_timeouts_of_the_host(name):
    """They are more than 0."""
    assert getattr(HostConfig(**{name: 0.5}), name) == 0.5
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(UsageError, match=rf"^HostConfig: {name} is "):
            HostConfig(**{name: wrong})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("start_timeout_s", "20"),
        ("stop_timeout_s", None),
        ("programs", {"p": None}),
        ("programs", ["p"]),
        ("limits", {"memory_mb": 64}),
        ("policy", "all"),
    ],
)
def test_fields_of_another_type(name, wrong):
    """A field of the wrong type is a `UsageError` that names it, where the config is made."""
    with pytest.raises(UsageError, match=rf"^HostConfig: {name}"):
        HostConfig(**{name: wrong})


@pytest.mark.parametrize("frozen", [Limits(), HostConfig(), ModuleStopped(module="m", reason="r")])
def test_what_was_checked_cannot_be_changed(frozen):
    """Configurations and events are immutable."""
    with pytest.raises(AttributeError):
        setattr(frozen, frozen.__struct_fields__[0], "x")


def test_replace_checks_again():
    """A changed copy is checked as a new one is."""
    with pytest.raises(UsageError):
        msgspec.structs.replace(Limits(), memory_mb=1)
    with pytest.raises(UsageError):
        msgspec.structs.replace(HostConfig(), isolation="none")


@pytest.mark.parametrize(
    "event",
    [
        ModuleStarted(module="m", version="1", load_s=0.1),
        ModuleStopped(module="m", reason="r"),
        ModuleCrashed(module="m", error="e"),
        PermissionDenied(module="m", permission="p", resource="r", remedy="a"),
        ProtocolBroken(problem="p"),
    ],
)
def test_events_are_plain_data(event):
    """An app can log each as JSON, and compare two."""
    assert isinstance(event, Event)
    assert msgspec.convert(msgspec.to_builtins(event), type(event)) == event
