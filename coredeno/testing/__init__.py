"""What host apps unit-test with: fakes of every part, in memory, and contract suites for parts of their own.

The contract suites (`coredeno.testing.contracts`) need pytest; nothing else here does.
"""

from coredeno.testing.fake_core import FakeCore
from coredeno.testing.fake_host import MemoryListener, MemorySource, fake_host
from coredeno.testing.fake_processes import FakeProcesses
from coredeno.testing.fake_sidecar import FakeLauncher, FakeSidecar
from coredeno.testing.memory_audit import MemoryAudit
from coredeno.testing.memory_fetcher import MemoryFetcher
from coredeno.testing.memory_files import FaultyFiles, MemoryFiles
from coredeno.testing.memory_store import FaultyStore, MemoryStore
from coredeno.testing.turned_clock import TurnedClock

__all__ = [
    "FakeCore",
    "FakeLauncher",
    "FakeProcesses",
    "FakeSidecar",
    "FaultyFiles",
    "FaultyStore",
    "MemoryAudit",
    "MemoryFetcher",
    "MemoryFiles",
    "MemoryListener",
    "MemorySource",
    "MemoryStore",
    "TurnedClock",
    "fake_host",
]
