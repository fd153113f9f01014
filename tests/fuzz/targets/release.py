"""Lists of a plugin's files: what is accepted is written and read again the same."""

from __future__ import annotations

from coredeno.errors import ManifestError, UnsafePath
from coredeno.install.paths import check_path
from coredeno.install.release import LIMIT_SEQ, MANIFEST, ReleaseFile, encode_release, parse_release
from tests.fuzz.shape import require, require_equal, value_of

HASH = "ab" * 32


def listed(*paths: str) -> bytes:
    files = [ReleaseFile(path, HASH, 7) for path in (MANIFEST, "main.ts", *paths)]
    return encode_release(code="tagger", version="1.2.0", seq=3, entry="main.ts", files=files)


SEEDS = [listed(), listed("lib/é.ts", "lib/b.ts", "z"), listed("a b/c"), listed(*map(str, range(9)))]


def target(data: bytes) -> None:
    release = value_of(lambda: parse_release(data), ManifestError, UnsafePath)
    if release is None:
        return
    paths = [check_path(file.path) for file in release.files]
    require(
        paths == sorted(set(paths)) and {MANIFEST, release.entry} <= set(paths), "in order, with all it needs"
    )
    require(1 <= release.seq <= LIMIT_SEQ, "seq is in range")
    again = parse_release(
        encode_release(
            code=release.code,
            version=release.version,
            seq=release.seq,
            entry=release.entry,
            files=release.files,
        )
    )
    require_equal(
        (again.code, again.version, again.seq, again.entry, again.files),
        (release.code, release.version, release.seq, release.entry, release.files),
        "written and read again",
    )
