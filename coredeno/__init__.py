"""Run TypeScript plugins that you do not trust inside your asyncio app, each in its own Deno sandbox."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coredeno.audit.audit import Audit
    from coredeno.config import FetchLimits, HostConfig, Limits, Program, RestartPolicy
    from coredeno.errors import (
        AuditBroken,
        ConsentRequired,
        CoreDenoError,
        DenoNotFound,
        DowngradeRefused,
        FailedPrecondition,
        FetchLimitExceeded,
        FetchTimeout,
        IndexInvalid,
        InstallError,
        IntegrityError,
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
        RecordInvalid,
        RequestError,
        RestartLimitReached,
        SidecarError,
        SidecarExited,
        SignatureError,
        SourceInvalid,
        SourceRefused,
        SourceUnavailable,
        StoreCorrupt,
        StoreError,
        StoreFull,
        UnsafePath,
        UpdateUndone,
        UsageError,
    )
    from coredeno.grant import Grant, PermissionRequest, Permit
    from coredeno.health import HostHealth, Layer, PartHealth, SidecarHealth
    from coredeno.hooks import Hooks
    from coredeno.host import PluginHost
    from coredeno.install.git import Credentials, GitFetcher
    from coredeno.install.index import Index, IndexEntry
    from coredeno.install.plan import InstalledPlugin, InstallPlan, PlanDifference
    from coredeno.install.trust import TrustedKey, TrustStore
    from coredeno.interfaces import AuditHead, AuditRow
    from coredeno.module import Module, ModuleState
    from coredeno.policy import Policy
    from coredeno.services.registry import ServiceRegistry
    from coredeno.services.service import Context, Service, rpc
    from coredeno.stats import CallErrors, HostStats, ModuleStats, RequestStats

__version__ = "0.1.0"

__all__ = [
    "Audit",
    "AuditBroken",
    "AuditHead",
    "AuditRow",
    "CallErrors",
    "ConsentRequired",
    "Context",
    "CoreDenoError",
    "Credentials",
    "DenoNotFound",
    "DowngradeRefused",
    "FailedPrecondition",
    "FetchLimitExceeded",
    "FetchLimits",
    "FetchTimeout",
    "GitFetcher",
    "Grant",
    "Hooks",
    "HostConfig",
    "HostHealth",
    "HostStats",
    "Index",
    "IndexEntry",
    "IndexInvalid",
    "InstallError",
    "InstallPlan",
    "InstalledPlugin",
    "IntegrityError",
    "InternalError",
    "InvalidArgument",
    "InvalidResult",
    "Layer",
    "LimitExceeded",
    "Limits",
    "ManifestError",
    "MessageTooLarge",
    "MethodNotFound",
    "Module",
    "ModuleState",
    "ModuleStats",
    "NotFound",
    "PartHealth",
    "PermissionDenied",
    "PermissionRequest",
    "Permit",
    "PlanDifference",
    "PluginCrashed",
    "PluginError",
    "PluginHost",
    "PluginRaised",
    "PluginTimeout",
    "Policy",
    "Program",
    "ProtocolError",
    "RecordInvalid",
    "RequestError",
    "RequestStats",
    "RestartLimitReached",
    "RestartPolicy",
    "Service",
    "ServiceRegistry",
    "SidecarError",
    "SidecarExited",
    "SidecarHealth",
    "SignatureError",
    "SourceInvalid",
    "SourceRefused",
    "SourceUnavailable",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "TrustStore",
    "TrustedKey",
    "UnsafePath",
    "UpdateUndone",
    "UsageError",
    "__version__",
    "rpc",
]

_ELSEWHERE = {
    "Audit": "audit.audit",
    "AuditHead": "interfaces",
    "AuditRow": "interfaces",
    "CallErrors": "stats",
    "Context": "services.service",
    "Credentials": "install.git",
    "FetchLimits": "config",
    "GitFetcher": "install.git",
    "Grant": "grant",
    "Hooks": "hooks",
    "HostConfig": "config",
    "HostHealth": "health",
    "HostStats": "stats",
    "Index": "install.index",
    "IndexEntry": "install.index",
    "InstallPlan": "install.plan",
    "InstalledPlugin": "install.plan",
    "Layer": "health",
    "Limits": "config",
    "Module": "module",
    "ModuleState": "module",
    "ModuleStats": "stats",
    "PartHealth": "health",
    "PermissionRequest": "grant",
    "Permit": "grant",
    "PlanDifference": "install.plan",
    "PluginHost": "host",
    "Policy": "policy",
    "Program": "config",
    "RequestStats": "stats",
    "RestartPolicy": "config",
    "Service": "services.service",
    "ServiceRegistry": "services.registry",
    "SidecarHealth": "health",
    "TrustStore": "install.trust",
    "TrustedKey": "install.trust",
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
