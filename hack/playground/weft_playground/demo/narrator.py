"""What the user reads while the demo runs: a line per event, and a line at least every 15 seconds."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TextIO

QUIET_SECONDS = 15.0


class Narrator:
    """Prints lines with the seconds since the start. On a terminal, what is being waited for stays on the last line."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._zero = time.monotonic()
        self._spoke = self._zero
        self._waiting_for = ""
        self._since = self._zero
        self._open_line = False

    def say(self, text: str = "") -> None:
        """One line; further lines of `text` are indented below the first."""
        first, *more = text.split("\n")
        minutes, seconds = divmod(int(time.monotonic() - self._zero), 60)
        self._clear()
        print(f"{minutes}:{seconds:02d}  {first}".rstrip(), file=self._out)
        for line in more:
            print(f"      {line}".rstrip(), file=self._out)
        self._out.flush()
        self._spoke = time.monotonic()

    def show(self, text: str) -> None:
        """A block as it is, without times."""
        self._clear()
        print(text, file=self._out, flush=True)
        self._spoke = time.monotonic()

    @contextlib.contextmanager
    def waiting(self, what: str, usual_seconds: float | None = None) -> Iterator[None]:
        """Say, as long as this lasts, what is being waited for."""
        usual = f" (usually {usual_seconds:.0f} s)" if usual_seconds is not None else ""
        self._waiting_for, self._since = what + usual, time.monotonic()
        try:
            yield
        finally:
            self._waiting_for = ""
            self._clear()

    async def keep_alive(self) -> None:
        """Run beside everything else."""
        while True:
            await asyncio.sleep(0.5)
            if not self._waiting_for:
                continue
            now = time.monotonic()
            text = f"{self._waiting_for}: {now - self._since:.0f} s so far"
            if self._terminal:
                self._clear()
                print(f"      ... {text}", end="", file=self._out, flush=True)
                self._open_line = True
            elif now - self._spoke >= QUIET_SECONDS:
                self.say(text)

    def _clear(self) -> None:
        if self._open_line:
            print("\r\x1b[K", end="", file=self._out)
            self._open_line = False
