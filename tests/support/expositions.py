"""Real texts of exporters with values and a past put in, for a Prometheus to scrape in one go.

Each sample comes once per step with a timestamp of its own, as Prometheus would have had it from so many scrapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TEXTS = Path(__file__).parent.parent / "data" / "expositions"
STEP_SECONDS = 15.0
STEPS = 17
"""One more than the long window of scrapes every 15 s has."""
BEFORE = 1e6
"""What counters had counted before."""

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Counter:
    """One that grows by so much per second."""

    rate: float


@dataclass(frozen=True)
class Gauge:
    """One that has this value now, and has grown by so much per second up to it."""

    value: float
    growth: float = 0.0


@dataclass(frozen=True)
class Histogram:
    """One with so many observations per second, of this mean, of which these shares are within these bounds."""

    rate: float
    mean: float
    within: Mapping[float, float] = field(default_factory=dict)

    def share(self, bound: float) -> float:
        return (
            max((share for at, share in self.within.items() if at <= bound), default=0.0)
            if bound < 1e308
            else 1.0
        )


Change = Counter | Gauge | Histogram
Changes = Mapping[str, Change]
"""By metric, of the histogram's without suffix; `name{label="value"}` for the series with this label only."""


def history(name: str, changes: Changes, now: float, *, steps: int = STEPS, without: str = "") -> str:
    """The text of a file with these changes, ending at `now` (Unix time). `without`: lines that match are left out.

    Raises KeyError for a change of a metric that the exporter does not have.
    """
    lines = [
        line
        for line in (TEXTS / name).read_text().splitlines()
        if line and not line.startswith("#") and not (without and re.search(without, line))
    ]
    used: set[str] = set()
    text = "".join(line for each in lines for line in _points(each, changes, now, steps, used))
    if unknown := changes.keys() - used:
        raise KeyError(f"{name} has no {', '.join(sorted(unknown))}")
    return text


def _points(line: str, changes: Changes, now: float, steps: int, used: set[str]) -> Iterator[str]:
    found = _SAMPLE.match(line)
    assert found is not None, line
    metric, labels, value = found[1], dict(_LABEL.findall(found[2] or "")), float(found[3])
    series = line[: line.rindex(" ")]
    latest, slope = value, 0.0
    key, change = _change(metric, labels, changes)
    if change is not None:
        used.add(key)
        if isinstance(change, Gauge):
            latest, slope = change.value, change.growth
        else:
            slope = _slope(metric, labels, change)
            latest = BEFORE + slope * STEP_SECONDS * STEPS
    for step in range(steps - 1, -1, -1):
        past = step * STEP_SECONDS
        yield f"{series} {latest - slope * past} {round((now - past) * 1000)}\n"


def _change(metric: str, labels: Mapping[str, str], changes: Changes) -> tuple[str, Change | None]:
    base = re.sub(r"_(bucket|sum|count)$", "", metric)
    for label, value in labels.items():
        if (key := f'{metric}{{{label}="{value}"}}') in changes:
            return key, changes[key]
    for key in (metric, base):
        change = changes.get(key)
        if change is not None and (key == metric or isinstance(change, Histogram)):
            return key, change
    return "", None


def _slope(metric: str, labels: Mapping[str, str], change: Counter | Histogram) -> float:
    if isinstance(change, Counter):
        return change.rate
    if metric.endswith("_sum"):
        return change.rate * change.mean
    if metric.endswith("_bucket"):
        return change.rate * change.share(float(labels["le"].replace("+Inf", "inf")))
    return change.rate
