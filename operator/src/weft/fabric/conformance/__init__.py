"""Tests that any driver has to pass, for whoever writes one. Needs pytest, and an endpoint that may be changed.

    python -m weft.fabric.conformance --driver my_package:MyDriver --endpoint https://fm.lab:8443

or, in tests of your own:

    class TestMyDriver(DriverConformance):
        @pytest.fixture
        def bench(self) -> Bench:
            return Bench(MyDriver, Connection("https://fm.lab:8443"))

It attaches and detaches devices that are attached to nothing, and leaves them so. What a driver is: docs/drivers.md.
"""

from __future__ import annotations

import pytest

# What a failed test shows of the values that it compared.
for _name in ("rig", "contract", "exclusivity", "errors", "outcomes", "owners", "restarts"):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")

from weft.fabric.conformance.contract import Contract  # noqa: E402
from weft.fabric.conformance.errors import Errors  # noqa: E402
from weft.fabric.conformance.exclusivity import Exclusivity  # noqa: E402
from weft.fabric.conformance.outcomes import Outcomes  # noqa: E402
from weft.fabric.conformance.owners import Owners  # noqa: E402
from weft.fabric.conformance.restarts import Restarts  # noqa: E402
from weft.fabric.conformance.rig import Bench  # noqa: E402

__all__ = ["Bench", "DriverConformance"]


class DriverConformance(Contract, Exclusivity, Errors, Outcomes, Owners, Restarts):
    """All of it. A subclass, named Test..., has a fixture `bench`."""
