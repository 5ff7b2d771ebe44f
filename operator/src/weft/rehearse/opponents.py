"""Every number that a policy other than Weft may be tuned by.

`make tune-opponents` chooses them: twelve settings for each, judged on stretches that no result is reported on.
What it chose is here before results are made.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HpaSettings:
    prefill_requests: float
    """Requests per prefill replica, waiting and running."""
    decode_batch_share: float
    """Requests per decode replica, as a part of the batch that meets the objective between tokens."""
    stabilization_seconds: float
    """Before it scales down."""
    most_share: float
    """`maxReplicas` of each role, as a part of the hardware: beyond a half the roles compete for it."""


@dataclass(frozen=True)
class DynamoSettings:
    interval_seconds: float
    """Of the loop that sizes by throughput."""
    load_interval_seconds: float
    """Of the loop that adds or takes one replica by load; 0: it is off, as by default."""
    sensitivity: float
    """Part of an objective that one replica fewer may use."""


@dataclass(frozen=True)
class RatioSettings:
    up_share: float
    """Utilisation that supply is sized for when it grows."""
    down_share: float
    """And when it shrinks."""
    bound: float
    """The ratio of prefill to decode stays within the first one over and times this."""


HPA = HpaSettings(prefill_requests=1.5, decode_batch_share=0.6, stabilization_seconds=300.0, most_share=0.6)
DYNAMO = DynamoSettings(interval_seconds=60.0, load_interval_seconds=5.0, sensitivity=0.8)
RATIO = RatioSettings(up_share=0.85, down_share=0.70, bound=4.0)
