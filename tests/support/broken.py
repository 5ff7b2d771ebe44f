"""Runs of the fault suite at operators with a safeguard off: shows that the witness counts."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from support import broken_operator
from support.arena import Arena
from support.schedule import Schedule
from weft_dev.controlplane import ControlPlane

LIMIT_SECONDS = 3.0
"""What a broken operator leaves behind does not go away by waiting."""
ENDS_AT_ONCE = (Path(broken_operator.__file__), "end-seconds")
"""Ends an engine as soon as it is seen idle, for tests without a router and about something else."""
WAITS_FOR_ROUTERS_BRIEFLY = (Path(broken_operator.__file__), "router-seconds")
"""Takes a tenth of the time that a router is given to stop; with the real times, tests of the planner judge."""


def violations_without(
    safeguard: str, schedule: Schedule, plane: ControlPlane, namespace: str
) -> tuple[str, ...]:
    """What the witness counts; `safeguard` as in `support.broken_operator`."""
    program = (Path(broken_operator.__file__), safeguard)
    with closing(Arena(plane, namespace, program)) as arena:
        (verdict,) = arena.run([schedule], LIMIT_SECONDS)
    sys.stderr.write(f"{verdict}\n")
    return verdict.violations
