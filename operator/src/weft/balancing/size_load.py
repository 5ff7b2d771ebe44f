"""The load that a size is chosen for. Pure.

A long window is too short for it in two ways. A single long prompt decides its lengths: they are those of the last
minutes. And a decode replica works on an answer for as long as the answer takes: what is present, and what that needs,
is the mean of what arrived meanwhile. Where answers take longer than a long window, a window's chances and bursts are
over before they would be seen in the work that is there; so the answers' rate is a mean over as long as one takes.
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


def averaged(load: Demand, traffic: Traffic, answer_seconds: float) -> tuple[Demand, float]:
    """The load with the answers of as long a time as one takes, and that time in long windows: at least one."""
    count = min(len(traffic.history), round(answer_seconds / traffic.history_seconds))
    windows = count * traffic.history_seconds / traffic.long_seconds
    history = traffic.history[:count]
    ended = sum(one.answers for one in history)
    if windows <= 1 or ended <= 0:
        return load, 1.0
    length = sum(one.answer_tokens for one in history) / ended
    requests = sum(one.requests for one in history) / count
    return replace(load, answer_tokens_per_second=requests * length, answer_tokens=length), windows


def largest(load: Demand, past: Past, windows: float) -> Demand:
    """The largest load of now and of the last minutes; where tokens were not counted, by the lengths of now.

    `windows`: over so many long windows answers are averaged. Means of that many differ from the mean of all by less
    than the largest single one does, by the root of their number where windows are independent.
    """
    prompts = past.prompt_tokens_per_second or past.requests_per_second * load.prompt_tokens
    answers = past.answer_tokens_per_second or past.requests_per_second * load.answer_tokens
    if windows > 1 and past.answer_buckets:
        usual = past.answer_buckets[-1][1] * mean(past.answer_buckets)
        answers = usual + max(0.0, answers - usual) / math.sqrt(windows)
    return replace(
        load,
        prompt_tokens_per_second=max(load.prompt_tokens_per_second, prompts),
        answer_tokens_per_second=max(load.answer_tokens_per_second, answers),
    )
