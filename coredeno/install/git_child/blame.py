"""Whose fault an error is: what reads a source and what writes to the disk each stand in a block of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coredeno.errors import CoreDenoError, SourceInvalid, SourceUnavailable


class _DiskError(BaseException):
    """An OSError of our own files, on its way through code that takes every OSError for one of the network."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def of_disk() -> Iterator[None]:
    """Within `of_source`: let an OSError out as what it is."""
    try:
        yield
    except OSError as error:
        raise _DiskError(error) from error


@contextmanager
def of_source() -> Iterator[None]:
    """Make what a library raises, down to a panic of one, an error that says that the source is to blame.

    Raises:
        SourceUnavailable: it was an OSError, so the network, or a file that may not be read.
        SourceInvalid: it was any other.
    """
    try:
        yield
    except (CoreDenoError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except _DiskError as error:
        raise error.error from None
    except BaseException as error:
        raise _named(error) from error


@contextmanager
def of_repository() -> Iterator[None]:
    """`of_source`, for a repository on this machine: nothing that a library says of its files is repeated.

    They may be links to files that are none of a repository's, and a parser's error quotes what it could not parse.

    Raises:
        SourceUnavailable: it was an OSError, so a file that may not be read.
        SourceInvalid: it was any other.
    """
    try:
        yield
    except (CoreDenoError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except OSError as error:
        raise SourceUnavailable(f"source: cannot be read: {error.strerror}") from error
    except BaseException as error:
        problem = f"source: has a file that is not understood: {type(error).__name__}"
        raise SourceInvalid(problem) from error


def _named(error: BaseException) -> CoreDenoError:
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, TimeoutError):
        return SourceUnavailable("source: is silent for too long")
    if isinstance(cause, OSError):
        return SourceUnavailable(f"source: cannot be reached: {cause.strerror or cause}")
    text = " ".join(str(error).split())
    return SourceInvalid(f"source: answers what is not understood: {type(error).__name__}: {text}")
