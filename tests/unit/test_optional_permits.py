"""Which entry of a manifest covers what a module asks for: as the policy that has this entry alone would say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coredeno.grant import PLAIN_PERMISSIONS, Permit, ceiling_of, grants_of, permits_of, refusals_of
from coredeno.manifest import Manifest, OptionalPermissions, Permissions, StoreGroups
from coredeno.optional_permits import OptionalPermits

PATHS = [".", "a", "a/b", "a/b/c", "ab", "b"]
HOSTS = [
    "example.com",
    "example.com:443",
    "a.example.com",
    "*.example.com",
    "*.example.com:80",
    "public",
    "public:443",
]
HOSTS += ["*.a.example.com", "com", "10.0.0.1", "[::1]:80", "b.a.example.com:80"]
NAMES = ["x", "y"]
SERVICES = ["x", "x:read", "x:write", "y", "y:read"]
RESOURCES = {
    **dict.fromkeys(PLAIN_PERMISSIONS, NAMES),
    "files.read": PATHS,
    "files.write": PATHS,
    "net": HOSTS,
}
PERMITS = [Permit(kind, resource) for kind, resources in RESOURCES.items() for resource in resources]
PERMITS += [Permit(f"services.{resource.partition(':')[0]}", resource) for resource in SERVICES]


def manifest_with(permits: list[Permit]) -> Manifest:
    has = grants_of(permits)
    optional = OptionalPermissions(
        read=has.read,
        write=has.write,
        net=has.net,
        run=has.run,
        store=StoreGroups(read=has.store_read, write=has.store_write),
        services={name: tuple(words) for name, words in has.services.items()},
    )
    return Manifest(code="m", permissions=Permissions(optional=optional))


@given(
    st.lists(st.sampled_from(PERMITS)),
    st.sampled_from([*PERMITS, Permit("net", "no host"), Permit("odd", "x")]),
)
def test_an_entry_covers_what_its_own_ceiling_covers(listed: list[Permit], asked: Permit):
    """Entry by entry, at the cost of a policy each, which is what the index saves."""
    manifest = manifest_with(listed)
    optional = manifest.permissions.optional
    entries = permits_of(optional, optional.services)

    def covers(entry: Permit) -> bool:
        same = entry.permission == asked.permission
        return entry == asked or (same and not refusals_of(ceiling_of(grants_of([entry])), "", [asked]))

    found = OptionalPermits(manifest).entry(asked)
    assert (found is not None) == any(map(covers, entries))
    assert found is None or (found in entries and covers(found))


@given(st.lists(st.sampled_from(PERMITS)), st.lists(st.sampled_from(PERMITS)))
def test_many_are_refused_as_one_by_one(granted: list[Permit], asked: list[Permit]):
    """And each with what would make the policy allow it."""
    policy = ceiling_of(grants_of(granted))
    one_by_one = {
        permit: remedy for each in asked for permit, remedy in refusals_of(policy, "m", [each]).items()
    }
    assert refusals_of(policy, "m", asked) == one_by_one
