"""Sources and refs of plugins: what is accepted is in one spelling and holds no option, command or password."""

from __future__ import annotations

import os
from pathlib import Path

from coredeno.errors import SourceInvalid, SourceRefused, SourceUnavailable
from coredeno.install.git_child.refs import candidates, wanted_object
from coredeno.install.source import UrlSource, check_ref, parse_source
from tests.fuzz.shape import require, require_equal, value_of

BASE = Path("/srv/app")
SEEDS = [
    b"https://Git.Example:8443/acme/tagger.git\nv1.2\n" + b"a" * 40,
    b"./plugins/tagger\nrefs/heads/main\n" + b"0" * 40,
    b"file:///srv/a%20b/tagger\nHEAD\nnone",
    b"http://127.0.0.1:3000/x/\n" + b"ABCDEF0123" * 4 + b"\n",
    b"ext::sh -c x\n--upload-pack=x\n",
    b"https://user:secret@host/x\nfeature/a.b\n",
    b"http://[::1]/a/%2e%2e/b\n@{-1}\n",
]


def target(data: bytes) -> None:
    source, _, rest = data.decode("utf-8", "surrogateescape").partition("\n")
    name, _, found = rest.partition("\n")
    _source(source)
    _ref(name, found.encode("utf-8", "surrogateescape"))


def _source(text: str) -> None:
    source = value_of(lambda: parse_source(text, base=BASE), SourceRefused)
    if source is None:
        return
    if isinstance(source, UrlSource):
        require_equal(parse_source(source.url, base=BASE), source, "read again")
        require("@" not in source.origin and "/" not in source.origin, "a host, and no user")
        require(
            source.scheme == "https" or source.host in ("localhost", "[::1]") or source.host[:4] == "127.",
            "safe",
        )
        return
    require(Path(source.path).is_absolute() and "\0" not in source.path, "an absolute path")
    require_equal(os.path.normpath(source.path), source.path, "nothing in it goes up")


def _ref(text: str, said: bytes) -> None:
    try:
        ref = check_ref(text)
    except SourceRefused:
        return
    require_equal(check_ref(ref), ref, "the one spelling of a spelling is itself")
    require(ref is None or not ref.startswith("-"), "no option")
    for name in candidates(ref):
        wanted = value_of(
            lambda name=name: wanted_object(ref, {name: said}), SourceInvalid, SourceUnavailable
        )
        require(wanted is None or (len(wanted) == 40 and bytes.fromhex(wanted.decode())), "an id")
