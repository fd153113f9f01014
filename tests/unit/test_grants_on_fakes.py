"""Permissions that are asked for, granted and taken back while a module runs; on fakes, by a clock that is turned."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from coredeno import (
    Context,
    Grant,
    Hooks,
    HostConfig,
    LimitExceeded,
    ModuleState,
    Permit,
    PluginRaised,
    Policy,
    Service,
    UsageError,
    events,
    rpc,
)
from coredeno.interfaces import ProcessResult
from coredeno.testing import FakeProcesses, MemoryFiles, MemorySource, MemoryStore, TurnedClock, fake_host
from tests.hosts import nothing_left

MANIFEST = """
code: tagger
name: Tagger
permissions:
  read: [notes]
  optional:
    read: [photos, more]
    write: [photos]
    net: [a.example, 127.0.0.1]
    run: [tool]
    services: {app: [use]}
"""
PHOTOS = {"read": ["photos"]}
YES, NO = True, False


class Tagger:
    async def init(self, core):
        self.core = core

    async def request(self, permissions, reason=""):
        return await self.core.permissions.request(permissions, reason)

    async def query(self, permissions):
        return await self.core.permissions.query(permissions)

    async def read(self, path):
        return await self.core.files.read(path)

    async def ask(self, method, params):
        return await self.core.request(method, params)

    async def use(self):
        return await self.core.services.app.use()

    async def start(self):
        return await self.core.processes.start("tool")

    async def wait(self, process_id):
        return await self.core.processes.wait(process_id)


class Asking(Hooks):
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.requests = []
        self.asked = asyncio.Event()
        self.four = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0

    async def permission_requested(self, request):
        self.requests.append(request)
        self.asked.set()
        if len(self.requests) == 4:
            self.four.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class App(Service, name="app"):
    """A service that is under way as long as a test wants."""

    def __init__(self):
        self.under_way = asyncio.Event()
        self.free = asyncio.Event()
        self.is_stubborn = False
        self.fails = False
        self.cancelled = 0
        self.was_cancelled = asyncio.Event()

    @rpc(permission="app:use")
    async def use(self, ctx: Context) -> str:
        self.under_way.set()
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self.was_cancelled.set()
            if self.fails:
                raise ValueError("in the way") from None
            if not self.is_stubborn:
                raise
            await self.free.wait()
        return "used"


class World:
    def __init__(self, root, hooks, policy=None, store=None, isolation="process"):
        self.clock = TurnedClock()
        self.app = App()
        self.store = store or MemoryStore()
        self.processes = FakeProcesses({"/bin/tool": self._run})
        self.never = asyncio.Event()
        self.files = MemoryFiles({"photos/a": b"a", "photos/b": b"b", "notes/a": b"n", "more/a": b"m"})
        self.host = fake_host(
            root,
            {"tagger": Tagger},
            services=[self.app],
            hooks=hooks,
            store=self.store,
            files=self.files,
            processes=self.processes,
            clock=self.clock,
            config=HostConfig(isolation=isolation, policy=policy or Policy(), programs={"tool": "/bin/tool"}),
        )

    async def _run(self, _args):
        await self.never.wait()
        return ProcessResult(exit_code=0, stdout="", stderr="")

    async def load(self, manifest=MANIFEST):
        return await self.host.load_source(MemorySource(manifest))


@asynccontextmanager
async def world_of(tmp_path, *hooks, **options):
    world = World(tmp_path / "app", hooks, **options)
    async with nothing_left(tmp_path / "app"), world.host:
        yield world


async def refused(call):
    with pytest.raises(PluginRaised) as caught:
        await call
    assert caught.value.name == "PermissionDenied", caught.value
    return caught.value


async def heard(listener, *kinds):
    """The events of these kinds so far."""
    found = []
    while listener._waiting:
        event = await anext(listener)
        if isinstance(event, kinds):
            found.append(event)
    return found


async def test_what_was_granted_works(tmp_path):
    """The app is asked in words, and what it grants lasts until the module is unloaded."""
    asking = Asking(YES)
    async with world_of(tmp_path, asking) as world:
        module = await world.load()
        await refused(module.call("read", "photos/a"))
        assert await module.call("query", PHOTOS) == "prompt"
        answer = await module.call("request", {"read": ["photos"], "write": ["photos"]}, "to\ntag\x1b[0m")
        assert answer == {"granted": True, "reason": ""}
        assert await module.call("read", "photos/a") == b"a"
        assert await module.call("query", PHOTOS) == "granted"
        (request,) = asking.requests
        assert (request.module, request.name, request.reason) == (
            "tagger",
            "Tagger",
            "to\\ntag\\x1b[0m",
        )
        assert request.permits == (Permit("files.read", "photos"), Permit("files.write", "photos"))
        assert request.words[0] == "read photos beneath the app's folder"
        assert module.grants.read == ("notes", "photos")
        assert await module.call("request", PHOTOS) == answer  # what it has is not asked for
        assert len(asking.requests) == 1
        await module.call("request", {"read": ["more/\u202egpj"]})
        assert asking.requests[1].words == ("read more/\\x202egpj beneath the app's folder",)
        await module.unload()
        module = await world.load()
        await refused(module.call("read", "photos/a"))


@pytest.mark.parametrize(
    ("permissions", "why"),
    [
        ({"read": ["other"]}, "not in permissions.optional"),
        ({"read": ["photos", "photos-2"]}, "not in permissions.optional"),
        ({"read": ["."]}, "not in permissions.optional"),
        ({"services": {"app": ["rule"]}}, "not in permissions.optional"),
        ({"net": ["127.0.0.1"]}, "not a public host"),
        ({"read": ["more"]}, "the app's policy does not allow it"),
    ],
)
async def test_what_may_not_be_asked(tmp_path, permissions, why):
    """What the manifest does not list, or the app's policy does not allow, is refused without asking."""
    asking = Asking(YES)
    async with world_of(tmp_path, asking, policy=Policy(read=("photos", "notes"))) as world:
        module = await world.load()
        answer = await module.call("request", permissions)
        assert not answer["granted"]
        assert why in answer["reason"]
        assert await module.call("query", permissions) == "denied"
        assert asking.requests == []


async def test_the_loop_turns_between_requests(tmp_path):
    """One a turn, however many are asked at once: others are not kept waiting for all of them."""
    async with world_of(tmp_path) as world:
        module = await world.load()
        turns = 0

        async def count():
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count())
        queries = [module.call("query", PHOTOS) for _ in range(40)]
        assert await asyncio.gather(*queries) == ["prompt"] * 40
        counting.cancel()
        assert turns >= 40


async def test_what_is_far_too_much_is_not_read(tmp_path, monkeypatch):
    """Its entries are counted first: reading each of as many as a message holds would take the loop's time."""

    def read(_asked):
        pytest.fail("it was read")

    monkeypatch.setattr("coredeno.permission_desk.parse_permissions", read)
    async with world_of(tmp_path) as world:
        module = await world.load()
        for permissions in ({"read": ["p"] * 65}, {"services": {f"s{n}": ["a", "b"] for n in range(33)}}):
            with pytest.raises(PluginRaised, match=r"6[56] entries, wanted 1 to 64"):
                await module.call("query", permissions)


@pytest.mark.parametrize(
    "permissions",
    [{}, {"read": [".."]}, {"reed": ["a"]}, {"read": "a"}, {"read": [f"p{n}" for n in range(65)]}],
)
async def test_what_is_no_request(tmp_path, permissions):
    """A request that is not written as a manifest would be is the plugin's mistake."""
    async with world_of(tmp_path) as world:
        module = await world.load()
        with pytest.raises(PluginRaised) as caught:
            await module.call("request", permissions)
        assert caught.value.name == "InvalidArgument"


@pytest.mark.parametrize("answer", [False, None, ValueError("bug"), "yes", 1])
async def test_refusals(tmp_path, answer, caplog):
    """A False, no answer, an odd one and a hook that raises refuse, and nothing of it was granted."""
    async with world_of(tmp_path, Asking(answer), Asking(None)) as world:
        module = await world.load()
        assert not (await module.call("request", PHOTOS))["granted"]
        await refused(module.call("read", "photos/a"))


async def test_one_refusal_counts_more_than_grants(tmp_path):
    """Where one hook grants and another refuses it is refused; without a refusal the first grant counts."""
    first, second = Asking(Grant.once()), Asking(NO)
    async with world_of(tmp_path, first, second) as world:
        module = await world.load()
        assert not (await module.call("request", PHOTOS))["granted"]
        second.answer = YES
        await world.clock.turn(61)
        assert (await module.call("request", PHOTOS))["granted"]
        await module.call("read", "photos/a")
        await refused(module.call("read", "photos/a"))


async def test_an_app_is_not_nagged(tmp_path):
    """After a refusal the same is not asked again for a while, and longer each time; by no other spelling either."""
    asking = Asking(NO)
    async with world_of(tmp_path, asking) as world:
        module = await world.load()
        await module.call("request", PHOTOS)
        for path in ("photos", "photos/a", "photos/b"):
            assert "not long ago" in (await module.call("request", {"read": [path]}))["reason"]
        assert len(asking.requests) == 1
        await module.call("request", {"read": ["more"]})  # something else
        assert len(asking.requests) == 2
        await world.clock.turn(61)
        await module.unload()
        module = await world.load()  # which is no way to be asked sooner
        await module.call("request", PHOTOS)
        assert len(asking.requests) == 3
        await world.clock.turn(61)
        await module.call("request", PHOTOS)
        assert len(asking.requests) == 3
        await world.clock.turn(60)
        await module.call("request", PHOTOS)
        assert len(asking.requests) == 4


async def test_no_more_than_eight_a_minute(tmp_path):
    """Also what is granted is not asked for without end."""
    asking = Asking(Grant.once())
    async with world_of(tmp_path, asking) as world:
        module = await world.load()
        answers = [await module.call("request", {"read": [f"photos/{number}"]}) for number in range(10)]
        assert [answer["granted"] for answer in answers] == [True] * 8 + [False] * 2
        await world.clock.turn(60)
        assert (await module.call("request", {"read": ["photos/x"]}))["granted"]


async def test_few_requests_wait_at_once(tmp_path):
    """Four requests of a module may wait for the app; a fifth is over its bound."""
    asking = Asking(YES)
    asking.gate.clear()
    async with world_of(tmp_path, asking) as world:
        module = await world.load()
        waiting = [
            asyncio.create_task(module.call("request", {"read": [f"photos/{number}"]})) for number in range(4)
        ]
        await asking.four.wait()
        with pytest.raises(PluginRaised) as caught:
            await module.call("request", {"read": ["more"]})
        assert caught.value.name == LimitExceeded.__name__
        asking.gate.set()
        assert all([(await task)["granted"] for task in waiting])


async def test_an_app_that_does_not_answer(tmp_path):
    """A request waits no longer than the host's bound; then the hook is cancelled, and it is refused."""
    asking = Asking(YES)
    asking.gate.clear()
    async with world_of(tmp_path, asking) as world:
        module = await world.load()
        waiting = asyncio.create_task(module.call("request", PHOTOS, timeout_s=1000))
        await asking.asked.wait()
        await world.clock.turn(120)
        assert await waiting == {"granted": False, "reason": "nobody answered in time"}
        assert asking.cancelled == 1


async def test_a_request_ends_with_its_module(tmp_path):
    """A module that is unloaded while it waits gets nothing, and the hook is cancelled."""
    asking = Asking(YES)
    asking.gate.clear()
    async with world_of(tmp_path, asking) as world:
        module = await world.load()
        waiting = asyncio.create_task(module.call("request", PHOTOS))
        await asking.asked.wait()
        await module.unload()
        await asyncio.gather(waiting, return_exceptions=True)
        assert asking.cancelled == 1


async def test_once_is_used_up(tmp_path):
    """A grant for once is used by the first request that needs it, each entry by itself; `query` uses nothing up."""
    async with world_of(tmp_path, Asking(Grant.once())) as world:
        module = await world.load()
        await module.call("request", {"read": ["photos", "more"]})
        assert await module.call("query", PHOTOS) == "prompt"
        assert await module.call("read", "notes/a") == b"n"  # needs it not
        assert await module.call("read", "photos/a") == b"a"
        await refused(module.call("read", "photos/b"))
        assert await module.call("read", "more/a") == b"m"
        assert module.grants.read == ("notes",)


async def test_a_time_that_is_over(tmp_path):
    """When its time is over a grant ends as if it was revoked: requests under way, and programs, too."""
    async with world_of(tmp_path, Asking(Grant.for_s(10))) as world:
        listener = world.host.events()
        module = await world.load()
        await module.call("request", {"services": {"app": ["use"]}, "run": ["tool"]})
        process_id = await module.call("start")
        using = asyncio.create_task(module.call("use"))
        await world.app.under_way.wait()
        await world.clock.turn(9)
        assert not using.done()
        await world.clock.turn(1)
        await refused(using)
        await module.call("wait", process_id)
        await refused(module.call("start"))
        ended = await heard(listener, events.PermissionRevoked)
        assert {event.reason for event in ended} == {"its time is over"}
        assert {event.resource for event in ended} == {"app:use", "tool"}


@pytest.mark.parametrize("isolation", ["process", "worker"])
async def test_grant_race(tmp_path, isolation):
    """What is revoked while a request is under way is denied to it, and has ended when `revoke` returns."""
    async with world_of(tmp_path, Asking(YES), isolation=isolation) as world:
        listener = world.host.events()
        module = await world.load()
        await module.call("request", {"services": {"app": ["use"]}})
        using = asyncio.create_task(module.call("use"))
        await world.app.under_way.wait()
        assert await world.host.revoke("tagger", "services.app") == ("app:use",)
        assert world.app.cancelled == 1
        denial = await refused(using)
        assert "taken back" in str(denial)
        await refused(module.call("use"))
        assert [event.reason for event in await heard(listener, events.PermissionRevoked)] == [
            "the app revoked it"
        ]
        assert module.state is ModuleState.RUNNING


@pytest.mark.parametrize("how", ["stubborn", "fails"])
async def test_a_service_in_the_way(tmp_path, how):
    """A service that swallows the cancellation, or fails by it, gives the module a denial all the same."""
    async with world_of(tmp_path, Asking(YES)) as world:
        world.app.is_stubborn, world.app.fails = how == "stubborn", how == "fails"
        module = await world.load()
        await module.call("request", {"services": {"app": ["use"]}})
        using = asyncio.create_task(module.call("use"))
        await world.app.under_way.wait()
        revoking = asyncio.create_task(world.host.revoke("tagger", "services.app"))
        await world.app.was_cancelled.wait()
        if how == "stubborn":
            await world.clock.turn(5)  # it is waited for no longer
            await revoking
            world.app.free.set()
        await revoking
        await refused(using)


async def test_once_that_is_revoked_while_it_is_used(tmp_path):
    """A request that used a grant up relies on it still."""
    async with world_of(tmp_path, Asking(Grant.once())) as world:
        module = await world.load()
        await module.call("request", {"services": {"app": ["use"]}})
        using = asyncio.create_task(module.call("use"))
        await world.app.under_way.wait()
        await world.host.revoke("tagger", "files.read")  # another one
        assert not using.done()
        await world.host.revoke("tagger", "services.app")
        await refused(using)


async def test_a_time_that_is_over_takes_nothing_of_what_was_for_once(tmp_path):
    """A request, or a process, for which a grant for once was used up goes on when a later, timed one ends."""
    asking = Asking(Grant.once())
    async with world_of(tmp_path, asking) as world:
        module = await world.load()
        wanted = {"services": {"app": ["use"]}, "run": ["tool"]}
        await module.call("request", wanted)
        once = await module.call("start")
        using = asyncio.create_task(module.call("use"))
        await world.app.under_way.wait()
        asking.answer = Grant.for_s(10)
        await module.call("request", wanted)
        timed = await module.call("start")
        world.app.under_way.clear()
        other = asyncio.create_task(module.call("use"))
        await world.app.under_way.wait()
        await world.clock.turn(10)
        await refused(other)
        assert world.app.cancelled == 1
        await module.call("wait", timed)
        assert world.processes.owner_of(once) == "tagger"
        assert not using.done()
        world.app.free.set()
        assert await using == "used"
        await world.host.revoke("tagger", "processes.start")
        await module.call("wait", once)


async def test_a_cancelled_call_stays_cancelled(tmp_path):
    """Where a call is cancelled and its permission revoked at once, nothing hangs and nothing is left."""
    async with world_of(tmp_path, Asking(YES)) as world:
        module = await world.load()
        await module.call("request", {"services": {"app": ["use"]}})
        using = asyncio.create_task(module.call("use"))
        await world.app.under_way.wait()
        using.cancel()
        await world.host.revoke("tagger", "services.app")
        with pytest.raises(asyncio.CancelledError):
            await using


async def test_programs_are_stopped(tmp_path):
    """A program that runs by a revoked permission is stopped, also one that was started by a grant for once."""
    async with world_of(tmp_path, Asking(Grant.once())) as world:
        module = await world.load()
        await module.call("request", {"run": ["tool"]})
        process_id = await module.call("start")
        await world.host.revoke("tagger", "processes.start", "other")
        assert world.processes.owner_of(process_id) == "tagger"
        await world.host.revoke("tagger", "processes.start", "tool")
        result = await module.call("wait", process_id)
        assert result["exit_code"] != 0


async def test_what_is_mandatory_can_be_revoked(tmp_path):
    """What the manifest does not list as optional is taken back too, until the plugin is loaded again."""
    async with world_of(tmp_path, Asking(YES)) as world:
        module = await world.load()
        assert await world.host.revoke("tagger", "files.read", "notes/a") == ("notes",)
        await refused(module.call("read", "notes/a"))
        assert not (await module.call("request", {"read": ["notes"]}))["granted"]
        await module.unload()
        module = await world.load()
        assert await module.call("read", "notes/a") == b"n"
        assert await world.host.revoke("tagger", "files.read", "elsewhere") == ()
        assert await world.host.revoke("nobody", "files.read") == ()


@pytest.mark.parametrize(("permission", "resource"), [("read", None), ("", None), ("net", "127.1")])
async def test_what_cannot_be_revoked(tmp_path, permission, resource):
    """A permission that there is not, or a host that is none, is the app's mistake."""
    async with world_of(tmp_path) as world:
        await world.load()
        with pytest.raises(UsageError, match="revoke"):
            await world.host.revoke("tagger", permission, resource)


async def test_until_it_is_revoked(tmp_path):
    """A grant that is kept is given again at each load, while manifest and policy allow it, until it is revoked."""
    asking = Asking(Grant.until_revoked())
    async with world_of(tmp_path, asking) as world:
        module = await world.load()
        await module.call("request", PHOTOS)
        await module.call("request", {"write": ["photos"]})
        await module.unload()
        listener = world.host.events()
        module = await world.load()
        assert await module.call("read", "photos/a") == b"a"
        assert [
            (event.permission, event.until) for event in await heard(listener, events.PermissionGranted)
        ] == [
            ("files.read", "unloaded"),
            ("files.read", "revoked"),
            ("files.write", "revoked"),
        ]
        await module.unload()
        module = await world.load(MANIFEST.replace("read: [photos, more]", "read: [more]"))
        await refused(module.call("read", "photos/a"))  # its manifest does not ask for it any more
        await module.unload()
        assert await world.host.revoke("tagger", "files.read") == ("photos",)
        module = await world.load()
        await refused(module.call("read", "photos/a"))
        assert module.grants.write == ("photos",)
        assert len(asking.requests) == 2


async def test_what_is_kept_is_another_signers_not(tmp_path):
    """What was granted to the plugin of one key is not granted to another key's plugin of that code."""
    async with world_of(tmp_path, Asking(Grant.until_revoked())) as world:
        loader = world.host._parts.loader
        for signer in ("a" * 64, "b" * 64, None):
            module = await loader.load(MemorySource(MANIFEST), group="g", config={}, signer=signer)
            await refused(module.call("read", "photos/a"))
            assert (await module.call("request", PHOTOS))["granted"]
            await module.unload()
        assert len(await world.store.read("_grants")) == 3
        await world.host.revoke("tagger", "files.read")
        assert await world.store.read("_grants") == {}


async def test_a_record_that_cannot_be_read_grants_nothing(tmp_path, caplog):
    """A damaged record is logged, and the plugin is loaded without what it held."""
    async with world_of(tmp_path) as world:
        await world.host.store.set("_grants", "tagger unsigned", "{")
        module = await world.load()
        await refused(module.call("read", "photos/a"))
        assert "cannot be read" in caplog.text


async def test_net_waits_for_the_next_load(tmp_path):
    """A host is granted until it is revoked only, and takes effect at the next load; revoked, the module is stopped."""
    asking = Asking(YES)
    async with world_of(tmp_path, asking) as world:
        module = await world.load()
        assert "until it is revoked only" in (await module.call("request", {"net": ["a.example"]}))["reason"]
        asking.answer = Grant.until_revoked()
        await world.clock.turn(61)
        answer = await module.call("request", {"net": ["a.example"]})
        assert answer["granted"]
        assert "the next time" in answer["reason"]
        assert module.grants.net == ()
        await module.unload()
        module = await world.load()
        assert module.grants.net == ("a.example",)
        assert await world.host.revoke("tagger", "net", "a.example:443") == ("a.example",)
        assert module.state is ModuleState.STOPPED
        module = await world.load()
        assert module.grants.net == ()


async def test_every_grant_is_told(tmp_path):
    """What is granted at a load, and while the module runs, is an event each; so is what was refused."""
    async with world_of(tmp_path, Asking(Grant.for_s(5))) as world:
        listener = world.host.events()
        module = await world.load()
        await module.call("request", PHOTOS)
        await module.call("request", {"read": ["other"]})
        told = await heard(listener, events.PermissionGranted, events.PermissionDenied)
        assert [(type(event).__name__, event.resource) for event in told] == [
            ("PermissionGranted", "notes"),
            ("PermissionGranted", "photos"),
            ("PermissionDenied", "other"),
        ]
        assert told[1].until == "5 s"
