"""`weft ui` beside the demo, with an administrator's rights, and what it last showed while the load ran."""

from __future__ import annotations

import sys
import time
import urllib.request
from pathlib import Path

from weft_dev import PYTHONPATH
from weft_dev.controlplane import server_environment
from weft_dev.processes import ProcessError, ProcessGroup, log_tail

NAME = "ui"
START_SECONDS = 30.0
MINUTES = 3
"""The load takes hardly less."""
ANSWER_SECONDS = 10.0
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def start(processes: ProcessGroup, kubeconfig: Path, prometheus: str) -> str:
    """Start the command and return the address that it prints. Raises ProcessError.

    `prometheus`: URL of one that scrapes the operator; empty where none is to be reached from here.
    """
    command = [sys.executable, "-m", "weft.cli.main", "ui", f"--kubeconfig={kubeconfig}"]
    if prometheus:
        command += [f"--prometheus={prometheus}", f"--minutes={MINUTES}"]
    processes.start(NAME, command, environment={**server_environment(), "PYTHONPATH": PYTHONPATH})
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and processes.exit_code(NAME) is None:
        url, end, _ = processes.log(NAME).read_text().partition("\n")
        if end and url.startswith("http://127.0.0.1:"):
            return url
        time.sleep(0.1)
    raise ProcessError(f"weft ui does not serve its page:\n{log_tail(processes.log(NAME))}")


def read(url: str) -> bytes:
    """The page, as a browser would get it now; it also makes the command look again. Raises OSError."""
    with _opener.open(url, timeout=ANSWER_SECONDS) as answer:
        page: bytes = answer.read()
    return page
