"""The end of the demo: the table of both groups, and what the exit status is. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from weft_playground.demo.facts import Census
from weft_playground.demo.rehearsal import Objectives
from weft_playground.lag import Lag
from weft_playground.load import Result

EXIT_OK, EXIT_FAILED, EXIT_TOO_SLOW = 0, 1, 3
# "Machine too slow": lateness above this part of the objective it would disturb.
LAG_SHARE = 0.1
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
class Evidence:
    """Everything the verdict rests on."""

    objectives: Objectives
    shift_at: float
    auto: GroupReport
    paused: GroupReport
    requests_sent: int
    logical_node_bound: bool
    logical_nodes: Sequence[LogicalNodeReport] = ()
    attached_twice: Sequence[str] = ()
    left_attached: Sequence[tuple[str, str]] = ()
    lags: Sequence[Lag] = field(default=())


@dataclass(frozen=True)
class Verdict:
    """The exit status and why."""

    status: int
    reasons: Sequence[str]


def verdict(evidence: Evidence) -> Verdict:
    """1: something that must never happen did, or what should happen did not; 3: this machine cannot tell."""
    broken = []
    for group in (evidence.auto, evidence.paused):
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
    missing = []
    if not evidence.logical_node_bound:
        missing.append("no logical node was bound")
    if not evidence.auto.transfers:
        missing.append("no transfer happened: the split did not follow the mix")
    return Verdict(EXIT_FAILED if missing else EXIT_OK, missing)


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
    """Both groups side by side, whatever it shows."""
    groups = (evidence.auto, evidence.paused)
    rows: list[tuple[str, ...]] = [("", *(f"{group.name} ({group.mode})" for group in groups))]
    before = [[r for r in group.results if r.scheduled < evidence.shift_at] for group in groups]
    after = [[r for r in group.results if r.scheduled >= evidence.shift_at] for group in groups]
    both = [list(group.results) for group in groups]
    goal = evidence.objectives
    rows.append(
        ("within objectives, first stretch", *(_percent(share_within(part, goal)) for part in before))
    )
    rows.append(
        ("within objectives, second stretch", *(_percent(share_within(part, goal)) for part in after))
    )
    rows.append(("within objectives, all requests", *(_percent(share_within(part, goal)) for part in both)))
    for name, parts in (("first", before), ("second", after)):
        for share in (0.5, 0.9):
            cells = (f"{quantile([r.ttft for r in part], share):.2f} s" for part in parts)
            rows.append((f"time to first token p{share * 100:.0f}, {name} stretch", *cells))
    cells = (f"{quantile([r.mean_inter_token for r in part], 0.9) * 1000:.0f} ms" for part in both)
    rows.append(("time between tokens p90 (mean of a request)", *cells))
    rows.append(("requests, failed", *(f"{len(p)}, {sum(not r.ok for r in p)}" for p in both)))
    rows.append(("GPU-seconds", *(f"{group.accelerator_seconds:,.0f}" for group in groups)))
    rows.append(
        ("  of these while not serving", *(f"{group.idle_accelerator_seconds:,.0f}" for group in groups))
    )
    rows.append(
        (
            "most GPUs at any instant, budget",
            *(f"{g.most_accelerators}, {g.budget_accelerators}" for g in groups),
        )
    )
    rows.append(("transfers", *(str(len(group.transfers)) for group in groups)))
    rows.append(
        (
            "from the shift to the first transfer's end",
            *(_first_transfer(g, evidence.shift_at) for g in groups),
        )
    )
    rows.append(("from the shift to the last split", *(_settled(g, evidence.shift_at) for g in groups)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in rows]
    return "\n".join(lines)


def summary(evidence: Evidence) -> str:
    """All that the user sees at the end, without the verdict."""
    goal = evidence.objectives
    splits = [f"  {group.name}: {splits_over_time(group)}" for group in (evidence.auto, evidence.paused)]
    return "\n".join(
        (
            "",
            f"Objectives: first token within {goal.time_to_first_token:g} s,"
            f" {goal.inter_token_latency * 1000:g} ms between tokens (mean of a request)",
            table(evidence),
            "",
            "prefill:decode serving over time (+n: exist, do not serve)",
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
