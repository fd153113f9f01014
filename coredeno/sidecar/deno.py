"""Which Deno is used: where it is, and which versions are known to be safe."""

from __future__ import annotations

from pathlib import Path

from coredeno.errors import DenoNotFound

OLDEST = (2, 9)
# The newest minor version whose sandbox coredeno's attack suite has passed. Deno's permissions changed in
# nearly every minor version so far, so a newer one is not taken on trust.
NEWEST = (2, 9)
_HELP = "pip install 'deno>=2.9,<2.10' (it comes with coredeno), or set HostConfig(deno=<path>)"


def find_deno(path: str | Path | None) -> Path:
    """The Deno program: the one that the app names, else the one that came with coredeno. Reads the disk.

    Raises:
        DenoNotFound: there is none.
    """
    if path is not None:
        if not Path(path).is_file():
            raise DenoNotFound(f"find Deno: there is no file {str(path)!r}; {_HELP}")
        return Path(path).resolve()
    try:
        import deno  # noqa: PLC0415  # only a host that starts sidecars needs it

        return Path(deno.find_deno_bin())
    except (ImportError, FileNotFoundError) as error:
        raise DenoNotFound(f"find Deno: {error}; {_HELP}") from None


def check_version(version: str, *, allow_untested: bool) -> None:
    """Refuse a Deno that is too old to confine a Worker, or newer than any that was tested. Pure.

    Raises:
        DenoNotFound: it is one of those; the message says what to do.
    """
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError:
        raise DenoNotFound(f"check Deno: its version is {version[:40]!r}, wanted 2.9; {_HELP}") from None
    if (major, minor) < OLDEST:
        raise DenoNotFound(
            f"check Deno: its version is {version}, wanted at least {OLDEST[0]}.{OLDEST[1]}; {_HELP}"
        )
    if (major, minor) > NEWEST and not allow_untested:
        raise DenoNotFound(
            f"check Deno: its version is {version}, wanted at most {NEWEST[0]}.{NEWEST[1]}, the newest that the "
            f"attack suite has passed; {_HELP}, or accept the risk with HostConfig(allow_untested_deno=True)"
        )
