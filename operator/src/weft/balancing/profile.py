"""The measured speed of one replica, from the EngineProfile that a role's `profileRef` names."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from pydantic import ValidationError

from weft.api import EngineProfile
from weft.cluster import Object


@dataclass(frozen=True)
class Unusable:
    """A profile that cannot be used."""

    why: str
    """What to do about it, for people."""


@dataclass(frozen=True)
class Curve:
    """Seconds by some number, from measured points in the order of that number.

    Linear between the points, beyond the last along the last two; below the first as at the first.
    """

    xs: tuple[int, ...]
    seconds: tuple[float, ...]

    @classmethod
    def of(cls, points: Iterable[tuple[int, int]]) -> Curve:
        """From (number, microseconds)."""
        xs, microseconds = zip(*points, strict=True)
        return cls(xs, tuple(each / 1e6 for each in microseconds))

    def __call__(self, x: float) -> float:
        xs, ys = self.xs, self.seconds
        if x <= xs[0] or len(xs) == 1:
            return ys[0]
        right = min(bisect_left(xs, x), len(xs) - 1)
        left = right - 1
        return ys[left] + (ys[right] - ys[left]) * (x - xs[left]) / (xs[right] - xs[left])


@dataclass(frozen=True)
class Profile:
    """What one replica can do, as measured."""

    prefill: Curve
    """By the length of a prompt that is alone."""
    decode: Curve
    """Per token of each request, by the number of requests that decode together."""
    kv_capacity_tokens: int
    max_batch: int

    @classmethod
    def of(cls, profile: EngineProfile) -> Profile:
        """What the object says."""
        spec = profile.spec
        return cls(
            Curve.of((point.prompt_tokens, point.microseconds) for point in spec.prefill),
            Curve.of((point.batch, point.microseconds) for point in spec.decode),
            spec.kv_capacity_tokens,
            spec.max_batch,
        )

    def prefill_seconds(self, prompt_tokens: float) -> float:
        """Time to prefill one prompt of this many tokens alone."""
        return self.prefill(prompt_tokens)

    def prefill_tokens_per_second(self, prompt_tokens: float) -> float:
        """Prompt tokens per second over prompts of this length, one after the other."""
        return prompt_tokens / self.prefill_seconds(prompt_tokens)

    def inter_token_seconds(self, batch: float) -> float:
        """Time per output token of each request while `batch` of them decode together."""
        return self.decode(batch)

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


def profile_of(raw: Object | None, name: str) -> Profile | Unusable:
    """What an EngineProfile of the cache says, or why it cannot be used."""
    if raw is None:
        return Unusable(f"there is no EngineProfile {name!r} in the role's namespace")
    metadata = raw["metadata"]
    return _parse(_Stored(metadata["uid"], metadata["resourceVersion"], raw))


@dataclass(frozen=True)
class _Stored:
    """One state of an object: what it was parsed into holds until it is written again."""

    uid: str
    resource_version: str
    raw: Object = field(compare=False, repr=False)


@lru_cache(maxsize=1024)  # groups are looked at every few seconds, their profiles change hardly ever
def _parse(stored: _Stored) -> Profile | Unusable:
    try:
        return Profile.of(EngineProfile.model_validate(stored.raw))
    except ValidationError as error:
        # The API server checks all of it: only where the definition in the cluster is not this version's.
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return Unusable(f"EngineProfile {stored.raw['metadata']['name']!r}: {where}: {first['msg']}")
