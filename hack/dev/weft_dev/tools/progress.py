"""Saying what goes on while something long runs: one live line on a terminal, a line every minute elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

LINE_EVERY_SECONDS = 60.0
REDRAW_EVERY_SECONDS = 1.0
CLEAR_LINE = "\r\x1b[K"


def duration(seconds: float) -> str:
    """`7 s`, `2 min 05 s`."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def say(message: str, stream: TextIO | None = None) -> None:
    """Print one line at once."""
    print(message, file=stream or sys.stderr, flush=True)


@contextlib.contextmanager
def progress(what: str, usual_seconds: float = 0, stream: TextIO | None = None) -> Iterator[None]:
    """Report `what` while the block runs: how long so far and how long it usually takes."""
    out = stream or sys.stderr
    live = out.isatty()
    usual = f", usually {duration(usual_seconds)}" if usual_seconds else ""
    start = time.monotonic()
    finished = threading.Event()

    def line() -> str:
        return f"{what}: {duration(time.monotonic() - start)} so far{usual}"

    def report() -> None:
        while not finished.wait(REDRAW_EVERY_SECONDS if live else LINE_EVERY_SECONDS):
            if live:
                redraw()
            else:
                say(line(), out)

    def redraw() -> None:
        # A line that wraps could not be taken back: what is done is cut, and the times stay.
        text, room = line(), shutil.get_terminal_size().columns - 1
        excess = max(0, len(text) - room)
        out.write(CLEAR_LINE + (text if not excess else what[: -excess - 3] + "..." + text[len(what) :]))
        out.flush()

    if live:
        redraw()
    else:
        say(f"{what}{usual}", out)
    reporter = threading.Thread(target=report, name="progress", daemon=True)
    reporter.start()
    outcome = "stopped"
    try:
        yield
        outcome = "done"
    finally:
        finished.set()
        reporter.join()
        say(f"{CLEAR_LINE if live else ''}{what}: {outcome} after {duration(time.monotonic() - start)}", out)
