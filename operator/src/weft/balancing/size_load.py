"""The load that a size is chosen for. Pure.

A long window is too short for it: a single long prompt decides its lengths. They are those of the last minutes.
"""

from __future__ import annotations

import math
from dataclasses import replace

from weft.balancing.demand import Demand, mean, squared_variation
from weft.balancing.state import Past, Traffic


def shaped(load: Demand, past: Past | None) -> Demand:
    """The load with the prompts and the spread of the last minutes."""
    if past is None:
        return load
    return replace(
        load,
        prompt_tokens=mean(past.prompt_buckets) or load.prompt_tokens,
        prompt_cv2=squared_variation(past.prompt_buckets) or load.prompt_cv2,
        answer_cv2=squared_variation(past.answer_buckets) or load.answer_cv2,
    )


def largest(load: Demand, past: Past) -> Demand:
    """The largest load of now and of the last minutes; where tokens were not counted, by the lengths of now."""
    prompts = past.prompt_tokens_per_second or past.requests_per_second * load.prompt_tokens
    answers = past.answer_tokens_per_second or past.requests_per_second * load.answer_tokens
    return replace(
        load,
        prompt_tokens_per_second=max(load.prompt_tokens_per_second, prompts),
        answer_tokens_per_second=max(load.answer_tokens_per_second, answers),
    )


def lately(load: Demand, traffic: Traffic, seconds: float) -> Demand:
    """The load with the most prompts of so long: of the windows that it consists of, or of a longer time."""
    windows = traffic.history[: math.ceil(seconds / traffic.history_seconds)]
    prompts = (one.prompt_tokens or one.requests * load.prompt_tokens for one in windows)
    return replace(load, prompt_tokens_per_second=max([load.prompt_tokens_per_second, *prompts]))
