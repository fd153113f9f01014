"""Where the app's services are registered, at the start of its host."""

from __future__ import annotations

from collections.abc import Iterable

from coredeno.errors import UsageError
from coredeno.permissions import Grants
from coredeno.services.method import Method
from coredeno.services.service import Service, methods_of


class ServiceRegistry:
    """The services of one host. `Hooks.register_services` is given it; after the start it is closed."""

    def __init__(self) -> None:
        self._methods: dict[str, dict[str, Method]] = {}
        self._closed = False

    def add(self, service: Service) -> None:
        """Register a service.

        Raises:
            UsageError: it is not as a service must be, its name is taken, or the host has started.
        """
        if self._closed:
            raise UsageError(
                "services.add: the host has started, wanted before: services=[…] or register_services"
            )
        if not isinstance(service, Service):
            raise UsageError(f"services.add: got {service!r}, wanted an instance of a Service subclass")
        methods = methods_of(service)
        name = type(service).service_name
        if name in self._methods:
            raise UsageError(f"services.add: there is a service {name!r} already")
        self._methods[name] = {method.name.rpartition(".")[2]: method for method in methods}

    def close(self) -> None:
        """Take no more services."""
        self._closed = True

    def methods(self) -> list[Method]:
        """All methods of all services."""
        return [method for methods in self._methods.values() for method in methods.values()]

    @property
    def names(self) -> frozenset[str]:
        """The names of all services."""
        return frozenset(self._methods)

    def offered_to(self, grants: Grants, optional: Iterable[str] = ()) -> dict[str, dict[str, str]]:
        """What a module with these grants finds under `core.services`: service → method → its kind.

        `optional` names services that it may come to use while it runs.
        """
        offered = {*grants.services, *optional}
        return {
            name: dict.fromkeys(sorted(methods), "unary")
            for name, methods in sorted(self._methods.items())
            if name in offered
        }
