"""How long the prompts of now are, as prefill's queue tells it. Pure.

Where prompts wait throughout a window every prefill replica works all the time: if c replicas end n prompts in w
seconds, a prompt takes c w / n. What ended is what arrived less what the queue grew by. Lengths are recorded when
answers end: half a minute later where answers are long, and later still where a queue lasts. What has ended then tells
of the load before, while the queue tells of the prompts that are being read. A replica that works on none although
some wait is held up, by KV caches that decode has not read yet: it is not counted.
"""

from __future__ import annotations

import math
from dataclasses import replace

from weft.api import Stage
from weft.balancing.demand import squared_variation
from weft.balancing.profile import Profile
from weft.balancing.state import SplitInputs, Traffic

CHANCE_DEVIATIONS = 2.0
"""A queue that began within the window has to have grown by more than chance: by so many standard deviations."""
LEAST_WAIT_SECONDS = 1.0
"""A shorter queue may have been empty in between."""
LEAST_ENDED = 5.0
"""Prompts that have to have been read within the window."""
MOST_FACTOR = 8.0
"""Lengths are not taken to have changed by more."""


def told_by_queue(inputs: SplitInputs) -> Traffic | None:
    """The traffic, with prompts of the short window as long as the queue says; None where that says nothing."""
    traffic, queues = inputs.traffic, inputs.queues
    profiles = [role.profile for role in inputs.roles if role.stage is Stage.PREFILL]
    # Replicas of several kinds take different times for a prompt.
    if traffic is None or queues is None or queues.prompts_growth is None or len(profiles) != 1:
        return None
    profile, speed, seconds = profiles[0], inputs.corrections.prefill, traffic.short_seconds
    told = traffic.short if traffic.short.prompts > 0 else traffic.long
    if profile is None or told.prompts <= 0 or told.prompt_tokens <= 0:
        return None
    arrived, grown = traffic.short.requests * seconds, queues.prompts_growth * seconds
    ended, length = arrived - grown, told.prompt_tokens / told.prompts
    least = LEAST_WAIT_SECONDS * queues.prefill_serving * speed / profile.prefill_seconds(length)
    if ended < LEAST_ENDED or not queues.prefill_serving or queues.prompts_waiting < max(least, 1.0):
        return None
    took = queues.prefill_serving * seconds / ended
    if queues.prompts_waiting - grown < least:
        # There was time to spare before the queue began: it tells of longer prompts only, if it grew beyond chance.
        chance = math.sqrt(arrived * (2 + squared_variation(traffic.prompt_buckets)))
        if grown < CHANCE_DEVIATIONS * chance or took * speed < profile.prefill_seconds(length):
            return None
    length = _length(profile, took * speed, length)
    short = replace(traffic.short, prompts=told.prompts, prompt_tokens=told.prompts * length)
    return replace(traffic, short=short)


def _length(profile: Profile, seconds: float, near: float) -> float:
    """Tokens of a prompt that takes so long."""
    length, shortest, longest = near, near / MOST_FACTOR, near * MOST_FACTOR
    # A prompt's time is nearly in proportion to its length; below the profile's first point it is constant.
    for _ in range(8):
        length = min(longest, max(shortest, length * seconds / profile.prefill_seconds(length)))
    return length
