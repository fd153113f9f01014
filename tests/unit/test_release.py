"""The signed list of a plugin's files, its signature, and keys: what is read, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import time

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from coredeno.errors import ManifestError, SignatureError, UnsafePath, UsageError
from coredeno.install.keys import parse_key, verifies
from coredeno.install.release import (
    CONTEXT,
    LIMIT_FILES,
    LIMIT_RELEASE_BYTES,
    LIMIT_SIGNATURE_BYTES,
    MANIFEST,
    RELEASE,
    SIGNATURE,
    Release,
    ReleaseFile,
    SignatureFile,
    check_manifest,
    encode_release,
    encode_signature,
    parse_release,
    parse_signature,
    verify_release,
)
from coredeno.manifest import Manifest

HASH = "ab" * 32
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


def listed(*paths: str) -> list[ReleaseFile]:
    return [ReleaseFile(path, HASH, 7) for path in (MANIFEST, "main.ts", *paths)]


def encoded(*paths: str, **changes) -> bytes:
    fields = {"code": "tagger", "version": "1.2.0", "seq": 3, "entry": "main.ts", "files": listed(*paths)}
    return encode_release(**(fields | changes))


def document(**changes) -> dict:
    return json.loads(encoded()) | changes


def as_json(value) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey(bytes(range(32)))


@pytest.fixture(scope="module")
def signed(key: SigningKey) -> tuple[bytes, SignatureFile]:
    data = encoded("lib/a.ts")
    public = bytes(key.verify_key).hex()
    return data, SignatureFile(key=public, signature=key.sign(CONTEXT + data).signature)


# --- the list


def test_bytes_of_the_list():
    """One file a line, ascending by path, with a newline at the end: a change is one line in a diff."""
    assert encoded("a/b", "a-b", "ä").decode() == (
        '{"format":1,"code":"tagger","version":"1.2.0","seq":3,"entry":"main.ts","files":[\n'
        f'[".core/view.yml","{HASH}",7],\n["a-b","{HASH}",7],\n["a/b","{HASH}",7],\n'
        f'["main.ts","{HASH}",7],\n["ä","{HASH}",7]\n]}}\n'
    )


def test_what_is_read():
    """Every field as it was written, and the SHA-256 of the very bytes as the release's identity."""
    data = encoded()
    assert parse_release(data) == Release(
        code="tagger",
        version="1.2.0",
        seq=3,
        entry="main.ts",
        files=tuple(listed()),
        digest=hashlib.sha256(data).hexdigest(),
    )


def test_white_space_is_part_of_the_identity():
    """Another spelling of the same list is another release: one appended byte is enough."""
    data = encoded()
    assert parse_release(data + b" ").digest != parse_release(data).digest
    assert parse_release(as_json(document())).files == parse_release(data).files


safe_paths = st.lists(
    st.text("abc._-äß", min_size=1, max_size=6).filter(lambda name: name.strip(".") == name),
    min_size=1,
    max_size=3,
).map("/".join)


@given(
    st.lists(safe_paths, max_size=5, unique=True),
    st.integers(1, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.randoms(),
)
def test_round_trip(paths, seq, size, random):
    """What is encoded is read as it was, and the order in which the files come makes no difference."""
    files = [*listed(), *(ReleaseFile(f"f/{path}", HASH, size) for path in paths)]
    try:
        data = encoded(files=files, seq=seq)
    except UnsafePath:  # two of the paths are the same to some file systems
        return
    shuffled = random.sample(files, len(files))
    assert encoded(files=shuffled, seq=seq) == data
    release = parse_release(data)
    assert (release.seq, list(release.files)) == (seq, sorted(files, key=lambda file: file.path))


# Each is one change of a good document, and the field that the error names.
BAD = {
    "newer format": ({"format": 2}, "format"),
    "no format": ({"format": None}, "format"),
    "format as text": ({"format": "1"}, "format"),
    "format true": ({"format": True}, "format"),
    "format 1.0": ({"format": 1.0}, "format"),
    "format 0": ({"format": 0}, "format"),
    "unknown field": ({"colour": "red"}, ""),
    "upper case": ({"code": "Tagger"}, "code"),
    "code with newline": ({"code": "tagger\n"}, "code"),
    "code leads out": ({"code": "../x"}, "code"),
    "long code": ({"code": "a" * 70}, "code"),
    "code a number": ({"code": 7}, "code"),
    "version": ({"version": "new"}, "version"),
    "seq 0": ({"seq": 0}, "seq"),
    "seq negative": ({"seq": -1}, "seq"),
    "seq beyond": ({"seq": 2**63}, "seq"),
    "seq huge": ({"seq": 10**40}, "seq"),
    "seq text": ({"seq": "3"}, "seq"),
    "seq float": ({"seq": 3.0}, "seq"),
    "seq true": ({"seq": True}, "seq"),
    "endless code": ({"code": "a" * 100_000}, "code"),
    "endless version": ({"version": "1" * 100_000}, "version"),
    "endless entry": ({"entry": "a" * 100_000}, "entry"),
    "endless path": ({"files": [["a" * 100_000, HASH, 7]]}, "files[0][0]"),
    "entry not listed": ({"entry": "other.ts"}, "entry"),
    "entry a folder": ({"entry": "."}, "entry"),
    "entry outside": ({"entry": "../main.ts"}, "entry"),
    "entry absolute": ({"entry": "/main.ts"}, "entry"),
    "entry in another spelling": ({"entry": "./main.ts"}, "entry"),
    "entry the host's": ({"entry": ".core/view.yml"}, "entry"),
    "no files": ({"files": []}, "files"),
    "files a mapping": ({"files": {}}, "files"),
    "no manifest": ({"files": [["main.ts", HASH, 7]]}, "files"),
    "a file as mapping": ({"files": [{"path": "a"}]}, "files[0]"),
    "a file of two": ({"files": [["a", HASH]]}, "files[0]"),
    "a file of four": ({"files": [["a", HASH, 7, 7]]}, "files[0]"),
    "negative size": ({"files": [["a", HASH, -1]]}, "files[0]"),
    "size beyond": ({"files": [["a", HASH, 2**63]]}, "files[0]"),
    "size text": ({"files": [["a", HASH, "7"]]}, "files[0][2]"),
    "short hash": ({"files": [["a", HASH[1:], 7]]}, "files[0]"),
    "upper hash": ({"files": [["a", HASH.upper(), 7]]}, "files[0]"),
    "hash with newline": ({"files": [["a", HASH + "\n", 7]]}, "files[0]"),
    "twice": ({"files": [["a", HASH, 7], ["a", HASH, 7]]}, "files[1]"),
    "out of order": ({"files": [["b", HASH, 7], ["a", HASH, 7]]}, "files[1]"),
    "itself": ({"files": [[RELEASE, HASH, 7]]}, "files[0]"),
    "its signature": ({"files": [[SIGNATURE, HASH, 7]]}, "files[0]"),
}


@pytest.mark.parametrize(("changes", "field"), BAD.values(), ids=BAD)
def test_a_bad_list_is_refused(changes: dict, field: str):
    """The error names the file, the field, and is fit for a terminal."""
    with pytest.raises(ManifestError) as caught:
        parse_release(as_json(document(**changes)))
    assert (caught.value.file, caught.value.field) == (RELEASE, field)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("field", ["code", "version", "seq", "entry", "files", "format"])
def test_every_field_is_needed(field: str):
    """No field has a default: what was signed says everything itself."""
    fields = document()
    del fields[field]
    with pytest.raises(ManifestError, match=field):
        parse_release(as_json(fields))


def test_a_newer_format_says_what_is_needed():
    """Not the plugin is at fault then."""
    with pytest.raises(ManifestError, match="needs a newer coredeno"):
        parse_release(as_json({"format": 7, "anything": []}))


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["../x"], "an empty"),
        (["a\u202eb"], r"U\+202E"),
        ([".git/config"], "git's own"),
        (["A.ts", "a.ts"], "the same"),
        (["a", "a/b"], "the same"),
        ([".core/RELEASE.json"], "the same"),
        ([".Core/x"], "the same"),
        ([".core/release.sig/x"], "the same"),
        (["MAIN.ts"], "the same"),
    ],
)
def test_unsafe_paths_are_refused(paths: list[str], reason: str):
    """Names that no disk should be given, and two that are one to some; the release's own two files count."""
    with pytest.raises(UnsafePath, match=reason):
        encoded(*paths)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b'{"format":1,"format":1}',
        b'{"format":NaN}',
        b'{"format":-Infinity}',
        b'{"format":1}x',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"format":' + b"9" * 5_000 + b"}",
        b'{"format":1,"co\\u001bde\\ud800":1}',
        "{}".encode("utf-16"),
    ],
)
def test_what_is_no_document_is_refused(data: bytes):
    """No JSON, another kind, a name twice, NaN, deep nesting, endless digits: one kind of error for all."""
    with pytest.raises(ManifestError) as caught:
        parse_release(data)
    assert caught.value.file == RELEASE
    assert str(caught.value).isprintable()


def test_a_name_that_stands_twice_is_refused():
    """Another program might take the other one."""
    with pytest.raises(ManifestError, match="'seq' twice"):
        parse_release(encoded().replace(b'"seq":3', b'"seq":3,"seq":4'))


def test_a_name_that_stands_twice_among_many():
    """It is found in one pass: for the 300,000 names that the limit has room for, others take minutes."""
    names = b",".join(b'"%x":0' % number for number in range(100_000))
    began = time.thread_time()
    with pytest.raises(ManifestError, match="'zz' twice"):
        parse_release(b'{"format":1,' + names + b',"zz":0,"zz":0}')
    assert time.thread_time() - began < 1


def test_a_long_name_is_cut_in_the_message():
    """An error is no place for a megabyte of somebody's."""
    with pytest.raises(ManifestError) as caught:
        parse_release(as_json({"format": 1, "x" * 1_000_000: 1}))
    assert len(str(caught.value)) < 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.one_of(
        st.binary(max_size=64),
        json_values.map(as_json),
        st.dictionaries(st.sampled_from(list(document())), json_values, max_size=2).map(
            lambda changes: as_json(document() | changes)
        ),
        st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=3)).map(
            lambda edit: encoded()[: edit[0]] + edit[1] + encoded()[edit[0] + 1 :]
        ),
    )
)
@example(as_json(document(files=[["\ud800", HASH, 7]])))
@example(as_json(document(code="\ud800")))
def test_any_bytes_give_a_release_or_a_typed_error(data: bytes):
    """Nothing else is raised, whatever the bytes are."""
    try:
        release = parse_release(data)
    except (ManifestError, UnsafePath):
        return
    assert encode_release(
        code=release.code,
        version=release.version,
        seq=release.seq,
        entry=release.entry,
        files=release.files,
    )


def test_bounds():
    """As many files of the longest paths as may be are within the 4 MiB; one file, folder or byte more is not."""
    folder = "/".join(["d" * 99, "e" * 99])
    files = [
        *listed(),
        *(ReleaseFile(f"{folder}/{number:040}", HASH, 2**40) for number in range(LIMIT_FILES - 7)),
    ]
    data = encoded(files=files)
    assert len(data) < LIMIT_RELEASE_BYTES
    # Two folders, `.core`, and four files more: the manifest, the entry, the list and its signature.
    with pytest.raises(ManifestError, match="one more file or folder than 10,000"):
        encoded(files=[*files, ReleaseFile("x", HASH, 1)])
    with pytest.raises(ManifestError, match="one more file or folder than 10,000"):
        encoded(files=[ReleaseFile("x/y", HASH, 1), *files[:-1]])
    assert parse_release(data + b" " * (LIMIT_RELEASE_BYTES - len(data)))
    with pytest.raises(ManifestError, match="4,194,305 bytes, wanted at most 4,194,304"):
        parse_release(data + b" " * (LIMIT_RELEASE_BYTES - len(data) + 1))


@pytest.mark.parametrize("field", ["code", "version", "entry"])
def test_a_manifest_that_disagrees_is_refused(field: str):
    """What the user is told, from the manifest, is what was signed."""
    release = parse_release(encoded())
    manifest = Manifest(code="tagger", version="1.2.0", entry="main.ts")
    check_manifest(release, manifest)
    with pytest.raises(ManifestError, match=r"wanted .* as in") as caught:
        check_manifest(release, msgspec.structs.replace(manifest, **{field: "other"}))
    assert (caught.value.file, caught.value.field) == (MANIFEST, field)


# --- its signature


def test_signature_round_trip(signed: tuple[bytes, SignatureFile]):
    """The file of a signature is small JSON, and read as it was written."""
    _data, signature = signed
    text = encode_signature(signature)
    assert json.loads(text).keys() == {"format", "key", "signature"}
    assert text.endswith(b"}\n")
    assert len(text) <= LIMIT_SIGNATURE_BYTES
    assert parse_signature(text) == signature


def b64(size: int) -> str:
    return base64.b64encode(bytes(size)).decode()


BAD_SIGNATURES = {
    "not JSON": (b"", "not JSON"),
    "deep": (b"[" * 1000, "nested too deeply|not JSON"),
    "too large": (b" " * 1025, "wanted at most 1,024"),
    "newer": (as_json({"format": 2}), "newer coredeno"),
    "unknown field": (as_json({"format": 1, "key": b64(32), "signature": b64(64), "x": 1}), "unknown field"),
    "no key": (as_json({"format": 1, "signature": b64(64)}), "key"),
    "31-byte key": (as_json({"format": 1, "key": b64(31), "signature": b64(64)}), "key: .* 32 bytes"),
    "33-byte key": (as_json({"format": 1, "key": b64(33), "signature": b64(64)}), "key: .* 32 bytes"),
    "63-byte signature": (
        as_json({"format": 1, "key": b64(32), "signature": b64(63)}),
        "signature: .* 64 bytes",
    ),
    "empty": (as_json({"format": 1, "key": b64(32), "signature": ""}), "signature: .* 64 bytes"),
    "white space": (as_json({"format": 1, "key": b64(32) + "\n", "signature": b64(64)}), "key: "),
    "no padding": (as_json({"format": 1, "key": b64(32).rstrip("="), "signature": b64(64)}), "key: "),
    "more padding": (as_json({"format": 1, "key": b64(32) + "=", "signature": b64(64)}), "key: "),
    "bits beyond the end": (
        as_json({"format": 1, "key": b64(32)[:-2] + "B=", "signature": b64(64)}),
        "key: ",
    ),
    "URL alphabet": (as_json({"format": 1, "key": "_" * 43 + "=", "signature": b64(64)}), "key: "),
    "not ASCII": (as_json({"format": 1, "key": "ä" * 44, "signature": b64(64)}), "key: "),
    "hex": (as_json({"format": 1, "key": "ab" * 32, "signature": b64(64)}), "key: "),
    "number": (as_json({"format": 1, "key": 7, "signature": b64(64)}), "key: "),
}


@pytest.mark.parametrize(("data", "reason"), BAD_SIGNATURES.values(), ids=BAD_SIGNATURES)
def test_a_bad_signature_file_is_refused(data: bytes, reason: str):
    """Lengths and base64 are exact: one signature has one spelling."""
    with pytest.raises(SignatureError, match=reason) as caught:
        parse_signature(data)
    assert str(caught.value).startswith(SIGNATURE)


@given(st.one_of(st.binary(max_size=64), json_values.map(as_json)))
def test_any_bytes_give_a_signature_or_its_error(data: bytes):
    """Nothing else is raised."""
    with pytest.raises(SignatureError):
        parse_signature(data)


def test_a_right_signature(signed: tuple[bytes, SignatureFile]):
    """Key, signature and the very bytes fit together."""
    verify_release(*signed)


def test_wrong_signatures(key: SigningKey, signed: tuple[bytes, SignatureFile]):
    """Another byte, key or release, no context before the bytes, a wrong length: refused, and the key is named."""
    data, good = signed
    other = SigningKey(bytes(32))
    wrong = {
        "a byte appended": (data + b"\n", good),
        "a byte changed": (data.replace(b'"seq":3', b'"seq":4'), good),
        "of another release": (encoded("lib/b.ts"), good),
        "another key": (data, SignatureFile(key=bytes(other.verify_key).hex(), signature=good.signature)),
        "by another key": (data, SignatureFile(key=good.key, signature=other.sign(CONTEXT + data).signature)),
        "without the context": (data, SignatureFile(key=good.key, signature=key.sign(data).signature)),
        "63 bytes": (data, SignatureFile(key=good.key, signature=good.signature[:-1])),
        "65 bytes": (data, SignatureFile(key=good.key, signature=good.signature + b"\0")),
        "nothing": (data, SignatureFile(key=good.key, signature=b"")),
    }
    for message, signature in wrong.values():
        with pytest.raises(SignatureError, match=signature.key):
            verify_release(message, signature)


def test_a_malleated_signature_is_refused(signed: tuple[bytes, SignatureFile]):
    """S plus the group's order would satisfy the equation too: nobody makes a second signature out of one."""
    data, good = signed
    s = int.from_bytes(good.signature[32:], "little") + GROUP_ORDER
    malleated = good.signature[:32] + s.to_bytes(32, "little")
    with pytest.raises(SignatureError):
        verify_release(data, SignatureFile(key=good.key, signature=malleated))


SMALL_ORDER = {
    "all zero": bytes(32),
    "identity": (1).to_bytes(32, "little"),
    "identity, other spelling": (2**255 - 18).to_bytes(32, "little"),
    "order 2": (2**255 - 20).to_bytes(32, "little"),
    "order 8": bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
}


@pytest.mark.parametrize("weak", SMALL_ORDER.values(), ids=SMALL_ORDER)
@pytest.mark.parametrize("r", [bytes(32), (1).to_bytes(32, "little")], ids=["R zero", "R identity"])
def test_keys_of_small_order_sign_nothing(weak: bytes, r: bytes):
    """With such a key, (identity, 0) would be a signature of many messages."""
    for number in range(16):
        assert not verifies(weak.hex(), b"%d" % number, r + bytes(32))


# --- keys


def test_spellings_of_a_key(key: SigningKey):
    """Hex digits in either case, or base64, are one key."""
    raw = bytes(key.verify_key)
    for text in (raw.hex(), raw.hex().upper(), base64.b64encode(raw).decode()):
        assert parse_key(text) == raw.hex()


@pytest.mark.parametrize(
    "text", ["", "ab" * 31, "ab" * 32 + "\n", "g" * 64, b64(31), b64(32)[:-1], "ä" * 64, "x" * 9999]
)
def test_what_is_no_key(text: str):
    """It is the app that gave it: the message says what was wanted, and does not repeat a long text."""
    with pytest.raises(UsageError, match="wanted 64 hex digits, or base64 of 32 bytes") as caught:
        parse_key(text)
    assert len(str(caught.value)) < 200


def test_a_key_is_text():
    """Bytes are a likely mistake, and told so."""
    with pytest.raises(UsageError, match="is of type bytes, wanted text"):
        parse_key(bytes(32))
