"""Run TypeScript plugins that you do not trust inside your asyncio app, each in its own Deno sandbox."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coredeno.config import HostConfig, Limits
    from coredeno.errors import (
        CoreDenoError,
        DenoNotFound,
        FailedPrecondition,
        InternalError,
        InvalidArgument,
        InvalidResult,
        LimitExceeded,
        ManifestError,
        MessageTooLarge,
        MethodNotFound,
        NotFound,
        PermissionDenied,
        PluginCrashed,
        PluginError,
        PluginRaised,
        PluginTimeout,
        ProtocolError,
        RequestError,
        SidecarError,
        SidecarExited,
        StoreError,
        UsageError,
    )
    from coredeno.hooks import Hooks
    from coredeno.host import PluginHost
    from coredeno.module import Module, ModuleState
    from coredeno.policy import Policy
    from coredeno.services.registry import ServiceRegistry
    from coredeno.services.service import Context, Service, rpc

__version__ = "0.1.0"

__all__ = [
    "Context",
    "CoreDenoError",
    "DenoNotFound",
    "FailedPrecondition",
    "Hooks",
    "HostConfig",
    "InternalError",
    "InvalidArgument",
    "InvalidResult",
    "LimitExceeded",
    "Limits",
    "ManifestError",
    "MessageTooLarge",
    "MethodNotFound",
    "Module",
    "ModuleState",
    "NotFound",
    "PermissionDenied",
    "PluginCrashed",
    "PluginError",
    "PluginHost",
    "PluginRaised",
    "PluginTimeout",
    "Policy",
    "ProtocolError",
    "RequestError",
    "Service",
    "ServiceRegistry",
    "SidecarError",
    "SidecarExited",
    "StoreError",
    "UsageError",
    "__version__",
    "rpc",
]

_ELSEWHERE = {
    "Context": "services.service",
    "Hooks": "hooks",
    "HostConfig": "config",
    "Limits": "config",
    "Module": "module",
    "ModuleState": "module",
    "PluginHost": "host",
    "Policy": "policy",
    "Service": "services.service",
    "ServiceRegistry": "services.registry",
    "rpc": "services.service",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): an app's start pays only for what it needs."""
    if name not in __all__:
        raise AttributeError(f"module 'coredeno' has no attribute {name!r}")
    value = getattr(import_module(f"coredeno.{_ELSEWHERE.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
