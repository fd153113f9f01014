"""`Store`: text by group and key, as host apps and modules see it, in front of a `StoreBackend`."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import overload

from coredeno.errors import InvalidArgument, LimitExceeded
from coredeno.interfaces import StoreBackend, StoreChange, StoreQuota
from coredeno.services import template as templates
from coredeno.services.template import size_bytes

GROUP_CHARACTERS = 128
"""The longest name of a group."""

KEY_CHARACTERS = 512
"""The longest key."""

VALUE_BYTES = 1024 * 1024
"""The largest value, and the largest template, as UTF-8, unless `Store` is told otherwise."""

RENDERED_BYTES = 16 * 1024 * 1024
"""The largest text that `render` makes, as UTF-8: what a message may have at most."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class Store:
    """Text values by group and key. A change has reached the disk when the call returns.

    A group exists while it has keys. Its name has 1 to 128 characters, none of them a control character. A
    key has 1 to 512 characters, whichever they are; both, and values, must be text that UTF-8 can hold (no
    lone surrogates). Groups that begin with `_` are the host app's own: modules never reach them.

    All methods raise `InvalidArgument` for a name that is not of that form, and `StoreError` if the database
    fails; a change that failed changed nothing. Cancelling a caller does not stop a change that has begun: it
    is carried out. Changes are made in the order of their calls, and a read sees all that returned before.

    Args:
        backend: keeps the values. Whoever made it opens and closes it.
        value_bytes: the largest value, and the largest template, as UTF-8; at least 1.
    """

    def __init__(self, backend: StoreBackend, *, value_bytes: int = VALUE_BYTES) -> None:
        self._backend = backend
        self._value_bytes = value_bytes

    @overload
    async def get(self, group: str, key: str) -> str | None: ...
    @overload
    async def get(self, group: str, key: str, default: str) -> str: ...
    @overload
    async def get(self, group: str, key: str, default: str | None) -> str | None: ...
    async def get(self, group: str, key: str, default: str | None = None) -> str | None:
        """The value of a key, or `default` if there is none."""
        _check_group(group)
        _check_key(key)
        return (await self._backend.read(group, (key,))).get(key, default)

    async def set(self, group: str, key: str, value: str, *, quota: StoreQuota | None = None) -> None:
        """Give a key this value, new or in place of its former one.

        Args:
            group: the group.
            key: the key.
            value: the new value.
            quota: the most that the group may have then, whoever wrote it; None is no bound. What modules set has
                that of `Limits`.

        Raises:
            InvalidArgument: a name, or the value, is not of the wanted form.
            LimitExceeded: the value is larger than `value_bytes`, or the group would have more than the quota.
                Nothing changed.
        """
        _check_group(group)
        _check_key(key)
        self._check_size("value", value)
        await self._backend.write((StoreChange(group=group, key=key, value=value),), quota=quota)

    async def delete(self, group: str, key: str) -> None:
        """Remove a key; harmless if there is none."""
        _check_group(group)
        _check_key(key)
        await self._backend.write((StoreChange(group=group, key=key),))

    async def get_all(self, group: str, *, limit_bytes: int | None = None) -> dict[str, str]:
        """All values of a group, in the order of their keys (by code points); empty if there is none.

        Args:
            group: the group.
            limit_bytes: the most that its keys and values may have, as UTF-8; None is no bound. For modules it is
                about what one message holds.

        Raises:
            LimitExceeded: they have more; they were not read.
        """
        _check_group(group)
        return await self._backend.read(group, limit_bytes=limit_bytes)

    async def count(self, group: str) -> int:
        """How many keys a group has; 0 if there is no such group."""
        _check_group(group)
        return await self._backend.count(group)

    async def delete_group(self, group: str) -> None:
        """Remove all keys of a group; harmless if there are none."""
        _check_group(group)
        await self._backend.write((StoreChange(group=group),))

    async def render(self, template: str, group: str) -> str:
        """Fill a template with a group's values, all of one moment. Nothing is stored.

        `{{ .name }}` and `{{ index . "any key" }}` stand for values, `{{ "{{" }}` for two braces.

        Raises:
            InvalidArgument: the group's name or the template is not of the wanted form, or the group has no
                such key; the message names the line, and keys that there are.
            LimitExceeded: the template is larger than `value_bytes` or has more than 5,000 actions, or the
                result would be larger than 16 MiB.
        """
        _check_group(group)
        self._check_size("template", template)
        parsed = templates.parse(template)
        # What is rendered has each value at least once, and the template has each key.
        limit_bytes = RENDERED_BYTES + size_bytes(template)
        values = await self._backend.read(group, templates.keys_of(parsed), limit_bytes=limit_bytes)
        if templates.missing(parsed, group, values):
            # For the message alone: which keys there are instead.
            with suppress(LimitExceeded):
                values = await self._backend.read(group, limit_bytes=limit_bytes)
            if error := templates.missing(parsed, group, values):
                raise error
        return templates.fill(parsed, values, limit_bytes=RENDERED_BYTES)

    def _check_size(self, what: str, text: str) -> None:
        size = _size("store: " + what, text)
        if size > self._value_bytes:
            raise LimitExceeded(f"store: {what}: it has {size} bytes, wanted at most {self._value_bytes}")


def _check_group(group: str) -> None:
    _check_name("group", group, GROUP_CHARACTERS)
    if _CONTROL.search(group):
        raise InvalidArgument(f"store: group: {group!r} has a control character, wanted none")


def _check_key(key: str) -> None:
    _check_name("key", key, KEY_CHARACTERS)


def _check_name(what: str, name: str, most: int) -> None:
    _size(f"store: {what}", name)
    if not 1 <= len(name) <= most:
        raise InvalidArgument(f"store: {what}: it has {len(name)} characters, wanted 1 to {most}")


def _size(what: str, text: object) -> int:
    if not isinstance(text, str):
        raise InvalidArgument(f"{what}: it is {type(text).__name__}, wanted str")
    try:
        return size_bytes(text)
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{what}: a lone surrogate at {error.start}, wanted text for UTF-8") from None
