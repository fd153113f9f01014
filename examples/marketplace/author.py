"""What the author of plugins does: make a key, sign each version, publish it with git, and keep an index."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from coredeno.install.signing import SigningKey, sign_folder

PLUGINS = Path(__file__).parent / "plugins"
CATALOGUE = {
    "wordcount": {
        "name": "Word count",
        "description": "Counts the words of a note.",
        "categories": ["text"],
    },
    "receipt": {
        "name": "Receipt",
        "description": "Lays out what was bought, in any currency.",
        "categories": ["money", "text"],
    },
}


class Author:
    """An author, a key, and git repositories beneath a folder: one for each plugin, and one for the index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.market = folder / "market"  # on a server: https://git.example/acme/market.git
        self.key = SigningKey.generate()
        self.key.save(folder / "key.pem")  # PKCS#8, as openssl writes it; SigningKey.load reads it again
        self._newest: dict[str, str] = {}

    def publish(self, code: str, version: str, *, seq: int) -> None:
        """Sign a version, commit and tag it, and name it in the index; `seq` is higher for each one of a plugin."""
        repository = self.folder / code
        _clear(repository)
        shutil.copytree(PLUGINS / code / version, repository, dirs_exist_ok=True)
        sign_folder(repository, self.key, seq=seq)  # writes .core/release.json and .core/release.sig
        _commit(repository, f"{code} {version}")
        _git(repository, "tag", f"v{version}")
        self._newest[code] = version
        self._publish_index()

    def _publish_index(self) -> None:
        plugins = [
            {
                "code": code,
                **CATALOGUE[code],
                "version": version,
                "source": str(self.folder / code),
                "key": self.key.public_hex,
            }
            for code, version in self._newest.items()
        ]
        _clear(self.market)
        index = {"format": 1, "name": "Acme's plugins", "plugins": plugins}
        (self.market / "index.json").write_text(json.dumps(index, indent=2))
        _commit(self.market, "the newest versions")


def _clear(repository: Path) -> None:
    """An empty working tree, so that what a former version had is in no later one."""
    repository.mkdir(exist_ok=True)
    if not (repository / ".git").exists():
        _git(repository, "init", "--quiet", "--initial-branch=main")
    _git(repository, "rm", "-r", "--quiet", "--ignore-unmatch", ".")


def _commit(repository: Path, message: str) -> None:
    _git(repository, "add", "--all", "--force")
    _git(repository, "commit", "--quiet", "--message", message)


def _git(repository: Path, *args: str) -> None:
    # What was signed is what must be fetched, so git changes no line ends; and nobody's own settings count here.
    own = ("user.name=Acme", "user.email=dev@acme.example", "core.autocrlf=false", "core.hooksPath=/dev/null")
    unsigned = ("commit.gpgSign=false", "tag.gpgSign=false")
    options = [part for setting in (*own, *unsigned) for part in ("-c", setting)]
    subprocess.run(["git", *options, "-C", str(repository), *args], check=True)  # noqa: S603, S607 - the user's git
