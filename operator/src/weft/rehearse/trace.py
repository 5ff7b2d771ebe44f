"""Recorded traffic: when requests arrived and how long their two parts were."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


class TraceError(ValueError):
    """A file that is no trace: says where and what is wrong."""


@dataclass(frozen=True)
class Trace:
    """Requests in the order of their arrival."""

    at_seconds: tuple[float, ...]
    """From the start of the trace."""
    prompt_tokens: tuple[int, ...]
    answer_tokens: tuple[int, ...]
    blocks: tuple[tuple[int, ...], ...] = ()
    """Per request, the hashes of its prompt's blocks from the first on, where the trace has them; else empty."""
    block_tokens: int = 512

    def __len__(self) -> int:
        return len(self.at_seconds)

    @property
    def seconds(self) -> float:
        """Until the last arrival."""
        return self.at_seconds[-1] if self.at_seconds else 0.0

    @classmethod
    def of(cls, rows: Iterable[tuple[float, int, int]], blocks: Iterable[tuple[int, ...]] = ()) -> Trace:
        """From (seconds, prompt tokens, answer tokens) in any order. A prompt or an answer has at least one token."""
        order = list(rows)
        keys = list(blocks)
        index = sorted(range(len(order)), key=lambda i: order[i][0])
        return cls(
            tuple(order[i][0] for i in index),
            tuple(max(1, order[i][1]) for i in index),
            tuple(max(1, order[i][2]) for i in index),
            tuple(keys[i] for i in index) if keys else (),
        )

    def cut(self, start_seconds: float, end_seconds: float) -> Trace:
        """The requests of [start, end), times from its start."""
        first, last = (bisect_left(self.at_seconds, each) for each in (start_seconds, end_seconds))
        return Trace(
            tuple(at - start_seconds for at in self.at_seconds[first:last]),
            self.prompt_tokens[first:last],
            self.answer_tokens[first:last],
            self.blocks[first:last],
            self.block_tokens,
        )

    def superposed(self, copies: int, shift_seconds: float) -> Trace:
        """The trace with copies of itself over it, each shifted by so much more (round the end): more load with
        lengths and burstiness as recorded, which compressing time would change. Copies share no prompt blocks."""
        length = self.seconds + 1e-6
        rows: list[tuple[float, int, int]] = []
        blocks: list[tuple[int, ...]] = []
        for copy in range(copies):
            for i, at in enumerate(self.at_seconds):
                rows.append(
                    ((at + copy * shift_seconds) % length, self.prompt_tokens[i], self.answer_tokens[i])
                )
                if self.blocks:
                    blocks.append(tuple(block * copies + copy for block in self.blocks[i]))
        return Trace.of(rows, blocks)


def read_trace(path: Path) -> Trace:
    """A file as Azure's (CSV with TIMESTAMP, ContextTokens, GeneratedTokens), Mooncake's (JSON lines with timestamp in
    ms, input_length, output_length, hash_ids), or CSV with arrival_seconds, prompt_tokens, answer_tokens; each
    also compressed (.gz). Times count from the first request, in the last form from zero.

    Raises TraceError, and OSError where the file cannot be read.
    """
    try:
        raw = path.read_bytes()
        # Some spreadsheets put a byte order mark in front.
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: {error}") from error
    lines = io.StringIO(text, newline="")
    try:
        trace = _mooncake(lines) if text.lstrip()[:1] == "{" else _table(lines)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error
    if not trace:
        raise TraceError(f"{path}: has no requests")
    return trace


def _mooncake(lines: Iterable[str]) -> Trace:
    rows: list[tuple[float, int, int]] = []
    blocks: list[tuple[int, ...]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = json.loads(line)
            lengths = _tokens(one["input_length"]), _tokens(one["output_length"])
            rows.append((_seconds(str(one["timestamp"])) / 1000, *lengths))
            blocks.append(tuple(int(each) for each in one.get("hash_ids") or ()))
        except (KeyError, TypeError, ValueError) as error:
            raise TraceError(f"line {number}: {type(error).__name__}: {error}") from error
    return Trace.of(_from_the_first(rows), blocks if any(blocks) else ())


def _table(lines: Iterable[str]) -> Trace:
    table = csv.DictReader(lines)
    names = set(table.fieldnames or ())
    azure, own = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}, {"arrival_seconds", "prompt_tokens"}
    if azure <= names:
        return Trace.of(_from_the_first(list(_rows(table, "TIMESTAMP", "ContextTokens", "GeneratedTokens"))))
    if {*own, "answer_tokens"} <= names:
        return Trace.of(_rows(table, "arrival_seconds", "prompt_tokens", "answer_tokens"))
    raise TraceError(
        "no trace: a CSV with the columns arrival_seconds, prompt_tokens, answer_tokens, or TIMESTAMP,"
        " ContextTokens, GeneratedTokens; or Mooncake's JSON lines"
    )


def _rows(table: csv.DictReader[str], at: str, prompt: str, answer: str) -> Iterator[tuple[float, int, int]]:
    for row in table:
        try:
            yield _seconds(row[at]), _tokens(row[prompt]), _tokens(row[answer])
        except (TypeError, ValueError) as error:
            raise TraceError(f"line {table.line_num}: {error}") from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        # Seven digits of a second, as .NET writes them, are one more than Python reads.
        seconds = datetime.fromisoformat(text[:26]).replace(tzinfo=UTC).timestamp()
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{text!r} is no time of arrival")
    return seconds


def _tokens(text: str | float | None) -> int:
    """Also of a whole number written as 100.0, as tables with gaps are saved."""
    try:
        number = float(text if text is not None else "")
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf") or number % 1:
        raise ValueError(f"{text!r} is no number of tokens")
    return int(number)


def _from_the_first(rows: list[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    first = min((at for at, _, _ in rows), default=0.0)
    return [(at - first, prompt, answer) for at, prompt, answer in rows]
