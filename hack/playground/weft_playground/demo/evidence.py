"""Gathers what the verdict rests on: answers, watched facts and the fabric's journal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from weft.cluster import Object
from weft.emulator import journal
from weft_playground.case import AUTO, MODES, PAUSED, Case, Split
from weft_playground.demo.facts import condition
from weft_playground.demo.rehearsal import Objectives, simulate
from weft_playground.demo.report import Computed, Evidence, GroupReport, LogicalNodeReport
from weft_playground.demo.watching import Watching
from weft_playground.lag import Lag
from weft_playground.load import Result
from weft_playground.profile import read_profile, speed_error
from weft_playground.trace import Request


def logical_nodes(
    watching: Watching, journal_lines: Sequence[str], fabric: Object
) -> list[LogicalNodeReport]:
    """Bound logical nodes with what the journal says is attached to their hosts now."""
    hosts = {each["nodeName"]: each["host"] for each in fabric["spec"]["hosts"]}
    attached = journal.check(journal_lines).left_attached
    reports = []
    for (namespace, name), item in sorted(watching.logical_nodes.items()):
        if condition(item, "Bound")[0] == "True":
            node = item["status"].get("nodeName", "")
            host = hosts.get(node, "")
            devices = sorted((device for device, at in attached if at == host), key=_by_number)
            reports.append(LogicalNodeReport(namespace, name, node, host, devices))
    return reports


def fixed_splits(requests: Sequence[Request], case: Case, replicas: int) -> list[Computed]:
    """What each fixed split would have done on the whole load, with engines as fast as the seed makes them.

    Replicas are numbered from prefill on, which is not quite how the operator numbers them.
    """
    profile, errors = read_profile(), [speed_error(case.seed, number) for number in range(replicas)]
    return [
        Computed(
            Split(prefill, replicas - prefill),
            [
                Result(
                    *("computed", index, request.at_seconds, request.prompt_tokens, request.answer_tokens),
                    *(outcome.time_to_first_token, outcome.inter_token, outcome.inter_token),
                    *(request.answer_tokens, 0.0, True),
                )
                for index, (request, outcome) in enumerate(
                    zip(
                        requests,
                        simulate(
                            *(requests, profile, prefill, replicas - prefill, errors),
                            *(case.step_tokens, case.chance()),
                        ),
                        strict=True,
                    )
                )
            ],
        )
        for prefill in range(1, replicas)
    ]


def gather(
    case: Case,
    watching: Watching,
    zero: float,
    results: Mapping[str, Sequence[Result]],
    requests: Sequence[Request],
    split: Split,
    nodes: Sequence[LogicalNodeReport],
    objectives: Objectives,
) -> Evidence:
    """Everything that is known when the last answer is in. `zero`: the load's start in monotonic time; `split`: what
    both groups started with."""
    end = time.monotonic()
    groups = {}
    for name, facts in watching.facts.items():
        settled = facts.settled_at(Split(facts.census.prefill, facts.census.decode), zero)
        transfers = watching.transfers if name == AUTO else [at for at, *_ in facts.stage_changes]
        groups[name] = GroupReport(
            name=name,
            mode=MODES[name],
            results=results.get(name, []),
            history=[(at - zero, each) for at, each in facts.history],
            budget_accelerators=facts.budget_accelerators,
            most_accelerators=facts.most_accelerators,
            accelerator_seconds=facts.accelerator_seconds(zero, end),
            idle_accelerator_seconds=facts.idle_accelerator_seconds(zero, end),
            transfers=[at - zero for at in transfers],
            settled_at=None if settled is None else settled - zero,
        )
    return Evidence(
        objectives=objectives,
        shift_at=case.shift_seconds,
        auto=groups[AUTO],
        paused=groups.get(PAUSED),
        requests_sent=len(requests),
        logical_node_bound=any(node.devices for node in nodes),
        logical_nodes=nodes,
        split=split,
        computed=fixed_splits(requests, case, split.replicas),
    )


def with_end(
    found: Evidence, journal_lines: Sequence[str], lags: Sequence[Lag], *, deleted: bool
) -> Evidence:
    """The same with what the journal has after the deletion of everything, and how late the processes ran."""
    report = journal.check(journal_lines)
    return replace(
        found,
        attached_twice=[each.block for each in report.double_attached],
        left_attached=report.left_attached if deleted else (),
        lags=lags,
    )


def _by_number(device: str) -> tuple[str, int]:
    stem = device.rstrip("0123456789")
    return stem, int(device[len(stem) :] or 0)
