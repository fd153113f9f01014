"""One fetch, from the order to the files: receive a pack, look through it, find the files, write them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple

from coredeno.errors import SourceInvalid, SourceUnavailable
from coredeno.install.git_child.answers import Answers
from coredeno.install.git_child.blame import of_disk, of_source
from coredeno.install.git_child.bounds import Bounds
from coredeno.install.git_child.files import write_files
from coredeno.install.git_child.objects import Objects
from coredeno.install.git_child.pack import scan
from coredeno.install.git_child.refs import candidates, wanted_object
from coredeno.install.git_child.tree import ObjectReader, plan


class Order(NamedTuple):
    """What is to be fetched; every path is absolute.

    Attributes:
        path: of a repository on this machine, or None.
        url: of one on a server, or None.
        login: name and password for the URL's host, or None.
        ref: checked; None for the default.
        folder: where the files go.
        work: an empty folder for what is only needed meanwhile.
        bounds: what is allowed.
    """

    path: str | None
    url: str | None
    login: tuple[str, str] | None
    ref: str | None
    folder: str
    work: str
    bounds: Bounds

    @classmethod
    def from_plain(cls, order: Mapping[str, Any]) -> Order:
        """From what was JSON."""
        login = order["login"]
        bounds = Bounds(**order["bounds"])
        return cls(**{**order, "bounds": bounds, "login": login and (login[0], login[1])})


def fetch(order: Order, answers: Answers) -> None:
    """Carry out an order, and say how it went.

    Raises:
        CoreDenoError, OSError, MemoryError: it cannot be done.
    """
    answers.progress("connecting")
    if order.path is not None:
        _from_path(order, order.path, answers)
    else:
        assert order.url is not None
        _from_url(order, order.url, answers)


def _from_path(order: Order, path: str, answers: Answers) -> None:
    from coredeno.install.git_child.local import RepositoryObjects, found_refs, opened  # noqa: PLC0415 - dulwich

    with opened(path) as repository:
        wanted = wanted_object(order.ref, found_refs(repository, order.ref))
        objects = RepositoryObjects(repository)
        if not objects.has(wanted):
            # Of a ref it is not repeated what stands in its file, which may be a link to any other.
            problem = (
                f"has no commit {order.ref}" if order.ref == wanted.decode() else "has not what its ref names"
            )
            raise SourceUnavailable(f"source: {problem}")
        answers.progress("checking")
        _write(order, objects, wanted, answers)


def _from_url(order: Order, url: str, answers: Answers) -> None:
    pack = os.path.join(order.work, "pack")  # noqa: PTH118 - pathlib is slow to import here
    wanted = _receive(order, url, pack, answers)
    with open(pack, "rb") as file:  # noqa: PTH123
        contents = scan(file, order.bounds, lambda done, total: answers.progress("checking", done, total))
        _write(order, Objects(file, contents), wanted, answers)


def _write(order: Order, objects: ObjectReader, wanted: bytes, answers: Answers) -> None:
    planned = plan(objects, bytes.fromhex(wanted.decode()), order.bounds)
    write_files(
        order.folder, planned.files, objects, lambda done, total: answers.progress("writing", done, total)
    )
    answers.fetched(planned.commit.hex())


def _receive(order: Order, url: str, pack: str, answers: Answers) -> bytes:
    """Get the pack of one commit without its history; gives the id of what was asked for."""
    from dulwich.object_store import ObjectStoreGraphWalker  # noqa: PLC0415 - what a path needs none of

    from coredeno.install.git_child.http import BoundedHttpGitClient  # noqa: PLC0415

    wants: list[bytes] = []
    nothing = ObjectStoreGraphWalker([], lambda _commit: [])
    client = BoundedHttpGitClient(
        url,
        transfer_bytes=order.bounds.transfer_bytes,
        login=order.login,
        on_bytes=lambda count: answers.progress("receiving", count),
    )
    with closing(client), open(pack, "xb") as file:  # noqa: PTH123

        def determine_wants(refs: Mapping[Any, Any], depth: int | None = None) -> list[Any]:  # noqa: ARG001
            wants.append(wanted_object(order.ref, refs))
            return wants

        def take(data: bytes) -> int:
            client.pack_began = True
            with of_disk():
                return file.write(data)

        try:
            with of_source():
                client.fetch_pack(
                    "", determine_wants, nothing, take, depth=1, ref_prefix=candidates(order.ref)
                )
        except SourceInvalid:
            if wants and not client.pack_began and order.ref == wants[0].decode():
                raise SourceUnavailable(
                    f"source: gives no commit {order.ref}; many servers give only those that a branch or tag names"
                ) from None
            raise
        file.flush()
    return wants[0]
