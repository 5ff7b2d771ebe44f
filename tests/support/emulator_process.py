"""The emulator as a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.sushy_view import make_certificates

USER, PASSWORD = "weft", "correct horse"
START_LIMIT_SECONDS = 30


@dataclass
class Emulator:
    """A running emulator."""

    process: subprocess.Popen[bytes]
    url: str
    ca: str | None
    folder: Path

    def journal(self) -> list[str]:
        """The journal's lines as they are now."""
        return (self.folder / "journal.jsonl").read_text().splitlines()


@contextmanager
def emulator(folder: Path, inventory: Path, *arguments: str, tls: bool = False) -> Iterator[Emulator]:
    """An emulator that wants a login, until the block ends."""
    (folder / "password").write_text(PASSWORD + "\n")
    ready = folder / "url"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "weft.emulator.main", "--inventory", str(inventory)]
    command += ["--journal", str(folder / "journal.jsonl"), "--ready-file", str(ready)]
    command += ["--user", USER, "--password-file", str(folder / "password"), *arguments]
    ca = None
    if tls:
        authority, certificate, key = make_certificates(folder)
        command += ["--tls-cert", str(certificate), "--tls-key", str(key)]
        ca = str(authority)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + START_LIMIT_SECONDS
        while not ready.exists():
            assert process.poll() is None, "the emulator ended"
            assert time.monotonic() < limit, "the emulator does not start"
            time.sleep(0.02)
        yield Emulator(process, ready.read_text().strip(), ca, folder)
    finally:
        process.kill()
        process.wait()
