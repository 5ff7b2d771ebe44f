"""What was known of a group's load at the last look at it, for whoever watches: traffic, need, lateness. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weft.api import Stage
from weft.balancing.demand import share_within
from weft.balancing.plan import needs_of
from weft.balancing.regimes import regimes
from weft.balancing.state import Kept, SplitInputs

FIRST_TOKEN, BETWEEN_TOKENS = "TimeToFirstToken", "InterTokenLatency"
"""The objectives of a group."""


@dataclass(frozen=True)
class GroupLoad:
    """What is asked of a group, what that needs, and how much of it was within the objectives."""

    requests_per_second: float
    prompt_tokens_per_second: float | None
    """None, as the next two, while lengths are not known: nothing arrives, or the load has only begun."""
    answer_tokens_per_second: float | None
    needed: Mapping[Stage, float]
    """Replicas by stage: what decisions compare with what each stage has. Without stages that no profile speaks for."""
    within: Mapping[str, float]
    """By objective: the part of the long window's requests, or tokens, that were within it."""
    speeds: Mapping[Stage, float] = field(default_factory=dict)
    """By stage: how fast engines were seen to be, as a multiple of their profile."""
    record: Kept | None = None
    """What became of the promise over the last hours."""


def group_load(inputs: SplitInputs) -> GroupLoad | None:
    """The figures that decisions rest on; None while the metrics are not fresh."""
    traffic = inputs.traffic
    if traffic is None:
        return None
    seen = regimes(traffic, inputs.generated_tokens_per_second, inputs.flips_overlap)
    demand = seen.likely if seen is not None else None
    needs = needs_of(inputs, demand) if demand is not None else {}
    first = inputs.objectives.time_to_first_token_milliseconds
    between = inputs.objectives.inter_token_latency_microseconds
    shares = {
        FIRST_TOKEN: share_within(traffic.ttft_buckets, first / 1e3) if first is not None else None,
        BETWEEN_TOKENS: share_within(traffic.itl_buckets, between / 1e6) if between is not None else None,
    }
    return GroupLoad(
        traffic.short.requests,
        demand.prompt_tokens_per_second if demand is not None else None,
        demand.answer_tokens_per_second if demand is not None else None,
        {stage: one.need.required for stage, one in needs.items()},
        {name: share[0] for name, share in shares.items() if share is not None},
        _speeds(inputs) if demand is not None else {},
        traffic.record,
    )


def _speeds(inputs: SplitInputs) -> dict[Stage, float]:
    """Of the stages whose engines are compared with a profile."""
    profiled = {role.stage for role in inputs.roles if role.profile is not None}
    both = {Stage.PREFILL: inputs.corrections.prefill, Stage.DECODE: inputs.corrections.decode}
    return {stage: speed for stage, speed in both.items() if stage in profiled}
