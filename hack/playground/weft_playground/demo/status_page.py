"""`weft ui` beside the demo, with an administrator's rights."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from weft_dev import PYTHONPATH
from weft_dev.controlplane import server_environment
from weft_dev.processes import ProcessError, ProcessGroup, log_tail

NAME = "ui"
START_SECONDS = 30.0


def start(processes: ProcessGroup, kubeconfig: Path) -> str:
    """Start the command and return the address that it prints. Raises ProcessError."""
    command = [sys.executable, "-m", "weft.cli.main", "ui", f"--kubeconfig={kubeconfig}"]
    processes.start(NAME, command, environment={**server_environment(), "PYTHONPATH": PYTHONPATH})
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and processes.exit_code(NAME) is None:
        url, end, _ = processes.log(NAME).read_text().partition("\n")
        if end and url.startswith("http://127.0.0.1:"):
            return url
        time.sleep(0.1)
    raise ProcessError(f"weft ui does not serve its page:\n{log_tail(processes.log(NAME))}")
