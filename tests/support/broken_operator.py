"""`weft run` with one safeguard off: `settleSeconds` is taken for 0. Shows that the witness counts."""

from __future__ import annotations

import sys

from weft.api.fabric import FabricLimits
from weft.cli.main import main

FabricLimits.settle_seconds = property(lambda _limits: 0)  # type: ignore[assignment]  # not a field any more

if __name__ == "__main__":
    sys.exit(main())
