"""What was measured of a group's promise: whether it is kept, what was late, and what waits for too long now. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from weft.api import Stage
from weft.balancing.demand import share_within
from weft.balancing.splits import StageNeed, places
from weft.balancing.state import Split, SplitInputs

WAIT_PART = 0.5
"""Where prompts wait for more than this part of the first token's budget, what was measured before says too little."""
ROOM = 0.2
"""Part of the first token's budget that a prompt may wait while there is no reason to move."""


def met_with_room(inputs: SplitInputs, start: Split, needs: Mapping[Stage, StageNeed]) -> bool:
    """Whether what was promised is being kept and no queue says that it will not be."""
    shares, promised = _shares(inputs), inputs.objectives.attainment_permille / 1000
    if shares is None or min(shares) < promised:
        return False
    return _has_room(inputs, start, needs, wait_part=ROOM, deviations=1.0)


def _has_room(
    inputs: SplitInputs, start: Split, needs: Mapping[Stage, StageNeed], wait_part: float, deviations: float
) -> bool:
    """Whether what waits takes less than this part of the first token's budget, and decode has a place for what is
    there and so many standard deviations more."""
    if inputs.queues is None:
        return False
    capacity = places(start, needs)
    for stage, stage_need in needs.items():
        need = stage_need.need
        if stage is Stage.PREFILL:
            wait = inputs.queues.prompts_waiting * need.service_seconds / max(capacity[stage], 1e-9)
            if wait > wait_part * need.budget_seconds:
                return False
        else:
            present = inputs.queues.answers_present
            if present + deviations * math.sqrt(present) >= capacity[stage] * need.places:
                return False
    return True


def _shares(inputs: SplitInputs) -> tuple[float, float] | None:
    """Shares within both objectives in the long window; 1 where there is no objective, None where one is not known."""
    traffic = inputs.traffic
    assert traffic is not None
    ttft, itl = (
        inputs.objectives.time_to_first_token_milliseconds,
        inputs.objectives.inter_token_latency_microseconds,
    )
    first = share_within(traffic.ttft_buckets, ttft / 1000) if ttft is not None else (1.0, 1.0)
    between = share_within(traffic.itl_buckets, itl / 1e6) if itl is not None else (1.0, 1.0)
    if first is None or between is None:
        return None
    # An objective within a bucket: what the histogram leaves open, the engines' means tell.
    least, greatest = between
    told = inputs.answers_in_time
    if told is not None and any(
        role.stage is Stage.AGGREGATED and inputs.serving[role.name] for role in inputs.roles
    ):
        return first[0], told if itl is not None else 1.0
    return first[0], least if told is None else min(greatest, max(least, told))


def measured_late(inputs: SplitInputs, needs: Mapping[Stage, StageNeed]) -> float | None:
    """Share late in the long window, where all of that was on this split and no queue says otherwise."""
    traffic, shares = inputs.traffic, _shares(inputs)
    assert traffic is not None
    if shares is None or not inputs.settled:
        return None
    since = [moment for moment in (inputs.decided_at, inputs.moved_at) if moment is not None]
    if since and (inputs.now - max(since)).total_seconds() < traffic.long_seconds:
        return None
    if not _has_room(inputs, inputs.allocation, needs, wait_part=WAIT_PART, deviations=-1.0):
        return None
    return 1 - shares[0] * shares[1]


def late_seconds(inputs: SplitInputs, needs: Mapping[Stage, StageNeed]) -> float | None:
    """The requests that were late in the long window, or are by now, as seconds in which so many arrive.

    None where latencies or queues are not known.
    """
    shares, traffic = _shares(inputs), inputs.traffic
    assert traffic is not None
    waits = overdue(inputs, needs)
    arrivals = max(traffic.short.requests, traffic.long.requests)
    if shares is None or waits is None or arrivals <= 0:
        return None
    were = (1 - shares[0] * shares[1]) * traffic.long.requests * traffic.long_seconds
    return (were + sum(waits.values())) / arrivals


def overdue(inputs: SplitInputs, needs: Mapping[Stage, StageNeed]) -> dict[Stage, float] | None:
    """Requests that are at each stage beyond those that it gets to in time; None where queues are not known."""
    queues = inputs.queues
    if queues is None:
        return None
    capacity = places(inputs.serving, needs)
    found: dict[Stage, float] = {}
    for stage, stage_need in needs.items():
        need = stage_need.need
        if stage is Stage.PREFILL:
            waiting, served = queues.prompts_waiting, 0.0
        else:
            waiting, served = queues.answers_present, capacity[stage] * need.places
        in_time = capacity[stage] * need.places * need.budget_seconds / need.service_seconds
        found[stage] = max(0.0, waiting - served - in_time)
    return found
