"""What a host tells its app while it works, and asks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coredeno.services.registry import ServiceRegistry

if TYPE_CHECKING:
    from coredeno.errors import CoreDenoError
    from coredeno.module import Module


class Hooks:
    """Subclass and override what you want to hear; every method is optional and runs on the host's loop.

    The host waits for each of them. One that raises is logged and harms nothing, `register_services`
    excepted: what it raises ends the start of the host.
    """

    async def register_services(self, services: ServiceRegistry) -> None:
        """Add the app's services (`services.add(Weather())`). Called once, early in the start of the host."""

    async def module_started(self, module: Module) -> None:
        """A module is RUNNING."""

    async def module_stopped(self, module: Module, reason: str) -> None:
        """A module was unloaded, by the app or because the host stops."""

    async def module_crashed(self, module: Module, error: CoreDenoError) -> None:
        """A module failed to load, or went down while it ran; `module.error` holds the error too."""
