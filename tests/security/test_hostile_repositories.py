"""Repositories that are made to harm, as a real fetching process meets them: cases 2 to 9 of installing."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import os
import socket
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from coredeno.errors import (
    FetchLimitExceeded,
    FetchTimeout,
    InstallError,
    SourceInvalid,
    SourceRefused,
    SourceUnavailable,
    UnsafePath,
)
from coredeno.install.git import Credentials, GitFetcher
from tests.git.attempts import attempt, refusal
from tests.git.hostile import (
    CAPABILITIES,
    PACK_HEAD,
    REFS_HEAD,
    STALL,
    HostileServer,
    Script,
    advertised,
    answered,
    one_after_another,
    packet,
    response,
)
from tests.git.objects import (
    BLOB,
    FILE,
    FOLDER,
    LINK,
    SUBMODULE,
    Object,
    blob,
    commit,
    copy,
    delta,
    entry,
    insert,
    ofs_delta,
    pack,
    pack_of,
    plain,
    ref_delta,
    tag,
    tree,
)
from tests.git.repositories import commit as commit_files
from tests.git.repositories import git, make_repository
from tests.git.server import make_certificate

X = blob(b"x")
MIB = 1024 * 1024


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return tmp_path / "room"


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The port of a server to which nobody may connect."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        yield listener.getsockname()[1]
        with pytest.raises(BlockingIOError):
            listener.accept()


async def refused(room: Path, server: HostileServer, **limits: float) -> InstallError:
    with server:
        return await refusal(room, server.url, **limits)


async def refused_tree(room: Path, root: Object, *others: Object, **limits: float) -> InstallError:
    return await refused(room, HostileServer.of(*pack_of(root, *others)), **limits)


def never() -> Iterator[bytes]:
    pytest.fail("it was asked for a pack")
    yield b""


# --- 2: what is no source


@pytest.mark.parametrize(
    "source",
    [
        "ext::sh -c touch% /tmp/x",
        "--upload-pack=touch /tmp/x",
        "host:path",
        "git://127.0.0.1/x",
        "ssh://-oProxyCommand=touch/x",
        "http://git.example/x",
        "https://user:hunter2@git.example/x",
    ],
)
async def test_no_process_is_started_for_what_is_no_source(room: Path, monkeypatch, source):
    """Commands, options, hosts of ssh, other schemes and passwords are refused before anything happens."""
    monkeypatch.setattr(asyncio.get_running_loop(), "subprocess_exec", never)
    error = await refusal(room, source)
    assert isinstance(error, SourceRefused)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("ref", ["--upload-pack=touch /tmp/x", "main:evil", "a\nb", "../../x"])
async def test_no_process_is_started_for_what_is_no_ref(room: Path, monkeypatch, ref):
    """What a ref could do on a command line or in a request is refused before anything happens."""
    monkeypatch.setattr(asyncio.get_running_loop(), "subprocess_exec", never)
    assert isinstance(await refusal(room, "/nowhere", ref), SourceRefused)


# --- 3: servers that lead elsewhere, or are none


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
async def test_redirects_are_not_followed(room: Path, elsewhere: int, status):
    """A redirect to another server is refused, and the error names that server, to which no request was made."""
    target = f"Location: http://127.0.0.1:{elsewhere}/x/info/refs?service=git-upload-pack\r\n"
    error = await refused(
        room, HostileServer(refs=lambda: [response("", status=status, headers=target)], pack=never)
    )
    assert isinstance(error, SourceInvalid)
    assert f"127.0.0.1:{elsewhere}" in str(error)


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("file:///etc/passwd", "file:"),
        ("/other/info/refs?service=git-upload-pack", "127.0.0.1"),
        ("https://user:hunter2@\x1b31m.example/", r"\x1b31m.example"),
        ("https://user:hunter2@[31m.example/", "what is no URL"),
        ("", "127.0.0.1"),
    ],
)
async def test_redirects_to_odd_places_are_not_followed(room: Path, target, named):
    """To a file, on the same server, to a name that would colour a terminal, to nowhere."""
    headers = f"Location: {target}\r\n"
    error = await refused(
        room, HostileServer(refs=lambda: [response("", status="302 Found", headers=headers)], pack=never)
    )
    assert isinstance(error, SourceInvalid)
    assert named in str(error)
    assert "hunter2" not in str(error)


async def test_the_pack_is_not_redirected_either(room: Path, elsewhere: int):
    """A redirect of the second request is refused like one of the first."""
    headers = f"Location: http://127.0.0.1:{elsewhere}/x/git-upload-pack\r\n"
    server = HostileServer(
        refs=advertised(X.digits), pack=lambda: [response("", status="307 Temporary", headers=headers)]
    )
    error = await refused(room, server)
    assert isinstance(error, SourceInvalid)
    assert f"127.0.0.1:{elsewhere}" in str(error)


async def test_packs_from_elsewhere_are_not_fetched(room: Path, elsewhere: int):
    """A server that offers `packfile-uris` is not followed to them."""
    uri = f"{'a' * 40} https://127.0.0.1:{elsewhere}/x.pack\n".encode()
    version_2 = [b"version 2\n", b"ls-refs\n", b"fetch=shallow packfile-uris\n", b"packfile-uris\n"]
    server = HostileServer(
        refs=lambda: [REFS_HEAD, *map(packet, version_2), b"0000"],
        pack=one_after_another(
            lambda: [PACK_HEAD, packet(X.digits + b" HEAD\n"), b"0000"],
            lambda: [
                PACK_HEAD,
                packet(b"packfile-uris\n"),
                packet(uri),
                b"0001",
                packet(b"packfile\n"),
                b"0000",
            ],
            lambda: [
                PACK_HEAD,
                packet(b"packfile-uris\n"),
                packet(f"https://127.0.0.1:{elsewhere}/x.pack sha1 {'a' * 40}\n".encode()),
                packet(b"packfile\n"),
                b"0000",
            ],
        ),
    )
    for number in range(2):
        with (
            server
            if number == 0
            else HostileServer(refs=server.scripts["GET"], pack=server.scripts["POST"]) as on
        ):
            error = await refusal(room / str(number), on.url)
        assert isinstance(error, SourceInvalid)


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (response("text/html; charset=utf-8"), "'text/html', wanted application/x-git"),
        (response("text/plain"), "'text/plain'"),
        (REFS_HEAD, "not understood"),
        (response("application/x-git-upload-pack-advertisement", status="500 Oh"), "status 500"),
        (response("application/x-git-upload-pack-advertisement", status="204 No"), "status 204"),
        (b"\x16\x03\x01not http at all\r\n\r\n", "not understood"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", "not understood"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", "not understood"),
    ],
)
async def test_a_page_of_html_is_no_repository(room: Path, head, problem):
    """What is not git's smart HTTP, by its type or by its bytes, is refused, and no pack is asked for."""
    server = HostileServer(refs=lambda: [head, b"<!doctype html><title>Not here</title>" * 100], pack=never)
    with pytest.raises((SourceInvalid, SourceUnavailable), match=problem):
        raise await refused(room, server)


async def test_a_password_stays_with_its_host(room: Path, elsewhere: int):
    """Credentials go to the server that was named, and not where it would have them go."""
    headers = f"Location: http://127.0.0.1:{elsewhere}/x\r\n"
    asked: list[str] = []

    async def login(host: str) -> Credentials:
        asked.append(host)
        return Credentials("acme", "hunter2")

    fetcher = GitFetcher(credentials=login)
    with HostileServer(refs=lambda: [response("", status="302 Found", headers=headers)]) as server:
        outcome = await attempt(room, server.url, fetcher=fetcher)
        assert asked == [f"127.0.0.1:{server.port}"]
        assert server.requests[0].headers["authorization"].startswith("Basic ")
    assert isinstance(outcome.error, SourceInvalid)
    assert "hunter2" not in str(outcome.error)


# --- 4: servers that never end, or never begin


def drip(*pieces: bytes) -> Iterator[bytes | float]:
    for byte in b"".join(pieces):
        yield bytes([byte])
        yield 0.1


STALLS: dict[str, tuple[Script, Script]] = {
    "before a word": (lambda: [STALL], never),
    "in the head": (lambda: [REFS_HEAD[:20], STALL], never),
    "in the refs": (lambda: [REFS_HEAD + b"001e#", STALL], never),
    "before the pack": (advertised(X.digits), lambda: [STALL]),
    "in the pack": (
        advertised(X.digits),
        lambda: [*[*answered(X.digits, pack(*plain(X))[:20])()][:-1], STALL],
    ),
    "a byte at a time": (lambda: drip(*advertised(X.digits)()), never),
    "in continuations": (lambda: itertools.cycle([b"HTTP/1.1 100 Continue\r\n\r\n", 0.001]), never),
}


@pytest.mark.parametrize("stall", STALLS)
async def test_a_server_that_stalls_takes_no_longer_than_allowed(room: Path, stall):
    """Wherever it stops, or if it drips: a timeout error when the time is over, and its process is gone."""
    refs, packs = STALLS[stall]
    with HostileServer(refs=refs, pack=packs) as server:
        outcome = await attempt(room, server.url, timeout_s=0.8)
    assert isinstance(outcome.error, FetchTimeout)
    assert outcome.error.timeout_s == 0.8
    assert 0.8 <= outcome.seconds < 1.6
    assert outcome.files == {}


def endless(*before: bytes, again: bytes) -> Script:
    return lambda: itertools.chain(before, itertools.repeat(again))


PACK_OPENING = b"".join([*answered(X.digits, b"")()][:1])
ENDLESS: dict[str, tuple[Script, Script]] = {
    "refs": (
        endless(
            REFS_HEAD + packet(b"# service=git-upload-pack\n") + b"0000",
            packet(X.digits + b" HEAD\0" + CAPABILITIES),
            again=packet(X.digits + b" refs/heads/" + b"x" * 1000) * 16,
        ),
        never,
    ),
    "small packets": (endless(REFS_HEAD, again=packet(b"xyz") * 4096), never),
    "shallow": (
        advertised(X.digits),
        endless(PACK_HEAD, again=packet(b"shallow " + X.digits) * 1000),
    ),
    "progress": (
        advertised(X.digits),
        endless(PACK_OPENING, again=packet(b"\2" + b"Counting objects, still " * 2000)),
    ),
    "pack": (
        advertised(X.digits),
        endless(PACK_OPENING + packet(b"\1PACK\0\0\0\2\0\0\0\1"), again=packet(b"\1" + os.urandom(65000))),
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_a_server_that_never_ends_is_cut_off(room: Path, what):
    """Endless refs, progress or pack end at the limit of bytes; the host's memory does not grow with them."""
    refs, packs = ENDLESS[what]
    before = psutil.Process().memory_info().rss
    error = await refused(room, HostileServer(refs=refs, pack=packs), transfer_bytes=2 * MIB)
    assert isinstance(error, FetchLimitExceeded)
    assert error.limit == "transfer_bytes"
    assert psutil.Process().memory_info().rss - before < 40 * MIB


def chunked(head: bytes) -> bytes:
    return head.replace(b"HTTP/1.0", b"HTTP/1.1")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x;" % len(data) + LONG[:60_000] + b"\r\n" + data + b"\r\n"


LONG = b"X: " + b"a" * 60_000 + b"\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n" + LONG + b"\r\n"
AROUND_REFS: dict[str, Script] = {
    "responses before it": endless(again=CONTINUE),
    "headers": endless(REFS_HEAD[:-2], again=LONG),
    "extensions of chunks": endless(chunked(REFS_HEAD), again=chunk(packet(b"xyz"))),
    "trailers": endless(chunked(REFS_HEAD), b"0\r\n", again=LONG),
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tls") / "certificate.pem"
    make_certificate(file)
    return file


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("what", AROUND_REFS)
async def test_what_stands_around_an_answer_is_counted(
    room: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch, what, scheme
):
    """No byte of HTTP is free, in the clear or over TLS, whether it comes before, within or after a response."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = HostileServer(
        refs=AROUND_REFS[what], pack=never, certificate=certificate if scheme == "https" else None
    )
    error = await refused(room, server, transfer_bytes=100_000, timeout_s=10)
    assert isinstance(error, FetchLimitExceeded)
    assert (error.limit, error.allowed) == ("transfer_bytes", 100_000)
    assert server.sent_bytes < 16 * MIB  # the kernel's buffers, on both sides, take more than is received


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (endless(again=CONTINUE), "before its pack"),
        (
            endless(
                chunked(PACK_HEAD), chunk(PACK_OPENING[len(PACK_HEAD) :]), again=chunk(packet(b"\1PACK"))
            ),
            "sends more bytes",
        ),
    ],
)
async def test_what_stands_around_a_pack_is_counted(room: Path, answer: Script, problem: str):
    """It counts as what it stands around: before the pack it is little that may come."""
    server = HostileServer(refs=advertised(X.digits), pack=answer)
    error = await refused(room, server, transfer_bytes=5 * MIB, timeout_s=10)
    assert isinstance(error, FetchLimitExceeded)
    assert error.limit == "transfer_bytes"
    assert problem in str(error)


async def test_a_bomb_of_http_is_not_inflated(room: Path):
    """An answer in an encoding that was not asked for is refused before a byte of it is read."""
    bomb = gzip.compress(bytes(64 * MIB), 1)
    head = response("application/x-git-upload-pack-advertisement", headers="Content-Encoding: gzip\r\n")
    error = await refused(room, HostileServer(refs=lambda: [head, bomb], pack=never))
    assert isinstance(error, SourceInvalid)
    assert "gzip" in str(error)


# --- 5: bombs


@pytest.fixture(scope="module")
def zeros() -> bytes:
    """A zlib stream of 300 MiB of nothing."""
    stream = zlib.compressobj(1)
    return b"".join([*(stream.compress(bytes(MIB)) for _ in range(300)), stream.flush()])


def bomb(objects: list[bytes], **options) -> HostileServer:
    top = commit(tree((FILE, b"main.ts", X.id)))
    return HostileServer.of(top, pack(*plain(top), *objects, **options))


async def test_a_blob_of_a_gigabyte(room: Path):
    """A size over the limit is refused as it is claimed."""
    error = await refused(room, bomb([entry(BLOB, b"", size=1 << 30)]))
    assert isinstance(error, FetchLimitExceeded)
    assert error.limit == "file_bytes"
    assert "1,073,741,824" in str(error)


async def test_a_stream_that_is_larger_than_it_says(room: Path, zeros: bytes):
    """What inflates to more than its size is refused where it passes it."""
    error = await refused(room, bomb([b"\x3a" + zeros]))
    assert isinstance(error, SourceInvalid)
    assert "not the 10 bytes" in str(error)


async def test_a_delta_bomb(room: Path):
    """A few bytes that would make 2 GB of 64 KB are refused by the size that they claim."""
    base = blob(bytes(65536))
    change = delta(65536, 65536 * 32768, *[copy(0, 65536)] * 32768)
    error = await refused(room, bomb([*plain(base), ref_delta(base.id, change)]))
    assert isinstance(error, FetchLimitExceeded)
    assert error.limit == "file_bytes"


async def test_a_delta_bomb_that_lies(room: Path):
    """A delta that makes more than it claims is stopped at what it claims."""
    base = blob(bytes(65536))
    change = delta(65536, 100, *[copy(0, 65536)] * 32768)
    error = await refused(room, bomb([*plain(base), ref_delta(base.id, change)]))
    assert isinstance(error, SourceInvalid)
    assert "cannot be followed" in str(error)


async def test_a_chain_of_deltas(room: Path):
    """Each result may be as large as a file, and all together no larger than all files."""
    size = 30 * MIB
    entries = [entry(BLOB, bytes(size))]
    for number in range(1, 12):
        change = delta(
            size, size, insert(bytes([number])), *[copy(0, 0xFFFFFF)], copy(0, size - 1 - 0xFFFFFF)
        )
        entries.append(ofs_delta(len(entries[-1]), change))
    error = await refused(room, bomb(entries))
    assert isinstance(error, FetchLimitExceeded)
    assert error.limit == "total_bytes"


async def test_many_blobs(room: Path):
    """Blobs that are allowed each, and are too much together."""
    one = entry(BLOB, bytes(8 * MIB))
    error = await refused(room, bomb([one] * 40), total_bytes=64 * MIB)
    assert isinstance(error, FetchLimitExceeded)
    assert error.limit == "total_bytes"


@pytest.mark.parametrize("count", [400_000, 2**32 - 1])
async def test_too_many_objects(room: Path, count):
    """The number of objects is refused as it is claimed, before there is room made for them."""
    error = await refused(room, bomb([], count=count))
    assert isinstance(error, FetchLimitExceeded)
    assert error.limit == "objects"
    assert f"{count:,}" in str(error)


async def test_the_largest_that_is_allowed_fits_into_memory(room: Path):
    """A delta of nearly the largest size, on a base and for a result of it, is applied in what memory there is."""
    base = blob(bytes(32 * MIB))
    inserted = insert(b"\1" * 127) * (31 * MIB // 127)
    size = 31 * MIB // 127 * 127 + MIB
    change = delta(len(base.data), size, inserted, copy(0, MIB))
    made = blob(b"\1" * (size - MIB) + bytes(MIB))
    root = tree((FILE, b"base", base.id), (FILE, b"made", made.id))
    top = commit(root)
    server = HostileServer.of(top, pack(*plain(top, root, base), ref_delta(base.id, change)))
    with server:
        outcome = await attempt(room, server.url)
    assert outcome.error is None
    assert {path: len(content) for path, content in outcome.files.items()} == {
        "base": 32 * MIB,
        "made": size,
    }


async def test_paths_are_counted_where_trees_are_shared(room: Path):
    """Ten trees of ten entries each stand for ten thousand million paths: refused at the limit."""
    level = tree(*((FILE, b"%d" % name, blob(b"").id) for name in range(10)))
    levels = [level]
    for _ in range(9):
        level = tree(*((FOLDER, b"%d" % name, level.id) for name in range(10)))
        levels.append(level)
    error = await refused_tree(room, level, *levels[:-1], blob(b""))
    assert isinstance(error, FetchLimitExceeded)
    assert error.limit == "files"


async def test_twenty_thousand_levels(room: Path):
    """Folders within one another are refused at the limit, whatever lies at their end."""
    level = tree((FILE, b"x", X.id))
    levels = [level]
    for _ in range(20_000):
        level = tree((FOLDER, b"d", level.id))
        levels.append(level)
    error = await refused_tree(room, level, *levels[:-1], X)
    assert isinstance(error, FetchLimitExceeded)
    assert error.limit == "depth"


async def test_a_path_that_is_too_long(room: Path):
    """A path over 240 bytes is refused, though each of its names is short."""
    level = tree((FILE, b"x" * 60, X.id))
    levels = [level]
    for _ in range(3):
        level = tree((FOLDER, b"d" * 60, level.id))
        levels.append(level)
    error = await refused_tree(room, level, *levels[:-1], X)
    assert isinstance(error, UnsafePath)
    assert "243 bytes" in str(error)


async def test_too_many_files(room: Path):
    """The first file over the limit is named."""
    root = tree(*((FILE, b"%04d" % number, X.id) for number in range(1001)))
    error = await refused_tree(room, root, X, files=1000)
    assert isinstance(error, FetchLimitExceeded)
    assert (error.limit, error.allowed) == ("files", 1000)
    assert "'1000'" in str(error)


async def test_a_tree_of_megabytes(room: Path):
    """A tree that is larger than the files that may be in it is refused unread."""
    root = tree(*((FILE, b"%06d" % number, X.id) for number in range(40_000)))
    error = await refused_tree(room, root, X, files=1000)
    assert isinstance(error, FetchLimitExceeded)
    assert error.limit == "files"
    assert "its tree has" in str(error)


async def test_bombs_in_a_repository_on_this_machine(room: Path, tmp_path: Path, zeros: bytes):
    """A loose object that inflates without end takes no more memory than a fetch may."""
    repository = tmp_path / "local.git"
    size = 300 * MIB
    make_repository(repository, {"main.ts": b"x"})
    big = "ab" * 20
    root = tree((FILE, b"main.ts", bytes.fromhex(big)))
    top = commit(root)
    loose(repository, top.digits.decode(), zlib.compress(b"commit %d\0" % len(top.data) + top.data))
    loose(repository, root.digits.decode(), zlib.compress(b"tree %d\0" % len(root.data) + root.data))
    stream = zlib.compressobj()
    head = stream.compress(b"blob %d\0" % size) + stream.flush(zlib.Z_FULL_FLUSH)
    loose(
        repository, big, head + zeros[2:]
    )  # past the header of its own stream; it never comes to the checksum
    git(repository, "update-ref", "refs/heads/main", top.digits.decode())
    error = await refusal(room, str(repository))
    assert isinstance(error, FetchLimitExceeded)
    assert error.limit == "file_bytes"


def loose(repository: Path, digits: str, stream: bytes) -> None:
    file = repository / "objects" / digits[:2] / digits[2:]
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(stream)


async def test_a_repository_on_this_machine_runs_nothing(room: Path, tmp_path: Path):
    """Hooks, filters, aliases and included files of a repository are none of ours."""
    repository = tmp_path / "local.git"
    make_repository(repository, {"main.ts": b"x", ".gitattributes": b"* filter=evil"})
    trap = f"touch {tmp_path}/sprung"
    for name in ("post-checkout", "pre-auto-gc", "reference-transaction", "fsmonitor-watchman"):
        hook = repository / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\n{trap}\n")
        hook.chmod(0o755)
    with (repository / "config").open("a") as config:
        config.write(f'[core]\n fsmonitor = "{trap}"\n sshCommand = "{trap}"\n hooksPath = hooks\n')
        config.write(f'[filter "evil"]\n smudge = "{trap}"\n required\n[include]\n path = /dev/zero\n')
        config.write(f'[uploadpack]\n packObjectsHook = "{trap}"\n[extensions]\n partialClone = origin\n')
        config.write(f'[remote "origin"]\n url = "ext::{trap}"\n promisor = true\n')
    outcome = await attempt(room, str(repository), timeout_s=10)
    assert outcome.files.get("main.ts", b"x") == b"x"
    assert not (tmp_path / "sprung").exists()


SECRET = b"0123456789abcdef0123456789abcdef01234567"
"""What a token may look like, and an id of a commit too."""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside of every repository, of which nothing is to be seen."""
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    return file


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A repository with a working tree's form: its `.git` is a folder in it."""
    make_repository(tmp_path / "local" / ".git", {"main.ts": b"x"})
    return tmp_path / "local"


async def test_the_settings_of_a_repository_are_not_read(room: Path, local: Path, secret: Path):
    """Whatever stands in them, and what they would include: a pipe that nobody writes to is as good as none."""
    config = local / ".git" / "config"
    for number, text in enumerate(
        [
            f"[include]\n path = {secret}\n",
            "no setting at all \0",
            "[core]\n repositoryformatversion = 9\n worktree = /\n",
        ]
    ):
        config.write_text(text)
        outcome = await attempt(room / str(number), str(local))
        assert outcome.files == {"main.ts": b"x"}
    config.unlink()
    os.mkfifo(config)
    assert (await attempt(room / "pipe", str(local), timeout_s=5)).files == {"main.ts": b"x"}


@pytest.mark.parametrize(
    "name", ["HEAD", "packed-refs", "refs/heads/main", "shallow", "objects/info/commit-graph"]
)
async def test_nothing_of_a_file_that_is_read_is_in_an_error(room: Path, local: Path, secret: Path, name):
    """A file of the repository that is a link to another one tells whoever reads the error nothing of it."""
    for number, content in enumerate([SECRET, b"root:x:0:0", b"ref: refs/heads/root:x:0:0", b"", b"\xff\0"]):
        secret.write_bytes(content + b"\n" * bool(content))
        git(local, "pack-refs", "--all")
        file = local / ".git" / name
        file.unlink(missing_ok=True)
        file.symlink_to(secret)
        outcome = await attempt(room / str(number), str(local), "main" if "refs" in name else None)
        assert "root:x" not in str(outcome.error)
        assert SECRET[:8].decode() not in str(outcome.error)
        file.unlink()
        (local / ".git" / "HEAD").write_text("ref: refs/heads/main\n")


async def test_a_git_file_is_not_followed(room: Path, local: Path, tmp_path: Path):
    """What a `.git` file, a link in its place, or a worktree's folder leads to was not named by the app."""
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / ".git").write_text(f"gitdir: {local}/.git\n")
    error = await refusal(room / "file", str(fake))
    assert isinstance(error, SourceInvalid)
    assert "wanted the repository itself" in str(error)
    assert "gitdir" not in str(error)
    (fake / ".git").unlink()
    (fake / ".git").symlink_to(local / ".git")
    assert isinstance(await refusal(room / "link", str(fake)), SourceInvalid)
    git(local, "worktree", "add", "--quiet", "--detach", str(tmp_path / "tree"), "main")
    assert isinstance(await refusal(room / "tree", str(tmp_path / "tree")), SourceInvalid)
    error = await refusal(room / "worktree", str(local / ".git" / "worktrees" / "tree"))
    assert isinstance(error, SourceInvalid | SourceUnavailable)


@pytest.mark.parametrize("name", ["alternates", "http-alternates"])
async def test_objects_of_another_repository_are_not_taken(room: Path, local: Path, tmp_path: Path, name):
    """A repository that has its objects elsewhere is refused, and the error says how it becomes whole."""
    git(tmp_path, "clone", "--quiet", "--bare", "--shared", str(local), "shared.git")
    file = tmp_path / "shared.git" / "objects" / "info" / "alternates"
    file.rename(file.with_name(name))
    error = await refusal(room, str(tmp_path / "shared.git"))
    assert isinstance(error, SourceInvalid)
    assert f"git repack -a -d && rm objects/info/{name}" in str(error)
    file.with_name(name).rename(file)
    git(tmp_path / "shared.git", "repack", "-adq")
    file.unlink()
    assert (await attempt(room / "2", str(tmp_path / "shared.git"))).files == {"main.ts": b"x"}


@pytest.mark.parametrize("name", ["objects", "objects/pack", "refs", "loose", "pack"])
async def test_links_to_the_objects_of_another_repository_are_not_followed(
    room: Path, local: Path, tmp_path: Path, name
):
    """As little as alternates: of folders, of loose objects, of packs."""
    inner = local / ".git"
    if name == "loose":
        digits = git(local, "rev-parse", "main").decode().strip()
        name = f"objects/{digits[:2]}/{digits[2:]}"
    elif name == "pack":
        git(local, "repack", "-adq")
        name = f"objects/pack/{next((inner / 'objects' / 'pack').glob('*.pack')).name}"
    moved = (inner / name).rename(tmp_path / "moved")
    (inner / name).symlink_to(moved)
    error = await refusal(room, str(local))
    assert isinstance(error, SourceInvalid)
    assert "link" in str(error)


async def test_a_repository_is_read_and_not_written_to(room: Path, local: Path, tmp_path: Path):
    """Nor what its links lead to: a library makes place for a reftable by removing all branches."""
    other = tmp_path / "other.git"
    make_repository(other, {"main.ts": b"y"})
    with (local / ".git" / "config").open("a") as config:
        config.write("[core]\n repositoryformatversion = 1\n[extensions]\n refstorage = reftable\n")
    (local / ".git" / "refs").rename(tmp_path / "refs")
    (local / ".git" / "refs").symlink_to(other / "refs")
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert isinstance(await refusal(room, str(local)), SourceInvalid)
    assert {path: path.lstat().st_mtime_ns for path in before} == before


async def test_refs_in_another_form(room: Path, local: Path, tmp_path: Path):
    """Reftables and ids of SHA-256 are not read; the error says what is."""
    git(tmp_path, "init", "--quiet", "--object-format=sha256", "--initial-branch=main", "256")
    commit_files(tmp_path / "256", {"main.ts": b"x"})
    error = await refusal(room / "1", str(tmp_path / "256"))
    assert isinstance(error, SourceInvalid)
    assert "no id of SHA-1" in str(error)
    (local / ".git" / "reftable").mkdir()
    error = await refusal(room / "2", str(local))
    assert isinstance(error, SourceInvalid)
    assert "git refs migrate --ref-format=files" in str(error)


# --- 6: what is broken


def broken_packs() -> dict[str, tuple[Object, bytes, str]]:
    root = tree((FILE, b"main.ts", X.id))
    top = commit(root)
    good = plain(top, root, X)
    return {
        "a bad trailer": (top, pack(*good, trailer=bytes(20)), "checksum"),
        "no trailer": (top, pack(*good, trailer=b""), "ends within|checksum|does not inflate"),
        "cut off": (top, pack(*good)[:80], "ends within|does not inflate"),
        "empty": (top, b"", "ends within"),
        "more after its end": (top, pack(*good) + b"more", "goes on|checksum|does not inflate"),
        "a size too small": (top, pack(entry(BLOB, b"xyz", size=2), *good), "not the 2 bytes"),
        "a size too large": (top, pack(entry(BLOB, b"xyz", size=4), *good), "not the 4 bytes"),
        "an unknown type": (top, pack(entry(5, b"x"), *good), "type 5"),
        "no stream": (top, pack(b"\x31xxxxxxxxxxxx", *good), "does not inflate"),
        "no commit": (top, pack(*good[1:]), f"{top.digits.decode()} is not in it"),
        "no tree": (top, pack(good[0], good[2]), f"{root.digits.decode()} is not in it"),
        "no blob": (top, pack(*good[:2]), f"{X.digits.decode()} is not in it"),
        "a blob for a commit": (X, pack(*good), "is a blob, wanted a commit"),
        "a tree for a commit": (root, pack(*good), "is a tree, wanted a commit"),
        "a tag of a blob": (tag(X), pack(*plain(tag(X)), *good), "is not one of a commit"),
        "a thin pack": (top, pack(*good, ref_delta(bytes(20), delta(1, 1, copy(0, 1)))), "no base in it"),
        "a delta before its base": (top, pack(ofs_delta(500, b"xxx"), *good), "no base where it says"),
    }


@pytest.mark.parametrize("what", broken_packs())
async def test_a_broken_pack(room: Path, what):
    """Whatever is wrong with a pack is said, and nothing of it is written."""
    top, data, problem = broken_packs()[what]
    with pytest.raises(SourceInvalid, match=problem):
        raise await refused(room, HostileServer.of(top, data))


@pytest.mark.parametrize(
    ("before", "problem"),
    [
        (packet(b"\3access \x1b[31mdenied"), "denied"),
        (packet(b"\7what channel"), "channel"),
        (packet(b"\2progress") + b"zzzz", "not understood"),
        (b"0003", "not understood"),
        (b"ffff" + b"x" * 10, "not understood"),
    ],
)
async def test_a_broken_side_band(room: Path, before, problem):
    """An error that the server reports, and packets that are none, end the fetch; what is shown is printable."""
    server = HostileServer(refs=advertised(X.digits), pack=answered(X.digits, pack(*plain(X)), before=before))
    with pytest.raises(SourceInvalid, match=problem):
        raise await refused(room, server)


@pytest.mark.parametrize(
    "body",
    [
        b"001e# service=git-upload-pack\n0000" + packet(b"zz HEAD\0" + CAPABILITIES) + b"0000",
        b"001e# service=git-upload-pack\n0000" + packet(b"a" * 64 + b" HEAD\0" + CAPABILITIES) + b"0000",
        b"001e# service=git-upload-pack\n0000" + packet(b"nospace") + b"0000",
        b"001e# service=git-upload-pack\n0000" + packet(b"ERR no \x1b[31mway") + b"0000",
        b"001f# service=git-receive-pack\n0000" + packet(X.digits + b" HEAD\0" + CAPABILITIES) + b"0000",
        b"001e# service=git-upload-pack\n0000" + packet(X.digits + b" HEAD\0") + b"0000",
        b"001e# service=git-upload-pack\n0000" + packet(X.digits + b" HEAD\0symref=x shallow") + b"0000",
        packet(b"version 2\n") + packet(b"fetch=\n") + b"0000",
        packet(b"version 9\n") + b"0000",
        b"0000",
    ],
)
async def test_broken_refs(room: Path, body):
    """Ids and lines that are none, another service, no capabilities: refused, and no pack is written."""
    server = HostileServer(refs=lambda: [REFS_HEAD, body], pack=lambda: [PACK_HEAD, b"0000"])
    error = await refused(room, server)
    assert isinstance(error, SourceInvalid | SourceUnavailable)


async def test_an_empty_repository(room: Path):
    """A server without a single ref has nothing to give."""
    body = (
        b"001e# service=git-upload-pack\n0000"
        + packet(b"0" * 40 + b" capabilities^{}\0" + CAPABILITIES)
        + b"0000"
    )
    error = await refused(room, HostileServer(refs=lambda: [REFS_HEAD, body], pack=never))
    assert isinstance(error, SourceUnavailable)


# --- 7: names


NAMES = {
    b"..": "..",
    b".": ".",
    b"": "",
    b"/etc/passwd": "/etc/passwd",
    b"../../x": "../../x",
    b"a/../b": "a/../b",
    b".git": ".git",
    b".GIT": ".GIT",
    b"git~1": "git~1",
    b".git ": ".git ",
    b".git::$DATA": ".git::$DATA",
    b".git.": ".git.",
    ".g\u200cit".encode(): r".g\u200cit",
    b"a\\b": r"a\\b",
    b"a\nb": r"a\nb",
    b"a\x1b]0;x\x07": r"a\x1b]0;x\x07",
    "a\u202eb".encode(): r"a\u202eb",
    b"a\xff": r"a\xff",
    b"nul.ts": "nul.ts",
    b"COM1": "COM1",
    b"a.": "a.",
    b"a ": "a ",
    b"a:b": "a:b",
    b".gitmodules": ".gitmodules",
    "cafe\u0301".encode(): r"cafe\u0301",
}


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_that_may_not_be_written(room: Path, name):
    """As a file and as a folder: refused, with the path escaped in the error, and nothing written anywhere."""
    inner = tree((FILE, b"x", X.id))
    root = tree((FOLDER, name, inner.id)) if len(name) % 2 else tree((FILE, name, X.id))
    error = await refused_tree(room, root, inner, X)
    assert isinstance(error, UnsafePath)
    assert error.path == NAMES[name]


async def test_a_name_with_a_nul_is_no_entry(room: Path):
    """A NUL ends a name, so that what follows would be an id."""
    error = await refused_tree(room, tree((FILE, b"a\0b", X.id)), X)
    assert isinstance(error, SourceInvalid | UnsafePath)


# --- 8: what is no plain file


@pytest.mark.parametrize(
    ("entries", "path", "problem"),
    [
        ([(LINK, b"main.ts", blob(b"/etc/passwd").id)], "main.ts", "is a link"),
        ([(LINK, b"up", blob(b"../..").id)], "up", "is a link"),
        (
            [(LINK, b"lib", blob(b"/tmp").id), (FOLDER, b"lib", tree((FILE, b"x", X.id)).id)],
            "lib",
            "is a link",
        ),
        ([(SUBMODULE, b"sub", X.id)], "sub", "is a submodule"),
        ([(FILE, b".gitmodules", X.id)], ".gitmodules", "git's own"),
        ([(b"10644", b"fifo", X.id)], "fifo", "has the mode"),
        ([(b"60644", b"device", X.id)], "device", "has the mode"),
        ([(b"140755", b"socket", X.id)], "socket", "has the mode"),
        ([(b"104755", b"setuid", X.id)], "setuid", "has the mode"),
        ([(b"0", b"nothing", X.id)], "nothing", "has the mode"),
        ([(FILE, b"main.ts", commit(tree()).id)], "main.ts", "is a commit that stands for a file"),
        ([(FOLDER, b"lib", commit(tree()).id)], "lib", "is a commit that stands for a folder"),
    ],
)
async def test_only_plain_files_are_installed(room: Path, entries, path, problem):
    """Links, submodules, devices, odd modes and objects of another type are refused by name."""
    others = [
        X,
        blob(b"/etc/passwd"),
        blob(b"../.."),
        blob(b"/tmp"),
        tree((FILE, b"x", X.id)),
        commit(tree()),
        tree(),
    ]
    error = await refused_tree(room, tree(*entries), *others)
    assert isinstance(error, UnsafePath)
    assert error.path == path
    assert problem in str(error)


async def test_nothing_is_executable_and_attributes_change_nothing(room: Path, tmp_path: Path):
    """100755 is installed without the bit, and every byte is the blob's, whatever `.gitattributes` asks for."""
    files = {
        ".gitattributes": b"* text eol=crlf ident working-tree-encoding=UTF-16 filter=lfs export-ignore\n",
        "main.ts": b"// $Id$\nexport {};\n",
        "run.sh": b"#!/bin/sh\r\n",
    }
    make_repository(tmp_path / "r.git", {"first": b""})
    commit_files(tmp_path / "r.git", files, modes={"run.sh": "100755"})
    outcome = await attempt(room, str(tmp_path / "r.git"))
    assert outcome.files == files
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (room / "plugin").iterdir()}
    assert set(modes.values()) == {0o444}


# --- 9: names that some disks take for one


@pytest.mark.parametrize(
    "names",
    [
        (b"Main.ts", b"main.ts"),
        ("é".encode(), "É".encode()),
        ("ß".encode(), b"ss"),
        ("ﬁ".encode(), b"fi"),
        ("\u212b".encode(), "å".encode()),
        (b"main.ts", b"main.ts"),
    ],
)
async def test_names_that_are_the_same_to_some_disk(room: Path, names):
    """Case, Unicode forms and duplicates: refused, as files and as folders."""
    one, two = tree((FILE, b"1", X.id)), tree((FILE, b"2", X.id))
    for number, (kind, first, second) in enumerate([(FILE, X, X), (FOLDER, one, two)]):
        root = tree((kind, names[0], first.id), (kind, names[1], second.id))
        error = await refused_tree(room / str(number), root, one, two, X)
        assert isinstance(error, UnsafePath)
