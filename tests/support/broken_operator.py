"""`weft run` with a safeguard off, which the first argument names.

Shows that the witness counts; or spares a test that is about something else a wait, for routers that it does not have.
"""

from __future__ import annotations

import asyncio
import sys

from weft.api.fabric import FabricLimits
from weft.balancing import drain, inputs, sent_late, transfers
from weft.cli.main import main
from weft.runtime.leadership import Leadership


async def _for_ever(_leadership: Leadership) -> None:
    await asyncio.Event().wait()


if __name__ == "__main__":
    # Only in the process that is to be broken: whoever imports this module has its safeguards.
    match sys.argv.pop(1):
        case "settle-seconds":
            # Not a field any more.
            FabricLimits.settle_seconds = property(lambda _limits: 0)  # type: ignore[assignment]
        case "lease":
            # Who once had the lease goes on as if it had it.
            Leadership.keep = _for_ever  # type: ignore[method-assign]
            Leadership.remaining_seconds = lambda leadership: 60.0 * bool(leadership._lease)  # type: ignore[method-assign]
        case "end-seconds":
            drain.END_SECONDS = inputs.END_SECONDS = 0.0
        case "router-seconds":
            # What is waited for a router to stop, and what a replica that came back is left alone for, in a tenth.
            drain.END_SECONDS = inputs.END_SECONDS = sent_late.END_SECONDS = 1.0
            sent_late.LEFT_SECONDS, transfers.LEFT_ALONE_SECONDS = 3.0, 3
        case unknown:
            sys.exit(f"no such safeguard: {unknown}")
    sys.exit(main())
