"""The measured speed of one replica, read from the ConfigMap that a role's `profileRef` names.

Key `profile.yaml`:

    prefill: [{promptTokens: 512, milliseconds: 197}, ...]   # time of a prompt of that length alone
    decode:  [{batch: 1, milliseconds: 55}, ...]             # time per output token at that batch size
    kvCapacityTokens: 40000                                  # tokens whose KV cache one replica holds
    maxBatch: 32                                             # most requests that decode at the same time

Between the points values are interpolated linearly, beyond the last point along the last segment, and
below the first point the first value holds. Both curves have to be non-decreasing: a profile in which a
longer prompt takes less time is a measuring error, and would let the planner see speed where there is none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

KEY = "profile.yaml"
MAX_BYTES = 64 << 10
"""A profile larger than this is refused: it is a table of a few points, written by a tenant."""


class ProfileError(ValueError):
    """The profile cannot be used; the message says what to change."""


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class PrefillPoint(_Part):
    """Time that a prompt of this length takes when it is alone."""

    prompt_tokens: Annotated[int, Field(ge=1, le=10_000_000)]
    milliseconds: Annotated[float, Field(gt=0, le=3_600_000, allow_inf_nan=False)]


class DecodePoint(_Part):
    """Time per output token while this many requests decode together."""

    batch: Annotated[int, Field(ge=1, le=100_000)]
    milliseconds: Annotated[float, Field(gt=0, le=600_000, allow_inf_nan=False)]


class Profile(_Part):
    """What one replica can do, as measured."""

    prefill: Annotated[tuple[PrefillPoint, ...], Field(min_length=1, max_length=256)]
    decode: Annotated[tuple[DecodePoint, ...], Field(min_length=1, max_length=256)]
    kv_capacity_tokens: Annotated[int, Field(ge=1, le=10**12)]
    max_batch: Annotated[int, Field(ge=1, le=100_000)]

    @model_validator(mode="after")
    def _curves_rise(self) -> Self:
        _check_rising("prefill", "promptTokens", [(p.prompt_tokens, p.milliseconds) for p in self.prefill])
        _check_rising("decode", "batch", [(p.batch, p.milliseconds) for p in self.decode])
        return self

    def prefill_seconds(self, prompt_tokens: float) -> float:
        """Time to prefill one prompt of this many tokens alone."""
        xs = [point.prompt_tokens for point in self.prefill]
        return _interpolate(xs, [point.milliseconds for point in self.prefill], prompt_tokens) / 1000

    def prefill_tokens_per_second(self, prompt_tokens: float) -> float:
        """Prompt tokens per second over prompts of this length, one after the other."""
        return prompt_tokens / self.prefill_seconds(prompt_tokens)

    def inter_token_seconds(self, batch: float) -> float:
        """Time per output token of each request while `batch` of them decode together."""
        xs = [point.batch for point in self.decode]
        return _interpolate(xs, [point.milliseconds for point in self.decode], batch) / 1000

    def largest_batch(self, inter_token_seconds: float) -> float:
        """The largest batch, not beyond maxBatch, whose time per token is within this; at least 1.

        A fraction is meaningful: an average over time.
        """
        if self.inter_token_seconds(self.max_batch) <= inter_token_seconds:
            return float(self.max_batch)
        low, high = 1.0, float(self.max_batch)
        while high - low > 1e-3:
            middle = (low + high) / 2
            if self.inter_token_seconds(middle) <= inter_token_seconds:
                low = middle
            else:
                high = middle
        return low


@lru_cache(maxsize=256)  # a group is looked at every few seconds, its profile changes hardly ever
def parse(text: str) -> Profile:
    """Read a profile.

    Raises ProfileError with a message for the person who wrote it.
    """
    if len(text.encode()) > MAX_BYTES:
        raise ProfileError(f"the profile is larger than {MAX_BYTES >> 10} KiB")
    try:
        raw = yaml.safe_load(text)
    except (
        yaml.YAMLError,
        RecursionError,
    ) as error:  # RecursionError: nesting deeper than the parser's stack
        raise ProfileError(f"the profile is not YAML: {_first_line(error)}") from error
    if not isinstance(raw, dict):
        raise ProfileError("the profile has to be a mapping with prefill, decode, kvCapacityTokens, maxBatch")
    try:
        return Profile.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProfileError(f"{where}: {first['msg']}" if where else str(first["msg"])) from error


def from_config_map(config_map: Mapping[str, Any] | None, name: str) -> Profile:
    """The profile in a ConfigMap. Raises ProfileError, also when there is no such ConfigMap or key."""
    if config_map is None:
        raise ProfileError(f"there is no ConfigMap {name!r} in the role's namespace")
    text = (config_map.get("data") or {}).get(KEY)
    if not isinstance(text, str):
        raise ProfileError(f"ConfigMap {name!r} has no key {KEY!r}")
    try:
        return parse(text)
    except ProfileError as error:
        raise ProfileError(f"ConfigMap {name!r}: {error}") from error


def _check_rising(curve: str, x_name: str, points: Sequence[tuple[float, float]]) -> None:
    for (x, y), (next_x, next_y) in pairwise(points):
        if next_x <= x:
            raise ValueError(f"{curve}: {x_name} has to grow from point to point, {next_x:g} follows {x:g}")
        if next_y < y:
            raise ValueError(
                f"{curve}: {next_y:g} ms at {x_name} {next_x:g} is less than {y:g} ms at {x:g}: measure again"
            )


def _interpolate(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    if x <= xs[0] or len(xs) == 1:
        return ys[0]
    right = min(bisect_left(xs, x), len(xs) - 1)
    left = right - 1
    return ys[left] + (ys[right] - ys[left]) * (x - xs[left]) / (xs[right] - xs[left])


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
