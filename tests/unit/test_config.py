"""How a host is set up: wrong values are found where they are written."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from coredeno import FetchLimits, HostConfig, Limits, Policy, Program, RestartPolicy, UsageError
from coredeno.events import (
    Event,
    ModuleCrashed,
    ModuleQuarantined,
    ModuleStarted,
    ModuleStopped,
    PermissionDenied,
    PluginInstalled,
    PluginRemoved,
    PluginRolledBack,
    PluginUpdated,
    ProtocolBroken,
    SidecarKilled,
)
from coredeno.install import paths, release
from coredeno.plugin_files import DEPTH_LIMIT, ENTRIES_LIMIT

FLOORS = {
    "memory_mb": 16,
    "message_bytes": 4096,
    "calls_in_flight": 1,
    "requests_in_flight": 1,
    "log_line_bytes": 1,
    "log_lines_per_s": 1,
    "disk_in_flight": 1,
    "list_entries": 1,
    "store_bytes": 1,
    "store_keys": 1,
    "processes": 1,
}
WHOLE = sorted(FLOORS)
TIMES = ["call_timeout_s", "cancel_grace_s", "hang_s", "load_timeout_s", "unload_grace_s"]


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


@pytest.mark.parametrize("name", FetchLimits().__struct_fields__)
@pytest.mark.parametrize("wrong", [0, -1, "128", None, True, float("nan")])
def test_limits_of_a_fetch(name, wrong):
    """Each is a number of at least 1, or a time of more than 0; a wrong one is refused by name."""
    with pytest.raises(UsageError, match=f"^FetchLimits: {name} is "):
        FetchLimits(**{name: wrong})
    assert getattr(FetchLimits(**{name: 1}), name) == 1


@pytest.mark.parametrize("wrong", [-1, 1.5, "2", None, True])
def test_how_many_releases_are_kept(wrong):
    """None, or more."""
    assert HostConfig(kept_releases=0).kept_releases == 0
    with pytest.raises(UsageError, match=r"^HostConfig: kept_releases is "):
        HostConfig(kept_releases=wrong)


@pytest.mark.parametrize("wrong", ["Refuse", "", None, "ignore", "set aside", True, []])
def test_a_corrupt_store_is_refused_or_set_aside(wrong):
    """Refused unless the app says otherwise, in one of two words."""
    assert HostConfig().corrupt_store == "refuse"
    assert HostConfig(corrupt_store="set_aside").corrupt_store == "set_aside"
    with pytest.raises(
        UsageError, match=r"^HostConfig: corrupt_store is .*, wanted 'refuse' or 'set_aside'$"
    ):
        HostConfig(corrupt_store=wrong)


@pytest.mark.parametrize("isolation", ["Process", "", None, "thread", 1])
def test_isolation_is_one_of_two(isolation):
    """The error names both."""
    with pytest.raises(UsageError, match="wanted 'process' or 'worker'"):
        HostConfig(isolation=isolation)


def test_a_program_is_checked():
    """What a `Program` is made of is looked at when it is made, and a path alone is one without options."""
    assert Program.of("/bin/x") == Program("/bin/x", (), allow_options=False)
    assert Program.of(Path("/bin/x")).path == Path("/bin/x")
    whole = Program("/bin/x", ("--fixed",), allow_options=True)
    assert Program.of(whole) is whole
    assert HostConfig(programs={"x": whole}).programs["x"] is whole
    for wrong, said in (
        (lambda: Program("bin/x"), "path is 'bin/x', wanted an absolute path"),
        (lambda: Program(None), "path is 'None', wanted an absolute path"),
        (lambda: Program("/bin/x", ["a"]), r"args is \['a'\], wanted a tuple of str"),
        (lambda: Program("/bin/x", (1,)), r"args is \(1,\), wanted a tuple of str"),
        (lambda: Program("/bin/x", allow_options=1), "allow_options is 1, wanted True or False"),
    ):
        with pytest.raises(UsageError, match=f"^Program: {said}"):
            wrong()


def test_programs_have_absolute_paths(tmp_path: Path):
    """A relative one would be looked for in whatever folder the app runs in."""
    assert HostConfig(programs={"a": tmp_path, "b": "/usr/bin/b"}).programs["b"] == "/usr/bin/b"
    for wrong in ("ffmpeg", "./ffmpeg", "", "~/x"):
        with pytest.raises(UsageError, match=r"^HostConfig: programs\['p'\] is .*, wanted an absolute path"):
            HostConfig(programs={"p": wrong})


@pytest.mark.parametrize("name", ["heartbeat_s", "start_timeout_s", "stop_timeout_s"])
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
        ("fetch", {"files": 1}),
        ("settings", ["tagger"]),
        ("settings", {"tagger": "x"}),
    ],
)
def test_fields_of_another_type(name, wrong):
    """A field of the wrong type is a `UsageError` that names it, where the config is made."""
    with pytest.raises(UsageError, match=rf"^HostConfig: {name}"):
        HostConfig(**{name: wrong})


def test_settings_of_any_module():
    """Each is a mapping, of whatever it finds in `core.config`."""
    settings = {"tagger": {"language": "no"}, "other": {}}
    assert HostConfig(settings=settings).settings == settings


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
        ModuleQuarantined(module="m", error="e"),
        PluginInstalled(module="m", version="1", digest="d", signer=None),
        PluginUpdated(module="m", version="2", former="1", digest="d"),
        PluginRolledBack(module="m", version="1", former="2"),
        PluginRemoved(module="m"),
        PermissionDenied(module="m", permission="p", resource="r", remedy="a"),
        ProtocolBroken(problem="p"),
        SidecarKilled(module="m", sidecar="s", cause="hang", reason="r"),
    ],
)
def test_events_are_plain_data(event):
    """An app can log each as JSON, and compare two."""
    assert isinstance(event, Event)
    assert msgspec.convert(msgspec.to_builtins(event), type(event)) == event


@pytest.mark.parametrize(("name", "most"), [("files", 10_000), ("depth", 32)])
def test_fetch_limits_that_a_load_does_not_have(name, most):
    """What is fetched must be able to load, whose bounds no app sets; they are the same everywhere."""
    assert getattr(FetchLimits(), name) == most
    with pytest.raises(UsageError, match=f"FetchLimits: {name} is {most + 1:,}, wanted at most {most:,}"):
        FetchLimits(**{name: most + 1})
    assert (ENTRIES_LIMIT, DEPTH_LIMIT) == (release.LIMIT_FILES, paths.LIMIT_DEPTH) == (10_000, 32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"first_delay_s": 0},
        {"first_delay_s": True},
        {"longest_delay_s": float("inf")},
        {"first_delay_s": 2, "longest_delay_s": 1},
        {"window_s": -1},
        {"stable_s": "60"},
        {"jitter": 1.1},
        {"jitter": -0.1},
        {"jitter": float("nan")},
        {"jitter": True},
        {"jitter": None},
        {"budget": -1},
        {"budget": 1.0},
        {"budget": True},
    ],
)
def test_a_restart_policy_that_is_none(wrong):
    """Each value is checked where it is written, and named."""
    with pytest.raises(UsageError, match=rf"^RestartPolicy: ({'|'.join(wrong)}) is .*, wanted"):
        RestartPolicy(**wrong)


def test_the_bounds_of_a_restart_policy():
    """Modules may be given up at once, delays may be all of one length, and chance may have all or nothing."""
    RestartPolicy(budget=0, first_delay_s=1, longest_delay_s=1, jitter=0)
    RestartPolicy(jitter=1)


def test_what_a_host_may_be_told_of_restarts():
    """A policy, or None for no restarts at all."""
    assert HostConfig(restart=None).restart is None
    assert HostConfig().restart == RestartPolicy()
    with pytest.raises(UsageError, match="restart is 3, wanted a RestartPolicy or None"):
        HostConfig(restart=3)  # type: ignore[arg-type]
