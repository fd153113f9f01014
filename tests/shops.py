"""Plugins that are signed and published, and hosts that install them: what tests of installing share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

from coredeno import Hooks, HostConfig, PluginHost
from coredeno.install.release import (
    CONTEXT,
    MANIFEST,
    RELEASE,
    SIGNATURE,
    ReleaseFile,
    SignatureFile,
    encode_release,
    encode_signature,
)
from coredeno.install.signing import SigningKey
from coredeno.install.trust import TrustStore
from coredeno.interfaces import Fetcher, Launcher
from coredeno.manifest import parse_manifest
from coredeno.testing import FakeLauncher, FakeProcesses, MemoryFetcher, MemoryFiles, MemoryListener

URL = "https://git.example/acme/tagger.git"
Files = dict[str, bytes]


def plugin_files(
    code: str = "tagger", version: str = "1.0.0", *, manifest: str = "", **files: str | bytes
) -> Files:
    """A plugin that is not signed; `manifest` is more of its `.core/view.yml`, `files` are more files of it."""
    view = f"code: {code}\nversion: {version}\n{dedent(manifest)}"
    source = f"export function version() {{ return '{version}'; }}\n"
    whole = {".core/view.yml": view, "main.ts": source, **files}
    return {path: data.encode() if isinstance(data, str) else data for path, data in whole.items()}


def signed(files: Mapping[str, bytes], key: SigningKey, seq: int = 1) -> Files:
    """The files with their release and its signature, as `sign_folder` writes them; in memory, so it blocks no loop."""
    manifest = parse_manifest(files[MANIFEST], file=MANIFEST)
    listed = encode_release(
        code=manifest.code,
        version=manifest.version,
        seq=seq,
        entry=manifest.entry,
        files=[
            ReleaseFile(path, hashlib.sha256(data).hexdigest(), len(data)) for path, data in files.items()
        ],
    )
    signature = SignatureFile(key=key.public_hex, signature=key.sign(CONTEXT + listed))
    return {**files, RELEASE: listed, SIGNATURE: encode_signature(signature)}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write them beneath a folder."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def read_files(folder: Path) -> Files:
    """All files beneath a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Tagger:
    """Stands for the plugin, where no Deno runs."""

    def version(self) -> str:
        return "fake"


class Shop:
    """An author, what they published, and the app that installs it, on a root of its own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "app"
        self.key = SigningKey.generate()
        self.published: dict[str, Files] = {}
        self.plugins: dict[str, Callable[[], Any]] = {"tagger": Tagger, "other": Tagger}
        self.trust = TrustStore([self.key.public_hex])

    def publish(
        self,
        ref: str,
        files: Mapping[str, bytes] | None = None,
        *,
        seq: int = 1,
        key: SigningKey | None = None,
    ) -> Files:
        """Publish a signed version; without files, one whose version is `ref`."""
        whole = signed(files or plugin_files(version=ref), key or self.key, seq)
        self.published[ref] = whole
        return whole

    def host(
        self,
        *,
        hooks: Sequence[Hooks] = (),
        trust: TrustStore | None = None,
        fetcher: Fetcher | None = None,
        launcher: Launcher | None = None,
        store: Any = None,
        **config: Any,
    ) -> PluginHost:
        """A host with a real disk and a real database, and without Deno and network."""
        return PluginHost(
            self.root,
            hooks=hooks,
            config=HostConfig(**config),
            trust=self.trust if trust is None else trust,
            fetcher=fetcher or MemoryFetcher({URL: self.published}),
            launcher=launcher or FakeLauncher(self.plugins),
            listener=MemoryListener(),
            files=MemoryFiles(),
            processes=FakeProcesses({}),
            store=store,
        )

    @property
    def plugin_folder(self) -> Path:
        """Where the host keeps what is installed."""
        return self.root / ".core" / "plugins"

    def releases(self) -> set[str]:
        """What lies there, as `code/digest`; staging must be empty."""
        staging = self.plugin_folder / ".staging"
        assert not staging.exists() or not list(staging.iterdir()), list(staging.rglob("*"))
        return {
            f"{code.name}/{release.name}"
            for code in self.plugin_folder.iterdir()
            if code != staging
            for release in code.iterdir()
        }


def damage(folder: Path, change: Callable[[Path], object]) -> None:
    """Change something in an installed release, as somebody with access to the disk would."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    change(folder)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o444)
