"""Which modules take apart what others wrote, and which fuzz targets try them."""

from __future__ import annotations

import re
from pathlib import Path

READERS: dict[str, tuple[str, ...]] = {
    "audit/records.py": ("lines",),
    "gateway/batch.py": ("session", "batch"),
    "gateway/frame_guard.py": ("http2_frames",),
    "gateway/session.py": ("session",),
    "grant_records.py": ("records",),
    "install/git_child/deltas.py": ("delta",),
    "install/git_child/objects.py": ("pack",),
    "install/git_child/pack.py": ("pack", "delta"),
    "install/git_child/refs.py": ("source",),
    "install/git_child/tree.py": ("tree", "pack"),
    "install/git_process.py": ("git_answers",),
    "install/index.py": ("index",),
    "install/keys.py": ("signature", "original"),
    "install/original.py": ("original",),
    "install/paths.py": ("paths",),
    "install/records.py": ("records",),
    "install/release.py": ("release", "signature"),
    "install/source.py": ("source",),
    "install/strict_json.py": ("strict_json",),
    "manifest.py": ("manifest",),
    "net_hosts.py": ("net_hosts",),
    "permissions.py": ("paths",),
    "plain_yaml.py": ("manifest", "original"),
    "services/file_names.py": ("paths",),
    "services/template.py": ("template",),
    "sidecar/lines.py": ("lines",),
    "sidecar/rpc.py": ("rpc",),
    "wire/codec.py": ("frames", "values", "rpc"),
    "wire/codes.py": ("rpc",),
    "wire/text.py": ("lines",),
    "wire/typed.py": ("values", "rpc"),
    "wire/values.py": ("values",),
}
"""By module, beneath `coredeno/`: the targets."""

NOT_READERS: dict[str, str] = {
    "audit/sqlite.py": "reads the host's own database; what is no UTF-8 in it stays visible",
    "gateway/gate.py": "only looks for a place in msgspec's own message",
    "gateway/listener.py": "gRPC's messages are read by betterproto2; its errors are caught in one place",
    "gateway/unary.py": "reads by wire/codec.py",
    "install/git_child/entry.py": "reads the host's own order",
    "install/git_child/fetching.py": "speaks git by dulwich, in the process that is confined for it",
    "install/git_child/http.py": "speaks HTTP by urllib3, in the process that is confined for it",
    "install/signing_key.py": "reads the author's own key",
    "install/trust.py": "reads what the app wrote",
    "loader.py": "one msgspec struct from a notification, which the target rpc has as plain values",
    "root.py": "reads the host's own lock file",
    "services/keyvalue.py": "a pattern for controls in names",
    "services/process_table.py": "shows a program's last words, with what is no UTF-8 replaced",
    "services/rooted_files.py": "gives names as the disk has them",
    "services/service.py": "reads by wire/typed.py",
    "sidecar/vitals.py": "a pattern for what the kernel says; a beat is read by wire/typed.py",
    "store/statements.py": "reads what SQLite itself wrote as JSON",
    "sidecar/programs.py": "reads the programs that the app named",
    "sidecar/launcher.py": "one msgspec struct from a line",
}
"""By module: why it needs none."""

_SIGNS = re.compile(
    r"\bjson\.(?:decode|loads|Decoder)\b|\bmsgspec\.convert\b|\bDecoder\(|\bfrom_bytes\(|\bFromString\("
    r"|\bre\.compile\(|\.decode\(|\bzlib\.|\bbase64\.b64decode\b|\bip_address\("
)
_NOT_LOOKED_AT = ("gateway/_generated/", "testing/")  # written by a program; for tests only


def readers_by_their_source(package: Path) -> set[str]:
    """The modules whose source has a sign of taking bytes or text apart."""
    return {
        path
        for file in package.rglob("*.py")
        if not (path := file.relative_to(package).as_posix()).startswith(_NOT_LOOKED_AT)
        and _SIGNS.search(file.read_text())
    }
