"""What a host tells its app while it works, and asks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coredeno.services.registry import ServiceRegistry

if TYPE_CHECKING:
    from coredeno.errors import CoreDenoError
    from coredeno.grant import Grant, PermissionRequest
    from coredeno.install.plan import InstallPlan
    from coredeno.module import Module


class Hooks:
    """Subclass and override what you want to hear; every method is optional and runs on the host's loop.

    The host waits for each of them. One that raises is logged and harms nothing, `register_services`
    excepted: what it raises ends the start of the host. While it waits the plugin is held: a hook that loads, updates
    or removes the same plugin gets a `UsageError`, unless it does so in a task of its own that it does not wait for.
    """

    async def register_services(self, services: ServiceRegistry) -> None:
        """Add the app's services (`services.add(Weather())`). Called once, early in the start of the host."""

    async def module_started(self, module: Module) -> None:
        """A module is RUNNING: for the first time, or again after it went down (`module.restarts`)."""

    async def module_stopped(self, module: Module, reason: str) -> None:
        """A module was unloaded, by the app or because the host stops."""

    async def module_crashed(self, module: Module, error: CoreDenoError) -> None:
        """A module failed to load or to restart, or went down while it ran; its state says whether it comes back."""

    async def module_quarantined(self, module: Module, error: CoreDenoError) -> None:
        """A module is not run any more: it is not what was installed, not trusted any more, or went down too often.

        `PluginHost.release` lets it run again.
        """

    async def permission_requested(self, request: PermissionRequest) -> Grant | bool | None:
        """A module asks for what its manifest lists as optional, by `core.permissions.request`. May it have it?

        All hooks are asked, one after the other, within `HostConfig.ask_timeout_s` and no longer than the module's own
        call lasts (then this is cancelled). What the app's `Policy` does not allow is refused without asking, and so
        is what was refused not long ago (`HostConfig.ask_again_s`); a module has at most 4 requests waiting here, and
        at most 8 a minute. Nothing is held meanwhile: the module works on. Where `init` asks, its load waits.

        Args:
            request: who asks, and for what; `request.words` are fit to be shown to a user.

        Returns:
            A `Grant` gives all that was asked for: `Grant.once()`, `Grant.for_s(60)`, `Grant.until_unloaded()`,
            `Grant.until_revoked()`. True is `Grant.until_unloaded()`. False refuses, whatever other hooks say. None
            leaves it to other hooks; of several grants the first counts, and where there is none it is refused. One
            that raises has refused. A request with `net` can be granted by `Grant.until_revoked()` only, and takes
            effect when the plugin is loaded the next time.
        """

    async def update_widens(self, plan: InstallPlan) -> bool | None:
        """May an update ask for more than the installed version was granted?

        Args:
            plan: what would happen; `plan.difference.added_permissions` has the additions, in words.

        Returns:
            True consents, False refuses, None leaves it to other hooks. Without a True, or with a False, the update
            is refused and the old version runs on. One that raises has refused.
        """
