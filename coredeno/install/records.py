"""What the store holds about installed plugins: a record each, and the highest sequence numbers. Pure: no I/O.

The records are the only pointer to what is installed: a folder that none of them names is not. All that one
step changes is written in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

import msgspec

from coredeno.errors import DowngradeRefused, InvalidArgument, RecordInvalid, UsageError
from coredeno.interfaces import StoreChange
from coredeno.manifest import Permissions, check_code
from coredeno.wire.text import printable

RECORDS = "_plugins"
"""The store group of the records, by code. Modules never reach groups that begin with `_`."""

MARKS = "_plugin_seqs"
"""The store group of the highest sequence numbers, by code and key. They outlive the plugin's removal."""

FORMAT = 1
"""What this coredeno writes, and the newest that it reads."""

Signature: TypeAlias = Literal["release", "manifest", "none"]
"""What was signed: every file; only the manifest, by the original's inline signature; nothing."""


# It names a folder, so a corrupt record may not say anything else. `\Z`, since `$` accepts a trailing newline.
_Digest: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class ReleaseRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One release that is on the disk.

    Attributes:
        digest: its identity, and the name of its folder.
        version: for humans.
        seq: its sequence number; 1 if it is not signed.
        signature: what was signed.
        signer: the key, as hex digits; None if nothing was signed.
        pin: the key that the app had named when it was installed, or None; it is held to that at each load.
        revision: what the source called it, such as a git commit.
        permissions: what it asks for, and was granted.
        services: the app's services that it asks for.
    """

    digest: _Digest
    version: str
    seq: int
    signature: Signature
    signer: str | None
    pin: str | None
    revision: str
    permissions: Permissions = Permissions()
    services: Mapping[str, tuple[str, ...]] = {}


class PluginRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One installed plugin.

    Attributes:
        code: its code.
        source: where updates come from.
        ref: the branch, tag or commit that was asked for, or None.
        signer: the only key that may sign its updates, where the app named one; else the trust store says.
        pinned: whether it stays at the version that it has.
        active: the digest of the release that is loaded.
        releases: the releases on the disk, in the order in which they were installed.
    """

    code: str
    source: str
    ref: str | None
    signer: str | None
    pinned: bool = False
    active: str
    releases: tuple[ReleaseRecord, ...]

    @property
    def current(self) -> ReleaseRecord:
        """The active release."""
        return next(release for release in self.releases if release.digest == self.active)

    @property
    def digests(self) -> frozenset[str]:
        """The releases on the disk."""
        return frozenset(release.digest for release in self.releases)

    def with_release(self, release: ReleaseRecord) -> tuple[ReleaseRecord, ...]:
        """The releases with one more, the newest; one that it has already keeps its place."""
        if release.digest not in self.digests:
            return (*self.releases, release)
        return tuple(release if other.digest == release.digest else other for other in self.releases)

    def pruned(self, kept: int) -> PluginRecord:
        """With the active release and at most `kept` others, the newest."""
        others = [release.digest for release in self.releases if release.digest != self.active]
        wanted = {self.active, *others[max(len(others) - kept, 0) :]}
        releases = tuple(release for release in self.releases if release.digest in wanted)
        return msgspec.structs.replace(self, releases=releases)

    def before(self, version: str | None) -> ReleaseRecord:
        """The release to go back to: that of `version`, or the one that was installed before the active one.

        Raises:
            UsageError: there is none.
        """
        place = self.releases.index(self.current)
        if version is None:
            if place == 0:
                raise UsageError(f"rollback: {self.code!r} has no former version, it has {self._kept()}")
            return self.releases[place - 1]
        for release in reversed(self.releases):
            if release.version == version and release is not self.current:
                return release
        raise UsageError(
            f"rollback: {self.code!r} has no version {version!r} beside the active one, it has {self._kept()}"
        )

    def _kept(self) -> str:
        return ", ".join(release.version for release in self.releases)


def is_code(code: str) -> bool:
    """Whether this is the code of a plugin, and so the name of its folder."""
    try:
        check_code(code)
    except InvalidArgument:
        return False
    return True


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    plugin: PluginRecord


class _Format(msgspec.Struct):
    format: int


_decode = msgspec.json.Decoder(_Stored).decode
_decode_format = msgspec.json.Decoder(_Format).decode


def stored(record: PluginRecord) -> StoreChange:
    """The change that keeps a record."""
    text = msgspec.json.encode(_Stored(FORMAT, record)).decode()
    return StoreChange(group=RECORDS, key=record.code, value=text)


def forgotten(code: str) -> StoreChange:
    """The change that removes a record."""
    return StoreChange(group=RECORDS, key=code)


def parse_record(code: str, text: str) -> PluginRecord:
    """Read the record of this code.

    Raises:
        RecordInvalid: it is corrupt, of another plugin, or by a newer coredeno.
    """
    try:
        data = text.encode()
        version = _decode_format(data).format
        if version > FORMAT:
            raise RecordInvalid(
                code=code, problem=f"has format {version}, wanted at most {FORMAT}: a newer coredeno wrote it"
            )
        record = _decode(data).plugin
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        raise RecordInvalid(
            code=code, problem=f"cannot be read: {printable(str(error), one_line=True)}"
        ) from None
    if record.code != code:
        raise RecordInvalid(code=code, problem=f"is that of {record.code!r}")
    if not is_code(code):  # it names a folder
        raise RecordInvalid(code=code, problem="is that of no plugin")
    if record.active not in {release.digest for release in record.releases}:
        raise RecordInvalid(code=code, problem="names an active release that it does not list")
    return record


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The highest sequence number seen of one key for one plugin, and the release that had it."""

    seq: int
    digest: str


_decode_mark = msgspec.json.Decoder(Mark).decode


def mark_key(code: str, signer: str) -> str:
    """Where the mark of this plugin and key is."""
    return f"{code} {signer}"


def parse_mark(code: str, text: str | None) -> Mark | None:
    """Read a mark; None if there is none.

    Raises:
        RecordInvalid: it is corrupt.
    """
    if text is None:
        return None
    try:
        return _decode_mark(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        raise RecordInvalid(
            code=code, problem=f"its mark cannot be read: {printable(str(error), one_line=True)}"
        ) from None


def check_seq(mark: Mark | None, *, code: str, seq: int, digest: str) -> None:
    """Refuse a release that is older than one seen before from its key, or is another one of that number.

    Raises:
        DowngradeRefused: it is.
    """
    if mark is None or seq > mark.seq or (seq, digest) == (mark.seq, mark.digest):
        return
    if seq == mark.seq:
        problem = (
            f"release {seq} of {code!r} was seen before with other files, as {mark.digest}; this is {digest}"
        )
    else:
        problem = (
            f"release {seq} of {code!r} is older than {mark.seq}, the newest seen from its key; "
            "wanted a newer one, or rollback() to a version that is kept"
        )
    raise DowngradeRefused(problem, seq=seq, highest=mark.seq)


def marked(code: str, signer: str, *, seq: int, digest: str) -> StoreChange:
    """The change that keeps a mark."""
    text = msgspec.json.encode(Mark(seq, digest)).decode()
    return StoreChange(group=MARKS, key=mark_key(code, signer), value=text)
