"""Signing a plugin's folder, and the key that does it, on a real disk and beside a real openssl."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest
from nacl.signing import SigningKey as NaclKey

from coredeno.config import FetchLimits
from coredeno.errors import (
    FetchLimitExceeded,
    InstallError,
    ManifestError,
    SignatureError,
    UnsafePath,
    UsageError,
)
from coredeno.install import signing
from coredeno.install.keys import verifies
from coredeno.install.release import (
    CONTEXT,
    MANIFEST,
    RELEASE,
    SIGNATURE,
    ReleaseFile,
    parse_release,
    parse_signature,
    verify_release,
)
from coredeno.install.signing import SigningKey, sign_folder

PEM = """\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
"""
PUBLIC = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"
"""The example of RFC 8410, section 10.3."""


@pytest.fixture
def key() -> SigningKey:
    return SigningKey(bytes(range(32)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "plugin"
    (folder / ".core").mkdir(parents=True)
    (folder / MANIFEST).write_text("code: tagger\nversion: 1.2.0\n")
    (folder / "main.ts").write_text("export function init() {}\n")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "key.pem"
    file.write_text(PEM)
    file.chmod(0o600)
    return file


def openssl(*arguments: object, data: bytes = b"") -> bytes:
    return subprocess.run(
        ["openssl", *map(str, arguments)], input=data, capture_output=True, check=True
    ).stdout


def verified(folder: Path):
    data = (folder / RELEASE).read_bytes()
    signature = parse_signature((folder / SIGNATURE).read_bytes())
    verify_release(data, signature)
    return parse_release(data), signature.key


# --- the key


def test_a_key_of_a_standard(file: Path):
    """The example of RFC 8410 is read as it says."""
    key = SigningKey.load(file)
    assert key.public_hex == PUBLIC
    assert key.public_base64 == "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="


def test_keys_of_openssl_are_read(tmp_path: Path):
    """What `openssl genpkey` writes is a key here, and openssl accepts its signatures."""
    file = tmp_path / "key.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", file)
    key = SigningKey.load(file)
    public = openssl("pkey", "-in", file, "-pubout", "-outform", "DER")
    assert public[-32:].hex() == key.public_hex
    (tmp_path / "message").write_bytes(b"message")
    (tmp_path / "signature").write_bytes(key.sign(b"message"))
    (tmp_path / "public").write_bytes(public)
    out = openssl(
        *("pkeyutl", "-verify", "-rawin", "-in", tmp_path / "message", "-sigfile", tmp_path / "signature"),
        *("-pubin", "-inkey", tmp_path / "public", "-keyform", "DER"),
    )
    assert b"Verified Successfully" in out


def test_keys_are_read_by_openssl(tmp_path: Path):
    """What `save` writes, byte for byte as openssl would, and `load` reads it again."""
    file = tmp_path / "key.pem"
    key = SigningKey.generate()
    key.save(file)
    assert openssl("pkey", "-in", file) == file.read_bytes()
    assert SigningKey.load(str(file)).public_hex == key.public_hex


def test_every_key_is_another():
    """`generate` draws from the system."""
    assert len({SigningKey.generate().public_hex for _ in range(20)}) == 20


def test_a_key_says_nothing_secret(key: SigningKey):
    """Its `repr` shows the public half alone."""
    assert repr(key) == str(key) == f"SigningKey(public_hex={key.public_hex!r})"
    assert bytes(range(32)).hex() not in repr(vars(key))


def test_signatures(key: SigningKey):
    """Are those of ed25519, of any bytes."""
    assert key.sign(b"") == NaclKey(bytes(range(32))).sign(b"").signature
    assert verifies(key.public_hex, b"x", key.sign(b"x"))


def test_a_seed_has_32_bytes():
    """Anything else is a mistake of the caller."""
    with pytest.raises(UsageError, match="has 31 bytes, wanted 32"):
        SigningKey(bytes(31))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_mode_of_a_saved_key(tmp_path: Path, key: SigningKey, umask: int):
    """0600, whatever the umask is."""
    former = os.umask(umask)
    try:
        key.save(tmp_path / "key.pem")
    finally:
        os.umask(former)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "folder"])
def test_nothing_is_overwritten(tmp_path: Path, key: SigningKey, kind: str):
    """Nor is a link followed: a lost key cannot be had again."""
    there = tmp_path / "there"
    other = tmp_path / "other"
    if kind == "folder":
        there.mkdir()
    elif kind == "file":
        there.write_text("old")
    else:
        there.symlink_to(other)
        if kind == "link":
            other.write_text("old")
    with pytest.raises(UsageError, match="exists, wanted a new file"):
        key.save(there)
    assert not other.exists() or other.read_text() == "old"


def test_a_key_that_cannot_be_saved(tmp_path: Path, key: SigningKey):
    """The error says why."""
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        key.save(tmp_path / "nowhere" / "key.pem")


def test_a_key_is_on_the_disk_or_not_there(tmp_path: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch):
    """File and name are synced, in this order; if that fails, no half key is left behind."""
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        if len(synced) == 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    key.save(tmp_path / "key.pem")
    assert synced == [False, True]
    with pytest.raises(UsageError, match="No space left"):
        key.save(tmp_path / "other.pem")
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o644, 0o602])
def test_a_key_that_others_may_reach_is_refused(file: Path, mode: int):
    """As ssh does; the message says the mode."""
    file.chmod(mode)
    with pytest.raises(UsageError, match=f"has mode {mode:04o}, wanted 0600"):
        SigningKey.load(file)


def test_a_key_may_be_reached_through_a_link(file: Path):
    """Secrets that are mounted are links; the mode that counts is the file's."""
    link = file.with_name("link")
    link.symlink_to(file)
    file.chmod(0o400)
    assert SigningKey.load(link).public_hex == PUBLIC


BODY = PEM.splitlines()[1]
NOT_A_KEY = {
    "empty": ("", "is no PKCS#8 in PEM"),
    "text": ("hello", "is no PKCS#8 in PEM"),
    "only the body": (BODY, "is no PKCS#8 in PEM"),
    "not ASCII": (PEM.replace("MC4", "MCä"), "is no PKCS#8 in PEM"),
    "two keys": (PEM + PEM, "is no PKCS#8 in PEM"),
    "public": (PEM.replace("PRIVATE", "PUBLIC"), "is no PKCS#8 in PEM"),
    "of ssh": (PEM.replace("PRIVATE", "OPENSSH PRIVATE"), "is no PKCS#8 in PEM"),
    "encrypted": (PEM.replace("PRIVATE", "ENCRYPTED PRIVATE"), "is encrypted"),
    "base64": (PEM.replace(BODY, BODY[:-1]), "its base64 is broken"),
    "short": (PEM.replace(BODY, BODY[:-4]), "another kind"),
    "long": (PEM.replace(BODY, BODY + "AAAA"), "another kind"),
    "X25519": (PEM.replace("K2Vw", "K2Vu"), "another kind"),
    "huge": (PEM + "\n" * 4096, "more than 4,096 bytes"),
}


@pytest.mark.parametrize(("text", "reason"), NOT_A_KEY.values(), ids=NOT_A_KEY)
def test_what_is_no_key_is_refused(file: Path, text: str, reason: str):
    """The message says what it is and what was wanted, and nothing of what is in the file."""
    file.write_text(text)
    with pytest.raises(UsageError, match=reason) as caught:
        SigningKey.load(file)
    assert BODY[8:20] not in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str):
    """At once: nothing waits for a fifo's writer."""
    path = tmp_path / "key"
    if kind == "folder":
        path.mkdir(mode=0o700)
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    with pytest.raises(UsageError, match="cannot be read: No such" if kind == "missing" else "no plain file"):
        SigningKey.load(path)


def test_line_ends_and_blank_lines_do_not_matter(file: Path):
    """The file may have gone through an editor of another system."""
    file.write_bytes(b"\n" + PEM.replace("\n", "\r\n").encode() + b"\n")
    assert SigningKey.load(file).public_hex == PUBLIC


# --- the folder


def test_what_is_signed(folder: Path, key: SigningKey):
    """Every file with hash and size, and what the manifest says; a host can verify it."""
    (folder / "lib").mkdir()
    (folder / "lib" / "größe.bin").write_bytes(bytes(3_000_000))
    (folder / "empty").mkdir()
    (folder / ".gitignore").write_bytes(b"")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (folder / "run.sh").write_text("x")
    (folder / "run.sh").chmod(0o755)
    release = sign_folder(folder, key, seq=7)
    assert verified(folder) == (release, key.public_hex)
    assert (release.code, release.version, release.seq, release.entry) == ("tagger", "1.2.0", 7, "main.ts")
    expected = [".core/view.yml", ".gitignore", "lib/größe.bin", "main.ts", "run.sh"]
    assert [file.path for file in release.files] == expected
    for file in release.files:
        data = (folder / file.path).read_bytes()
        assert file == ReleaseFile(file.path, hashlib.sha256(data).hexdigest(), len(data))
    assert release.digest == hashlib.sha256((folder / RELEASE).read_bytes()).hexdigest()


def test_signing_again_changes_nothing(folder: Path, key: SigningKey):
    """The same files give the same bytes, also where the two files lay there before."""
    first = sign_folder(str(folder), key, seq=1)
    before = [(folder / name).read_bytes() for name in (RELEASE, SIGNATURE)]
    assert sign_folder(folder, key, seq=1) == first
    assert [(folder / name).read_bytes() for name in (RELEASE, SIGNATURE)] == before
    assert sorted(path.name for path in (folder / ".core").iterdir()) == [
        "release.json",
        "release.sig",
        "view.yml",
    ]


@pytest.mark.parametrize("change", ["file", "version", "seq"])
def test_a_number_that_was_signed_before(folder: Path, key: SigningKey, change: str):
    """Is refused for other content, as is a lower one; what was signed stays as it is."""
    first = sign_folder(folder, key, seq=7)
    if change == "file":
        (folder / "main.ts").write_text("changed")
    elif change == "version":
        (folder / MANIFEST).write_text("code: tagger\nversion: 1.3.0\n")
    lower = 6 if change == "seq" else 7
    with pytest.raises(
        UsageError, match=f"seq is {lower}, but .* signed as 7 before, wanted a higher number"
    ):
        sign_folder(folder, key, seq=lower)
    assert verified(folder)[0] == first
    assert sign_folder(folder, key, seq=8).seq == 8


@pytest.mark.parametrize("former", ["nonsense", "other", "fifo", "folder"])
def test_what_lay_there_and_was_no_release_of_it(folder: Path, key: SigningKey, former: str):
    """Of what is not understood, and of another plugin, no number is taken; it is replaced if it is a file."""
    if former == "fifo":
        os.mkfifo(folder / RELEASE)
    elif former == "folder":
        (folder / RELEASE).mkdir()
    elif former == "other":
        (folder / MANIFEST).write_text("code: other\n")
        sign_folder(folder, key, seq=9)
        (folder / MANIFEST).write_text("code: tagger\n")
    else:
        (folder / RELEASE).write_text("{")
    if former in ("fifo", "folder"):
        with pytest.raises(InstallError, match=r"\.core/release\.json: "):
            sign_folder(folder, key, seq=1)
    else:
        assert sign_folder(folder, key, seq=1).seq == 1


@pytest.mark.parametrize("kind", ["PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"])
def test_a_private_key_is_not_signed(folder: Path, key: SigningKey, kind: str):
    """It would be published with the plugin; the message names the file, and nothing that is in it."""
    secret = PEM.replace("PRIVATE KEY", kind)
    (folder / "keys").mkdir()
    (folder / "keys" / "mine.txt").write_text("# my key\n" + secret)
    problem = "'keys/mine.txt' is a private key, wanted it outside of the plugin's folder"
    with pytest.raises(UsageError, match=problem) as caught:
        sign_folder(folder, key, seq=1)
    assert BODY[8:20] not in str(caught.value)
    assert not (folder / RELEASE).exists()
    (folder / "keys" / "mine.txt").write_text("x" * 1024 + secret)  # a text that has one further on
    sign_folder(folder, key, seq=1)


def test_a_git_file_at_the_top_is_left_out(folder: Path, key: SigningKey):
    """In a worktree `.git` is a file."""
    (folder / ".git").write_text("gitdir: elsewhere")
    assert ".git" not in [file.path for file in sign_folder(folder, key, seq=1).files]


@pytest.mark.parametrize("seq", [0, -1, 2**63, True, 1.0, "1", None])
def test_numbers_that_no_release_has(folder: Path, key: SigningKey, seq: object):
    """Are refused before anything is read or written."""
    with pytest.raises(UsageError, match=r"seq is .*, wanted a whole number"):
        sign_folder(folder, key, seq=seq)
    assert not (folder / RELEASE).exists()


def test_the_highest_number(folder: Path, key: SigningKey):
    """2**63-1 is one, the last."""
    assert sign_folder(folder, key, seq=2**63 - 1).seq == 2**63 - 1


@pytest.mark.parametrize(
    ("manifest", "field", "reason"),
    [
        (None, "", "is missing"),
        ("colour: red\n", "colour", "not a known field"),
        ("code: tagger\nentry: other.ts\n", "entry", "is 'other.ts', wanted a file of the folder"),
        ("code: tagger\nentry: lib\n", "entry", "is 'lib', wanted a file of the folder"),
        ("code: tagger\n" + "#" * 70_000, "", "wanted at most"),
        ("code: tagger\n" + "#" * 2_000_000, "", "has 2,000,013 bytes"),
    ],
)
def test_a_manifest_that_is_none(
    folder: Path, key: SigningKey, manifest: str | None, field: str, reason: str
):
    """Nothing is signed that no host would take."""
    (folder / "lib").mkdir()
    (folder / "lib" / "a.ts").write_text("")
    (folder / MANIFEST).unlink()
    if manifest is not None:
        (folder / MANIFEST).write_text(manifest)
    with pytest.raises(ManifestError, match=reason) as caught:
        sign_folder(folder, key, seq=1)
    assert (caught.value.file, caught.value.field) == (MANIFEST, field)
    assert not (folder / RELEASE).exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nul.ts", "is a device"),
        ("lib/.git", "is git's own"),
        (".GIT", "is git's own"),
        (".gitmodules", "is git's own"),
        ("A\u202eb", r"U\+202E"),
        ("trailing.", "ends with a space or dot"),
        ("MAIN.ts", "the same"),
        (".core/Release.json", "the same"),
        ("lib/x\\y", "its name has"),
        (".core/.coredeno-tmp-0011", "its name has"),
        ("x" * 241, "wanted at most 240"),
    ],
)
def test_names_that_no_host_would_take(folder: Path, key: SigningKey, name: str, reason: str):
    """Are refused by the same rules as at installing; so is what an interrupted signing left behind."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    with pytest.raises(UnsafePath, match=reason) as caught:
        sign_folder(folder, key, seq=1)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["symlink", "entry", "folder", "fifo", "release"])
def test_what_is_no_plain_file(folder: Path, key: SigningKey, tmp_path: Path, kind: str):
    """Is refused by name, never followed, never replaced."""
    victim = {"entry": folder / "main.ts", "release": folder / RELEASE}.get(kind, folder / "odd")
    victim.unlink(missing_ok=True)
    outside = tmp_path / "outside"
    outside.write_text("of another")
    if kind == "fifo":
        os.mkfifo(victim)
    else:
        victim.symlink_to(tmp_path if kind == "folder" else outside)
    with pytest.raises(
        InstallError if kind == "release" else UnsafePath, match=r"release\.json|odd|main\.ts"
    ):
        sign_folder(folder, key, seq=1)
    assert outside.read_text() == "of another"


def test_a_folder_that_is_not_there(tmp_path: Path, key: SigningKey):
    """It cannot be read."""
    with pytest.raises(InstallError, match="cannot be read"):
        sign_folder(tmp_path / "nowhere", key, seq=1)


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def test_a_file_that_is_too_large(folder: Path, key: SigningKey):
    """32 MiB is the most that an install takes by default."""
    sparse(folder / "large", 32 * 1024 * 1024)
    sign_folder(folder, key, seq=1)
    sparse(folder / "large", 32 * 1024 * 1024 + 1)
    with pytest.raises(FetchLimitExceeded, match=r"^large: is larger: wanted at most 33,554,432") as caught:
        sign_folder(folder, key, seq=1)
    assert (caught.value.limit, caught.value.allowed) == ("file_bytes", 32 * 1024 * 1024)


def test_too_many_bytes(folder: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch):
    """All files together, the list and its signature too."""
    monkeypatch.setattr(signing, "FetchLimits", lambda: FetchLimits(total_bytes=5000))
    used = sum(path.stat().st_size for path in (folder / MANIFEST, folder / "main.ts"))
    sparse(folder / "rest", 5000 - used)
    with pytest.raises(FetchLimitExceeded, match=r"^\.core/release\.json: all files together") as caught:
        sign_folder(folder, key, seq=1)
    assert caught.value.limit == "total_bytes"
    sparse(folder / "rest", 5000 - used + 1)
    with pytest.raises(
        FetchLimitExceeded, match=r"^rest: all files together are larger: wanted at most 5,000"
    ):
        sign_folder(folder, key, seq=1)
    assert not (folder / RELEASE).exists()


def test_too_many_files(folder: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch):
    """Files and folders count, and so do the two that signing adds."""
    monkeypatch.setattr(signing, "FetchLimits", lambda: FetchLimits(files=5))
    sign_folder(folder, key, seq=1)
    (folder / "more").write_text("")
    with pytest.raises(FetchLimitExceeded) as caught:
        sign_folder(folder, key, seq=1)
    assert caught.value.limit == "files"


def test_too_many_levels(folder: Path, key: SigningKey):
    """32 folders within one another, as everywhere."""
    deep = folder.joinpath(*["d"] * 33)
    deep.mkdir(parents=True)
    with pytest.raises(FetchLimitExceeded, match="more than 32 folders"):
        sign_folder(folder, key, seq=1)


def test_a_disk_that_is_full(folder: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch):
    """What was signed before is whole; nothing half written stays."""
    first = sign_folder(folder, key, seq=1)

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("coredeno.services.descriptors.write_all", full)
    with pytest.raises(InstallError, match="No space left on device"):
        sign_folder(folder, key, seq=2)
    assert verified(folder)[0] == first
    assert sorted(path.name for path in (folder / ".core").iterdir()) == [
        "release.json",
        "release.sig",
        "view.yml",
    ]


def test_order_on_the_disk(folder: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch):
    """First the list, synced and renamed, then the signature: between them nobody accepts the folder."""
    sign_folder(folder, key, seq=1)
    steps = []
    rename, fsync = os.rename, os.fsync

    def seen_rename(source: bytes, target: bytes, **where: int) -> None:
        if target == b"release.sig":
            with pytest.raises(SignatureError):
                verified(folder)
        steps.append(target.decode())
        rename(source, target, **where)

    def seen_fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "rename", seen_rename)
    monkeypatch.setattr(os, "fsync", seen_fsync)
    sign_folder(folder, key, seq=2)
    assert steps == ["file", "release.json", "folder", "file", "release.sig", "folder"]
    assert verified(folder)[0].seq == 2


def test_the_prefix_keeps_signatures_apart(folder: Path, key: SigningKey):
    """What is signed begins with words that nothing else begins with."""
    sign_folder(folder, key, seq=1)
    data, signature = (folder / RELEASE).read_bytes(), parse_signature((folder / SIGNATURE).read_bytes())
    assert verifies(key.public_hex, CONTEXT + data, signature.signature)
    assert not verifies(key.public_hex, data, signature.signature)
