"""An app with a marketplace: `python examples/marketplace/app.py`.

An author publishes plugins (author.py); the app reads their index, shows what an install would do, installs, loads
and calls them, updates with consent, rolls back, finds out that somebody changed a file, and removes everything.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from author import Author

from coredeno import Context, Hooks, InstallPlan, IntegrityError, PluginHost, Service, rpc

EUROS = {"EUR": 1.0, "NOK": 11.5}


class Rates(Service, name="rates"):
    """A service of the app. A plugin may call it if its manifest says `services: {rates: [read]}`."""

    @rpc(permission="rates:read")
    async def rate(self, _ctx: Context, currency: str) -> float:
        """How much a euro is."""
        return EUROS[currency]


class User(Hooks):
    """Where an app asks its user; this one reads aloud, and agrees."""

    async def update_widens(self, plan: InstallPlan) -> bool:
        """May an update do more than the version before it?"""
        assert plan.difference is not None
        added = ", ".join(plan.difference.added_permissions)
        print(f"consent    {plan.code} {plan.version} wants to {added}, besides what it may now: yes")
        return True


def show(plan: InstallPlan) -> None:
    """What a user should see before anything is installed."""
    print(f"plan       {plan.code} {plan.version}, {len(plan.files)} files, {plan.size_bytes:,} bytes")
    print(f"  signed   by the key {plan.signer[:12]}…, every file" if plan.signer else "  signed   by nobody")
    for file in plan.files:
        print(f"  file     {file.path:<16} {file.size:>5,} bytes")
    for permission in plan.permissions:
        print(f"  may      {permission}")


async def shop(host: PluginHost, market: Path) -> None:
    """Find plugins in the index, look at what installing them would do, and do it."""
    index = await host.installer.read_index(market)  # on a server: a URL
    print(f"index      {index.name}: {len(index.entries)} plugins, about {', '.join(index.categories)}")
    for words in ("count words", "currency"):
        entry = index.search(words)[0]
        print(f"search     {words!r} finds {entry.code} {entry.version}: {entry.description}")
        # The index names the author's key. It is kept: what another key signs is refused, also as an update.
        plan = await host.plan_install(entry)
        show(plan)
        await plan.apply()
        module = await host.load(plan.code)
        print(f"installed  {module.code} {module.version}: {module.state.value}")


async def count(host: PluginHost) -> None:
    """Let the plugin count."""
    module = host.modules["wordcount"]
    counted = await module.call("count", "today.txt", returns=dict[str, int | str], timeout_s=5)
    print(f"called     {module.code} {module.version}: {counted}")


async def print_receipt(host: PluginHost) -> None:
    """Let the plugin lay out what was bought."""
    bought = [("coffee", 4.5), ("cake", 5)]
    lines = await host.modules["receipt"].call("format", bought, "NOK", returns=list[str], timeout_s=5)
    print(f"called     receipt: {' | '.join(lines)}")


def tamper(root: Path) -> None:
    """What somebody does who can write to the app's folder: change the code of an installed plugin."""
    (code,) = (root / ".core" / "plugins" / "receipt").glob("*/main.ts")
    code.chmod(0o644)
    code.write_text(code.read_text().replace("euros * rate", "euros * rate * 2"))
    code.chmod(0o444)


async def main(root: Path, author: Author) -> None:
    """Run the app once, and say what happens."""
    (root / "notes").mkdir()
    (root / "notes" / "today.txt").write_text("The app says hi, and the plugins say hi.\n")

    await asyncio.to_thread(author.publish, "wordcount", "1.0.0", seq=1)
    await asyncio.to_thread(author.publish, "receipt", "1.0.0", seq=1)
    print(f"published  wordcount 1.0.0 and receipt 1.0.0, signed by the key {author.key.public_hex[:12]}…")
    async with PluginHost(root, services=[Rates()], hooks=[User()]) as host:
        await shop(host, author.market)
        await count(host)
        await print_receipt(host)

        await asyncio.to_thread(author.publish, "wordcount", "2.0.0", seq=2)
        print("published  wordcount 2.0.0")
        await host.update("wordcount")
        await count(host)
        report = (root / "reports" / "today.txt").read_text().splitlines()
        print(f"report     {', '.join(report[:4])}, …")
        back = await host.rollback("wordcount")
        print(f"rollback   {back.code} {back.version}, kept are {', '.join(back.kept)}")
        await count(host)

    tamper(root)
    print("tampered   one line of receipt/main.ts, while the host was down")
    async with PluginHost(root, services=[Rates()], hooks=[User()]) as host:  # loads what is installed
        for _code, module in sorted(host.modules.items()):
            print(f"restarted  {module.code} {module.version}: {module.state.value}")
        error = host.modules["receipt"].error
        assert isinstance(error, IntegrityError)
        print(f"refused    receipt, because {error.path} is not the file that was signed")
        await host.update("receipt")
        print(f"mended     receipt: {host.modules['receipt'].state.value}")
        await print_receipt(host)
        for plugin in await host.installed():
            await host.remove(plugin.code, data=True)
        print(f"removed    installed are now {await host.installed()}")
    left = [path for path in (root / ".core" / "plugins").rglob("*") if path.is_file()]
    print(f"host       stopped, {left or 'nothing'} left behind")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="log        %(name)s: %(message)s", stream=sys.stdout)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "app").mkdir()
        (Path(folder) / "author").mkdir()
        asyncio.run(main(Path(folder) / "app", Author(Path(folder) / "author")))
