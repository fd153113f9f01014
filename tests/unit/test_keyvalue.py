from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from coredeno.errors import InvalidArgument, LimitExceeded, StoreError
from coredeno.services import keyvalue
from coredeno.services.keyvalue import Store
from coredeno.testing.memory_store import FaultyStore, MemoryStore


@pytest_asyncio.fixture
async def backend() -> AsyncIterator[FaultyStore]:
    backend = FaultyStore(MemoryStore())
    await backend.open(Path())
    yield backend
    await backend.aclose()


@pytest.fixture
def store(backend: FaultyStore) -> Store:
    return Store(backend)


async def test_gives_what_was_set(store: Store):
    """A value that was set is got, by its group and key, until it is replaced or deleted."""
    await store.set("g", "k", "v")
    await store.set("h", "k", "other")
    assert await store.get("g", "k") == "v"
    await store.set("g", "k", "")
    assert await store.get("g", "k", "default") == ""
    await store.delete("g", "k")
    assert await store.get("g", "k") is None
    assert await store.get("h", "k") == "other"


async def test_gives_the_default_for_what_is_missing(store: Store):
    """A missing key is None, or the default that was given."""
    assert await store.get("g", "k") is None
    assert await store.get("g", "k", "d") == "d"
    assert await store.get("g", "k", default=None) is None


async def test_lists_counts_and_deletes_groups(store: Store):
    """A whole group can be read in the order of its keys, counted and deleted; deleting twice is harmless."""
    for key in ("b", "a", "B"):
        await store.set("g", key, key.lower())
    await store.set("h", "a", "1")
    assert list((await store.get_all("g")).items()) == [("B", "b"), ("a", "a"), ("b", "b")]
    assert await store.count("g") == 3
    await store.delete_group("g")
    await store.delete_group("g")
    await store.delete("g", "a")
    assert (await store.get_all("g"), await store.count("g"), await store.count("h")) == ({}, 0, 1)


async def test_the_app_may_use_reserved_groups(store: Store):
    """Groups that begin with `_` are refused to modules by the gate, not to the app by the store."""
    await store.set("_host", "k", "v")
    assert await store.get("_host", "k") == "v"


def every_use(store: Store, group: object, key: object):
    return [
        lambda: store.get(group, key),
        lambda: store.set(group, key, "v"),
        lambda: store.delete(group, key),
    ]


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("", "0 characters, wanted 1 to 128"),
        ("x" * 129, "129 characters, wanted 1 to 128"),
        ("a\0", "control character"),
        ("a\n", "control character"),
        ("a\x7f", "control character"),
        ("a\x85", "control character"),
        ("\ud800", "lone surrogate at 0"),
        (b"g", "bytes, wanted str"),
        (None, "NoneType, wanted str"),
    ],
)
async def test_refuses_what_is_no_group(store: Store, group, said):
    """Every method checks the group and says what is wrong with it."""
    uses = [
        *every_use(store, group, "k"),
        lambda: store.get_all(group),
        lambda: store.count(group),
        lambda: store.delete_group(group),
        lambda: store.render("", group),
    ]
    for use in uses:
        with pytest.raises(InvalidArgument, match="store: group: .*" + said):
            await use()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "0 characters, wanted 1 to 512"),
        ("x" * 513, "513 characters, wanted 1 to 512"),
        ("a\udfff", "lone surrogate at 1"),
        (7, "int, wanted str"),
    ],
)
async def test_refuses_what_is_no_key(store: Store, key, said):
    """Every method that takes a key checks it and says what is wrong with it."""
    for use in every_use(store, "g", key):
        with pytest.raises(InvalidArgument, match="store: key: .*" + said):
            await use()


async def test_takes_the_longest_names_and_any_key(store: Store):
    """Bounds count characters, not bytes; a key may have control characters; no name is special."""
    for group, key in [("é" * 128, "😀" * 512), ("g", "a\0\n\x1b"), ("__proto__", "constructor")]:
        await store.set(group, key, "v")
        assert await store.get_all(group) == {key: "v"}


async def test_bounds_values_in_bytes(backend: FaultyStore):
    """A value may have 1 MiB as UTF-8, or what the constructor says; a larger one changes nothing."""
    store = Store(backend)
    await store.set("g", "k", "é" * (keyvalue.VALUE_BYTES // 2))
    with pytest.raises(LimitExceeded, match="value: it has 1048577 bytes, wanted at most 1048576"):
        await store.set("g", "k", "x" * (keyvalue.VALUE_BYTES + 1))
    assert await store.get("g", "k") == "é" * (keyvalue.VALUE_BYTES // 2)
    small = Store(backend, value_bytes=3)
    await small.set("g", "k", "éa")
    with pytest.raises(LimitExceeded, match="has 4 bytes, wanted at most 3"):
        await small.set("g", "k", "éé")


@pytest.mark.parametrize(
    ("value", "said"), [("a\ud800", "lone surrogate at 1"), (b"v", "bytes"), (None, "NoneType")]
)
async def test_refuses_what_is_no_value(store: Store, value, said):
    """A value must be text that UTF-8 can hold."""
    with pytest.raises(InvalidArgument, match="store: value: .*" + said):
        await store.set("g", "k", value)


async def test_renders_with_the_groups_values(store: Store):
    """A template is filled with the values of its group alone."""
    await store.set("g", "name", "Ada")
    await store.set("g", "any key", "{{ .name }}")
    await store.set("h", "name", "Bob")
    result = await store.render('{{ .name }}: {{ index . "any key" }} {{ "{{" }}', "g")
    assert result == "Ada: {{ .name }} {{"
    assert await store.render("plain", "nothing") == "plain"


async def test_says_what_a_template_lacks(store: Store):
    """A missing key is an InvalidArgument that names the group's keys, the template's or not."""
    await store.set("g", "a", "1")
    await store.set("g", "b", "secret")
    with pytest.raises(InvalidArgument, match=r"line 1: group 'g' has no key 'c', .*: 'a', 'b'$"):
        await store.render("{{ .a }}{{ .c }}", "g")


async def test_renders_a_key_that_appears_meanwhile(backend: FaultyStore):
    """A key that is set between the first look and the second is used."""

    class SetsLate(FaultyStore):
        async def read(self, group, keys=None, *, limit_bytes=None):
            found = await super().read(group, keys, limit_bytes=limit_bytes)
            await Store(backend).set("g", "k", "late")
            return found

    assert await Store(SetsLate(backend)).render("{{ .k }}", "g") == "late"


async def test_bounds_templates_and_their_results(store: Store, monkeypatch: pytest.MonkeyPatch):
    """A template is bounded as a value is; a result has at most 16 MiB."""
    with pytest.raises(LimitExceeded, match="template: it has 1048577 bytes"):
        await store.render("x" * (keyvalue.VALUE_BYTES + 1), "g")
    with pytest.raises(InvalidArgument, match=r"template: .*lone surrogate"):
        await store.render("\ud800", "g")
    await store.set("g", "k", "x" * keyvalue.VALUE_BYTES)
    assert len(await store.render("{{ .k }}" * 16, "g")) == keyvalue.RENDERED_BYTES
    with pytest.raises(LimitExceeded, match="wanted at most 16777216"):
        await store.render("{{ .k }}" * 16 + "x", "g")


async def test_passes_on_what_the_backend_raises(backend: FaultyStore, store: Store):
    """A StoreError reaches the caller as it is."""
    backend.fail_reads(StoreError("broken"))
    backend.fail_writes(StoreError("full"))
    with pytest.raises(StoreError, match="broken"):
        await store.get("g", "k")
    with pytest.raises(StoreError, match="full"):
        await store.set("g", "k", "v")
