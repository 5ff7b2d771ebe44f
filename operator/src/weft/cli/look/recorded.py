"""What a Prometheus that scrapes the operator has of each group: `weft ui --prometheus URL` draws it.

The queries are those of the shipped dashboards: hack/dev/weft_dev/dashboards.py takes them from here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weft.balancing.settings import SourceSettings
from weft.rehearse.prometheus import ranges, shown
from weft.rehearse.trace import TraceError

QUERIES = {
    "serving": 'max by (namespace, group, role, stage) (weft_role_replicas{state="serving", group=~"$group"})',
    "needed": 'max by (namespace, group, stage) (weft_group_needed_replicas{group=~"$group"})',
    "requests": 'max by (namespace, group) (weft_group_requests_per_second{group=~"$group"})',
    "tokens": 'max by (namespace, group, of) (weft_group_tokens_per_second{group=~"$group"})',
    "within": 'min by (namespace, group, objective) (weft_group_within_objective_ratio{group=~"$group"})',
    "met": "max by (namespace, name)"
    ' (weft_condition{kind="InferenceGroup", condition="ObjectivesMet", name=~"$group"})',
    "decided": 'max by (namespace, group) (weft_group_decision_timestamp_seconds{group=~"$group"})',
}
"""One value for each group, however many replicas of the operator, and however often each, are scraped."""
POINTS = 60
"""Of each line, so that a page of hundreds of groups stays small."""
TIMEOUT_SECONDS = 5.0
"""The page waits for no more, and is made without."""

Key = tuple[str, str]
"""Namespace and name of a group."""
Line = Mapping[int, float]
"""Value by number of the point; points that are missing have none."""


@dataclass
class GroupRecord:
    """One group's lines."""

    serving: dict[str, Line] = field(default_factory=dict)
    """Replicas by stage, those of several roles together."""
    needed: dict[str, Line] = field(default_factory=dict)
    """Replicas by stage."""
    requests: Line = field(default_factory=dict)
    """A second."""
    tokens: dict[str, Line] = field(default_factory=dict)
    """A second, of `prompts` and `answers`."""
    within: dict[str, Line] = field(default_factory=dict)
    """0 to 1, by objective."""
    met: Line = field(default_factory=dict)
    """1, 0, or -1: not known."""
    decided: tuple[float, ...] = ()
    """When the split was decided, as Unix times within the range."""


@dataclass(frozen=True)
class Records:
    """Of all groups over one range; without a range, only why there is nothing."""

    begin: float = 0.0
    """Unix time of point 0."""
    step: float = 1.0
    """Seconds between two points."""
    groups: Mapping[Key, GroupRecord] = field(default_factory=dict)
    missing: str = ""
    """Why there is nothing to draw, and what to do about it."""


NOT_ASKED = Records(
    missing="What each group was asked for and what that needed is in no object of the API, but in the operator's"
    " metrics: name a Prometheus that scrapes them, --prometheus URL (docs/metrics.md says how one comes to do so)."
)


async def read_records(server: SourceSettings, now: float, seconds: float) -> Records:
    """What a Prometheus has of the last `seconds` until `now` (Unix time). Raises nothing."""
    step = max(1.0, math.ceil(seconds / POINTS))
    try:
        async with ranges(server, TIMEOUT_SECONDS) as asked:
            # A point at each whole step, so that a line does not tremble when the page is read anew.
            end = math.floor(now / step) * step
            begin = end - POINTS * step
            answers = await asyncio.gather(
                *(
                    asked.ask(query.replace("$group", ".*"), begin, end - begin, step)
                    for query in QUERIES.values()
                )
            )
            found = dict(zip(QUERIES, answers, strict=True))
            groups = records_of(found, begin + step, step)
    except TraceError as error:
        return Records(missing=f"Traffic and need are not shown: {str(error).rstrip(': ')}.")
    except (AttributeError, KeyError, TypeError, ValueError):
        return Records(
            missing=f"Traffic and need are not shown: no Prometheus server answers at {shown(server.url)}."
        )
    if not any(found.values()):
        return Records(
            missing="Traffic and need are not shown: the Prometheus server answers, and has nothing of Weft's metrics"
            " in this time: does it scrape the operator? docs/metrics.md says how it comes to do so."
        )
    return Records(begin + step, step, groups)


def records_of(
    found: Mapping[str, list[dict[str, Any]]], begin: float, step: float
) -> dict[Key, GroupRecord]:
    """Lines out of the answers, by name of the query. Pure."""
    records: dict[Key, GroupRecord] = {}
    for name, series in found.items():
        for one in series:
            labels = one["metric"]
            key = labels.get("namespace", ""), labels.get("group", labels.get("name", ""))
            record = records.setdefault(key, GroupRecord())
            line = _line(one["values"], begin, step)
            match name:
                case "serving":
                    stage = labels.get("stage", "")
                    record.serving[stage] = _added(record.serving.get(stage, {}), line)
                case "needed":
                    record.needed[labels.get("stage", "")] = line
                case "requests":
                    record.requests = line
                case "tokens":
                    record.tokens[labels.get("of", "")] = line
                case "within":
                    record.within[labels.get("objective", "")] = line
                case "met":
                    record.met = line
                case "decided":
                    record.decided = tuple(sorted({each for each in line.values() if each >= begin}))
    return records


def _line(values: list[list[Any]], begin: float, step: float) -> dict[int, float]:
    points = ((round((float(at) - begin) / step), float(text)) for at, text in values)
    return {n: value for n, value in points if 0 <= n < POINTS and math.isfinite(value)}


def _added(one: Line, other: Line) -> Line:
    return {n: one.get(n, 0.0) + other.get(n, 0.0) for n in sorted({*one, *other})}
