"""How many replicas a group has, chosen together with the split. Pure: no I/O, no clock, no randomness.

Only where `accelerators.minimum` says that the size is free. Two loads count, both with the spread of lengths of the
last minutes (`Traffic.past`): that of now, over the long window or, where it has risen clearly, the short one; and the
largest one of the last minutes, stage by stage.

- *Up*, or to another split, when what was promised is not kept with room, or a stage needs more than it has. Compared
  are the present replicas, those after a flip or two, and those with more, each nearest to what the stages needed at
  most, by

      accelerators held over the horizon, the starting ones included, as a part of those held now
      + EXCESS x the expected share of late requests over what is allowed, as far as it is beyond it

  from the queues of now, with the capacity that serves and the seconds until more of it does: a flip comes after
  seconds, a replica that starts when it is ready, a new one after a cold start, one that waits for hardware never.
  While one waits no more are asked for.
- *Down* if the smaller group would have carried the largest load of the last minutes with room, all replicas serve,
  what was promised is kept, and the group has not grown in these minutes nor changed for a while.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from weft.api import Stage
from weft.balancing.demand import Demand, Recent, squared_variation
from weft.balancing.outlook import Span, decode_late, prefill_late
from weft.balancing.presets import PAST_SECONDS
from weft.balancing.splits import StageNeed, Terms, given, stage_needs, worst_stage
from weft.balancing.state import Past, RoleState, Split, SplitInputs

EXCESS = 0.3
"""What as many late requests again as are allowed are worth, in parts of the present accelerators."""
OVERLOAD = 5.0
"""What a stage of twice the work that it can do is worth on top: where all are late, some are later."""
GAIN = 0.02
"""Part of the present accelerators by which the sum has to get smaller."""
ROOM = 0.5
"""Part of the allowed late requests that a smaller group may have expected."""
STAY_SECONDS, STAY_COLD_STARTS = 300.0, 2.0
"""Least time, in seconds and in cold starts, after a change of the size before the group gets smaller."""
STEPS_MOST = 8
"""Replicas by which one decision changes the size at most."""
FLIP_GAIN = 0.95
"""A flip on the way to another size has to bring the worst stage below this part of what it is without."""
RISE_DEVIATIONS = 3.0
"""By which the short window has to be above the long one to be believed before the long one shows it."""
FILLED = 0.9
"""Part of a smaller group that the largest load of the last minutes may need."""


@dataclass(frozen=True)
class Sized:
    """Another size or split that is to hold."""

    split: Split
    reason: str
    others: tuple[tuple[Split, float, str], ...]
    """The next best with their sum and what it consists of."""


def choose_size(inputs: SplitInputs, here: Split, seen: Recent, terms: Terms, kept: bool) -> Sized | None:
    """The size and split that should follow `here`; None: none that is better by more than the gain.

    `kept`: what was promised is being kept, and no queue says that it will not be.
    """
    assert inputs.traffic is not None
    load, past = _load(seen), inputs.traffic.past
    most = load
    if past is not None:
        load = _spread(load, past)
        most = _largest(load, past)
    terms = replace(terms, horizon_seconds=terms.horizon_seconds + inputs.cold_start_seconds)
    needs = stage_needs(inputs.roles, load, inputs.corrections, inputs.objectives)
    if not kept or worst_stage(here, inputs.roles, needs) > 1:
        return _larger(inputs, here, needs, most, terms)
    return _smaller(inputs, here, most, terms) if past is not None and _may_shrink(inputs) else None


def _load(seen: Recent) -> Demand:
    """That of the long window, and of the short one where it has risen by more than bursts explain."""
    now, before = seen.now, seen.before
    if (
        seen.prompts_deviate > RISE_DEVIATIONS
        and now.prompt_tokens_per_second > before.prompt_tokens_per_second
    ):
        before = replace(before, prompt_tokens_per_second=now.prompt_tokens_per_second)
    if (
        seen.answers_deviate > RISE_DEVIATIONS
        and now.answer_tokens_per_second > before.answer_tokens_per_second
    ):
        before = replace(before, answer_tokens_per_second=now.answer_tokens_per_second)
    return before


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


def accelerators(split: Split, roles: Iterable[RoleState]) -> int:
    """That the replicas hold together."""
    return sum(split[role.name] * role.accelerators_per_replica for role in roles)


def is_full(inputs: SplitInputs, split: Split) -> bool:
    """Whether the group can get no more replicas now."""
    return any(math.isinf(seconds) for _, seconds in inputs.starting) or not any(
        _fits(inputs, split, role) for role in inputs.roles
    )


def _may_shrink(inputs: SplitInputs) -> bool:
    """Whether a smaller group may be thought of: everything serves, and the size has stayed for long enough."""
    if (
        not inputs.settled
        or _cooling(inputs)
        or any(math.isfinite(seconds) for _, seconds in inputs.starting)
    ):
        return False
    stay = timedelta(seconds=max(STAY_SECONDS, STAY_COLD_STARTS * inputs.cold_start_seconds))
    # What made it grow may have been a burst that no long window shows.
    grown = timedelta(seconds=PAST_SECONDS)
    return not any(
        at is not None and inputs.now - at < time
        for at, time in ((inputs.scaled_at, stay), (inputs.grown_at, grown))
    )


def without_load(inputs: SplitInputs, here: Split) -> Sized | None:
    """What is left of a group that nobody has asked for anything in the last minutes; None: as it is."""
    traffic = inputs.traffic
    past = traffic.past if traffic is not None else None
    if traffic is None or past is None or not _may_shrink(inputs):
        return None
    if traffic.long.requests > 0 or past.requests_per_second > 0:
        return None
    split = _fewest(inputs, here)
    if split == here:
        return None
    return Sized(split, f"{_change(here, split)}: no request came in the last minutes", ())


def _may_grow(inputs: SplitInputs) -> bool:
    if any(math.isinf(seconds) for _, seconds in inputs.starting):
        return False
    shrank = inputs.decided_from.total >= inputs.allocation.total
    cooldown = timedelta(seconds=inputs.cooldown_seconds)
    return not shrank or inputs.scaled_at is None or inputs.now - inputs.scaled_at >= cooldown


def _larger(
    inputs: SplitInputs, here: Split, needs: Mapping[Stage, StageNeed], most: Demand, terms: Terms
) -> Sized | None:
    roles = inputs.roles
    most_needed = stage_needs(roles, most, inputs.corrections, inputs.objectives)
    flips = inputs.settled and not inputs.moving and not _cooling(inputs)
    splits = list(_steps(inputs, here, most_needed, 1, flips)) if _may_grow(inputs) else []
    if flips:
        splits += _with_flips(here, roles, most_needed)
    base, late = accelerators(here, roles), {}
    for split in (here, *splits):
        late[split] = _late(inputs, here, split, needs, terms)

    def total(split: Split) -> float:
        excess = max(0.0, late[split] / _allowed(inputs) - 1)
        overload = max(0.0, worst_stage(split, roles, needs, saturated=True) - 1)
        return accelerators(split, roles) / max(1, base) + EXCESS * excess + OVERLOAD * overload

    ranked = sorted(late, key=lambda split: (total(split), split))
    best = ranked[0]
    if best == here or total(here) - total(best) <= GAIN:
        return None
    capacity = given(inputs.serving, roles, needs)
    stages = ", ".join(
        f"{stage.label} needs {one.need.required:.1f} replicas and has {capacity[stage]:.1f}"
        for stage, one in needs.items()
    )
    reason = f"{_change(here, best)}: {stages}; expected violations {late[here]:.2f} -> {late[best]:.2f}"
    if best.total > here.total:
        reason += f"; a new replica serves after {inputs.cold_start_seconds:,.0f} s"
    others = [(one, total(one), _other(here, one, late[one])) for one in ranked if one != best]
    return Sized(best, reason, tuple(others))


def _smaller(inputs: SplitInputs, here: Split, most: Demand, terms: Terms) -> Sized | None:
    roles = inputs.roles
    needs = stage_needs(roles, most, inputs.corrections, inputs.objectives)
    best, late, beyond = here, 0.0, None
    for split in _steps(inputs, here, needs, -1, True):
        expected = _late(inputs, here, split, needs, terms)
        if worst_stage(split, roles, needs) > FILLED or expected > ROOM * _allowed(inputs):
            beyond = split, expected
            break
        best, late = split, expected
    if best == here:
        return None
    stages = ", ".join(f"{stage.label} {one.need.required:.1f}" for stage, one in needs.items())
    reason = (
        f"{_change(here, best)}: the last {PAST_SECONDS / 60:.0f} minutes needed at most {stages} replicas;"
        f" expected violations with their load {late:.2f}"
    )
    others = () if beyond is None else ((beyond[0], beyond[1], _other(here, *beyond)),)
    return Sized(best, reason, others)


def _cooling(inputs: SplitInputs) -> bool:
    cooldown = timedelta(seconds=inputs.cooldown_seconds)
    since = [moment for moment in (inputs.decided_at, inputs.moved_at) if moment is not None]
    return any(inputs.now - moment < cooldown for moment in since)


def _spread(load: Demand, past: Past) -> Demand:
    """The load with the spread that lengths had in the last minutes: in one minute a single long prompt decides it."""
    return replace(
        load,
        prompt_cv2=squared_variation(past.prompt_buckets) or load.prompt_cv2,
        answer_cv2=squared_variation(past.answer_buckets) or load.answer_cv2,
    )


def _largest(load: Demand, past: Past) -> Demand:
    """The largest load of now and of the last minutes; where tokens were not counted, by the lengths of now."""
    prompts = past.requests_per_second * load.prompt_tokens
    answers = past.requests_per_second * load.answer_tokens
    return replace(
        load,
        prompt_tokens_per_second=max(load.prompt_tokens_per_second, past.prompt_tokens_per_second or prompts),
        answer_tokens_per_second=max(load.answer_tokens_per_second, past.answer_tokens_per_second or answers),
    )


def _allowed(inputs: SplitInputs) -> float:
    return 1 - inputs.objectives.attainment_permille / 1000


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
        split = min(
            following, key=lambda one: (worst_stage(one, roles, needs), accelerators(one, roles), one)
        )
        if flips:
            split = next(_with_flips(split, roles, needs), split)
        yield split
        if by > 0 and worst_stage(split, roles, needs) <= 1:
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
            and split[giver.name] > max(1, giver.minimum)
            and split[taker.name] < taker.maximum
        ]
        limit = FLIP_GAIN * worst_stage(split, roles, needs)
        split = min(flips, key=lambda one: (worst_stage(one, roles, needs), one), default=split)
        if worst_stage(split, roles, needs) >= limit:
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


def _late(
    inputs: SplitInputs, here: Split, split: Split, needs: Mapping[Stage, StageNeed], terms: Terms
) -> float:
    """Expected share of requests that miss an objective within the horizon, on the way from here to the split."""
    courses: dict[Stage, list[Span]] = {stage: [] for stage in needs}
    for seconds, serving in _course(inputs, here, split, terms):
        for stage, capacity in given(serving, inputs.roles, needs).items():
            courses[stage].append(Span(seconds, capacity))
    on_time, queues = 1.0, terms.queues
    for stage, spans in courses.items():
        need = needs[stage].need
        if stage is Stage.PREFILL:
            late = prefill_late(need, spans, queues.prompts_waiting if queues is not None else 0.0)
        else:
            present = queues.answers_present if queues is not None else need.saturated * need.places
            late = decode_late(need, spans, present)
        on_time *= 1 - late
    return 1 - on_time


def _course(inputs: SplitInputs, here: Split, split: Split, terms: Terms) -> Iterator[tuple[float, Split]]:
    """How long which replicas serve, from now to the horizon: givers leave at once, others come when they can."""
    serving: dict[str, int] = {}
    arrivals: list[tuple[float, str]] = []
    flips: dict[str, int] = {}
    new: list[RoleState] = []
    for role in inputs.roles:
        waits = sorted(seconds for name, seconds in inputs.starting if name == role.name)
        now = max(0, here[role.name] - len(waits))
        serving[role.name] = min(now, split[role.name])
        flips[role.kind] = flips.get(role.kind, 0) + now - serving[role.name]
        lacking = split[role.name] - serving[role.name]
        arrivals += [(seconds, role.name) for seconds in waits[:lacking]]
        new += [role] * (lacking - len(waits[:lacking]))
    drain = 0.0 if terms.overlaps else max(terms.drain_seconds.values(), default=0.0)
    for role in new:
        seconds = inputs.cold_start_seconds
        if flips[role.kind] > 0:
            flips[role.kind] -= 1
            seconds = terms.flip_seconds + drain
        arrivals.append((seconds, role.name))
    at = 0.0
    for seconds, name in sorted(arrivals):
        if seconds >= terms.horizon_seconds:
            break
        if seconds > at:
            yield seconds - at, Split.of(serving)
            at = seconds
        serving[name] += 1
    yield terms.horizon_seconds - at, Split.of(serving)


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


def _other(here: Split, split: Split, late: float) -> str:
    return f"{'stays' if split == here else _change(here, split)}; expected violations {late:.2f}"
