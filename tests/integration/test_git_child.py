"""What the fetching process does, step by step, in this process: real repositories, real and odd servers."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coredeno.errors import FetchLimitExceeded, SourceInvalid, SourceUnavailable
from coredeno.install.git_child import entry
from coredeno.install.git_child.bounds import Bounds
from coredeno.install.git_child.fetching import Order, fetch
from coredeno.install.git_child.files import write_files
from coredeno.install.git_child.objects import Objects
from coredeno.install.git_child.pack import scan
from coredeno.install.git_child.tree import PlannedFile
from tests.git.attempts import read
from tests.git.hostile import (
    PACK_HEAD,
    REFS_HEAD,
    HostileServer,
    Script,
    advertised,
    answered,
    one_after_another,
    packet,
    response,
)
from tests.git.objects import blob, pack, plain
from tests.git.repositories import commit, git, make_repository
from tests.git.server import GitServer

FILES = {"main.ts": b"export {};\n", "lib/a.ts": b"", "lib/deep/b.ts": bytes(100_000)}
X = blob(b"x")
BOUNDS = Bounds(
    timeout_s=10,
    transfer_bytes=1 << 20,
    objects=100,
    file_bytes=1 << 20,
    total_bytes=1 << 21,
    files=100,
    depth=4,
)


class Heard:
    """The answers to one order, kept, and the folder that it was for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.phases: list[str] = []
        self.revision = ""

    def progress(self, phase: str, done: int = 0, total: int | None = None) -> None:
        if phase not in self.phases[-1:]:
            self.phases.append(phase)

    def fetched(self, revision: str) -> None:
        self.revision = revision


class Repository:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first = make_repository(folder, FILES, tag="v1")
        self.second = commit(folder, {**FILES, "main.ts": b"2"}, tag="v2", annotated=True)
        self.other = commit(folder, {"main.ts": b"3"}, branch="feature/x")
        commit(folder, {"main.ts": b"4"}, branch="v1")
        git(folder, "symbolic-ref", "refs/heads/alias", "refs/heads/feature/x")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("repositories") / "plugin.git")


@pytest.fixture(params=["path", "working copy", "v0", "v2"])
def source(
    request: pytest.FixtureRequest, repository: Repository, tmp_path: Path
) -> Iterator[dict[str, str]]:
    """What an order says of its source, for each way to the same repository."""
    match request.param:
        case "path":
            yield {"path": str(repository.folder)}
        case "working copy":
            git(tmp_path, "clone", "--quiet", "--mirror", str(repository.folder), "copy/.git")
            git(tmp_path, "--git-dir=copy/.git", "config", "core.bare", "false")
            yield {"path": str(tmp_path / "copy")}
        case version:
            with GitServer(repository.folder.parent, versions=(0, int(version[1]))) as server:
                yield {"url": server.url("plugin.git")}


Carry = Callable[..., Heard]


@pytest.fixture
def carry_out(tmp_path: Path) -> Carry:
    """Carries out an order, each in a room of its own."""
    count = 0

    def carry(ref: str | None = None, *, login: Any = None, bounds: Bounds = BOUNDS, **source: str) -> Heard:
        nonlocal count
        count += 1
        room = tmp_path / f"room-{count}"
        for name in ("plugin", "work"):
            (room / name).mkdir(parents=True)
        order = {"path": None, "url": None, "ref": ref, "login": login, "bounds": bounds._asdict(), **source}
        order |= {"folder": str(room / "plugin"), "work": str(room / "work")}
        heard = Heard(room / "plugin")
        fetch(Order.from_plain(order), heard)
        return heard

    return carry


def test_a_commit_is_fetched_by_every_way(source, repository: Repository, carry_out: Carry):
    """By the default, a branch, a tag before a branch, a full name, a symbolic ref and a commit's id."""
    for ref, revision, main in [
        (None, repository.second, b"2"),
        ("main", repository.second, b"2"),
        ("v1", repository.first, FILES["main.ts"]),
        ("v2", repository.second, b"2"),
        ("feature/x", repository.other, b"3"),
        ("alias", repository.other, b"3"),
        ("refs/tags/v2", repository.second, b"2"),
        (repository.other, repository.other, b"3"),
    ]:
        heard = carry_out(ref, **source)
        assert heard.revision == revision
        assert (heard.folder / "main.ts").read_bytes() == main


def test_files_are_read_only_and_folders_are_not(source, carry_out: Carry):
    """Whatever the umask: 0444 and 0755, and contents byte by byte."""
    before = os.umask(0o077)
    try:
        heard = carry_out("v1", **source)
    finally:
        os.umask(before)
    assert heard.phases[0] == "connecting"
    assert heard.phases[-2:] == ["checking", "writing"]
    found = read(heard.folder)
    assert found == {**FILES, "lib/": b"", "lib/deep/": b""}
    for name in found:
        mode = stat.S_IMODE((heard.folder / name).stat().st_mode)
        assert mode == (0o755 if name.endswith("/") else 0o444)


@pytest.mark.parametrize("ref", ["v9", "refs/heads/v9", "1" * 40])
def test_what_is_not_there(source, carry_out: Carry, ref):
    """A branch, a tag and a commit that the source does not have."""
    with pytest.raises(SourceUnavailable, match=r"no branch or tag|no commit 1111"):
        carry_out(ref, **source)


def test_a_source_without_a_commit(carry_out: Carry, tmp_path: Path):
    """An empty repository, an empty folder, nothing at all."""
    git(tmp_path, "init", "--quiet", "--bare", "empty.git")
    with pytest.raises(SourceUnavailable, match="no default branch"):
        carry_out(path=str(tmp_path / "empty.git"))
    with GitServer(tmp_path) as server, pytest.raises(SourceUnavailable, match="no default branch"):
        carry_out(url=server.url("empty.git"))
    (tmp_path / "file").write_text("")
    for name, problem in [
        ("room-1", "is no git repository"),
        ("file", "is no git repository"),
        ("nowhere", "there is no such file or folder"),
        ("file/below", "there is no such file or folder"),
    ]:
        with pytest.raises(SourceUnavailable, match=f"^source: {problem}"):
            carry_out(path=str(tmp_path / name))


def test_packs_of_a_large_repository_are_closed_in_between(carry_out: Carry, tmp_path: Path):
    """What was read of a pack is not kept in memory; everything comes all the same."""
    files = {f"{number}": bytes([number]) * (1 << 20) for number in range(40)}
    make_repository(tmp_path / "r.git", files)
    git(tmp_path / "r.git", "repack", "-adq")
    large = BOUNDS._replace(total_bytes=1 << 30)
    assert read(carry_out(path=str(tmp_path / "r.git"), bounds=large).folder) == files


def test_an_object_that_was_changed_on_the_disk(carry_out: Carry, tmp_path: Path):
    """A repository's objects are what their ids say, or the fetch ends; one that is gone is named."""
    repository = tmp_path / "r.git"
    make_repository(repository, {"a": b"a", "b": b"b"})
    one, other = (
        repository / "objects" / digits[:2] / digits[2:]
        for digits in git(repository, "rev-parse", "HEAD:a", "HEAD:b").decode().split()
    )
    one.chmod(0o644)
    one.write_bytes(other.read_bytes())
    with pytest.raises(SourceInvalid, match="not what its id says"):
        carry_out(path=str(repository))
    one.unlink()
    with pytest.raises(SourceInvalid, match="is not in it"):
        carry_out(path=str(repository))


def test_a_server_that_wants_a_password(repository: Repository, carry_out: Carry):
    """Without one, with a wrong one, and with the right one, which is sent with each request."""
    with GitServer(repository.folder.parent, users={"acme": "hünter2"}) as server:
        url = server.url("plugin.git")
        with pytest.raises(SourceUnavailable, match="wants credentials"):
            carry_out(url=url)
        with pytest.raises(SourceUnavailable, match="refuses these credentials"):
            carry_out(url=url, login=["acme", "guessed"])
        assert carry_out(url=url, login=["acme", "hünter2"]).revision == repository.second
        assert all("authorization" in seen.headers for seen in server.requests[2:])


def test_a_server_that_has_no_such_repository(carry_out: Carry, tmp_path: Path):
    """A status that says so is told from other ones."""
    with GitServer(tmp_path) as server, pytest.raises(SourceUnavailable, match="no such repository"):
        carry_out(url=server.url("nothing.git"))


def test_a_server_that_is_not_there(carry_out: Carry):
    """Nobody listens, and no name: said as the network says it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(SourceUnavailable, match="Connection refused"):
        carry_out(url=f"http://127.0.0.1:{port}/x")
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        carry_out(url="https://nowhere.invalid/x")


def test_a_server_that_does_not_speak_tls(carry_out: Carry, repository: Repository):
    """`https` is not spoken in the clear to who does not know it."""
    with GitServer(repository.folder.parent) as server, pytest.raises(SourceUnavailable, match="reached"):
        carry_out(url=server.url("plugin.git").replace("http:", "https:"))


REFS = "application/x-git-upload-pack-advertisement"


@pytest.mark.parametrize(
    ("refs", "packs", "error"),
    [
        (
            lambda: [response("", status="302 Found", headers="Location: http://a.example/\r\n")],
            tuple,
            "a.example",
        ),
        (lambda: [response("", status="302 Found", headers="Location: http://[/\r\n")], tuple, "no URL"),
        (lambda: [response(REFS, status="500 Oh")], tuple, "status 500"),
        (lambda: [response("text/html")], tuple, "'text/html'"),
        (lambda: [response(REFS, headers="Content-Encoding: gzip\r\n")], tuple, "'gzip'"),
        (lambda: [REFS_HEAD, packet(b"x" * 60_000) * 20], tuple, "before its pack"),
        (advertised(X.digits), answered(X.digits, os.urandom(2 << 20)), "sends more bytes"),
        (advertised(X.digits), lambda: [response("text/html")], "content-type"),
        (advertised(X.digits), lambda: [PACK_HEAD, b"zzzz"], "not understood"),
        (advertised(X.digits), answered(X.digits, pack(*plain(X))), "is a blob"),
        (advertised(X.digits, capabilities=b"agent=old"), tuple, "shallow"),
    ],
)
def test_a_server_that_does_it_wrong(carry_out: Carry, refs: Script, packs: Script, error):
    """Each is refused for what it is, before anything is written."""
    kinds = (SourceInvalid, SourceUnavailable, FetchLimitExceeded)
    with HostileServer(refs=refs, pack=packs) as server, pytest.raises(kinds, match=error):
        carry_out(url=server.url)


def test_an_answer_that_goes_on_is_not_read_to_its_end(carry_out: Carry):
    """What follows the refs on a connection is not taken for the answer to the next request."""
    more = [*advertised(X.digits)(), b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"]
    with (
        HostileServer(refs=lambda: more, pack=answered(X.digits, pack(*plain(X)))) as server,
        pytest.raises(SourceInvalid, match="is a blob"),
    ):
        carry_out(url=server.url)


def test_packs_that_lie_elsewhere_are_not_fetched(carry_out: Carry):
    """The addresses of packs in an answer are not followed; the error names where they lead."""
    uri = b"https://packs.example/x.pack sha1 " + b"a" * 40 + b"\n"
    answer = packet(b"packfile-uris\n") + packet(uri) + packet(b"packfile\n") + b"0000"
    server = HostileServer(
        refs=lambda: [REFS_HEAD, packet(b"version 2\n"), packet(b"fetch=shallow\n"), b"0000"],
        pack=one_after_another(
            lambda: [PACK_HEAD, packet(X.digits + b" HEAD\n"), b"0000"], lambda: [PACK_HEAD, answer]
        ),
    )
    with server, pytest.raises(SourceInvalid, match=r"packs\.example"):
        carry_out(url=server.url)


# --- files


def test_what_is_there_is_not_written_to(tmp_path: Path):
    """A file, or a link to one elsewhere, that is there already ends it; a folder that is there, too."""
    data = io.BytesIO(pack(*plain(X)))
    objects = Objects(data, scan(data, BOUNDS))
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "plugin" / "lib").symlink_to(tmp_path)
    for path in ("link", "lib/x"):
        with pytest.raises(FileExistsError):
            write_files(str(tmp_path / "plugin"), [PlannedFile(path, X.id)], objects, print)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plugin"]


# --- the entry


@pytest.fixture
def order_on_stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Lets `entry` read these bytes, and then the end."""

    def put(data: bytes) -> None:
        pieces = [data[:10], data[10:], b""]
        monkeypatch.setattr(entry, "read", lambda _fd, _size: pieces.pop(0))

    return put


def test_the_order_is_one_line(order_on_stdin):
    """It may come in pieces; the end of the pipe before it is the end of the host."""
    order = {"sys_path": ["/x"], "package": "/x/coredeno"}
    order_on_stdin(json.dumps(order).encode() + b"\n")
    assert entry.read_order() == order
    order_on_stdin(b"half an or")
    assert entry.read_order() is None


def test_coredeno_is_found_without_what_its_face_imports(monkeypatch: pytest.MonkeyPatch):
    """The package is a bare one, whose modules are where the host has them."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "coredeno", sys.modules["coredeno"])
    entry.prepare({"sys_path": ["/a", "/b"], "package": "/x/coredeno"})
    assert sys.path == ["/a", "/b"]
    assert sys.modules["coredeno"].__path__ == ["/x/coredeno"]
    assert not hasattr(sys.modules["coredeno"], "PluginHost")
