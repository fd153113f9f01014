"""The trust store: which key may sign which plugin, and what is revoked."""

from __future__ import annotations

import base64

import pytest

from coredeno.errors import SignatureError, UsageError
from coredeno.install.trust import TrustedKey, TrustStore

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32
DIGEST = "12" * 32
BASE64_OF_A = base64.b64encode(bytes.fromhex(A)).decode()


def judged(store: TrustStore, signer: str, *, pinned: str | None = None, code: str = "tagger") -> str:
    """What the store says against a release, or nothing."""
    try:
        store.judge(code=code, version="1.2.0", digest=DIGEST, signer=signer, pinned=pinned)
    except SignatureError as error:
        return str(error)
    return ""


def test_nobody_is_trusted_at_first():
    """An empty store takes no key; what would change that is said, with the whole key."""
    message = judged(TrustStore(), A)
    assert message.startswith(f"tagger 1.2.0: signed by the key {A}, which is not trusted for 'tagger'")
    assert f"name it with signer='{A}' in install or update, or add it to the TrustStore" in message
    assert "add it to the TrustStore" in message


def test_a_key_for_all_plugins_and_one_for_some():
    """A text is a key for all; `TrustedKey` narrows it."""
    store = TrustStore([BASE64_OF_A, TrustedKey(B.upper(), ("tagger", "viewer"))])
    assert store.trusts(A, "anything")
    assert store.trusts(B, "viewer")
    assert store.trusts(BASE64_OF_A, "tagger")
    assert not store.trusts(B, "other")
    assert not store.trusts(C, "tagger")
    assert store.keys_for("tagger") == (A, B)
    assert store.keys_for("other") == (A,)
    assert not judged(store, B)
    assert "not trusted for 'other'" in judged(store, B, code="other")


def test_trust_may_grow_while_the_host_runs():
    """Codes add up, and "all" stays all."""
    store = TrustStore()
    store.trust(A, ["tagger"])
    store.trust(A, ["viewer"])
    assert store.trusts(A, "tagger")
    assert store.trusts(A, "viewer")
    assert not store.trusts(A, "other")
    store.trust(BASE64_OF_A)
    store.trust(A, ("tagger",))
    assert store.trusts(A, "other")
    assert store.keys_for("other") == (A,)


def test_a_key_for_no_plugin():
    """An empty list is none, not all."""
    assert not TrustStore([TrustedKey(A, ())]).trusts(A, "tagger")


def test_a_pinned_key_alone_counts():
    """With a key named for the plugin, it needs no trust, and trust helps no other."""
    store = TrustStore([B])
    assert not judged(store, A, pinned=A)
    assert judged(store, B, pinned=A) == f"tagger 1.2.0: signed by the key {B}, wanted {A}"


def test_a_revoked_key_never_counts():
    """Neither trust, before or after, nor a pin brings it back."""
    store = TrustStore([A, B], revoked_keys=[BASE64_OF_A])
    for pinned in (None, A):
        assert judged(store, A, pinned=pinned) == f"tagger 1.2.0: signed by the key {A}, which was revoked"
    assert not judged(store, B)
    store.revoke_key(B.upper())
    store.trust(B)
    assert "revoked" in judged(store, B)
    assert not store.trusts(B, "tagger")
    assert store.keys_for("tagger") == ()


def test_a_revoked_release_is_refused_whoever_signed_it():
    """By its digest alone, also where nobody signed it."""
    store = TrustStore([A])
    store.check_release(code="tagger", version="1.2.0", digest=DIGEST)
    store.revoke_release(DIGEST)
    assert (
        judged(store, A) == judged(store, A, pinned=A) == f"tagger 1.2.0: this release was revoked ({DIGEST})"
    )
    with pytest.raises(SignatureError, match="was revoked"):
        store.check_release(code="tagger", version="1.2.0", digest=DIGEST)
    assert "revoked" in judged(TrustStore([A], revoked_releases=[DIGEST]), A)
    assert not judged(TrustStore([A], revoked_releases=["34" * 32]), A)


def test_signatures_of_manifests_do_not_count_unless_asked():
    """The original's signature covers no code, so the app says whether it is enough."""
    assert not TrustStore().manifest_signatures
    assert TrustStore(manifest_signatures=True).manifest_signatures


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrustStore(["short"]),
        lambda: TrustStore([bytes(32)]),
        lambda: TrustStore(A),
        lambda: TrustStore(revoked_keys=["short"]),
        lambda: TrustStore(revoked_keys=A),
        lambda: TrustStore(revoked_releases=["short"]),
        lambda: TrustStore(revoked_releases=[DIGEST + "\n"]),
        lambda: TrustStore(revoked_releases=DIGEST),
        lambda: TrustedKey("short"),
        lambda: TrustedKey(A, ("../x",)),
        lambda: TrustedKey(A, "tagger"),
        lambda: TrustStore().trust("short"),
        lambda: TrustStore().trust(A, "tagger"),
        lambda: TrustStore().trust(A, ["Tagger"]),
        lambda: TrustStore().revoke_key("short"),
        lambda: TrustStore().revoke_release("short"),
        lambda: TrustStore().trusts("short", "tagger"),
    ],
)
def test_mistakes_of_the_app(make):
    """A key, code or digest that is none, or a lone one where several are wanted, is told at once."""
    with pytest.raises(UsageError, match="wanted"):
        make()


def test_codes_may_come_as_a_list():
    """What is kept cannot be changed any more."""
    assert TrustedKey(A, ["tagger"]) == TrustedKey(A, ("tagger",))


def test_a_key_is_judged_without_a_release():
    """What `judge` says of the key, before it is known what it signed."""
    store = TrustStore([A, B], revoked_keys=[B])
    store.check_key(code="tagger", version="1", signer=A, pinned=None)
    store.check_key(code="tagger", version="1", signer=C, pinned=C)
    for signer, pinned, reason in ((B, B, "revoked"), (C, None, "not trusted"), (A, C, f"wanted {C}")):
        with pytest.raises(SignatureError, match=reason):
            store.check_key(code="tagger", version="1", signer=signer, pinned=pinned)


def test_what_is_no_text_is_no_digest_or_key():
    """Each is told as a wrong use."""
    store = TrustStore()
    with pytest.raises(UsageError, match="digest of a release: is of type NoneType"):
        store.revoke_release(None)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        store.is_revoked("nonsense")
    assert not store.is_revoked("0" * 64)
