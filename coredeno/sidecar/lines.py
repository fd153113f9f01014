"""Cuts a stream of bytes into lines of bounded length. Pure: no I/O."""

from __future__ import annotations


class LineCutter:
    """Gives the lines of what it is fed; of a longer one the first `limit_bytes`, the rest is dropped."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pending = b""
        self._dropping = False

    def feed(self, data: bytes) -> list[str]:
        """Take bytes and give the lines that are whole (or too long) now."""
        *whole, self._pending = (self._pending + data).split(b"\n")
        lines = []
        for line in whole:
            if not self._dropping:
                lines.append(self._text(line))
            self._dropping = False
        if len(self._pending) > self._limit_bytes:
            if not self._dropping:
                lines.append(self._text(self._pending))
            self._dropping = True
        if self._dropping:
            self._pending = b""
        return lines

    def skip(self, data: bytes) -> int:
        """Take bytes and give none of their lines: how many begin here. It costs far less than to cut them."""
        was_counted = self._dropping
        self._pending = b""
        self._dropping = not data.endswith(b"\n")
        return data.count(b"\n") + self._dropping - was_counted

    def end(self) -> list[str]:
        """The last line, if the stream did not end with a newline."""
        last, self._pending = self._pending, b""
        return [self._text(last)] if last and not self._dropping else []

    def _text(self, line: bytes) -> str:
        return line[: self._limit_bytes].decode("utf-8", "replace")
