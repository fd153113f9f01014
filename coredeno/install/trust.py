"""Whose plugins the app takes: keys, what each may sign, and what was revoked. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from coredeno.errors import InvalidArgument, SignatureError, UsageError
from coredeno.install.keys import parse_key
from coredeno.manifest import check_code

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class TrustedKey(msgspec.Struct, frozen=True):
    """A public key, and the plugins that it may sign.

    Attributes:
        key: 64 hex digits, or base64 of the 32 bytes; kept as lower-case hex digits.
        codes: the codes of those plugins; None is all plugins.

    Raises:
        UsageError: at construction, if it is no key, or a code is none.
    """

    key: str
    codes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "key", parse_key(self.key))
        if self.codes is None:
            return
        if isinstance(self.codes, str):  # it would be taken for one code a letter
            raise UsageError(f"TrustedKey: codes is {self.codes!r}, wanted several: ({self.codes!r},)")
        for code in self.codes:
            try:
                check_code(code)
            except InvalidArgument as error:
                raise UsageError(f"TrustedKey: code {error}") from None
        msgspec.structs.force_setattr(self, "codes", tuple(self.codes))


class TrustStore:
    """The keys that the app trusts. It belongs to the app, and may be changed while the host runs.

    The host asks it at each install and at each load, so what is revoked does not start any more; what runs goes
    on. It is not saved by coredeno: the app builds it anew at each start, also what is revoked. (The highest
    sequence number of each key, which keeps old releases out, is kept by the host.)

    What is revoked stays so: neither `trust` nor a plugin's own `signer=` brings it back.

    Args:
        keys: the trusted keys; a text is a key for all plugins.
        revoked_keys: keys whose signatures count no more, such as those that leaked.
        revoked_releases: digests of releases that must not be run, such as those with a known hole.
        manifest_signatures: whether the original's inline signature counts. It is of `view.yml` alone: the code
            of such a plugin may be anybody's.

    Raises:
        UsageError: a key, code or digest is none.
    """

    def __init__(
        self,
        keys: Iterable[str | TrustedKey] = (),
        *,
        revoked_keys: Iterable[str] = (),
        revoked_releases: Iterable[str] = (),
        manifest_signatures: bool = False,
    ) -> None:
        for name, values in (
            ("keys", keys),
            ("revoked_keys", revoked_keys),
            ("revoked_releases", revoked_releases),
        ):
            if isinstance(values, str):
                raise UsageError(f"TrustStore: {name} is {values!r}, wanted several: [{values!r}]")
        self.manifest_signatures = manifest_signatures
        self._codes: dict[str, set[str] | None] = {}
        self._revoked_keys = {parse_key(key) for key in revoked_keys}
        self._revoked_releases = {_parse_digest(digest) for digest in revoked_releases}
        for key in keys:
            self._trust(key if isinstance(key, TrustedKey) else TrustedKey(key))

    def trust(self, key: str, codes: Iterable[str] | None = None) -> None:
        """Trust a key, for some plugins or for all. What it was trusted for before stays.

        Raises:
            UsageError: it is no key, or a code is none.
        """
        several = codes if codes is None or isinstance(codes, str) else tuple(codes)
        self._trust(TrustedKey(key, several))  # type: ignore[arg-type]  # a lone text is refused there

    def revoke_key(self, key: str) -> None:
        """Let no signature of this key count any more, whoever trusts or pins it.

        Raises:
            UsageError: it is no key.
        """
        self._revoked_keys.add(parse_key(key))

    def revoke_release(self, digest: str) -> None:
        """Let the release of this digest not be installed or loaded any more, whoever signed it.

        Raises:
            UsageError: it is no digest.
        """
        self._revoked_releases.add(_parse_digest(digest))

    def trusts(self, key: str, code: str) -> bool:
        """Whether this key may sign this plugin. Never, once it is revoked.

        Raises:
            UsageError: it is no key.
        """
        return self._trusts(parse_key(key), code)

    def is_revoked(self, key: str) -> bool:
        """Whether this key was revoked.

        Raises:
            UsageError: it is no key.
        """
        return parse_key(key) in self._revoked_keys

    def keys_for(self, code: str) -> tuple[str, ...]:
        """The keys that may sign this plugin, as hex digits, in the order in which they came."""
        return tuple(key for key in self._codes if self._trusts(key, code))

    def check_release(self, *, code: str, version: str, digest: str) -> None:
        """Return if this release may be run, as far as its digest decides.

        Raises:
            SignatureError: it was revoked.
        """
        if digest in self._revoked_releases:
            raise SignatureError(f"{code} {version}: this release was revoked ({digest})")

    def judge(self, *, code: str, version: str, digest: str, signer: str, pinned: str | None) -> None:
        """Return if this release, signed by this key, may be installed and run.

        Args:
            code: the plugin's code.
            version: its version, for the message.
            digest: the release's.
            signer: the key whose signature was verified, as hex digits.
            pinned: the one key that the app named for this plugin; then it alone counts, trusted or not.

        Raises:
            SignatureError: the key or the release was revoked, or the key is not the one that was named, or,
                with none named, not trusted. The message names the key, and what would allow it.
        """
        self.check_release(code=code, version=version, digest=digest)
        self.check_key(code=code, version=version, signer=signer, pinned=pinned)

    def check_key(self, *, code: str, version: str, signer: str, pinned: str | None) -> None:
        """Return if this key may sign this plugin: what `judge` asks, before it is known what was signed.

        Raises:
            SignatureError: as `judge`, for the key.
        """
        if signer in self._revoked_keys:
            raise SignatureError(f"{code} {version}: signed by the key {signer}, which was revoked")
        if pinned is not None:
            if signer != pinned:
                raise SignatureError(f"{code} {version}: signed by the key {signer}, wanted {pinned}")
            return
        if not self._trusts(signer, code):
            raise SignatureError(
                f"{code} {version}: signed by the key {signer}, which is not trusted for {code!r}; if you know "
                f"whose it is, name it with signer={signer!r} in install or update, or add it to the TrustStore"
            )

    def _trust(self, key: TrustedKey) -> None:
        known = self._codes.setdefault(key.key, set())
        self._codes[key.key] = None if known is None or key.codes is None else known | set(key.codes)

    def _trusts(self, key: str, code: str) -> bool:
        if key in self._revoked_keys or key not in self._codes:
            return False
        codes = self._codes[key]
        return codes is None or code in codes


def _parse_digest(digest: str) -> str:
    if not isinstance(digest, str):
        raise UsageError(f"digest of a release: is of type {type(digest).__name__}, wanted text")
    if _DIGEST.fullmatch(digest) is None:
        raise UsageError(f"digest of a release: is {digest[:80]!r}, wanted 64 of 0-9 a-f")
    return digest
