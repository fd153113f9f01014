"""Real git repositories for tests, made with the git binary: `make_repository`, then `commit` as often as wanted."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "LC_ALL": "C",
}
"""What git gets: nothing of the user's own settings."""

_WHO = b"Acme <dev@acme.example> 1700000000 +0000\n"


def git(folder: Path, *args: str, data: bytes = b"") -> bytes:
    """Run git in a repository, and give what it prints."""
    command = ["git", "-C", str(folder), *args]
    done = subprocess.run(command, input=data, capture_output=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode(errors='replace')}"
    return done.stdout


def make_repository(folder: Path, files: Mapping[str, bytes], *, tag: str | None = None) -> str:
    """Make a bare repository with one commit on `main`; gives the commit's id.

    Args:
        folder: where; it is made, with those above it.
        files: the contents, by path.
        tag: a lightweight tag for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main")
    return commit(folder, files, tag=tag)


def commit(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    tag: str | None = None,
    annotated: bool = False,
    branch: str = "main",
    modes: Mapping[str, str] = {},
) -> str:
    """Commit exactly these files on a branch, after what is there; gives the commit's id.

    Args:
        folder: the repository.
        files: the contents, by path. All that the commit before had and this has not is gone.
        tag: a tag for it; one of that name is moved.
        annotated: whether the tag is an object of its own.
        branch: made if there is none; a new one has no history.
        modes: by path, what is not `100644`: `100755`, `120000` (a link; its content is the target).
    """
    known = f"refs/heads/{branch}\n".encode() in git(folder, "for-each-ref", "--format=%(refname)")
    stream = [f"commit refs/heads/{branch}\nmark :1\ncommitter ".encode(), _WHO, _data(b"a commit\n")]
    if known:
        stream.append(f"from refs/heads/{branch}^0\n".encode())
    stream.append(b"deleteall\n")
    for path, content in files.items():
        quoted = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        stream += [f'M {modes.get(path, "100644")} inline "{quoted}"\n'.encode(), _data(content)]
    if tag and annotated:
        stream += [f"tag {tag}\nfrom :1\ntagger ".encode(), _WHO, _data(b"a tag\n")]
    elif tag:
        stream.append(f"reset refs/tags/{tag}\nfrom :1\n".encode())
    stream.append(b"get-mark :1\n")
    return git(folder, "fast-import", "--quiet", "--force", data=b"".join(stream)).decode().strip()


def _data(content: bytes) -> bytes:
    return b"data %d\n" % len(content) + content + b"\n"
