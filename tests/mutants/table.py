"""The defences, each with the attacks that it stops. Pure: no I/O."""

from __future__ import annotations

from tests.mutants.of_host import OF_HOST
from tests.mutants.of_installs import OF_INSTALLS
from tests.mutants.of_runtime import OF_RUNTIME
from tests.mutants.of_sidecar import OF_SIDECAR

MUTANTS = (*OF_RUNTIME, *OF_SIDECAR, *OF_HOST, *OF_INSTALLS)
