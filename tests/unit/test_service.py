"""The app's own services: what is wrong with one shows when it is registered, what is wrong with a call by name."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec
import pytest

from coredeno import Context, Service, UsageError, rpc
from coredeno.errors import InternalError, InvalidArgument, NotFound, PermissionDenied
from coredeno.gateway.gate import Gate
from coredeno.permissions import Grants, ServiceAccess
from coredeno.services.method import Caller
from coredeno.services.registry import ServiceRegistry
from coredeno.services.service import RESERVED_NAMES, methods_of
from coredeno.wire.codec import decode_plain
from coredeno.wire.values import BytesEntry


class Place(msgspec.Struct):
    city: str
    country: str = "no"


class Weather(Service, name="weather"):
    """One of each kind of parameter."""

    def __init__(self):
        self.contexts: list[Context] = []
        self.default: list[int] = []

    @rpc(permission="weather:read")
    async def forecast(self, ctx: Context, city: str, days: int = 3) -> list[str]:
        self.contexts.append(ctx)
        return [city] * days

    @rpc
    async def nothing(self, ctx: Context) -> None:
        self.contexts.append(ctx)

    @rpc()
    async def upload(self, ctx: Context, data: bytes, name: str | None = None) -> Any:
        return data, name

    @rpc
    async def places(self, ctx: Context, places: list[Place], since: dt.date | None = None) -> Any:
        return places, since

    @rpc
    async def collect(self, ctx: Context, into: list[int] = []) -> Any:  # noqa: B006 - Python's own rule holds
        return into

    @rpc
    async def fail(self, ctx: Context, how: str) -> None:
        raise {"told": NotFound("no such city"), "bug": ZeroDivisionError("secret")}[how]

    async def private(self, ctx: Context) -> str:
        return "not for plugins"


CALLER = Caller("m", "1.2", Grants(services={"weather": frozenset({"read"})}), deadline_s=1.5, trace="t-1")


def gate_of(service):
    return Gate(methods_of(service), lambda _event: None)


async def asked(service, method, args: bytes, *, caller=CALLER, places=(), attachments=()):
    entries = [BytesEntry(at, len(data)) for at, data in zip(places, attachments, strict=True)]
    text = b'{"args":' + args + b"}"
    return await gate_of(service).run(
        caller,
        f"services.weather.{method}",
        lambda decoder: decoder.decode(text, entries or None, attachments, "params"),
    )


def test_only_marked_methods_are_offered():
    """A plugin finds the methods with `@rpc`, under the service's name, and no others."""
    assert sorted(method.name for method in methods_of(Weather())) == [
        f"services.weather.{name}" for name in ("collect", "fail", "forecast", "nothing", "places", "upload")
    ]


@pytest.mark.parametrize(
    ("method", "permission"), [("forecast", "read"), ("nothing", None), ("upload", None)]
)
def test_the_access_of_a_method(method, permission):
    """A permission is a word under the service's name; without one the name is enough."""
    found = next(each for each in methods_of(Weather()) if each.name == f"services.weather.{method}")
    assert found.access(CALLER, None) == ServiceAccess(service="weather", permission=permission)
    assert not found.for_sidecar


async def test_a_permission_is_needed():
    """A module without the word is refused where it is wanted, and served where it is not."""
    caller = msgspec.structs.replace(CALLER, grants=Grants(services={"weather": frozenset()}))
    with pytest.raises(PermissionDenied, match=r"weather: \[read\]"):
        await asked(Weather(), "forecast", b'["Oslo"]', caller=caller)
    await asked(Weather(), "nothing", b"[]", caller=caller)
    with pytest.raises(PermissionDenied):
        await asked(Weather(), "nothing", b"[]", caller=msgspec.structs.replace(CALLER, grants=Grants()))


async def test_the_context_says_who_asks():
    """Code and version come from the gate, deadline and trace from the call in which the request is made."""
    service = Weather()
    await asked(service, "nothing", b"[]")
    await asked(service, "nothing", b"[]", caller=Caller("n", "2", CALLER.grants))
    assert service.contexts == [
        Context(module="m", version="1.2", deadline_s=1.5, trace="t-1"),
        Context(module="n", version="2", deadline_s=None, trace=None),
    ]


@pytest.mark.parametrize(
    ("method", "args", "result"),
    [
        ("forecast", b'["Oslo"]', ["Oslo"] * 3),
        ("forecast", b'["Oslo",1]', ["Oslo"]),
        ("collect", b"[]", []),
        ("collect", b"[[1,2]]", [1, 2]),
        ("places", b'[[{"city":"a"},{"city":"b","country":"se"}]]', ([Place("a"), Place("b", "se")], None)),
        ("places", b'[[],"2020-01-02"]', ([], dt.date(2020, 1, 2))),
        ("places", b"[[],null]", ([], None)),
    ],
)
async def test_arguments_become_what_the_hints_say(method, args, result):
    """By position; those with defaults may be left out."""
    assert await asked(Weather(), method, args) == result


async def test_bytes_are_an_argument_like_others():
    """A `bytes` parameter takes the binary value that was sent beside the message."""
    assert await asked(
        Weather(), "upload", b"[null]", places=[["params", "args", 0]], attachments=[b"\0x"]
    ) == (
        b"\0x",
        None,
    )
    with pytest.raises(InvalidArgument, match=r"argument 'data'.*Expected `bytes`, got `str`"):
        await asked(Weather(), "upload", b'["AAAA"]')
    with pytest.raises(InvalidArgument, match=r"argument 'city'.*Expected `str`, got `bytes`"):
        await asked(Weather(), "forecast", b"[null]", places=[["params", "args", 0]], attachments=[b"x"])


@pytest.mark.parametrize(
    ("method", "args", "message"),
    [
        ("forecast", b"[5]", "services.weather.forecast: argument 'city': Expected `str`, got `int`"),
        ("forecast", b'["Oslo","3"]', "argument 'days': Expected `int`, got `str`"),
        ("forecast", b'["Oslo",null]', "argument 'days': Expected `int`, got `null`"),
        ("places", b'[[{"city":"a"},{"city":5}]]', "argument 'places': Expected `str`, got `int`"),
        ("places", b'[[],"yesterday"]', "argument 'since': Invalid"),
        ("forecast", b"[]", "services.weather.forecast: Expected `array` of at least length 1"),
        ("forecast", b'["Oslo",1,2]', "services.weather.forecast: Expected `array` of at most length 2"),
        ("nothing", b"[1]", "services.weather.nothing: Expected `array` of at most length 0"),
        ("forecast", b'{"city":"Oslo"}', "Expected `array`, got `object`"),
        ("forecast", b'["Oslo"],"more":1', "unknown field `more`"),
    ],
)
async def test_a_wrong_argument_is_named(method, args, message):
    """The module is told which argument, what it is and what was wanted."""
    with pytest.raises(InvalidArgument) as caught:
        await asked(Weather(), method, args)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "end"),
    [
        ("`$.args[" + "9" * 5000 + "]`", ""),  # more digits than `int` reads
        ("$.args[7]` - at `$.args[7]`", "'color': Invalid enum value"),
        ("x" * 1_000_000, "'color': Invalid enum value"),
    ],
)
async def test_an_argument_cannot_say_which_it_is(argument: str, end: str):
    """Msgspec repeats a value that is none of a few; whatever stands in it is not taken for its place, nor kept."""

    class Paint(Service, name="weather"):
        @rpc
        async def color(self, _ctx: Context, color: Literal["red", "blue"]) -> None: ...

    caller = Caller("m", "1", Grants(services={"weather": frozenset()}))
    with pytest.raises(InvalidArgument, match=f"^services.weather.color: argument {end}") as caught:
        await asked(Paint(), "color", msgspec.json.encode([argument]), caller=caller)
    assert len(str(caught.value)) < 1200


async def test_errors_of_a_method():
    """A `RequestError` is told as it is, anything else is a bug whose text stays here."""
    with pytest.raises(NotFound, match="no such city"):
        await asked(Weather(), "fail", b'["told"]')
    with pytest.raises(InternalError) as caught:
        await asked(Weather(), "fail", b'["bug"]')
    assert "secret" not in str(caught.value)


def made(name="weather", **members):
    """An instance of a service class with these members."""
    return type("Broken", (Service,), members, **({} if name is None else {"name": name}))()


def good():
    """A method without a mark."""

    async def method(self, ctx: Context) -> None: ...

    return method


@pytest.mark.parametrize("name", [None, "", "Weather", "1a", "_a", "a-b", "a.b", "a b", "é", "a\n", "x" * 64])
def test_names_of_services(name):
    """Lower case letters, digits and `_`, beginning with a letter, at most 63 characters."""
    with pytest.raises(UsageError, match=r"^service Broken: its name is "):
        methods_of(made(name, good=rpc(good())))


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_names_that_are_taken(name):
    """What a module knows under `core.` already cannot be a service."""
    with pytest.raises(UsageError, match=f"the name '{name}' is taken by coredeno itself"):
        methods_of(made(name, good=rpc(good())))


def test_reserved_names_are_what_a_module_has():
    """Each part of `core` is among them."""
    assert {"files", "store", "processes", "services", "log", "call", "config"} <= RESERVED_NAMES


def test_a_service_offers_something():
    """A class without an `@rpc` method is a mistake."""
    with pytest.raises(UsageError, match=r"^service Broken: has no method with @rpc, wanted at least one"):
        methods_of(made(good=good()))


@pytest.mark.parametrize(
    "attribute",
    ["_private", "__call__", "then", "constructor", "toString", "valueOf", "toJSON", "hasOwnProperty"],
)
def test_names_of_methods(attribute):
    """Names that are private, or mean something of their own in JavaScript, are refused."""
    with pytest.raises(UsageError, match=rf"^weather\.{attribute}: not a name that a plugin can call"):
        methods_of(made(**{attribute: rpc(good())}))


class Unknown:
    """What msgspec cannot decode into."""


async def stream(self, ctx: Context) -> AsyncIterator[int]:
    yield 1


def blocking(self, ctx: Context) -> None: ...


async def no_context(self) -> None: ...


async def other_first(self, city: str, ctx: Context) -> None: ...


async def bare_context(self, ctx) -> None: ...


async def keyword_context(self, *, ctx: Context) -> None: ...


async def many_contexts(self, *ctx: Context) -> None: ...


async def star(self, ctx: Context, *cities: str) -> None: ...


async def stars(self, ctx: Context, **cities: str) -> None: ...


async def keyword(self, ctx: Context, *, city: str = "") -> None: ...


async def bare(self, ctx: Context, city) -> None: ...


async def unknown_type(self, ctx: Context, city: Unknown) -> None: ...


async def unknown_name(self, ctx: Context, city: NoSuchName) -> None: ...  # noqa: F821


async def two_texts(self, ctx: Context, data: bytes | str) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (stream, "is an async generator, wanted a coroutine function"),
        (blocking, "is no coroutine function, wanted async def"),
        (no_context, "its first argument is not 'ctx: Context'"),
        (other_first, "its first argument is not 'ctx: Context'"),
        (bare_context, "its first argument is not 'ctx: Context'"),
        (keyword_context, "its first argument is not 'ctx: Context'"),
        (many_contexts, "its first argument is not 'ctx: Context'"),
        (star, "cannot be passed by position"),
        (stars, "cannot be passed by position"),
        (keyword, "cannot be passed by position"),
        (bare, "city has no type hint, wanted one to validate by"),
        (unknown_type, "Unknown"),
        (unknown_name, "its type hints cannot be read: name 'NoSuchName' is not defined"),
        (two_texts, "bytes | str"),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_signatures_that_cannot_be_called(function, message):
    """Each is a `UsageError` when the service is registered, and names the method and what is wrong."""
    with pytest.raises(UsageError) as caught:
        methods_of(made(broken=rpc(function)))
    assert str(caught.value).startswith("weather.broken: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "permission",
    ["read", "other:read", "weather:", ":read", ":", "Weather:read", "weather:a:b", "weather:a b"],
)
def test_permissions_that_no_manifest_can_have(permission):
    """It is the service's name, a colon, and a word as manifests list them."""
    with pytest.raises(UsageError, match=r"^weather\.good: permission is "):
        methods_of(made(good=rpc(permission=permission)(good())))


@pytest.mark.parametrize("marked", ["weather:read", 5, property(good())])
def test_rpc_on_what_is_no_method(marked):
    """A forgotten `permission=`, or the wrong order of decorators, is a `UsageError` too."""
    with pytest.raises(UsageError):
        methods_of(made(good=rpc(marked)))


async def positional_only(self, ctx: Context, city: str, /) -> str:
    return city


async def plain(self, ctx: Context, city: str) -> str:
    return city


async def no_self(ctx: Context, city: str) -> str:
    return city


def passed_on(function):
    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        return await function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    "member",
    [
        rpc(positional_only),
        rpc(passed_on(plain)),
        passed_on(rpc(plain)),
        staticmethod(rpc(no_self)),
    ],
    ids=["positional only", "decorated", "decorated after", "static"],
)
async def test_signatures_that_can_be_called(member):
    """Whatever can be called with arguments by position will do."""
    assert await asked(made(weather=None, echo=member), "echo", b'["Oslo"]') == "Oslo"


async def test_inheritance():
    """A subclass keeps the methods and the name; one that overrides without `@rpc` takes a method back."""

    class Local(Weather):
        async def forecast(self, ctx, city, days=3):
            return []

    class Named(Local, name="local"):
        pass

    assert "services.weather.forecast" not in {method.name for method in methods_of(Local())}
    assert await asked(Local(), "collect", b"[]") == []
    assert "services.local.upload" in {method.name for method in methods_of(Named())}
    assert Weather.service_name == "weather"


# --- the registry


def test_what_a_module_is_offered():
    """Under `core.services` a module finds the services in its grants, with all their methods."""
    registry = ServiceRegistry()
    registry.add(Weather())
    registry.add(made("other", good=rpc(good())))
    assert registry.names == {"weather", "other"}
    assert registry.offered_to(Grants()) == {}
    offered = registry.offered_to(Grants(services={"other": frozenset(), "gone": frozenset()}))
    assert offered == {"other": {"good": "unary"}}
    assert sorted(registry.offered_to(CALLER.grants)["weather"]) == [
        "collect",
        "fail",
        "forecast",
        "nothing",
        "places",
        "upload",
    ]
    assert len(registry.methods()) == 7


@pytest.mark.parametrize("service", [Weather, object(), None, "weather"])
def test_what_is_no_service(service):
    """An instance is wanted, not the class, nor anything else."""
    with pytest.raises(UsageError, match="wanted an instance of a Service subclass"):
        ServiceRegistry().add(service)


def test_a_name_is_taken_once():
    """Two services of one name are a mistake, and the first one stays."""
    registry = ServiceRegistry()
    registry.add(Weather())
    with pytest.raises(UsageError, match="there is a service 'weather' already"):
        registry.add(made(good=rpc(good())))
    assert len(registry.methods()) == 6


def test_a_broken_service_is_not_registered_by_half():
    """What was refused leaves nothing behind."""
    registry = ServiceRegistry()
    with pytest.raises(UsageError):
        registry.add(made(good=rpc(good()), broken=rpc(blocking)))
    assert registry.methods() == []
    registry.add(Weather())


def test_no_service_comes_after_the_start():
    """Once the host has started, modules have been told what there is."""
    registry = ServiceRegistry()
    registry.close()
    with pytest.raises(UsageError, match="the host has started"):
        registry.add(Weather())


def test_plain_params_are_read_alike():
    """A gRPC client's arguments, which come as plain values, are checked by the same rules."""
    method = next(each for each in methods_of(Weather()) if each.name.endswith("forecast"))
    params = method.decoder.convert({"args": decode_plain(b'["Oslo",2]')})
    assert msgspec.structs.astuple(params.args) == ("Oslo", 2)
    with pytest.raises(msgspec.ValidationError):
        method.decoder.convert({"args": ["Oslo", "2"]})
