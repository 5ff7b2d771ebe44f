"""The load of a demo: a process that sends the case's requests to both groups' front ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weft_dev import PYTHONPATH
from weft_dev.controlplane import server_environment
from weft_dev.processes import ProcessError, ProcessGroup
from weft_playground.case import Case
from weft_playground.lag import Lag, read_lag

START_SECONDS = 30.0
NAME = "load"


@dataclass(frozen=True)
class LoadRun:
    """Its files are in the directory of `processes`."""

    processes: ProcessGroup
    case: Case

    @property
    def results(self) -> Path:
        """A line of JSON per request, as it ends."""
        return self.processes.directory / "results.jsonl"

    def start(self, model_name: str, fronts: Mapping[str, str]) -> float:
        """Begin; `fronts` has a URL by group. Returns the schedule's zero in monotonic time. Raises ProcessError."""
        zero, lag = self._zero, self.processes.directory / "load.lag"
        command = [
            *(sys.executable, "-m", "weft_playground.load", f"--model={model_name}"),
            *(
                f"--offset={self.case.offset_minutes}",
                f"--engines={self.case.engines}",
                f"--out={self.results}",
            ),
            *(f"--lag-file={lag}", f"--zero-file={zero}"),
            *(f"{group}={url}" for group, url in fronts.items()),
        ]
        environment = {**server_environment(), "PYTHONPATH": PYTHONPATH}
        self.processes.start(NAME, command, environment=environment)
        deadline = time.monotonic() + START_SECONDS
        while not zero.exists():
            self.processes.check(NAME)
            if time.monotonic() > deadline:
                raise ProcessError(f"the load has not begun within {START_SECONDS:.0f} s")
            time.sleep(0.05)
        return self.zero()

    def zero(self) -> float:
        """The schedule's zero in monotonic time, once the load has begun."""
        return float(self._zero.read_text())

    @property
    def _zero(self) -> Path:
        return self.processes.directory / "load.zero"

    def ended(self) -> bool:
        """Whether every answer is in. Raises ProcessError when the load ended badly."""
        code = self.processes.exit_code(NAME)
        if code:
            self.processes.check(NAME)
        return code is not None

    def lags(self) -> list[Lag]:
        """How late requests were sent and streams were read."""
        return [read_lag(self.processes.directory / name) for name in ("load.lag", "load.reading")]
