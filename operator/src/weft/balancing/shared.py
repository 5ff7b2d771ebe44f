"""What replicas that serve both stages carry of each, and what prompts cost the answers beside them. Pure.

An aggregated replica reads a prompt between two steps of its answers: each of them is longer by all that is read while
it is written. With a part b of its time spent on prompts an answer of n tokens, at s seconds per step, takes

    n s + W,   W of mean b t and variance b t S (1 + cv^2) over t seconds       (compound Poisson, S: one prompt)

and misses the objective o between tokens where W is more than n (o - s) in the t = n o that it may take. So it is not
capacity that prompts cost first but the answers' pace, and long before prompts fill the replica.

Routers send a prompt to whoever has least to read, of all replicas that read prompts (least loaded, power of two,
llm-d's queue scorers), so how much that is follows from the split, not from what would be best. The answer is written
where the prompt was read if that replica may, and else where the fewest are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from weft.balancing.capacity import Need
from weft.balancing.outlook import Span, below, decode_late, present_after

LEAST = 1e-9


class Division(NamedTuple):
    """How a split with aggregated replicas divides the work."""

    prefill: float
    """Capacity for prompts, in replicas of the stage's reference role; so are the next two for answers."""
    decode: float
    both: float = 0.0
    """What aggregated replicas would have if they did nothing else."""
    busy: float = 0.0
    """Part of their time that prompts take."""
    answers: float = 0.0
    """Part of the answers that they write."""
    late: float = 0.0
    """Part of those that is too slow for the objective between tokens."""

    @property
    def answering(self) -> float:
        """Capacity for answers that are in time."""
        return self.decode + self.both * (1 - self.busy) * (1 - self.late)


def divide(prefill: tuple[Need, float, float], decode: tuple[Need, float, float]) -> Division:
    """Of each stage what it needs, and the capacity of its own replicas and of the aggregated ones."""
    (prompts, own, shared), (answers, others, both) = prefill, decode
    steps = answers.steps
    assert steps is not None
    # Between two prompts there is at least one step of the answers.
    speed = prompts.service_seconds / (prompts.service_seconds + steps.full)
    part = speed * shared / (own + speed * shared)
    if own > 0 and answers.budget_seconds > 0 and answers.saturated > 0:
        # Where batch or KV cache is full prompts wait too, and the next ones go elsewhere.
        most = both / answers.saturated
        part = min(part, most / (1 + most * prompts.saturated / shared))
    busy = min(speed, prompts.saturated * part / shared)
    slowed = both * (1 - busy)
    written = max(part, slowed / (slowed + others))
    late = _too_slow(prompts, answers, busy, written / both)
    return Division(own / (1 - part) if own > 0 else speed * shared, others, both, busy, written, late)


def answers_late(need: Need, course: Sequence[tuple[float, Division]], present: float) -> float:
    """Mean share of the answers that are late over so many seconds of each division, with this many being written or
    waiting for it now."""
    if not any(one.both for _, one in course):
        return decode_late(need, [Span(seconds, one.decode) for seconds, one in course], present)
    late = total = 0.0
    for seconds, one in course:
        parts = following = 0.0
        for part, capacity, slow in (
            (1 - one.answers, one.decode, 0.0),
            (one.answers, one.both * (1 - one.busy), one.late),
        ):
            if part <= 0:
                continue
            # As if all answers came here, to a stage that is so much larger.
            span = Span(seconds, capacity / part)
            full = decode_late(need, (span,), present)
            parts += part * (1 - (1 - full) * (1 - slow))
            following += part * present_after(need, span.capacity, present, seconds)
        late += seconds * parts
        total += seconds
        present = following
    return late / total if total > 0 else 0.0


def _too_slow(prompts: Need, answers: Need, busy: float, part: float) -> float:
    """Part of the answers of a replica that misses the objective between tokens; it writes this part of all."""
    steps = answers.steps
    assert steps is not None
    if math.isinf(steps.objective):
        return 0.0
    # A step takes c0 + c1 batch, and the batch is the tokens per second times the time of a token.
    c1 = (steps.full - steps.alone) / (answers.places - 1) if answers.places > 1 else 0.0
    tokens = answers.saturated * answers.places / steps.full * part
    rest = 1 - busy - c1 * tokens
    batch = answers.places if rest <= LEAST else min(answers.places, tokens * (steps.alone - c1) / rest)
    step = steps.alone + c1 * max(0.0, batch - 1)
    seconds = max(answers.service_seconds / steps.full * steps.objective, LEAST)
    spread = math.sqrt(busy * prompts.service_seconds * prompts.variance / seconds)
    return below((busy - (1 - step / steps.objective)) / max(spread, LEAST))
