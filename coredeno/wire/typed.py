"""Decoding straight into the type that somebody wants, with or without binary values. Pure: no I/O."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec

from coredeno.errors import ProtocolError, UsageError
from coredeno.wire.codec import decode_plain
from coredeno.wire.values import BytesEntry, put_bytes

_BYTES_TYPES = (bytes, bytearray, memoryview)


class TypedDecoder:
    """Decodes one member of a message (`params` or `result`) into a type.

    A message without binary values is decoded in one step; one with them is decoded to plain values, filled
    in, and converted. Text never counts as bytes: msgspec would read it as base64, which no wire uses.
    """

    __slots__ = ("_bytes_wanted", "_decoder", "_wanted")

    def __init__(self, wanted: Any) -> None:
        """Build the decoder, once for a type.

        Raises:
            UsageError: msgspec cannot decode into this type.
        """
        try:
            self._bytes_wanted = _mentions(msgspec.inspect.type_info(wanted), wanted)
            self._decoder = msgspec.json.Decoder(wanted)
        except (TypeError, NameError) as error:
            raise UsageError(f"decode into {wanted!r}: {error}") from None
        self._wanted = wanted

    def decode(
        self,
        text: bytes | msgspec.Raw,
        entries: Sequence[BytesEntry] | None,
        attachments: Sequence[bytes],
        member: str,
    ) -> Any:
        """Decode the `member` whose JSON is `text`.

        Raises:
            msgspec.ValidationError: it is not of the wanted type; the message says where.
            ProtocolError: it is no JSON, or its binary values have no place.
        """
        if not entries and not self._bytes_wanted:
            try:
                return self._decoder.decode(text)
            except msgspec.ValidationError:
                raise
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise ProtocolError(f"receive: {error}") from None
        message = {member: decode_plain(text)}
        if entries:
            put_bytes(message, entries, attachments)
        return self.convert(message[member])

    def convert(self, plain: Any) -> Any:
        """Give plain values, with real bytes among them, the wanted type.

        Raises:
            msgspec.ValidationError: they are not of it.
        """
        # Keys were text in the JSON: numbers and the like are read from them, as the decoder of JSON does.
        return msgspec.convert(plain, self._wanted, builtin_types=_BYTES_TYPES, str_keys=True)


@functools.lru_cache(maxsize=1024)
def _cached(wanted: Any) -> TypedDecoder:
    return TypedDecoder(wanted)


def decoder_for(wanted: Any) -> TypedDecoder:
    """The decoder for a type; the same one each time where the type can be hashed.

    Raises:
        UsageError: msgspec cannot decode into this type.
    """
    try:
        return _cached(wanted)
    except TypeError:
        return TypedDecoder(wanted)


def _mentions(info: Any, wanted: Any) -> bool:
    """Whether bytes are wanted anywhere in a type; refuses types that msgspec knows nothing of."""
    seen: set[int] = set()
    todo = [info]
    found = False
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.CustomType):
            raise UsageError(f"decode into {wanted!r}: msgspec cannot decode into {node.cls!r}")
        if isinstance(
            node, msgspec.inspect.BytesType | msgspec.inspect.ByteArrayType | msgspec.inspect.MemoryViewType
        ):
            found = True
        if isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field):
            for name in node.__struct_fields__:
                value = getattr(node, name)
                todo.extend(value if isinstance(value, tuple) else (value,))
    return found
