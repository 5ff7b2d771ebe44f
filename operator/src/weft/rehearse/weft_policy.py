"""Weft's own policy: the decision function that runs in the cluster, on what Prometheus would show it."""

from __future__ import annotations

from collections.abc import Mapping

from weft.api import Objectives as ApiObjectives
from weft.balancing.answers import AnswersSeen, present
from weft.balancing.balancer import Balancer, Config, Observation
from weft.balancing.history import History
from weft.balancing.own_speeds import OwnSpeeds, writing_speed
from weft.balancing.plan import FLIP_SECONDS
from weft.balancing.record import Record
from weft.balancing.signals import SCRAPES_UNTIL_STALE, Group, read
from weft.balancing.stages import by_stage
from weft.balancing.state import Answers, Engine, PodLoad, RoleState
from weft.rehearse.moves import STAGES, Ways
from weft.rehearse.play import Case, Target, View
from weft.rehearse.scrapes import MODEL, NAMESPACE, pod_name
from weft.rehearse.world import AGGREGATES, PREFILLS, Replica


class Weft:
    """As the operator: a look every two seconds, every half while something moves."""

    name = "weft"
    interval_seconds = 0.0

    def __init__(self, case: Case) -> None:
        self._case = case
        first = case.first_counts
        # What takes longer than a flip by label is an engine that starts anew, which the operator has measured.
        slow = case.flip_seconds > FLIP_SECONDS and not case.overlap
        restarts = case.flip_seconds if slow else 0.0
        roles = tuple(
            RoleState(
                name=role,
                stage=stage,
                minimum=0 if role == AGGREGATES else 1,
                maximum=case.most_replicas,
                spec_replicas=first.get(role, 0),
                accelerators_per_replica=case.accelerators_per_replica,
                kind="all",
                start_seconds=restarts,
                profile=case.planned,
            )
            for role, stage in STAGES.items()
            if role != AGGREGATES or role in first
        )
        self._config = config = Config(
            roles=roles,
            objectives=api_objectives(case),
            accelerators=case.most_replicas * case.accelerators_per_replica,
            minimum_accelerators=case.least_replicas * case.accelerators_per_replica
            if case.least_replicas < case.most_replicas
            else None,
            cold_start_seconds=case.cold_start_seconds,
            scrape_seconds=case.scrape_seconds,
            flips_overlap=case.overlap,
        )
        self._roles = roles
        self._balancer = Balancer(config)
        self._history, self._record, self._own_speeds = History(), Record(), OwnSpeeds()
        self._answers = AnswersSeen()
        self._decided_at: float | None = None
        self._decided_from: dict[str, int] = {}
        self._scaled_at: float | None = None
        self._grown_at: float | None = None

    def ways(self, case: Case) -> Ways:
        return Ways(
            case.most_replicas,
            overlap=case.overlap,
            flip_seconds=case.flip_seconds,
            cold_start_seconds=case.cold_start_seconds,
        )

    def _answers_there(
        self, replicas: Mapping[int, Replica], loads: Mapping[str, PodLoad], since: float
    ) -> Answers | None:
        """What decode has to write, also on replicas that are on their way from it."""
        known = [
            (one, loads[pod_name(number)]) for number, one in replicas.items() if pod_name(number) in loads
        ]
        writing = [(one, load) for one, load in known if one.role != PREFILLS]
        changed = [load for one, load in known if one.role == PREFILLS and one.role_since > since]
        return present(
            [load for one, load in writing if one.serving],
            0,
            [load for one, load in writing if not one.serving],
            changed if self._config.flips_overlap else (),
        )

    def look(self, view: View) -> Target | None:
        scrapes, mover, now = view.scrapes, view.mover, view.now
        if not scrapes.front.times:
            return None
        replicas = mover.world.replicas
        settled = now - SCRAPES_UNTIL_STALE * scrapes.scrape_seconds
        since = now - scrapes.windows.long_seconds

        def one_role(seconds: float) -> list[str]:
            return [pod_name(number) for number, one in replicas.items() if one.role_since <= now - seconds]

        reading = read(
            scrapes.snapshot(now),
            Group(
                NAMESPACE,
                (MODEL,),
                [pod_name(number) for number in replicas],
                [
                    pod_name(number)
                    for number, one in replicas.items()
                    if one.serving and one.in_since <= settled
                ],
                {pod_name(number): STAGES[one.role].value.lower() for number, one in replicas.items()},
                one_role(scrapes.windows.long_seconds),
                one_role(scrapes.windows.short_seconds),
            ),
            scrapes.scrape_seconds,
        )
        traffic = reading.traffic
        if traffic is not None:
            traffic = self._history.with_history(traffic, now, scrapes.scrape_seconds)
            there = self._answers_there(replicas, reading.loads, since)
            traffic = self._answers.with_answers(traffic, there, now, scrapes.scrape_seconds)
            size, case = sum(mover.target.values()), self._case
            traffic = self._record.with_record(
                traffic,
                self._config.objectives,
                now,
                may_shrink=size > case.least_replicas,
                may_grow=size < case.most_replicas,
                held=by_stage(
                    (STAGES[role], count * case.accelerators_per_replica)
                    for role, count in mover.target.items()
                ),
            )
        engines = {
            number: Engine(
                one.role,
                reading.loads[pod_name(number)],
                steady=one.serving and one.role_since <= since,
                serving_seconds=now - one.ready_at,
            )
            for number, one in replicas.items()
            if pod_name(number) in reading.loads
        }
        written = {
            pod_name(number): speed
            for number, one in engines.items()
            if (speed := writing_speed(one, STAGES[one.role], self._case.planned)) is not None
        }
        mover.own_speeds = self._own_speeds.with_seen(written, [pod_name(number) for number in replicas])
        seen = Observation(
            at_seconds=now,
            replicas=mover.target,
            traffic=traffic,
            engines=tuple(engines.values()),
            decided_at_seconds=self._decided_at,
            decided_from=self._decided_from,
            moved_at_seconds=mover.moved_at,
            moving=mover.moving,
            starting=tuple(
                (one.role, max(0.0, one.ready_at - now))
                for one in replicas.values()
                if not (one.serving or one.leaving or one.moving_to)
            ),
            scaled_at_seconds=self._scaled_at,
            grown_at_seconds=self._grown_at,
        )
        decision = self._balancer.step(seen)
        if not decision.changed:
            return None
        self._decided_at, self._decided_from = now, dict(mover.target)
        by = sum(decision.replicas.values()) - sum(mover.target.values())
        self._scaled_at = now if by else self._scaled_at
        self._grown_at = now if by > 0 else self._grown_at
        alternatives = tuple(
            f"{', '.join(f'{role} {count}' for role, count in counts.items())}: {why}"
            for counts, why in decision.alternatives
        )
        return Target(decision.replicas, decision.reason, alternatives)


def api_objectives(case: Case) -> ApiObjectives:
    """The case's objectives as in a group's spec."""
    objectives = case.objectives
    ttft, itl = objectives.ttft_seconds, objectives.itl_seconds
    return ApiObjectives(
        time_to_first_token_milliseconds=None if ttft == float("inf") else max(1, round(ttft * 1000)),
        inter_token_latency_microseconds=None if itl == float("inf") else max(1, round(itl * 1e6)),
        attainment_permille=round(objectives.attainment * 1000),
    )
