"""What benches count and print: requests by the API server, calls by the fabric managers, lines with their goals."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from support.world import World
from weft_dev.kube import Kube

REQUESTS = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
OURS = ("logicalnodes", "deviceattachments", "nodes", "events")
WRITES = ("POST", "PUT", "PATCH", "DELETE", "APPLY")


def api_requests(kube: Kube, verbs: Iterable[str], resources: Iterable[str] = OURS) -> Counter[str]:
    """Requests that the API server has answered, by `verb resource`, whatever it answered."""
    _, text = kube.raw("GET", "/metrics")
    verbs, resources, count = frozenset(verbs), frozenset(resources), Counter[str]()
    for labels, value in REQUESTS.findall(text.decode()):
        label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        # Kubernetes' own controllers still write events of the core group, Weft writes those of events.k8s.io.
        others = label["resource"] == "events" and label["group"] != "events.k8s.io"
        if label["verb"] in verbs and label["resource"] in resources and not others:
            resource = label["resource"] + (f"/{label['subresource']}" if label["subresource"] else "")
            count[f"{label['verb']} {resource}"] += int(float(value))
    return count


def api_writes(kube: Kube) -> Counter[str]:
    """Write requests for what a bind concerns."""
    return api_requests(kube, WRITES)


def fabric_calls(worlds: Iterable[World]) -> Counter[str]:
    """Redfish requests that the managers served, by method."""
    count: Counter[str] = Counter()
    for world in worlds:
        count.update(world.stats()["requests"]["byMethod"])
    return count


@dataclass(frozen=True)
class Row:
    """One line of a bench."""

    name: str
    value: float
    unit: str
    goal: str
    """What was promised, for people; empty where nothing was."""
    met: bool | None
    """None where nothing was promised, or the run does not tell."""

    def line(self) -> str:
        said = {True: "met", False: "MISSED", None: ""}[self.met]
        return f"{said:6} {self.value:10.2f} {self.unit:12} {self.name:70} {self.goal}"


def at_most(name: str, value: float, unit: str, limit: float) -> Row:
    return Row(name, value, unit, f"<= {limit:g}", value <= limit)


def at_least(name: str, value: float, unit: str, limit: float) -> Row:
    return Row(name, value, unit, f">= {limit:g}", value >= limit)


def noted(name: str, value: float, unit: str) -> Row:
    return Row(name, value, unit, "", None)


@dataclass(frozen=True)
class Ratio:
    """One measurement of another, and what it is of when it is a matter of chance."""

    value: float
    low: float
    """Nine of ten ratios of turns drawn anew are from here"""
    high: float
    """to here."""


def compared(
    these: Sequence[Sequence[float]],
    others: Sequence[Sequence[float]],
    of: Callable[[Sequence[float]], float],
) -> Ratio:
    """`of` all values of `these` by that of the `others`, each in turns that were taken in pairs."""

    def ratio(turns: Iterable[int]) -> float:
        chosen = list(turns)
        mine, theirs = ([value for turn in chosen for value in each[turn]] for each in (these, others))
        return of(mine) / of(theirs)

    drawing, count = random.Random(1), len(these)
    drawn = [ratio(drawing.choices(range(count), k=count)) for _ in range(1000)]
    return Ratio(ratio(range(count)), percentile(drawn, 0.05), percentile(drawn, 0.95))


def within(name: str, ratio: Ratio, unit: str, limit: float) -> Row:
    """Neither met nor missed where the limit lies among what turns drawn anew come to: the run says nothing then."""
    met = True if ratio.high <= limit else False if ratio.low > limit else None
    said = f"<= {limit:g}; by chance {ratio.low:.2f} to {ratio.high:.2f}"
    return Row(name, ratio.value, unit, said, met)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below this share of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def write(rows: Iterable[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
