"""Which replica gets a request: the least loaded one that serves the stage. Pure.

Load is what the router knows itself: prompt tokens sent to a prefill replica and not answered yet, and requests that a
decode replica streams, each weighed with its KV cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

PREFILL = "prefill"
DECODE = "decode"
AGGREGATED = "aggregated"


@dataclass(eq=False)
class Replica:
    """A pod as the router sees it. `serving`: it is Ready, so new requests may go there."""

    name: str
    url: str = ""
    stage: str = ""
    serving: bool = False
    prompts: int = 0
    prefill_tokens: int = 0
    streams: int = 0
    stream_tokens: int = 0
    last_picked: int = field(default=0)

    def serves(self, stage: str) -> bool:
        return self.serving and self.stage in (stage, AGGREGATED)


def pick_prefill(replicas: Iterable[Replica]) -> Replica | None:
    """The replica with the fewest prompt tokens ahead of a new prompt, or None where no replica serves prefill."""
    return min(
        (replica for replica in replicas if replica.serves(PREFILL)),
        key=lambda replica: (replica.prefill_tokens, replica.last_picked),
        default=None,
    )


def pick_decode(replicas: Iterable[Replica]) -> Replica | None:
    """The replica with the fewest streams, then with the fewest tokens in them, or None where none serves decode."""
    return min(
        (replica for replica in replicas if replica.serves(DECODE)),
        key=lambda replica: (replica.streams, replica.stream_tokens),
        default=None,
    )


def pick_of_two(replicas: Iterable[Replica], stage: str, chance: Random) -> Replica | None:
    """Of two chosen by chance the one with fewer requests, as vLLM's router picks with `power_of_two`, or None where
    none serves the stage."""
    able = [replica for replica in replicas if replica.serves(stage)]
    return min(
        chance.sample(able, min(2, len(able))),
        key=lambda replica: replica.prompts + replica.streams,
        default=None,
    )
