"""The app's own services: `Service`, `@rpc` and `Context`."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, get_type_hints, overload

import msgspec

from coredeno.errors import UsageError
from coredeno.permissions import Access, ServiceAccess
from coredeno.services.method import Caller, Method
from coredeno.wire.typed import TypedDecoder

# What a module knows under `core.` already, and what may come to stand there.
RESERVED_NAMES = frozenset(
    {
        "call",
        "code",
        "config",
        "events",
        "files",
        "health",
        "log",
        "permissions",
        "processes",
        "services",
        "store",
    }
)
_SERVICE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
# JavaScript gives these names a meaning of its own: awaiting an object with `then` calls it, and so on.
_FORBIDDEN_METHODS = frozenset({"then", "constructor", "toString", "valueOf", "toJSON", "hasOwnProperty"})
_PERMISSION_WORD = re.compile(r"[a-z0-9][a-z0-9._-]*")  # as manifests list them
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_MARK = "__coredeno_rpc__"

_F = TypeVar("_F", bound=Callable[..., Any])


class Context(msgspec.Struct, frozen=True):
    """Who asks, and how long the answer is of use. When it no longer is, the method's task is cancelled.

    Attributes:
        module: code of the module that asks, as the gate knows it; it cannot be forged.
        version: that module's version.
        deadline_s: seconds that were left when the request arrived, or None.
        trace: the text given to `Module.call(trace=…)`, where the request is made inside such a call.
    """

    module: str
    version: str = ""
    deadline_s: float | None = None
    trace: str | None = None


class Service:
    """A service of the app that plugins may call: `class Weather(Service, name="weather")`.

    Its public face is its `@rpc` methods. The name is what a manifest lists under `services` and what a
    plugin finds under `core.services`: lower case letters, digits and `_`, beginning with a letter, at most
    63 characters, and none of `RESERVED_NAMES`.
    """

    service_name: ClassVar[str] = ""

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        """Take the name; it is checked when the service is registered."""
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.service_name = name


@overload
def rpc(method: _F, /) -> _F: ...
@overload
def rpc(*, permission: str | None = None) -> Callable[[_F], _F]: ...
def rpc(method: _F | None = None, /, *, permission: str | None = None) -> _F | Callable[[_F], _F]:
    """Mark an `async def` method of a `Service` as one that plugins may call.

    Its first argument is a `Context`; each further one needs a type hint, by which msgspec validates what a
    plugin passes. Plugins pass arguments by position; those with defaults may be left out. To tell the plugin
    what is wrong raise one of coredeno's `RequestError`s; any other exception is a bug: it is logged, and the
    plugin sees only an incident number.

    Args:
        method: the method, where the decorator is used without parentheses.
        permission: `"<service>:<word>"`, what the manifest must list: `services: {<service>: [<word>]}`. None
            means that naming the service is enough.
    """

    def mark(function: _F) -> _F:
        if not callable(function):
            raise UsageError(f"rpc: on {function!r}, wanted a method, or @rpc(permission=…)")
        setattr(function, _MARK, permission or "")
        return function

    return mark if method is None else mark(method)


def methods_of(service: Service) -> list[Method]:
    """Everything that a service offers, checked and ready to be called.

    Raises:
        UsageError: the name, a permission, or a method's signature is not as it must be.
    """
    name = type(service).service_name
    what = f"service {type(service).__qualname__}"
    if not _SERVICE_NAME.fullmatch(name):
        raise UsageError(f"{what}: its name is {name!r}, wanted class …(Service, name='[a-z][a-z0-9_]*')")
    if name in RESERVED_NAMES:
        raise UsageError(f"{what}: the name {name!r} is taken by coredeno itself")
    found = []
    for attribute, function in inspect.getmembers(type(service), callable):
        permission = getattr(function, _MARK, None)
        if permission is not None:
            found.append(_method(service, name, attribute, permission))
    if not found:
        raise UsageError(f"{what}: has no method with @rpc, wanted at least one")
    return found


def _method(service: Service, service_name: str, attribute: str, permission: str) -> Method:
    function = getattr(service, attribute)
    what = f"{service_name}.{attribute}"
    if attribute.startswith("_") or attribute in _FORBIDDEN_METHODS:
        raise UsageError(f"{what}: not a name that a plugin can call")
    if inspect.isasyncgenfunction(function):
        raise UsageError(f"{what}: is an async generator, wanted a coroutine function (async def … return)")
    if not inspect.iscoroutinefunction(function):
        raise UsageError(f"{what}: is no coroutine function, wanted async def")
    owner, _, word = permission.partition(":")
    if permission and (owner != service_name or not _PERMISSION_WORD.fullmatch(word)):
        raise UsageError(f"{what}: permission is {permission!r}, wanted {service_name!r} + ':' + a word")
    access = ServiceAccess(service=service_name, permission=word or None)

    def requires(_caller: Caller, _params: Any) -> Access:
        return access

    async def run(caller: Caller, params: Any) -> Any:
        context = Context(caller.code, caller.version, caller.deadline_s, caller.trace)
        return await function(context, *msgspec.structs.astuple(params.args))

    arguments = _arguments(what, function)
    return Method(
        name=f"services.{service_name}.{attribute}",
        decoder=TypedDecoder(msgspec.defstruct("Params", [("args", arguments)], forbid_unknown_fields=True)),
        argument_names=arguments.__struct_fields__,
        access=requires,
        run=run,
    )


def _arguments(what: str, function: Callable[..., Any]) -> type[msgspec.Struct]:
    """The type of a method's arguments: a JSON array whose places have the parameters' types."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception as error:
        raise UsageError(f"{what}: its type hints cannot be read: {error}") from error
    parameters = list(inspect.signature(function).parameters.values())
    if (
        not parameters
        or hints.get(parameters[0].name) is not Context
        or parameters[0].kind not in _BY_POSITION
    ):
        raise UsageError(f"{what}: its first argument is not 'ctx: Context', which it must be")
    fields: list[Any] = []
    for parameter in parameters[1:]:
        if parameter.kind not in _BY_POSITION:
            raise UsageError(f"{what}: {parameter} cannot be passed by position, wanted plain parameters")
        if parameter.name not in hints:
            raise UsageError(f"{what}: {parameter.name} has no type hint, wanted one to validate by")
        try:
            TypedDecoder(hints[parameter.name])
        except UsageError as error:
            raise UsageError(f"{what}: {parameter.name}: {error}") from None
        field: tuple[Any, ...] = (parameter.name, hints[parameter.name])
        if parameter.default is not inspect.Parameter.empty:
            # As a factory, for msgspec takes no mutable default; the method gets the very object that Python would.
            field += (msgspec.field(default_factory=functools.partial(_same, parameter.default)),)
        fields.append(field)
    return msgspec.defstruct("Arguments", fields, array_like=True, forbid_unknown_fields=True)


def _same(value: Any) -> Any:
    return value
