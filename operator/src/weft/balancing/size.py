"""How many replicas a group has, chosen together with the split. Pure: no I/O, no clock, no randomness.

Only where `accelerators.minimum` says that the size is free. Prefill's load is that of long windows: a burst is over
before a new replica serves, and is left to flips, which `plan` decides whenever nothing is decided here. Lengths are
those of the last minutes (`size_load`). Decode's need is that of the answers that its engines have (`answers`).

- *Up* if no split of the present replicas carries the load of now with the headroom of the promise, which follows what
  became of the promise over the last hours (`record`). While a replica waits for hardware no more are asked for.
- *Down* if the smaller group would have carried the largest load of the last minutes with room to spare, all replicas
  serve, what was promised is kept, and the group has not grown in these minutes nor changed for a while: twenty minutes
  and a tenth, or for long answers, and by two replicas or more, five minutes and three tenths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from statistics import NormalDist

from weft.api import FlipMethod, Stage
from weft.balancing.answers import most
from weft.balancing.capacity import writing_need
from weft.balancing.demand import Demand
from weft.balancing.presets import PAST_SECONDS
from weft.balancing.size_load import largest, lately, shaped
from weft.balancing.splits import StageNeed, accelerators, given, places, stage_needs, worst_stage
from weft.balancing.state import Answers, Corrections, Queues, RoleState, Split, SplitInputs

QUANTILE, BURSTS = 1.4, 0.25
"""Bursts are larger than chance: what is needed grows by this part per standard deviation promised beyond 92 %."""
BELIEVED_FROM = 1.25
"""A stage that seems faster or slower than its profile by less is taken to be as fast: within one window, with engines
that are sampled at scrapes, that is chance, and a group that grows at once would follow each of them."""
BACKLOG_SECONDS = 240.0
"""Time beyond a cold start in which what waits is to be worked off."""
STAY_COLD_STARTS = 2.0
"""Least time, in cold starts, after a change of the size before the group gets smaller."""
LATE_SECONDS = 60.0
"""An answer that takes so long, or as long as a cold start, keeps its place for longer than another may wait for it."""
STEPS_MOST = 8
"""Replicas by which one decision changes the size at most."""
AGAIN = 0.1
"""Within a long window of a growth no more are asked for unless this part of what there will be is lacking: as a window
fills with a larger load, its need creeps up at every look."""
FLIP_GAIN = 0.95
"""A flip on the way to another size has to bring the worst stage below this part of what it is without."""


@dataclass(frozen=True)
class Fall:
    """When less work is believed to stay less."""

    seconds: float
    """The largest load of so long has to fit into the smaller group, which has not grown for as long."""
    filled: float
    """Part of it that this load may need."""
    stay_seconds: float
    """Least time after any change of the size."""
    least: int = 1
    """Replicas that it has to spare."""


SMALL_FALL, LARGE_FALL = Fall(PAST_SECONDS, 0.9, 900.0), Fall(300.0, 0.7, 300.0, least=2)
"""What falls by so much that bursts do not explain it is followed after five minutes: most of what a size that follows
the load wastes is kept while it falls. By one replica a load that stays falls, too, and comes back."""


@dataclass(frozen=True)
class Sized:
    """Another size or split that is to hold."""

    split: Split
    reason: str
    others: tuple[tuple[Split, float, str], ...]
    """The next best with their sum and what it consists of."""


def choose_size(inputs: SplitInputs, here: Split, load: Demand, kept: bool) -> Sized | None:
    """The size, with its split, that should follow `here`; None: it stays.

    `load`: of the long window. `kept`: what was promised is being kept, and no queue says that it will not be.
    """
    assert inputs.traffic is not None
    traffic = inputs.traffic
    load = shaped(load, traffic.past)
    needs = _needs(inputs, load, None)
    if not _held_up(inputs, needs):
        needs = _needs(inputs, load, traffic.answers)
    if worst_stage(here, needs) > (1 + AGAIN if _just_grown(inputs) else 1):
        return _larger(inputs, here, needs)
    if traffic.past is None or not kept:
        return None
    smaller = (
        _smaller(inputs, here, fall, _needs(inputs, *carried))
        for fall, carried in _falls(inputs, load, needs)
    )
    return next((one for one in smaller if one is not None), None)


def _held_up(inputs: SplitInputs, needs: Mapping[Stage, StageNeed]) -> bool:
    """Whether prefill cannot carry what arrives, so that decode has fewer answers than it is going to have."""
    prefill = needs.get(Stage.PREFILL)
    return prefill is not None and prefill.need.saturated > places(inputs.serving, needs)[Stage.PREFILL]


def _falls(
    inputs: SplitInputs, load: Demand, needs: Mapping[Stage, StageNeed]
) -> Iterator[tuple[Fall, tuple[Demand, Answers | None]]]:
    """The falls that may be believed now, each with what a smaller group would have had to carry."""
    traffic = inputs.traffic
    assert traffic is not None
    assert traffic.past is not None
    if _may_shrink(inputs, SMALL_FALL):
        yield SMALL_FALL, (largest(load, traffic.past), most(traffic, SMALL_FALL.seconds))
    answers, decode = most(traffic, LARGE_FALL.seconds), needs.get(Stage.DECODE)
    lasting = decode is not None and decode.need.service_seconds >= _patience(inputs)
    if lasting and answers is not None and _may_shrink(inputs, LARGE_FALL):
        yield LARGE_FALL, (lately(load, traffic, LARGE_FALL.seconds), answers)


def _needs(inputs: SplitInputs, load: Demand, answers: Answers | None) -> dict[Stage, StageNeed]:
    """What the stages need for this load with the headroom of the promise, and for what waits."""
    speeds = Corrections(_believed(inputs.corrections.prefill), _believed(inputs.corrections.decode))
    promised = NormalDist().inv_cdf(inputs.objectives.attainment_permille / 1000)
    bursts = 1 + BURSTS * max(0.0, promised - QUANTILE)
    seconds = BACKLOG_SECONDS + inputs.cold_start_seconds
    needs = stage_needs(inputs.roles, load, speeds, inputs.objectives)
    decode = needs.get(Stage.DECODE)
    if answers is not None and decode is not None:
        written = writing_need(decode.need, answers, load, inputs.objectives, _patience(inputs))
        needs[Stage.DECODE] = replace(decode, need=written)
    capacity = places(inputs.serving, needs)
    told = answers is not None
    return {
        stage: replace(
            one,
            need=replace(
                one.need,
                required=bursts * (1 + _learnt(inputs, stage)) * one.need.required
                + _waiting(
                    stage, one, capacity[stage], None if told and stage is Stage.DECODE else inputs.queues
                )
                * one.need.service_seconds
                / seconds,
            ),
        )
        for stage, one in needs.items()
    }


def _patience(inputs: SplitInputs) -> float:
    return max(LATE_SECONDS, inputs.cold_start_seconds)


def _learnt(inputs: SplitInputs, stage: Stage | None = None) -> float:
    """The headroom that the record of the last hours adds, of a stage or of all; below zero: takes off."""
    record = inputs.traffic.record if inputs.traffic is not None else None
    if record is None:
        return 0.0
    beyond = record.stages.get(stage, 0.0) if stage is not None else 0.0
    return record.headroom + beyond


def _because(inputs: SplitInputs) -> str:
    """What the record adds to the need, in words; empty where it says nothing."""
    percent = round(100 * _learnt(inputs))
    record = inputs.traffic.record if inputs.traffic is not None else None
    if record is None or not percent:
        return ""
    return (
        f"; {100 * record.in_time:.1f} % of the last hours' requests were in time,"
        f" {inputs.objectives.attainment_permille / 10:g} % are promised: {abs(percent)} %"
        f" {'more' if percent > 0 else 'less'} headroom"
    )


def _believed(speed: float) -> float:
    return max(1.0, speed / BELIEVED_FROM) * min(1.0, speed * BELIEVED_FROM)


def _waiting(stage: Stage, one: StageNeed, capacity: float, queues: Queues | None) -> float:
    """Requests that wait for the stage, in what one replica serves at a time."""
    if queues is None:
        return 0.0
    if stage is Stage.PREFILL:
        return queues.prompts_waiting
    return max(0.0, queues.answers_present / one.need.places - capacity)


def at_least(inputs: SplitInputs, split: Split) -> Split:
    """The split with the replicas that `accelerators.minimum` asks for beyond it, given to the roles in turn."""
    least = inputs.minimum_accelerators or 0
    while accelerators(split, inputs.roles) < least:
        free = [role for role in inputs.roles if _fits(inputs, split, role) and role.accelerators_per_replica]
        if not free:
            return split
        taker = min(free, key=lambda role: (split[role.name] / max(1, role.spec_replicas), role.name))
        split = _with(split, taker.name, 1)
    return split


def _fewest(inputs: SplitInputs, split: Split) -> Split:
    """The split without all replicas that neither the roles nor `accelerators.minimum` ask for."""
    while True:
        free = [role for role in inputs.roles if _spares(inputs, split, role)]
        if not free:
            return split
        giver = max(free, key=lambda role: (split[role.name] - role.minimum, role.name))
        split = _with(split, giver.name, -1)


def _may_shrink(inputs: SplitInputs, fall: Fall) -> bool:
    """Whether a smaller group may be thought of: everything serves, and the size has stayed for long enough."""
    if (
        not inputs.settled
        or _cooling(inputs)
        or any(math.isfinite(seconds) for _, seconds in inputs.starting)
    ):
        return False
    stay = timedelta(seconds=max(fall.stay_seconds, STAY_COLD_STARTS * inputs.cold_start_seconds))
    # What made it grow may have been a burst that no long window shows.
    grown = timedelta(seconds=fall.seconds)
    return not any(
        at is not None and inputs.now - at < time
        for at, time in ((inputs.scaled_at, stay), (inputs.grown_at, grown))
    )


def without_load(inputs: SplitInputs, here: Split) -> Sized | None:
    """What is left of a group that nobody has asked for anything in the last minutes; None: as it is.

    Nothing at all where the front end tells when somebody asks again: then all roles get replicas, at once.
    """
    traffic = inputs.traffic
    past = traffic.past if traffic is not None else None
    if traffic is None or past is None or not _may_shrink(inputs, SMALL_FALL):
        return None
    if traffic.long.requests > 0 or past.requests_per_second > 0:
        return None
    split = Split.of(dict.fromkeys(dict(here.counts), 0)) if inputs.to_zero else _fewest(inputs, here)
    if split == here:
        return None
    return Sized(split, f"{_change(here, split)}: no request came in the last minutes", ())


def _just_grown(inputs: SplitInputs) -> bool:
    assert inputs.traffic is not None
    window = timedelta(seconds=inputs.traffic.long_seconds)
    return inputs.grown_at is not None and inputs.now - inputs.grown_at < window


def _may_grow(inputs: SplitInputs) -> bool:
    if any(math.isinf(seconds) for _, seconds in inputs.starting):
        return False
    shrank = inputs.decided_from.total >= inputs.allocation.total
    cooldown = timedelta(seconds=inputs.cooldown_seconds)
    return not shrank or inputs.scaled_at is None or inputs.now - inputs.scaled_at >= cooldown


def _larger(inputs: SplitInputs, here: Split, needs: Mapping[Stage, StageNeed]) -> Sized | None:
    roles = inputs.roles
    flips = inputs.flip is not FlipMethod.NONE
    flipped = (worst_stage(one, needs) for one in _with_flips(here, roles, needs))
    if not _may_grow(inputs) or (flips and min(flipped, default=math.inf) <= 1):
        return None
    splits = list(_steps(inputs, here, needs, 1, flips))
    if not inputs.settled or inputs.moving or _cooling(inputs):
        splits = list(islice(_steps(inputs, here, needs, 1, False), len(splits)))
    if not splits:
        return None
    best = splits[-1]
    capacity = given(inputs.serving, needs)
    stages = ", ".join(
        f"{stage.label} needs {one.need.required:.1f} replicas and has {capacity[stage]:.1f}"
        for stage, one in needs.items()
    )
    starts = f"a new replica serves after {inputs.cold_start_seconds:,.0f} s"
    reason = f"{_change(here, best)}: {stages}; {starts}{_because(inputs)}"
    return Sized(best, reason, (_other(inputs, here, here, needs),))


def _smaller(inputs: SplitInputs, here: Split, fall: Fall, needs: Mapping[Stage, StageNeed]) -> Sized | None:
    best, beyond = here, None
    for split in _steps(inputs, here, needs, -1, inputs.flip is not FlipMethod.NONE):
        if worst_stage(split, needs) > fall.filled:
            beyond = split
            break
        best = split
    if here.total - best.total < fall.least:
        return None
    stages = ", ".join(f"{stage.label} {one.need.required:.1f}" for stage, one in needs.items())
    reason = (
        f"{_change(here, best)}: the last {fall.seconds / 60:.0f} minutes needed at most {stages} replicas"
        + _because(inputs)
    )
    return Sized(best, reason, () if beyond is None else (_other(inputs, here, beyond, needs),))


def _cooling(inputs: SplitInputs) -> bool:
    cooldown = timedelta(seconds=inputs.cooldown_seconds)
    since = [moment for moment in (inputs.decided_at, inputs.moved_at) if moment is not None]
    return any(inputs.now - moment < cooldown for moment in since)


def _steps(
    inputs: SplitInputs, here: Split, needs: Mapping[Stage, StageNeed], by: int, flips: bool
) -> Iterator[Split]:
    """Splits of one replica more (or fewer) each, nearest first: of each size the one whose worst stage stands best.

    More only until they are as many as the stages need.
    """
    roles, split = inputs.roles, here
    fits = _fits if by > 0 else _spares
    for _ in range(STEPS_MOST):
        following = [_with(split, role.name, by) for role in roles if fits(inputs, split, role)]
        if not following:
            return
        split = min(following, key=lambda one: (worst_stage(one, needs), accelerators(one, roles), one))
        if flips:
            split = next(_with_flips(split, roles, needs), split)
        yield split
        if by > 0 and worst_stage(split, needs) <= 1:
            return


def _with_flips(
    split: Split, roles: Sequence[RoleState], needs: Mapping[Stage, StageNeed]
) -> Iterator[Split]:
    """The split after flips, one more each time: always the one that helps the worst stage most, while one does."""
    for _ in range(STEPS_MOST):
        flips = [
            split.moved(giver.name, taker.name)
            for giver in roles
            for taker in roles
            if giver.name != taker.name
            and giver.kind == taker.kind
            # Where the engine starts anew a flip takes what a new replica takes, and one is away meanwhile.
            and not taker.start_seconds
            and split[giver.name] > max(1, giver.minimum)
            and split[taker.name] < taker.maximum
        ]
        limit = FLIP_GAIN * worst_stage(split, needs)
        split = min(flips, key=lambda one: (worst_stage(one, needs), one), default=split)
        if worst_stage(split, needs) >= limit:
            return
        yield split


def _fits(inputs: SplitInputs, split: Split, role: RoleState) -> bool:
    used = accelerators(split, inputs.roles) + role.accelerators_per_replica
    return split[role.name] < role.maximum and used <= inputs.budget_accelerators


def _spares(inputs: SplitInputs, split: Split, role: RoleState) -> bool:
    left = accelerators(split, inputs.roles) - role.accelerators_per_replica
    return split[role.name] > max(1, role.minimum) and left >= (inputs.minimum_accelerators or 0)


def _with(split: Split, role: str, by: int) -> Split:
    return Split.of({**dict(split.counts), role: split[role] + by})


def _change(here: Split, split: Split) -> str:
    """In words: "grows by 1 prefill", "shrinks by 2 decode", with the flips that go with it."""
    names = sorted({*dict(here.counts), *dict(split.counts)})
    more = [f"{split[name] - here[name]} {name}" for name in names if split[name] > here[name]]
    fewer = [f"{here[name] - split[name]} {name}" for name in names if split[name] < here[name]]
    if split.total == here.total:
        return f"moves {', '.join(fewer)} to {', '.join(more)}"
    grows = split.total > here.total
    first, second = (more, fewer) if grows else (fewer, more)
    text = f"{'grows' if grows else 'shrinks'} by {', '.join(first)}"
    return f"{text}, with {', '.join(second)} {'fewer' if grows else 'more'}" if second else text


def _other(
    inputs: SplitInputs, here: Split, split: Split, needs: Mapping[Stage, StageNeed]
) -> tuple[Split, float, str]:
    filled = worst_stage(split, needs)
    how = "stays" if split == here else _change(here, split)
    return split, filled, f"{how}; worst stage needs {filled:.2f} times what it has"
