"""The tables of docs/evaluation.md, from runs. Pure: the same runs give the same text."""

from __future__ import annotations

import statistics
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import constants
from results import Run

STATIC, AGGREGATED, FIRST, SHIPPED = "static", "aggregated", "first", "dynamo, shipped"
WEFT, WEFT_MIXED, OPTIMUM = "weft", "weft aggregated", "optimum"
FLIPPING = (WEFT, WEFT_MIXED)
MIXTURES = (AGGREGATED, WEFT_MIXED)
"""That may have aggregated replicas."""
TITLES = {
    STATIC: "best static split in hindsight",
    AGGREGATED: "the same, also with aggregated replicas",
    FIRST: "the first split, kept",
    "hpa": "HPA",
    "dynamo": "NVIDIA Dynamo's planner, by its rules",
    "ratio": "WVA's saturation, Kthena's ratio",
    SHIPPED: "NVIDIA Dynamo's planner, as shipped",
    WEFT_MIXED: "Weft, with a role that serves both stages",
    WEFT: "**Weft**",
    OPTIMUM: "a schedule that knew the requests",
}
"""In the order of the tables, but that scrapes come before."""
CASES = ("alternating", "scarce", "random", "recorded", "stationary")
WAYS = {True: "drains first", False: "no drain"}
BELOW_ALLOWED = 1.0
"""Points that Weft may be below the best static split."""
TIMES_SHIPPED = 2.0
LEAST = {"scarce": 80.0, "alternating": 92.0}
OF_OPTIMUM, OF_OPTIMUM_RESTARTED = 90.0, 80.0
"""Goals in per cent, with flips of 2 s and of 60 s."""
LOSSES = 10

Entry = tuple[str, float]
"""Policy and scrape interval: a row of the tables."""
Cell = tuple[str, bool]
"""Case, and whether replicas drain first."""


class Played:
    """Runs by row, cell and seed. Of fixed splits each case and seed has the best, and no way to flip."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = list(runs)
        self.cases = [case for case in CASES if any(run.case == case for run in self.runs)]
        self.seeds = sorted({run.seed for run in self.runs})
        self.found: dict[Entry, dict[Cell, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
        for run in self.runs:
            for policy in (STATIC, AGGREGATED) if run.policy == STATIC else (run.policy,):
                by_seed = self.found[policy, run.scrape_seconds][run.case, run.drains]
                if run.seed not in by_seed or run.within > by_seed[run.seed].within:
                    by_seed[run.seed] = run

    @property
    def entries(self) -> list[Entry]:
        order = list(TITLES)
        return sorted(
            self.found, key=lambda each: (each[0] in (*FLIPPING, OPTIMUM), each[1], order.index(each[0]))
        )

    def of(self, policy: str, scrape: float, case: str, drains: bool) -> dict[int, Run]:
        return self.found.get((policy, scrape), {}).get((case, drains), {})

    def scrapes(self) -> list[float]:
        """Those that Weft was played with."""
        return [scrape for policy, scrape in self.entries if policy == WEFT]

    def against(self, scrape: float, case: str, drains: bool) -> dict[int, float]:
        """Points that Weft is above the best static split, aggregated ones too, by seed."""
        best = self.of(AGGREGATED, 0.0, case, True)
        weft = self.of(WEFT, scrape, case, drains)
        return {seed: 100 * (weft[seed].within - best[seed].within) for seed in weft if seed in best}

    def differences(self) -> list[tuple[float, str, bool, float, int]]:
        """The same for all runs of Weft, the worst first: points, case, whether it drains, scrape interval, seed."""
        return sorted(
            (points, case, drains, scrape, seed)
            for case in self.cases
            for drains in WAYS
            for scrape in self.scrapes()
            for seed, points in self.against(scrape, case, drains).items()
        )


def title(entry: Entry) -> str:
    policy, scrape = entry
    return TITLES[policy] + (f", scrapes of {scrape:g} s" if scrape else "")


def shares(played: Played) -> str:
    """Mean share within both objectives over the seeds, in per cent: drains first / no drain."""
    return _by_policy(played, lambda entry, case: _ways(played, entry, case, _share))


def costs(played: Played) -> str:
    """Goodput per accelerator-hour; energy per request; cost per million answer tokens: means, drains first."""
    least = min(played.scrapes(), default=0.0)
    return _by_policy(
        played,
        lambda entry, case: _cost(played, played.of(*entry, case, True)),
        [entry for entry in played.entries if entry[1] in (0.0, least)],
    )


def against_static(played: Played, ways: Sequence[bool] = tuple(WAYS)) -> str:
    """Weft less the best static split, aggregated ones too, seed by seed: mean, worst, and whether that is allowed."""
    scrapes = played.scrapes()
    lines = [*_head(["case", "flips", *(f"scrapes of {scrape:g} s" for scrape in scrapes)])]
    for case in played.cases:
        for drains in ways:
            cells = (_difference(played.against(scrape, case, drains)) for scrape in scrapes)
            lines.append(_row([case, WAYS[drains], *cells]))
    return "\n".join(lines)


def losses(played: Played) -> str:
    """The runs in which Weft is furthest below the best static split."""
    found = played.differences()
    below = [each for each in found if each[0] < -BELOW_ALLOWED]
    lines = [f"{len(below)} of {len(found)} runs are more than {BELOW_ALLOWED:g} point below it"]
    lines[0] += f"; the {LOSSES} worst:" if len(below) > LOSSES else ":" if below else "."
    if below:
        lines += ["", *_head(["case", "seed", "flips", "scrapes", "best static split", "Weft", "points"])]
    for points, case, drains, scrape, seed in below[:LOSSES]:
        best = played.of(AGGREGATED, 0.0, case, True)[seed]
        share = 100 * played.of(WEFT, scrape, case, drains)[seed].within
        texts = [case, str(seed), WAYS[drains], f"{scrape:g} s"]
        lines.append(
            _row([*texts, f"{100 * best.within:.1f} ({best.split})", f"{share:.1f}", f"{points:+.1f}"])
        )
    return "\n".join(lines)


def above_weft(played: Played) -> str:
    """Policies that met more than Weft with the same scrapes, or looking at none, over the seeds of both."""
    found = []
    for policy, scrape in played.entries:
        for case in played.cases:
            for drains, way in WAYS.items():
                theirs = played.of(policy, scrape, case, drains)
                ours = played.of(WEFT, scrape or min(played.scrapes(), default=0.0), case, drains)
                both = ours.keys() & theirs.keys()
                if policy in (STATIC, AGGREGATED, FIRST, OPTIMUM, *FLIPPING) or not both:
                    continue
                means = [
                    100 * statistics.fmean(runs[seed].within for seed in both) for runs in (theirs, ours)
                ]
                found.append((means[0] - means[1], title((policy, scrape)), case, way, *means))
    above = sorted((each for each in found if each[0] > BELOW_ALLOWED), reverse=True)
    lines = [
        f"{len(above)} of {len(found)} means of other policies are more than {BELOW_ALLOWED:g} point above Weft's"
    ]
    lines[0] += ":" if above else "."
    if above:
        lines += ["", *_head(["policy", "case", "flips", "it", "Weft", "points"])]
    lines += (
        _row([name, case, way, f"{theirs:.1f}", f"{ours:.1f}", f"{points:+.1f}"])
        for points, name, case, way, theirs, ours in above
    )
    return "\n".join(lines)


def goals(played: Played) -> str:
    """What was to be reached in NVIDIA Dynamo's replay, met or missed."""
    scrape = min(played.scrapes(), default=0.0)
    lines = [*_head(["goal", *WAYS.values()])]
    below = f"never more than {BELOW_ALLOWED:g} point below the best static split, aggregated ones too"
    cells = []
    for drains in WAYS:
        by_cell = [played.against(each, case, drains) for case in played.cases for each in played.scrapes()]
        kept = [min(points.values()) >= -BELOW_ALLOWED for points in by_cell if points]
        cells.append(
            _met(all(kept), f"in {sum(kept)} of {len(kept)} cases and scrape intervals") if kept else ""
        )
    lines.append(_row([below, *cells]))
    for case, least in LEAST.items():
        if case in played.cases:
            means = [_mean_share(played.of(WEFT, scrape, case, drains)) for drains in WAYS]
            texts = ["" if mean is None else _met(mean >= least, f"{mean:.1f} %") for mean in means]
            lines.append(_row([f"{case}: {least:g} % or more, scrapes of {scrape:g} s", *texts]))
    for case in played.cases:
        pairs = [_beside_shipped(played, scrape, case, drains) for drains in WAYS]
        if any(pairs):
            goal = (
                f"{case}: {TIMES_SHIPPED:g} times the goodput per accelerator-hour of NVIDIA Dynamo's planner"
                " as shipped, where that misses its objective"
            )
            lines.append(_row([goal, *(_times(each) for each in pairs)]))
    return "\n".join(lines)


def goals_of_optimum(played: Played, least: float = OF_OPTIMUM, ways: Sequence[bool] = tuple(WAYS)) -> str:
    """What share Weft meets of what a schedule that knew the requests meets."""
    scrape = min(played.scrapes(), default=0.0)
    lines = [*_head(["case", *(WAYS[drains] for drains in ways)])]
    for case in played.cases:
        cells = []
        for drains in ways:
            best, weft = (
                played.of(policy, interval, case, drains)
                for policy, interval in ((OPTIMUM, 0.0), (WEFT, scrape))
            )
            both = {seed: 100 * weft[seed].within / best[seed].within for seed in weft if seed in best}
            seeds = f", {_seeds(both)}" if len(both) < len(played.seeds) else ""
            mean = statistics.fmean(both.values()) if both else 0.0
            cells.append(_met(mean >= least, f"{mean:.0f} %{seeds}") if both else "not played")
        lines.append(_row([case, *cells]))
    return "\n".join(lines)


def commits(played: Played) -> str:
    """Which seeds these are, and of which commits."""
    texts = []
    for name, own in (("Weft's runs", True), ("the others", False)):
        found = sorted({run.commit for run in played.runs if (run.policy in FLIPPING) is own})
        if found:
            texts.append(f"{name} of commit {', '.join(found)}")
    return f"{_seeds(played.seeds).capitalize()}; {'; '.join(texts)}."


def claim(played: Played) -> str:
    """The sentence of the README. Means over Weft's seeds, over all ways to flip and scrape intervals."""
    own = {run.seed for run in played.runs if run.policy == WEFT}
    played = Played(run for run in played.runs if run.seed in own)

    def between(policy: str, scrapes: Sequence[float]) -> str:
        means = [
            _mean_share(played.of(policy, scrape, "scarce", drains)) for scrape in scrapes for drains in WAYS
        ]
        known = [round(mean) for mean in means if mean is not None]
        return " to ".join(map(str, dict.fromkeys((min(known), max(known))))) if known else "?"

    runs = [points for points, *_ in played.differences()]
    below = [points for points in runs if points < -BELOW_ALLOWED]
    worst = f", at worst by {-runs[0]:.0f} points" if below else ""
    weft, shipped = between(WEFT, played.scrapes()), between(SHIPPED, [0.0])
    static, aggregated = between(STATIC, [0.0]), between(AGGREGATED, [0.0])
    return textwrap.fill(
        "What that gives: in a simulator that others wrote, with scarce hardware and a mix that swings every five"
        f" minutes, {weft} % of the requests are within their objectives, by how replicas change roles and how often"
        f" metrics are read, against {static} % with the best split that never changes, {aggregated} % where it may"
        f" have replicas that serve both stages, and {shipped} % with NVIDIA Dynamo's planner as shipped (means,"
        f" {_seeds(played.seeds)}). Over all cases Weft is more than a point below the best of these splits in"
        f" hindsight in {len(below)} of {len(runs)} runs{worst} ([docs/evaluation.md](docs/evaluation.md)).",
        119,
    )


def _by_policy(
    played: Played, cell: Callable[[Entry, str], str], entries: Sequence[Entry] | None = None
) -> str:
    lines = [*_head(["policy", *played.cases])]
    lines += (
        _row([title(entry), *(cell(entry, case) for case in played.cases)])
        for entry in (played.entries if entries is None else entries)
    )
    return "\n".join(lines)


def _ways(played: Played, entry: Entry, case: str, text: Callable[[Played, dict[int, Run]], str]) -> str:
    return " / ".join(filter(None, (text(played, played.of(*entry, case, drains)) for drains in WAYS)))


def _share(played: Played, runs: dict[int, Run]) -> str:
    mean = _mean_share(runs)
    return "" if mean is None else f"{mean:.1f}{_fewer(played, runs)}"


def _fewer(played: Played, runs: dict[int, Run]) -> str:
    """Which seeds these are, where others have more."""
    return f" ({_seeds(runs)})" if len(runs) < len(played.seeds) else ""


def _mean_share(runs: dict[int, Run]) -> float | None:
    return 100 * statistics.fmean(run.within for run in runs.values()) if runs else None


def _cost(played: Played, runs: dict[int, Run]) -> str:
    if not runs:
        return ""
    goodput, energy, cost = (
        statistics.fmean(getattr(run, name) for run in runs.values())
        for name in ("goodput", "watt_hours", "cost")
    )
    return f"{goodput:,.0f}; {energy:.2f} Wh; ${cost:.2f}{_fewer(played, runs)}"


def _beside_shipped(played: Played, scrape: float, case: str, drains: bool) -> list[tuple[float, float]]:
    """Goodput of Weft and of NVIDIA Dynamo's planner, for the seeds in which that misses its objective."""
    promised = constants.ATTAINMENT_PERMILLE / 1000
    ours, theirs = (
        played.of(policy, interval, case, drains) for policy, interval in ((WEFT, scrape), (SHIPPED, 0.0))
    )
    return [
        (ours[seed].goodput, run.goodput)
        for seed, run in theirs.items()
        if seed in ours and run.within < promised
    ]


def _times(pairs: list[tuple[float, float]]) -> str:
    if not pairs:
        return ""
    ratio = sum(ours for ours, _ in pairs) / sum(theirs for _, theirs in pairs)
    least = min(ours / theirs for ours, theirs in pairs)
    text = f"{ratio:.2f}, least {least:.2f}, {len(pairs)} seed{'s' if len(pairs) > 1 else ''}"
    return _met(ratio >= TIMES_SHIPPED, text)


def _difference(by_seed: dict[int, float]) -> str:
    if not by_seed:
        return ""
    values = list(by_seed.values())
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    worst = min(by_seed, key=lambda seed: by_seed[seed])
    text = f"{statistics.fmean(values):+.1f}{error}; {by_seed[worst]:+.1f} (seed {worst})"
    return _met(by_seed[worst] >= -BELOW_ALLOWED, text)


def _met(kept: bool, text: str) -> str:
    return f"{text}: {'met' if kept else '**missed**'}"


def _seeds(seeds: Iterable[int]) -> str:
    found = sorted(seeds)
    if len(found) > 2 and found == list(range(found[0], found[-1] + 1)):
        return f"seeds {found[0]} to {found[-1]}"
    return f"seed{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}"


def _head(columns: Sequence[str]) -> tuple[str, str]:
    return _row(columns), "|---" * len(columns) + "|"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
