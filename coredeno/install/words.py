"""What a plugin asks for, in words that a user can read, and what one version asks for beyond another. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coredeno.grant import Permit, permits_of
from coredeno.manifest import Manifest, Permissions
from coredeno.policy import Policy

Services = Mapping[str, tuple[str, ...]]

_PHRASES = {
    "files.read": "read {} beneath the app's folder",
    "files.write": "change {} beneath the app's folder",
    "net": "reach {} over the network",
    "processes.start": "start the program {}",
    "store.read": "read the store group {}",
    "store.write": "change the store group {}",
}


def in_words(manifest: Manifest) -> tuple[str, ...]:
    """Everything that a manifest asks for, a phrase each; what is optional in it is marked."""
    needed = permits_of(manifest.permissions, manifest.services)
    optional = manifest.permissions.optional
    asked = phrases(permits_of(optional, optional.services))
    return (*phrases(needed), *(f"if you allow it when it asks: {words}" for words in asked))


def phrase(permission: str, resource: str) -> str:
    """One kind of access to one thing, in words.

    Args:
        permission: as errors and `Refusal` name it, such as `files.read`.
        resource: what is reached, such as a path.
    """
    if permission.startswith("services."):
        service, _, word = resource.partition(":")
        return f"use the app's service {service}" + (f" ({word})" if word else "")
    shown = "everything" if resource == "." and permission.startswith("files.") else resource
    return _PHRASES[permission].format(shown)


def beyond(former: Permissions, former_services: Services, manifest: Manifest) -> tuple[str, ...]:
    """What a manifest asks for that former permissions do not cover, in words; empty if they do.

    `photos/2026` is covered by `photos`, and a host by its wildcard. What is optional is not looked at: the app
    is asked for it while the plugin runs.
    """
    ceiling = Policy.from_manifest(Manifest(code=manifest.code, permissions=former, services=former_services))
    return tuple(phrase(refusal.permission, refusal.resource) for refusal in ceiling.refusals(manifest))


def phrases(permits: Iterable[Permit]) -> tuple[str, ...]:
    """A phrase for each."""
    return tuple(phrase(permit.permission, permit.resource) for permit in permits)
