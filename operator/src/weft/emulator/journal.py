"""The journal of acts, and the checker that replays it.

`python -m weft.emulator.journal FILE [--expect-empty]` prints what the journal proves.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DONE = "done"


class Journal:
    """Appends one JSON line for each act, with one write to the operating system before it returns."""

    def __init__(self, path: Path | None) -> None:
        self.seq = 0
        self.counts: dict[str, int] = {}
        self._descriptor: int | None = None
        if path is not None:
            if path.exists():
                self.seq = max((entry["seq"] for entry in entries(path.read_text().splitlines())), default=0)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(
        self,
        act: str,
        *,
        session: str = "",
        user: str = "",
        host: str = "",
        block: str = "",
        request: str = "",
        outcome: str = DONE,
        path: str = "",
        record: dict[str, Any] | None = None,
    ) -> None:
        """Record one act; `path` and `record` are of a resource that was created or deleted."""
        self.seq += 1
        self.counts[act] = self.counts.get(act, 0) + 1
        if self._descriptor is None:
            return
        line: dict[str, Any] = {
            "seq": self.seq,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "act": act,
            "session": session,
            "user": user,
            "host": host,
            "block": block,
            "request": request,
            "outcome": outcome,
        }
        if path:
            line |= {"path": path, "record": record}
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@dataclass(frozen=True)
class DoubleAttach:
    """A block that was attached while it, the device that it is a part of, or a part of it was attached."""

    seq: int
    block: str
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What a journal proves."""

    double_attached: tuple[DoubleAttach, ...]
    left_attached: tuple[tuple[str, str], ...]
    """(block, host) pairs at the end of the journal."""
    attaches: int
    detaches: int


def entries(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The journal's lines, parsed. Raises ValueError, except for a last line that a kill cut short."""
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    parsed: list[dict[str, Any]] = []
    for position, (number, line) in enumerate(numbered, start=1):
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError as error:
            if position == len(numbered):
                break
            raise ValueError(f"line {number} is not JSON: {error}") from error
    return parsed


def joined(journals: Iterable[Iterable[str]]) -> list[str]:
    """Several managers' journals as one, for devices with different names.

    Without the starts, each of which would forget what is attached at the other managers, too.
    """
    return [json.dumps(entry) for lines in journals for entry in entries(lines) if entry["act"] != "start"]


def check(lines: Iterable[str]) -> Report:
    """Replay a journal. An emulator that started without its state has forgotten what was attached."""
    holders: dict[str, list[str]] = {}
    devices: dict[str, str] = {}  # part -> the device that it is carved from
    doubles: list[DoubleAttach] = []
    counts = {"attach": 0, "detach": 0}
    for entry in entries(lines):
        act, outcome, block, host = entry["act"], entry["outcome"], entry["block"], entry["host"]
        if act == "start" and outcome == "empty":
            holders.clear()
        if act == "create" and (made := entry["record"])["device"]:
            devices |= dict.fromkeys(made["blocks"], made["device"])
        if act not in counts or outcome != DONE:
            continue
        counts[act] += 1
        hosts = holders.setdefault(block, [])
        if act == "detach":
            if host in hosts:
                hosts.remove(host)
            continue
        hosts.append(host)
        related = [devices[block]] if block in devices else [p for p, d in devices.items() if d == block]
        others = [holder for name in related for holder in holders.get(name, ())]
        if len(hosts) > 1 or others:
            doubles.append(DoubleAttach(entry["seq"], block, (*hosts, *others)))
    left = tuple((block, host) for block, hosts in holders.items() for host in hosts)
    return Report(tuple(doubles), left, counts["attach"], counts["detach"])


def main(argv: list[str] | None = None) -> int:
    """Check a journal file. 0: all well; 1: a double attach, or a leftover that was not expected."""
    parser = argparse.ArgumentParser(prog="python -m weft.emulator.journal", description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--expect-empty", action="store_true", help="fail when a block is left attached")
    options = parser.parse_args(argv)
    report = check(options.file.read_text(encoding="utf-8").splitlines())
    out = [f"attaches {report.attaches}", f"detaches {report.detaches}"]
    out += [
        f"attached twice: {d.block} on {', '.join(d.hosts)} (seq {d.seq})" for d in report.double_attached
    ]
    out += [f"left attached: {block} on {host}" for block, host in report.left_attached]
    sys.stdout.write("\n".join(out) + "\n")
    return int(bool(report.double_attached) or (options.expect_empty and bool(report.left_attached)))


if __name__ == "__main__":
    sys.exit(main())
