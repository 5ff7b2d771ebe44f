"""Weft's own policy: the decision function that runs in the cluster, on what Prometheus would show it."""

from __future__ import annotations

from weft.api import FlipMethod, RebalanceMode, Stage
from weft.api import Objectives as ApiObjectives
from weft.balancing.capacity import corrections
from weft.balancing.demand import offered
from weft.balancing.plan import plan_split
from weft.balancing.signals import SCRAPES_UNTIL_STALE, Reading, read
from weft.balancing.state import Corrections, PodLoad, RoleState, Split, SplitInputs
from weft.rehearse.moves import Ways
from weft.rehearse.play import Case, Target, View
from weft.rehearse.scrapes import MODEL, NAMESPACE, pod_name, wall
from weft.rehearse.world import AGGREGATES, DECODES, PREFILLS

STAGES = {PREFILLS: Stage.PREFILL, DECODES: Stage.DECODE, AGGREGATES: Stage.AGGREGATED}

COOLDOWN_SECONDS = 30
"""The default of a group's `rebalance.cooldownSeconds`."""


class Weft:
    """As the operator: a look every two seconds, every half while something moves."""

    name = "weft"
    interval_seconds = 0.0

    def __init__(self, case: Case) -> None:
        self._case = case
        first = case.first_counts
        roles = tuple(
            RoleState(
                name=role,
                stage=stage,
                minimum=0 if role == AGGREGATES else 1,
                maximum=case.most_replicas,
                spec_replicas=first.get(role, 0),
                accelerators_per_replica=case.accelerators_per_replica,
                kind="all",
                profile=case.planned,
            )
            for role, stage in STAGES.items()
            if role != AGGREGATES or first.get(role)
        )
        self._roles = roles
        self._decided_at: float | None = None

    def ways(self, case: Case) -> Ways:
        return Ways(
            case.most_replicas,
            overlap=case.overlap,
            flip_seconds=case.flip_seconds,
            cold_start_seconds=case.cold_start_seconds,
        )

    def look(self, view: View) -> Target | None:
        scrapes, mover, now = view.scrapes, view.mover, view.now
        if not scrapes.front.times:
            return None
        replicas = mover.world.replicas
        settled = now - SCRAPES_UNTIL_STALE * scrapes.scrape_seconds
        reading = read(
            scrapes.snapshot(now),
            NAMESPACE,
            (MODEL,),
            [pod_name(number) for number in replicas],
            [pod_name(number) for number, one in replicas.items() if one.serving and one.in_since <= settled],
            scrapes.scrape_seconds,
        )
        generated = sum(
            load.generated_tokens_per_second or 0.0
            for number, one in replicas.items()
            if one.role != PREFILLS and (load := reading.loads.get(pod_name(number)))
        )
        plan = plan_split(
            SplitInputs(
                mode=RebalanceMode.AUTO,
                flip=FlipMethod.LABEL,
                objectives=api_objectives(self._case),
                budget_accelerators=self._case.most_replicas * self._case.accelerators_per_replica,
                cooldown_seconds=COOLDOWN_SECONDS,
                roles=self._roles,
                now=wall(now),
                allocation=Split.of({role.name: mover.target.get(role.name, 0) for role in self._roles}),
                decided_at=None if self._decided_at is None else wall(self._decided_at),
                moved_at=None if mover.moved_at is None else wall(mover.moved_at),
                settled=not mover.moving,
                moving=mover.moving,
                traffic=reading.traffic,
                generated_tokens_per_second=generated,
                corrections=self._corrections(view, reading, generated),
                hold=reading.hold,
            )
        )
        if plan.decision is None:
            return None
        self._decided_at = now
        alternatives = tuple(
            f"{Split.read(one.allocation)}: {one.reason}" for one in plan.decision.alternatives
        )
        return Target(dict(plan.allocation.counts), plan.decision.reason, alternatives)

    def _corrections(self, view: View, reading: Reading, generated: float) -> Corrections:
        """From replicas that had one role during the whole long window."""
        demand = offered(reading.traffic, generated) if reading.traffic is not None else None
        if demand is None:
            return Corrections()
        window = view.scrapes.windows.long_seconds
        loads: dict[str, list[PodLoad]] = {PREFILLS: [], DECODES: []}
        for number, one in view.mover.world.replicas.items():
            load = reading.loads.get(pod_name(number))
            steady = one.serving and one.role_since <= view.now - window
            if load is not None and steady and one.role in loads:
                loads[one.role].append(load)
        profile = self._case.planned
        return corrections(
            (profile, loads[PREFILLS]), (profile, loads[DECODES]), demand.prompt_tokens, window
        )


def api_objectives(case: Case) -> ApiObjectives:
    """The case's objectives as in a group's spec."""
    objectives = case.objectives
    ttft, itl = objectives.ttft_seconds, objectives.itl_seconds
    return ApiObjectives(
        time_to_first_token_milliseconds=None if ttft == float("inf") else max(1, round(ttft * 1000)),
        inter_token_latency_microseconds=None if itl == float("inf") else max(1, round(itl * 1e6)),
        attainment_permille=round(objectives.attainment * 1000),
    )
