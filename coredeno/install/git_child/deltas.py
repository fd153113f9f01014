"""Applies a delta of a git pack. Pure: no I/O.

Written here because it is what a hostile pack can make most of: a few bytes that become gigabytes, copies from
outside the base, sizes that do not hold. The sizes were held to their bounds before (`pack.scan`).
"""

from __future__ import annotations

from coredeno.errors import SourceInvalid
from coredeno.install.git_child.pack import delta_sizes

_COPY_ALL = 0x10000  # what a copy of size 0 copies (gitformat-pack(5))


def apply_delta(base: bytes | bytearray, delta: bytes) -> bytearray:
    """What `delta` makes of `base`; never more than the size that the delta says.

    Raises:
        SourceInvalid: the delta is for another base, or is no delta.
    """
    base_size, size, position = delta_sizes(delta)
    if base_size != len(base):
        raise SourceInvalid(
            f"pack: a delta is for a base of {base_size:,} bytes, and has one of {len(base):,}"
        )
    view = memoryview(base)
    result = bytearray()
    try:
        while position < len(delta):
            command = delta[position]
            position += 1
            if command & 0x80:
                start = length = 0
                for place in range(4):
                    if command & 1 << place:
                        start |= delta[position] << 8 * place
                        position += 1
                for place in range(3):
                    if command & 0x10 << place:
                        length |= delta[position] << 8 * place
                        position += 1
                length = length or _COPY_ALL
                piece: bytes | memoryview = view[start : start + length]
            else:
                length = command
                piece = delta[position : position + length]
                position += length
            if not command or len(piece) != length or len(result) + length > size:
                raise SourceInvalid("pack: a delta has a command that cannot be followed")
            result += piece
    except IndexError:
        raise SourceInvalid("pack: a delta ends within a command") from None
    if len(result) != size:
        raise SourceInvalid(f"pack: a delta makes {len(result):,} bytes, and says {size:,}")
    return result  # not copied once more: it may be large
