"""What the host app grants at most, and what a module gets of it. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import msgspec

from coredeno.errors import InvalidArgument, PermissionDenied, UsageError
from coredeno.manifest import Manifest
from coredeno.net_ceiling import PUBLIC, NetCeiling
from coredeno.net_hosts import parse_net_host
from coredeno.permissions import Grants, at_and_above, is_host_group, normalise_path


class Refusal(NamedTuple):
    """One thing that a policy does not allow: what kind of access, to what, and what would allow it."""

    permission: str
    resource: str
    remedy: str


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The app's ceiling over all plugins. Immutable, and checked at construction (`UsageError`).

    None grants what a manifest asks for; a tuple grants what it names and nothing else, so `()` is nothing.
    Whatever the policy, a module's own store group is its own, and the host's folder and groups are nobody's.

    Attributes:
        read: files and folders relative to the app root, with all that is beneath them.
        write: the same, for writing.
        net: hosts. None means public ones: loopback, private, link-local and other special addresses, and the
            names that stand for them, are granted only if they are named here. The entry `public` (or `public:443`,
            for one port) stands for all public hosts beside those that are named: `("public", "127.0.0.1:8080")`.
        run: names of programs; where they are is `HostConfig.programs`.
        store_read: store groups that modules may read beside their own.
        store_write: those that they may change.
        services: names of services, with the permissions that may be had there (None: any).
    """

    read: tuple[str, ...] | None = None
    write: tuple[str, ...] | None = None
    net: tuple[str, ...] | None = None
    run: tuple[str, ...] | None = None
    store_read: tuple[str, ...] | None = None
    store_write: tuple[str, ...] | None = None
    services: Mapping[str, tuple[str, ...] | None] | None = None

    def __post_init__(self) -> None:
        for name, rule in _RULES.items():
            value = getattr(self, name)
            if value is not None:
                msgspec.structs.force_setattr(self, name, _checked(f"Policy: {name}", value, rule))
        if self.services is not None:
            msgspec.structs.force_setattr(self, "services", _checked_services(self.services))

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> Policy:
        """The ceiling that the app's own `.core/view.yml` sets.

        `permissions` and `services` are a ceiling each where the file has them, and then a complete one: what
        they do not list is not granted. A file that has neither only names the app.
        """
        policy = cls()
        if "permissions" not in manifest.absent:
            asked = manifest.permissions
            policy = cls(
                read=asked.read,
                write=asked.write,
                net=asked.net,
                run=asked.run,
                store_read=asked.store.read,
                store_write=asked.store.write,
            )
        if "services" not in manifest.absent:
            policy = msgspec.structs.replace(policy, services=manifest.services)
        return policy

    def narrowed_by(self, other: Policy) -> Policy:
        """What both grant. Where `other` is None this one stands; it never grants more than this one does.

        So `other` cannot grant a host that is not public unless this policy names it too.
        """
        return Policy(
            read=_both(self.read, other.read, _meet_paths),
            write=_both(self.write, other.write, _meet_paths),
            net=_both(
                (PUBLIC,) if self.net is None and other.net is not None else self.net, other.net, _meet_hosts
            ),
            run=_both(self.run, other.run, _meet_names),
            store_read=_both(self.store_read, other.store_read, _meet_names),
            store_write=_both(self.store_write, other.store_write, _meet_names),
            services=_both(self.services, other.services, _meet_services),
        )

    def grants(self, manifest: Manifest) -> Grants:
        """What the manifest asks for, all of it. What is optional in it is not granted here.

        Whether a program or service exists is not asked; a missing one refuses the request, not the load.

        Raises:
            PermissionDenied: it asks for more than the policy allows. The error is about the first such entry
                (in the order of this class and of the manifest), and says how many more there are.
        """
        refused = self.refusals(manifest)
        if refused:
            first = refused[0]
            more = f"; {len(refused) - 1} more would be refused too" if len(refused) > 1 else ""
            raise PermissionDenied(
                module=manifest.code,
                permission=first.permission,
                resource=first.resource,
                remedy=first.remedy + more,
            )
        asked = manifest.permissions
        return Grants(
            read=asked.read,
            write=asked.write,
            net=asked.net,
            run=asked.run,
            store_read=asked.store.read,
            store_write=asked.store.write,
            services={name: frozenset(words) for name, words in manifest.services.items()},
        )

    def refusals(self, manifest: Manifest) -> tuple[Refusal, ...]:
        """Everything that the manifest asks for and the policy does not allow, in the order of `grants`."""
        return tuple(self._refused(manifest))

    def _refused(self, manifest: Manifest) -> Iterator[Refusal]:
        asked = manifest.permissions
        # A module's own group is its own under every ceiling, so asking for it is no more than that.
        reads = [group for group in asked.store.read if group != manifest.code]
        writes = [group for group in asked.store.write if group != manifest.code]
        yield from _beyond("files.read", "read", asked.read, self.read, _covering_paths)
        yield from _beyond("files.write", "write", asked.write, self.write, _covering_paths)
        covers_host = _covering_hosts(self.net)
        for text in asked.net:
            if not covers_host(text):
                yield Refusal("net", text, _NOT_PUBLIC if self.net is None else _remedy("net", text))
        yield from _beyond("processes.start", "run", asked.run, self.run, _covering_names)
        yield from _beyond("store.read", "store_read", reads, self.store_read, _covering_names)
        yield from _beyond("store.write", "store_write", writes, self.store_write, _covering_names)
        if self.services is not None:
            yield from _services_beyond(manifest.services, self.services)


_NOT_PUBLIC: Final = (
    "it is not a public host; only an app that names it in HostConfig(policy=Policy(net=...)) can allow it"
)


def _remedy(field: str, entry: str) -> str:
    return (
        f"the app's policy does not allow it: add {entry!r} to Policy.{field} or to the app's own "
        ".core/view.yml (whichever lacks it), or take it out of the plugin's manifest"
    )


_Covers: TypeAlias = Callable[[str], bool]
"""Whether a ceiling grants an entry. Made once for many entries: a hostile manifest asks for as many as it can."""


def _beyond(
    permission: str,
    field: str,
    asked: Iterable[str],
    ceiling: tuple[str, ...] | None,
    covering: Callable[[tuple[str, ...]], _Covers],
) -> Iterator[Refusal]:
    if ceiling is not None:
        covers = covering(ceiling)
        for entry in asked:
            if not covers(entry):
                yield Refusal(permission, entry, _remedy(field, entry))


def _covering_paths(ceiling: tuple[str, ...]) -> _Covers:
    folders = frozenset(ceiling)
    return lambda path: not folders.isdisjoint(at_and_above(path))


def _covering_names(ceiling: tuple[str, ...]) -> _Covers:
    return frozenset(ceiling).__contains__


def _covering_hosts(ceiling: tuple[str, ...] | None) -> _Covers:
    return NetCeiling((PUBLIC,) if ceiling is None else ceiling).covers_text


def _services_beyond(
    asked: Mapping[str, tuple[str, ...]], ceiling: Mapping[str, tuple[str, ...] | None]
) -> Iterator[Refusal]:
    for service, words in asked.items():
        permission = f"services.{service}"
        if service not in ceiling:
            yield Refusal(permission, service, _remedy("services", service))
            continue
        allowed = ceiling[service]
        covers = None if allowed is None else _covering_names(allowed)
        for word in words:
            if covers is not None and not covers(word):
                yield Refusal(permission, f"{service}:{word}", _remedy("services", f"{service}: [{word}]"))


_T = TypeVar("_T")


def _both(mine: _T | None, other: _T | None, meet: Callable[[_T, _T], _T]) -> _T | None:
    if mine is None or other is None:
        return other if mine is None else mine
    return meet(mine, other)


def _meet_names(mine: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in mine if name in other)


def _meet_paths(mine: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    inner = [*filter(_covering_paths(other), mine), *filter(_covering_paths(mine), other)]
    return tuple(dict.fromkeys(inner))


def _meet_hosts(mine: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return NetCeiling(mine).meet(NetCeiling(other))


def _meet_services(
    mine: Mapping[str, tuple[str, ...] | None], other: Mapping[str, tuple[str, ...] | None]
) -> Mapping[str, tuple[str, ...] | None]:
    return {name: _both(words, other[name], _meet_names) for name, words in mine.items() if name in other}


def _group(text: str) -> str:
    if not text or is_host_group(text):
        raise InvalidArgument(f"group {text!r}: wanted a name that does not begin with '_'")
    return text


def _program(text: str) -> str:
    if not text or "/" in text:
        raise InvalidArgument(
            f"program {text!r}: wanted a name, not a path (paths are in HostConfig.programs)"
        )
    return text


_RULES: Final[Mapping[str, Callable[[str], str]]] = {
    "read": normalise_path,
    "write": normalise_path,
    "net": lambda text: str(parse_net_host(text)),
    "run": _program,
    "store_read": _group,
    "store_write": _group,
}


def _checked(label: str, value: Any, rule: Callable[[str], str]) -> tuple[str, ...]:
    # A lone text would pass as a sequence of letters, and `.` in it would grant the whole root.
    if not isinstance(value, tuple | list) or not all(isinstance(entry, str) for entry in value):
        raise UsageError(f"{label} is {value!r}, wanted a tuple of texts, or None")
    try:
        return tuple(rule(entry) for entry in value)
    except InvalidArgument as error:
        raise UsageError(f"{label}: {error}") from None


def _checked_services(value: Any) -> dict[str, tuple[str, ...] | None]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UsageError(f"Policy: services is {value!r}, wanted a mapping of names to permissions, or None")
    return {
        name: None if words is None else _checked(f"Policy: services[{name!r}]", words, str)
        for name, words in value.items()
    }
