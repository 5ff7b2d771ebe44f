"""`weft run` with one safeguard off: `settleSeconds` is taken for 0. Shows that the witness counts."""

from __future__ import annotations

import sys

from weft.api.fabric import FabricLimits
from weft.cli.main import main

if __name__ == "__main__":
    # Only in the process that is to be broken: whoever imports this module has its safeguards.
    FabricLimits.settle_seconds = property(lambda _limits: 0)  # type: ignore[assignment]  # not a field any more
    sys.exit(main())
