"""Which sources and refs may be fetched, read into what they are. Pure: no I/O.

What is not understood to the last character is refused: what one program takes for a path another takes for a
host, an option or a command (`host:path`, `--upload-pack=…`, `ext::sh -c …`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote_to_bytes

import msgspec

from coredeno.errors import SourceRefused
from coredeno.wire.text import printable

SCHEMES = frozenset({"path", "file", "https", "http"})
"""All that the default fetcher can be allowed; `path` stands for a path without a scheme."""

DEFAULT_SCHEMES = frozenset({"path", "file", "https"})
"""What it is allowed if the app says nothing. `http` is allowed to this machine even so."""

LIMIT_SOURCE = 2048
"""The most characters of a source."""

LIMIT_REF_BYTES = 240
"""The longest ref, as UTF-8: git keeps refs as files."""

_SHOWN = 200  # characters of a wrong source or ref that an error repeats: enough to recognise it
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_NAME = r"(?=[^:]{1,253}(?::|\Z))[a-z0-9](?:[a-z0-9\-.]*[a-z0-9])?"
_AUTHORITY = re.compile(rf"(?P<host>{_NAME}|\[[0-9a-f:.]{{2,45}}\])(?::(?P<port>[1-9][0-9]{{0,4}}))?")
_LOOPBACK = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]")
_LIMIT_PORT = 65535
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_COMMIT = re.compile(r"[0-9a-fA-F]{40}")
_ELSEWHERE = "wanted a path, file:// or https://; for all else an app gives its own Fetcher"


class PathSource(msgspec.Struct, frozen=True):
    """A repository on this machine, by its absolute path."""

    path: str


class UrlSource(msgspec.Struct, frozen=True):
    """A repository on an HTTP server.

    Attributes:
        scheme: `https` or `http`.
        host: as in the URL, in lower case; an IPv6 address with its brackets.
        port: as in the URL, or None for the scheme's own.
        path: as in the URL, without a slash at the end.
    """

    scheme: str
    host: str
    port: int | None
    path: str

    @property
    def origin(self) -> str:
        """The host, with the port where the URL names one: whom credentials are for."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole URL."""
        return f"{self.scheme}://{self.origin}{self.path}"


def parse_source(
    source: str | os.PathLike[str], *, base: Path, schemes: Collection[str] = DEFAULT_SCHEMES
) -> PathSource | UrlSource:
    """Read what the app named as a source.

    Args:
        source: a path, or a URL with `file://`, `https://` or `http://`.
        base: what a relative path is relative to; absolute.
        schemes: what is allowed, of `SCHEMES`. `http` to this machine (127.0.0.0/8, ::1, localhost) is
            allowed where `https` is.

    Raises:
        SourceRefused: it is none of these, is not allowed, or has a part that is not wanted.
    """
    text = os.fspath(source)
    if not isinstance(text, str):  # what the hint says is not checked at run time
        raise SourceRefused(f"source: is {type(text).__name__}, wanted text or a path")
    if not text or len(text) > LIMIT_SOURCE:
        raise SourceRefused(f"source: has {len(text)} characters, wanted 1 to {LIMIT_SOURCE:,}")
    if printable(text, one_line=True) != text or "\t" in text:
        raise SourceRefused("source: has a control character")
    if text.startswith("-"):
        _refuse(text, "begins with '-', as options do; a path may be written with './' before it")
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _path(text, base, schemes)
    rest = text[scheme.end() :]
    match scheme[1].lower():
        case "file":
            return _file_url(text, rest, schemes)
        case "https" | "http" as name:
            return _http_url(name, text, rest, schemes)
        case name:
            # The rest is not repeated: there may be a password in it.
            raise SourceRefused(f"source: the scheme {name!r} is not fetched; {_ELSEWHERE}")


def check_ref(ref: str | None) -> str | None:
    """Check a ref by git's rules for names (git-check-ref-format), and give it back.

    A commit id (40 hexadecimal digits) comes back in lower case, `HEAD` as None.

    Raises:
        SourceRefused: it is neither None, a commit id, nor a name that a branch or tag can have.
    """
    if ref is None or ref == "HEAD":
        return None
    if not isinstance(ref, str):
        raise SourceRefused(f"ref: is {type(ref).__name__}, wanted a branch, a tag, a commit or None")
    if _COMMIT.fullmatch(ref):
        return ref.lower()
    problem = _ref_problem(ref)
    if problem:
        shown = printable(ref[:_SHOWN], one_line=True)
        raise SourceRefused(f"ref {shown!r}: {problem}, wanted a branch, a tag or a commit of 40 digits")
    return ref


def _path(text: str, base: Path, schemes: Collection[str]) -> PathSource:
    if ":" in text.partition("/")[0]:
        _refuse(
            text,
            f"has a ':' before the first '/', as in host:path and ext::command; {_ELSEWHERE}. "
            "A path may be written with './' before it",
        )
    if text != text.strip():
        _refuse(text, "begins or ends with a space")
    if "path" not in schemes:
        _refuse(text, "is a path, which this fetcher is not allowed")
    return PathSource(os.path.normpath(base / text))


def _file_url(text: str, rest: str, schemes: Collection[str]) -> PathSource:
    if "file" not in schemes:
        _refuse(text, "is a file:// URL, which this fetcher is not allowed")
    host, slash, path = rest.partition("/")
    if host.lower() not in ("", "localhost"):
        raise SourceRefused("source: a file:// URL names a host, wanted file:///path")
    if not slash or not path:
        _refuse(text, "has no path")
    return PathSource(os.path.normpath("/" + _decoded(text, path)))


def _http_url(scheme: str, text: str, rest: str, schemes: Collection[str]) -> UrlSource:
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise SourceRefused(
            "source: has user info, which ends up in logs; wanted a URL without it, and GitFetcher(credentials=…)"
        )
    host, port = _host_and_port(text, authority.lower())
    if not path.strip("/"):
        _refuse(text, "has no path")
    if {".", ".."} & set(_decoded(text, path).split("/")):
        _refuse(text, "has '.' or '..' in its path")
    if scheme not in schemes and not ("https" in schemes and _LOOPBACK.fullmatch(host)):
        why = (
            "anybody on the way can read and change what http:// gives, so that it is allowed to this machine"
        )
        _refuse(text, f"is not allowed: {why} only" if scheme == "http" else "is not allowed to this fetcher")
    return UrlSource(scheme, host, port, slash + path.rstrip("/"))


def _host_and_port(text: str, authority: str) -> tuple[str, int | None]:
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        _refuse(text, "has no host of plain ASCII (xn--… for others), with or without a port")
    port = int(match["port"]) if match["port"] else None
    if port is not None and port > _LIMIT_PORT:
        _refuse(text, f"has the port {port}, wanted at most {_LIMIT_PORT}")
    return match["host"], port


def _decoded(text: str, path: str) -> str:
    if not path.isascii() or set(path) & set(' \\?#"<>^`{|}') or _BAD_ESCAPE.search(path):
        _refuse(
            text,
            "has a query, a fragment, a space, a backslash or another character that a URL has only in its "
            "%-form",
        )
    try:
        decoded = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        _refuse(text, "has %-escapes that are not UTF-8")
    if printable(decoded, one_line=True) != decoded or "\t" in decoded:
        _refuse(text, "has a control character")
    return decoded


def _ref_problem(ref: str) -> str | None:
    names = ref.split("/")
    for problem, is_so in (
        ("is empty", not ref),
        (f"has more than {LIMIT_REF_BYTES} bytes", len(ref.encode(errors="replace")) > LIMIT_REF_BYTES),
        ("begins with '-', as options do", ref.startswith("-")),
        ("has a control character", printable(ref, one_line=True) != ref),
        ("has one of the characters that git does not allow in it", bool(set(ref) & set("\t ~^:?*[\\"))),
        ("has '..' or '@{', or is '@'", ".." in ref or "@{" in ref or ref == "@"),
        ("has an empty part", "" in names),
        ("has a part that begins with '.' or ends with '.lock'", any(map(_is_hidden, names))),
        ("ends with '.'", ref.endswith(".")),
    ):
        if is_so:
            return problem
    return None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.endswith(".lock")


def _refuse(text: str, problem: str) -> NoReturn:
    # What stands before an '@' may be a password, even where it is at no place for one.
    user, at, rest = text.rpartition("@")
    shown = f"...@{rest}" if at and user else text
    raise SourceRefused(f"source {shown[:_SHOWN]!r}: {problem}")
