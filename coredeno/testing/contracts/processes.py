"""What every `Processes` does: `ProcessesContract`, to be subclassed in a test module.

```python
class TestMyProcesses(ProcessesContract):
    async def make(self) -> Processes:
        return MyProcesses()
```
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coredeno.errors import InvalidArgument, LimitExceeded, NotFound
from coredeno.interfaces import Processes, ProcessResult

_SIGKILL = 9
_KEPT = 64


class ProcessesContract(ABC):
    """The suite. It starts programs of any POSIX system; a fake must know the three of them.

    Attributes:
        echo: writes its arguments, with a space between and a newline after them, and exits with 0.
        false: exits with 1 and writes nothing.
        sleep: with the argument `1000` it runs until it is stopped, and SIGTERM ends it.
        running_limit: how many processes an owner may have in what `make` gives.
    """

    echo: Path = Path("/bin/echo")
    false: Path = Path("/bin/false")
    sleep: Path = Path("/bin/sleep")
    running_limit = 16

    @abstractmethod
    async def make(self) -> Processes:
        """A `Processes` without any process."""

    @asynccontextmanager
    async def _made(self) -> AsyncIterator[Processes]:
        processes = await self.make()
        try:
            yield processes
        finally:
            await processes.stop_all()

    async def test_wait_gives_how_it_ended(self, tmp_path: Path) -> None:
        """The exit code and the output of a program that ended by itself."""
        async with self._made() as processes:
            good = await processes.start(self.echo, ["a", "b c", "größe"], owner="m", cwd=tmp_path)
            assert await processes.wait(good) == ProcessResult(exit_code=0, stdout="a b c größe\n", stderr="")
            bad = await processes.start(self.false, [], owner="m", cwd=tmp_path)
            assert await processes.wait(bad) == ProcessResult(exit_code=1, stdout="", stderr="")

    async def test_arguments_are_no_shell_text(self, tmp_path: Path) -> None:
        """What a shell would take apart or carry out is passed on as it is."""
        text = "$(id) `id` ; id | id > x * ~ \"'\n"
        async with self._made() as processes:
            process_id = await processes.start(self.echo, [text], owner="m", cwd=tmp_path)
            assert (await processes.wait(process_id)).stdout == f"{text}\n"

    async def test_a_result_stays(self, tmp_path: Path) -> None:
        """It can be asked for again, by many at once."""
        async with self._made() as processes:
            process_id = await processes.start(self.echo, ["x"], owner="m", cwd=tmp_path)
            results = await asyncio.gather(*(processes.wait(process_id) for _ in range(3)))
            assert [*results, await processes.wait(process_id)] == [results[0]] * 4

    async def test_ids_are_different_and_owned(self, tmp_path: Path) -> None:
        """Each process has an id of its own, and the owner that started it, also after its end."""
        async with self._made() as processes:
            one = await processes.start(self.echo, [], owner="one", cwd=tmp_path)
            two = await processes.start(self.echo, [], owner="two", cwd=tmp_path)
            assert one != two
            await processes.wait(one)
            assert (processes.owner_of(one), processes.owner_of(two)) == ("one", "two")

    async def test_an_unknown_id(self) -> None:
        """There is no process, whatever is asked of it."""
        async with self._made() as processes:
            assert processes.owner_of("nobody's") is None
            with pytest.raises(NotFound):
                await processes.wait("nobody's")
            with pytest.raises(NotFound):
                await processes.stop("nobody's")

    async def test_a_missing_program(self, tmp_path: Path) -> None:
        """It is not found, and nothing counts as started."""
        async with self._made() as processes:
            for _ in range(self.running_limit + 1):
                with pytest.raises(NotFound):
                    await processes.start(tmp_path / "missing", [], owner="m", cwd=tmp_path)

    @pytest.mark.parametrize("arg", ["a\0b", "\ud800"])
    async def test_arguments_that_no_program_can_get(self, tmp_path: Path, arg: str) -> None:
        """A NUL or a lone surrogate is refused before anything is started."""
        async with self._made() as processes:
            with pytest.raises(InvalidArgument):
                await processes.start(self.echo, [arg], owner="m", cwd=tmp_path)

    @pytest.mark.parametrize("args", [["x"] * 1025, ["x" * 131_072]], ids=["many", "long"])
    async def test_too_much_of_arguments(self, tmp_path: Path, args: list[str]) -> None:
        """More than 1,024 arguments, or one of 128 KiB, are refused."""
        async with self._made() as processes:
            with pytest.raises(LimitExceeded):
                await processes.start(self.echo, args, owner="m", cwd=tmp_path)

    async def test_stop_ends_it(self, tmp_path: Path) -> None:
        """A running program ends by a signal; stopping it again, or one that has ended, changes nothing."""
        async with self._made() as processes:
            process_id = await processes.start(self.sleep, ["1000"], owner="m", cwd=tmp_path)
            await asyncio.gather(processes.stop(process_id), processes.stop(process_id))
            await processes.stop(process_id)
            assert (await processes.wait(process_id)).exit_code < 0

    async def test_a_cancelled_wait_stops_nothing(self, tmp_path: Path) -> None:
        """Who waits no longer does not harm the process, nor the others who wait."""
        async with self._made() as processes:
            process_id = await processes.start(self.sleep, ["1000"], owner="m", cwd=tmp_path)
            patient = asyncio.create_task(processes.wait(process_id))
            hasty = asyncio.create_task(processes.wait(process_id))
            await asyncio.sleep(0)
            hasty.cancel()
            await asyncio.wait([hasty])
            assert hasty.cancelled()
            assert not patient.done()
            await processes.stop(process_id)
            assert (await patient).exit_code < 0

    async def test_the_bound_is_an_owner_s_own(self, tmp_path: Path) -> None:
        """One too many is refused to that owner only, and an end makes room again."""
        async with self._made() as processes:
            ids = [
                await processes.start(self.sleep, ["1000"], owner="m", cwd=tmp_path)
                for _ in range(self.running_limit)
            ]
            with pytest.raises(LimitExceeded):
                await processes.start(self.echo, [], owner="m", cwd=tmp_path)
            await processes.wait(await processes.start(self.echo, [], owner="other", cwd=tmp_path))
            await processes.stop(ids[0])
            await processes.wait(await processes.start(self.echo, [], owner="m", cwd=tmp_path))

    async def test_stop_all_kills_and_forgets_an_owner_s_processes(self, tmp_path: Path) -> None:
        """The owner's are killed and unknown, whoever waits for one learns of it, the others run on."""
        async with self._made() as processes:
            running = await processes.start(self.sleep, ["1000"], owner="m", cwd=tmp_path)
            ended = await processes.start(self.echo, [], owner="m", cwd=tmp_path)
            other = await processes.start(self.sleep, ["1000"], owner="other", cwd=tmp_path)
            await processes.wait(ended)
            waiting = asyncio.create_task(processes.wait(running))
            await asyncio.sleep(0)
            await processes.stop_all("m")
            assert (await waiting).exit_code == -_SIGKILL
            assert [processes.owner_of(key) for key in (running, ended, other)] == [None, None, "other"]
            await processes.stop_all()
            assert processes.owner_of(other) is None
            await processes.stop_all()

    async def test_only_the_latest_results_are_kept(self, tmp_path: Path) -> None:
        """64 ended processes of an owner are remembered; those of others do not count."""
        async with self._made() as processes:
            other = await processes.start(self.false, [], owner="other", cwd=tmp_path)
            ids = []
            for _ in range(_KEPT + 1):
                ids.append(await processes.start(self.false, [], owner="m", cwd=tmp_path))
                await processes.wait(ids[-1])
            await asyncio.sleep(0)
            assert processes.owner_of(other) == "other"
            assert [processes.owner_of(key) for key in ids] == [None, *["m"] * _KEPT]
