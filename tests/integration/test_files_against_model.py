"""`RootedFiles` beside `MemoryFiles`, step by step, while somebody plants links: the same answers, and nothing else."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from coredeno.errors import RequestError
from coredeno.interfaces import Files
from coredeno.services.beneath import open_by_openat2, open_by_walk
from coredeno.testing.memory_files import MemoryFiles

SECRET = b"canary"
NAMES = st.sampled_from(["a", "b", "c", "secret"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join) | st.lists(
    st.sampled_from(
        ["..", ".", "", "a", "link", "outside", "secret", "proc", "\\", "\0", "\ud800", ".coredeno-tmp-x"]
    ),
    max_size=4,
).map("/".join)
LINKS = ("link", "a/link", "b/link")
TARGETS = st.sampled_from(
    ["../outside", "../../outside", "/proc/self", ".", "a", "../outside/secret", "missing"]
)


class Machine(RuleBasedStateMachine):
    """What is planted has names that the model never has, so a path through it is one that is not there."""

    @initialize(by_walk=st.booleans())
    def begin(self, by_walk: bool) -> None:  # noqa: FBT001
        from coredeno.services.rooted_files import RootedFiles  # noqa: PLC0415

        self.folder = Path(tempfile.mkdtemp(prefix="model-"))
        self.root, self.outside = self.folder / "app", self.folder / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        (self.outside / "secret").write_bytes(SECRET)
        opening = open_by_walk if by_walk or not hasattr(os, "memfd_create") else open_by_openat2
        self.rooted: Files = RootedFiles(self.root, opening=opening, hidden=".core")
        self.memory = MemoryFiles()

    @rule(path=PATHS)
    def read(self, path: str) -> None:
        self.compare(path, lambda files: files.read(path, limit_bytes=8))

    @rule(path=PATHS, data=st.binary(max_size=9))
    def write(self, path: str, data: bytes) -> None:
        self.compare(path, lambda files: files.write(path, data))

    @rule(path=PATHS)
    def list(self, path: str) -> None:
        self.compare(path, lambda files: files.list(path))

    @rule(path=PATHS)
    def delete(self, path: str) -> None:
        self.compare(path, lambda files: files.delete(path))

    @rule(place=st.sampled_from(LINKS), to=TARGETS)
    def plant(self, place: str, to: str) -> None:
        link = self.root / place
        if link.parent.is_dir() and not link.is_symlink():
            link.symlink_to(to)

    @invariant()
    def nothing_outside_is_touched(self) -> None:
        if hasattr(self, "outside"):
            assert [entry.name for entry in self.outside.iterdir()] == ["secret"]
            assert (self.outside / "secret").read_bytes() == SECRET

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def compare(self, path: str, operation: Callable[[Files], Awaitable[object]]) -> None:
        parts = path.split("/")
        leads_through = "/".join(parts[: parts.index("link") + 1]) if "link" in parts else None
        # What the gate's rules refuse is refused, planted or not; else only a link that is there can be led through.
        may_be = leads_through is not None and leads_through.isprintable() and "\\" not in leads_through
        if may_be and not (self.root / leads_through).is_symlink():
            return
        real = asyncio.run(outcome(operation(self.rooted)))
        assert repr(SECRET) not in real
        if leads_through is not None:
            # A link is not there for reading, and in the way of writing: whichever it is, it is refused.
            assert real in {"NotFound", "FailedPrecondition", "InvalidArgument"}
            return
        wanted = asyncio.run(outcome(operation(self.memory)))
        if real == "FailedPrecondition" and wanted == "None" and self.holds_a_link(path):
            self.memory.folders.add(path)  # a folder that only the link keeps from being empty
            return
        assert real == wanted

    def holds_a_link(self, path: str) -> bool:
        return any((self.root / place).is_symlink() and place == f"{path}/link" for place in LINKS)


async def outcome(operation: Awaitable[object]) -> str:
    try:
        return repr(await operation)
    except RequestError as error:
        return type(error).__name__


def test_any_row_of_operations_does_what_the_model_does():
    """Whatever is read, written, listed, deleted and planted, in whatever order, the model says what comes of it."""
    from hypothesis.stateful import run_state_machine_as_test  # noqa: PLC0415

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=40, stateful_step_count=25, deadline=None)
    )
