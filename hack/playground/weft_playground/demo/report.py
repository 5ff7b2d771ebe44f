"""The end of the demo: the table of both groups, and what the exit status is. Pure but for reading the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from weft_playground.case import Split
from weft_playground.demo.facts import Census
from weft_playground.demo.rehearsal import Objectives
from weft_playground.lag import Lag
from weft_playground.load import Result

EXIT_OK, EXIT_FAILED, EXIT_TOO_SLOW = 0, 1, 3
# "Machine too slow": lateness above this part of the objective it would disturb.
LAG_SHARE = 0.1
WORTH_A_MOVE = 0.05
"""A split that meets this much more of a stretch is one that balancing has to find."""
WORSE = 0.02
"""Balancing must not cost a larger share of the requests than this."""
LOAD = "load"


@dataclass(frozen=True)
class GroupReport:
    """What is known of one group at the end. Times in seconds from the start of the load."""

    name: str
    mode: str
    results: Sequence[Result]
    history: Sequence[tuple[float, Census]]
    budget_accelerators: int
    most_accelerators: int
    accelerator_seconds: float
    idle_accelerator_seconds: float
    transfers: Sequence[float] = ()
    settled_at: float | None = None


@dataclass(frozen=True)
class LogicalNodeReport:
    """A logical node's devices, as the fabric's journal has them."""

    namespace: str
    name: str
    node: str
    host: str
    devices: Sequence[str]


@dataclass(frozen=True)
class Computed:
    """What a fixed split would have done with the same requests: computed by the rehearsal, not served."""

    split: Split
    results: Sequence[Result]


@dataclass(frozen=True)
class Evidence:
    """Everything the verdict rests on."""

    objectives: Objectives
    shift_at: float
    auto: GroupReport
    paused: GroupReport | None
    """Absent where only one group is served."""
    requests_sent: int
    logical_node_bound: bool
    split: Split
    """What both groups started with."""
    computed: Sequence[Computed]
    """Every fixed split of as many replicas."""
    logical_nodes: Sequence[LogicalNodeReport] = ()
    attached_twice: Sequence[str] = ()
    left_attached: Sequence[tuple[str, str]] = ()
    lags: Sequence[Lag] = field(default=())
    counted: Sequence[str] = ()
    """What else is known of the load."""
    wrong: Sequence[str] = ()
    """What of it must not be."""


@dataclass(frozen=True)
class Verdict:
    """The exit status and why."""

    status: int
    reasons: Sequence[str]


def verdict(evidence: Evidence) -> Verdict:
    """1: something that must never happen did, or what should happen did not; 3: this machine cannot tell.

    A move should happen where the case has one to gain from; where it has none, that is said and all is well.
    """
    broken = [*evidence.wrong]
    for group in groups(evidence):
        if group.most_accelerators > group.budget_accelerators:
            broken.append(
                f"{group.name}: the budget was exceeded: {group.most_accelerators} accelerators"
                f" of {group.budget_accelerators}"
            )
        failed = [result for result in group.results if not result.ok]
        if failed:
            broken.append(f"{group.name}: {len(failed)} requests failed, the first: {failed[0].error}")
        if len(group.results) != evidence.requests_sent:
            broken.append(
                f"{group.name}: {evidence.requests_sent} requests sent, {len(group.results)} answered"
            )
    broken += [f"the fabric's journal: attached twice: {device}" for device in evidence.attached_twice]
    if evidence.left_attached:
        left = ", ".join(f"{device} on {host}" for device, host in evidence.left_attached)
        broken.append(f"the fabric's journal: left attached at the end: {left}")
    if broken:
        return Verdict(EXIT_FAILED, broken)
    slow = [text for lag in evidence.lags if (text := too_slow(lag, evidence.objectives))]
    if slow:
        return Verdict(EXIT_TOO_SLOW, [f"machine too slow: {text}" for text in slow])
    missing = [] if evidence.logical_node_bound else ["no logical node was bound"]
    auto, paused = (
        share_within(group.results, evidence.objectives) if group is not None else None
        for group in (evidence.auto, evidence.paused)
    )
    if auto is not None and paused is not None and auto < paused - WORSE:
        missing.append(
            f"balancing made it worse: {_percent(auto)} of all requests within objectives, {_percent(paused)} without"
        )
    lacking, enough = ("", "") if evidence.auto.transfers else without_a_move(evidence)
    if lacking:
        missing.append(lacking)
    if missing:
        return Verdict(EXIT_FAILED, missing)
    return Verdict(EXIT_OK, [enough] if enough else [])


def without_a_move(evidence: Evidence) -> tuple[str, str]:
    """What to say of a run in which nothing moved: (what should have, "") or ("", why nothing had to)."""
    goal, shift = evidence.objectives, evidence.shift_at
    served = [share_within(part, goal) for part in stretches(evidence.auto.results, shift)]
    if all(share is None or share >= goal.attainment for share in served):
        return "", (
            f"no move was needed: the first split, {evidence.split}, met {' and '.join(map(_percent, served))} of the"
            f" two stretches, {goal.attainment * 100:g} % were promised"
        )
    for number, name in enumerate(("first", "second")):
        shares = {
            each.split: share_within(stretches(each.results, shift)[number], goal) or 0.0
            for each in evidence.computed
        }
        best = max(shares, key=lambda split: shares[split])
        if shares[best] - shares[evidence.split] > WORTH_A_MOVE:
            return (
                f"no transfer happened: the split did not follow the mix: in the {name} stretch {best} would have met"
                f" {_percent(shares[best])}, {evidence.split} {_percent(shares[evidence.split])} (computed)"
            ), ""
    return "", (
        f"no move was needed: in neither stretch would another split of {evidence.split.replicas} replicas have met"
        f" {WORTH_A_MOVE * 100:g} % more than the first one, {evidence.split} (computed)"
    )


def groups(evidence: Evidence) -> Sequence[GroupReport]:
    return [each for each in (evidence.auto, evidence.paused) if each is not None]


def stretches(results: Iterable[Result], shift_at: float) -> tuple[list[Result], list[Result]]:
    """Those sent before the shift, and those after it."""
    parts: tuple[list[Result], list[Result]] = ([], [])
    for result in results:
        parts[result.scheduled >= shift_at].append(result)
    return parts


def best_fixed(evidence: Evidence) -> Computed | None:
    """The best fixed split on the whole load, which nobody knew beforehand; of equals the one nearer to the first."""
    return max(
        evidence.computed,
        key=lambda each: (
            share_within(each.results, evidence.objectives) or 0.0,
            -abs(each.split.prefill - evidence.split.prefill),
        ),
        default=None,
    )


def too_slow(lag: Lag, objectives: Objectives) -> str:
    """What to say where a process lagged by more than a tenth of an objective; else nothing.

    A request sent late shows in its time to first token: judged by the 99th percentile. All else shows in the time
    between tokens, whose objective is for the mean of a request: judged by the mean over the worst five seconds.
    """
    if lag.process == LOAD:
        late, objective = lag.p99_seconds, objectives.time_to_first_token
        name, how = "time to first token", "99th percentile"
    else:
        late, objective = lag.worst_mean_seconds, objectives.inter_token_latency
        name, how = "time between tokens", "mean of its worst five seconds"
    if late <= LAG_SHARE * objective:
        return ""
    return (
        f"{lag.process} ran {late * 1000:.0f} ms late ({how}), more than a tenth of the objective for the {name}"
        f" ({objective * 1000:.0f} ms)"
    )


def table(evidence: Evidence) -> str:
    """Both groups side by side, and the best fixed split in hindsight, whatever it shows."""
    served, goal = groups(evidence), evidence.objectives
    best = best_fixed(evidence)
    columns = [(f"{group.name} ({group.mode})", group.results) for group in served]
    if best is not None:
        columns.append((f"fixed {best.split}, in hindsight (computed)", best.results))
    parts = [stretches(results, evidence.shift_at) for _, results in columns]
    before, after = zip(*parts, strict=True)
    both = [list(results) for _, results in columns]
    rows: list[tuple[str, ...]] = [("", *(head for head, _ in columns))]
    for name, members in (
        ("first stretch", before),
        ("second stretch", after),
        ("all requests", both),
    ):
        rows.append((f"within objectives, {name}", *(_percent(share_within(part, goal)) for part in members)))
    for name, members in (("first", before), ("second", after)):
        for share in (0.5, 0.9):
            cells = (f"{quantile([r.ttft for r in part], share):.2f} s" for part in members)
            rows.append((f"time to first token p{share * 100:.0f}, {name} stretch", *cells))
    cells = (f"{quantile([r.mean_inter_token for r in part], 0.9) * 1000:.0f} ms" for part in both)
    rows.append(("time between tokens p90 (mean of a request)", *cells))
    rows.append(("requests, failed", *(f"{len(p)}, {sum(not r.ok for r in p)}" for p in both)))
    of_groups: list[tuple[str, Callable[[GroupReport], str]]] = [
        ("GPU-seconds", lambda group: f"{group.accelerator_seconds:,.0f}"),
        ("  of these while not serving", lambda group: f"{group.idle_accelerator_seconds:,.0f}"),
        (
            "most GPUs at any instant, budget",
            lambda group: f"{group.most_accelerators}, {group.budget_accelerators}",
        ),
        ("transfers", lambda group: str(len(group.transfers))),
        (
            "from the shift to the first transfer's end",
            lambda group: _first_transfer(group, evidence.shift_at),
        ),
        ("from the shift to the last split", lambda group: _settled(group, evidence.shift_at)),
    ]
    for name, cell in of_groups:
        rows.append((name, *map(cell, served), *[""] * (len(columns) - len(served))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            (f"{row[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True)))
        ).rstrip()
        for row in rows
    )


def summary(evidence: Evidence) -> str:
    """All that the user sees at the end, without the verdict."""
    goal = evidence.objectives
    splits = [f"  {group.name}: {splits_over_time(group)}" for group in groups(evidence)]
    return "\n".join(
        (
            "",
            f"Objectives: first token within {goal.time_to_first_token:g} s,"
            f" {goal.inter_token_latency * 1000:g} ms between tokens (mean of a request)",
            table(evidence),
            *evidence.counted,
            "",
            "prefill:decode serving over time since the load began (+n: exist, do not serve)",
            *splits,
            "",
            "logical nodes and their devices, from the fabric's journal",
            "  " + logical_nodes_text(evidence.logical_nodes).replace("\n", "\n  "),
            "",
        )
    )


def splits_over_time(group: GroupReport) -> str:
    """`0:00 3:6, 0:52 3:5 +1, ...`: prefill:decode serving, +n existing but not serving."""
    steps = []
    for at, census in group.history:
        minutes, seconds = divmod(int(max(0.0, at)), 60)
        text = f"{minutes}:{seconds:02d} {census}"
        if at <= 0:
            steps = [text]
        else:
            steps.append(text)
    return ", ".join(steps)


def logical_nodes_text(nodes: Sequence[LogicalNodeReport]) -> str:
    """One line per logical node."""
    if not nodes:
        return "none"
    width = max(len(f"{node.namespace}/{node.name}") for node in nodes)
    return "\n".join(
        f"{node.namespace + '/' + node.name:<{width}}  {node.node} ({node.host}): {', '.join(node.devices)}"
        for node in nodes
    )


def share_within(results: Iterable[Result], objectives: Objectives) -> float | None:
    """Share of requests that met both objectives; a failed one met none. None without requests."""
    met = [
        result.ok
        and result.ttft <= objectives.time_to_first_token
        and result.mean_inter_token <= objectives.inter_token_latency
        for result in results
    ]
    return sum(met) / len(met) if met else None


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def read_results(path: Path) -> Mapping[str, list[Result]]:
    """Results by group, in the order of their end. A last line that is being written is left out."""
    groups: dict[str, list[Result]] = {}
    if not path.exists():
        return groups
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            result = Result(**json.loads(line))
            groups.setdefault(result.group, []).append(result)
    return groups


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.1f} %"


def _first_transfer(group: GroupReport, shift_at: float) -> str:
    ends = [at for at in group.transfers if at >= shift_at]
    return f"{min(ends) - shift_at:.0f} s" if ends else "-"


def _settled(group: GroupReport, shift_at: float) -> str:
    if group.settled_at is None or group.settled_at <= shift_at:
        return "-"
    return f"{group.settled_at - shift_at:.0f} s"
