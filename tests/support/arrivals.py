"""Requests over time: generated from a seed, or read from a CSV that somebody recorded."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from weft.api.quantity import parse_bytes

GIB = 2**30
COLUMNS = ("create_time", "delete_time", "accelerators", "memory", "storage")
NEEDED = ("create_time", "accelerators")
SIZES = ((1, 40), (2, 22), (4, 20), (8, 14), (16, 3), (32, 1))
"""Accelerators and how often they are asked for, in percent."""


@dataclass(frozen=True)
class Arrival:
    """One request: when it comes, how long it keeps what it gets, and what it asks for."""

    number: int
    created: float
    """Seconds."""
    lives: float
    """Seconds from its start; infinite: to the end."""
    namespace: str
    accelerators: int
    memory: int = 0
    """Bytes."""
    storage: int = 0
    tied: bool = False
    """Whether its accelerators have to be in one domain."""


class TraceError(Exception):
    """Why a CSV cannot be replayed, for people."""


def generated(
    seed: int,
    count: int,
    load: float,
    accelerators: int,
    namespaces: Sequence[str] = ("a", "b", "c", "d"),
    sizes: Iterable[tuple[int, int]] = SIZES,
    tied: float = 0.0,
    *,
    bytes_too: bool = True,
) -> list[Arrival]:
    """Arrivals at random moments, so many that they ask for `load` of the accelerators; heavy-tailed lifetimes.

    The lifetimes are Pareto's with the exponent 1.5 from ten minutes up to two hours; `tied` is the part of those of at
    most 8 accelerators that want one domain; without `bytes_too` they want accelerators alone.
    """
    any_of = random.Random(seed)
    sizes = list(sizes)
    drawn = []
    for number in range(count):
        size = any_of.choices([size for size, _ in sizes], [weight for _, weight in sizes])[0]
        lives = min(600 * any_of.paretovariate(1.5), 7200.0)
        memory = any_of.choice((0, 0, 0, 256, 512)) * GIB
        storage = any_of.choice((0, 0, 0, 0, 2048)) * GIB
        if not bytes_too:
            memory = storage = 0
        is_tied = 1 < size <= 8 and any_of.random() < tied
        drawn.append(Arrival(number, 0.0, lives, any_of.choice(namespaces), size, memory, storage, is_tied))
    work = sum(each.accelerators * each.lives for each in drawn)
    horizon = work / (load * accelerators)
    times = sorted(any_of.uniform(0, horizon) for _ in drawn)
    return [replace(each, created=at) for each, at in zip(drawn, times, strict=True)]


def write(path: Path, arrivals: Iterable[Arrival]) -> None:
    """The columns that recorded traces have; the namespace comes with them."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow((*COLUMNS, "namespace"))
        for each in arrivals:
            gib = (f"{each.memory / GIB:g}", f"{each.storage / GIB:g}")
            times = (f"{each.created:.3f}", f"{each.created + each.lives:.3f}")
            rows.writerow((*times, each.accelerators, *gib, each.namespace))


def read(path: Path, most: int = 20_000) -> tuple[list[Arrival], list[str]]:
    """The arrivals of a CSV, the earliest at 0, and what was odd about it, for people.

    Times are seconds or ISO 8601; memory and storage are GiB, or quantities (512Gi). Without delete_time a request
    stays to the end. Raises TraceError where nothing can be made of the file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} cannot be read: {error}") from error
    first = text.partition("\n")[0]
    separator = next((each for each in ",;\t" if each in first), ",")
    lines = csv.reader(text.splitlines(), delimiter=separator)
    names = [name.strip().lower() for name in next(lines, [])]
    missing = [name for name in NEEDED if name not in names]
    if missing:
        found = ", ".join(filter(None, names)) or "nothing"
        raise TraceError(f"{path} has no column {' and no '.join(missing)}; its first line has: {found}")
    notes = [f"no column {name}: taken as none" for name in COLUMNS if name not in names]
    found_: list[Arrival] = []
    odd: list[str] = []
    for line in lines:
        if not any(cell.strip() for cell in line):
            continue
        row = dict(zip(names, (cell.strip() for cell in line), strict=False))
        try:
            found_.append(_arrival(len(found_), row))
        except ValueError as error:
            odd.append(f"line {lines.line_num}: {error}; left out")
    notes += odd[:10]
    if len(odd) > 10:
        notes.append(f"and {len(odd) - 10} more lines left out")
    if not found_:
        raise TraceError("; ".join([f"{path} has no request that can be replayed", *notes]))
    found_.sort(key=lambda each: (each.created, each.number))
    if len(found_) > most:
        notes.append(f"{len(found_)} requests, of which the first {most} are replayed")
    begin = found_[0].created
    return [replace(each, created=each.created - begin) for each in found_[:most]], notes


def _arrival(number: int, row: dict[str, str]) -> Arrival:
    created = _time(row, "create_time")
    deleted = _time(row, "delete_time") if row.get("delete_time") else math.inf
    if deleted < created:
        raise ValueError("delete_time is before create_time")
    accelerators = math.ceil(_number(row.get("accelerators") or "0", "accelerators"))
    memory, storage = (_bytes(row.get(name) or "0", name) for name in ("memory", "storage"))
    if not (accelerators or memory or storage):
        raise ValueError("it asks for nothing")
    return Arrival(
        number, created, deleted - created, row.get("namespace") or "trace", accelerators, memory, storage
    )


def _time(row: dict[str, str], name: str) -> float:
    text = row.get(name, "")
    try:
        at = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{name} is {text!r}: neither seconds nor ISO 8601") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(at):
        raise ValueError(f"{name} is {text!r}: not a moment")
    return at


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}: not a number") from None
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {text!r}: not an amount")
    return value


def _bytes(text: str, name: str) -> int:
    try:
        return int(_number(text, name) * GIB)
    except ValueError:
        if text[-1:].isalpha():
            try:
                return int(parse_bytes(text))
            except ValueError:
                pass
        raise
