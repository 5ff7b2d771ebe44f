"""What the leader knows of groups' load, and expected of its decisions, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

from weft.balancing.keys import GroupKey
from weft.balancing.load import GroupLoad
from weft.balancing.plan import Expected


def load_families(
    loads: Mapping[GroupKey, GroupLoad], expected: Mapping[GroupKey, Expected]
) -> Iterator[Metric]:
    """The figures of all groups whose metrics are fresh, and of those of which something was decided."""
    labels = ["namespace", "group"]
    requests = GaugeMetricFamily(
        "weft_group_requests_per_second",
        "Requests that arrive, as the group's metrics told at the last look; none while they are not fresh.",
        labels=labels,
    )
    tokens = GaugeMetricFamily(
        "weft_group_tokens_per_second",
        "Tokens of the prompts and of the answers that are asked for.",
        labels=[*labels, "of"],
    )
    needed = GaugeMetricFamily(
        "weft_group_needed_replicas",
        "Replicas that a stage needs for this load to meet the objectives, by the engines' profile.",
        labels=[*labels, "stage"],
    )
    within = GaugeMetricFamily(
        "weft_group_within_objective_ratio",
        "Part of the requests (of the tokens, for the time between them) that were within an objective just now.",
        labels=[*labels, "objective"],
    )
    speed = GaugeMetricFamily(
        "weft_group_speed_ratio",
        "How fast the engines of a stage were seen to be, as a multiple of their profile.",
        labels=[*labels, "stage"],
    )
    kept = GaugeMetricFamily(
        "weft_group_kept_ratio", "Part of the last hours' requests that met the objectives.", labels=labels
    )
    headroom = GaugeMetricFamily(
        "weft_group_headroom_ratio",
        "What that adds to what the load needs, as a part of it; below 0: what it takes off.",
        labels=labels,
    )
    for key, load in list(loads.items()):
        group = [key.namespace, key.name]
        requests.add_metric(group, load.requests_per_second)
        for of, rate in (
            ("prompts", load.prompt_tokens_per_second),
            ("answers", load.answer_tokens_per_second),
        ):
            if rate is not None:
                tokens.add_metric([*group, of], rate)
        for stage, replicas in load.needed.items():
            needed.add_metric([*group, stage.value], replicas)
        for objective, share in load.within.items():
            within.add_metric([*group, objective], share)
        for stage, ratio in load.speeds.items():
            speed.add_metric([*group, stage.value], ratio)
        if load.record is not None:
            kept.add_metric(group, load.record.in_time)
            headroom.add_metric(group, load.record.headroom)
    yield from (requests, tokens, needed, within, speed, kept, headroom)
    late = GaugeMetricFamily(
        "weft_group_expected_late_ratio",
        "Part of the requests that was computed to be late when the split was last decided or recommended: with the"
        " split of before, and with the one that was chosen.",
        labels=[*labels, "split"],
    )
    for key, one in list(expected.items()):
        late.add_metric([key.namespace, key.name, "before"], one.before)
        late.add_metric([key.namespace, key.name, "chosen"], one.after)
    yield late
