"""Values that travel between observing, deciding and acting. All are frozen; none refers to the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from weft.api import FlipMethod, Objectives, RebalanceMode, Stage
from weft.balancing.profile import Profile
from weft.balancing.series import Buckets

Vector = tuple[tuple[str, int], ...]
"""Replicas per role, ordered by role name."""


def vector(counts: Mapping[str, int]) -> Vector:
    """The counts as a hashable value."""
    return tuple(sorted(counts.items()))


def words(allocation: Vector) -> str:
    """An allocation for people: "decode 4, prefill 5"."""
    return ", ".join(f"{role} {replicas}" for role, replicas in allocation)


@dataclass(frozen=True)
class Rates:
    """What the front end counted in one window, per second."""

    requests: float
    """Requests that arrived."""
    prompts: float
    """Prompts whose length was recorded, at arrival."""
    prompt_tokens: float
    answers: float
    """Answers that ended: only then their length is known."""
    answer_tokens: float

    @staticmethod
    def added(parts: Iterable[Rates]) -> Rates:
        """The rates of several models together."""
        rows = [
            (one.requests, one.prompts, one.prompt_tokens, one.answers, one.answer_tokens) for one in parts
        ]
        return Rates(*(sum(column) for column in zip(*rows, strict=True)))


@dataclass(frozen=True)
class Traffic:
    """The offered load of one model, as its front end sees it."""

    short: Rates
    long: Rates
    short_seconds: float
    """Length of the short window."""
    peak_prompt_tokens_per_second: float
    """Largest short-window rate in the recent past (about one long window)."""
    peak_answer_tokens_per_second: float
    prompt_buckets: Buckets = ()
    """Prompt lengths in tokens over the long window."""
    answer_buckets: Buckets = ()
    ttft_buckets: Buckets = ()
    """Time to first token in seconds over the long window, per request."""
    itl_buckets: Buckets = ()
    """Time between tokens in seconds over the long window, per token, of all serving engines."""


@dataclass(frozen=True)
class PodLoad:
    """What one engine reports of itself. Rates and means are over the long window."""

    running: float
    """Requests being worked on now."""
    waiting: float
    sampled_at: datetime
    """When its oldest series was scraped, by the operator's clock."""
    prompt_tokens_per_second: float | None = None
    generated_tokens_per_second: float | None = None
    """Over the short window."""
    busy_share: float | None = None
    """Share of samples with a request running."""
    mean_running: float | None = None
    inter_token_seconds: float | None = None
    """Mean over tokens; None when it made none."""
    tokens_per_second_timed: float = 0.0
    """Tokens per second that the mean is over."""


@dataclass(frozen=True)
class Corrections:
    """Observed speed over the profile's, per stage: above 1 is faster than measured beforehand."""

    prefill: float = 1.0
    decode: float = 1.0


@dataclass(frozen=True)
class Hold:
    """Why nothing may be concluded from the metrics: one word and one sentence without moving numbers."""

    reason: str
    message: str


@dataclass(frozen=True)
class RoleState:
    """One role as the planner sees it."""

    name: str
    stage: Stage
    minimum: int
    maximum: int
    spec_replicas: int
    accelerators_per_replica: int
    kind: str
    """Roles of one kind can exchange replicas: equal templates but for labels, equal hardware."""
    profile: Profile | None = None
    profile_error: str = ""
    serving: int = 0
    """Replicas that take requests now."""


@dataclass(frozen=True)
class Observed:
    """Everything that the planner may know about a group."""

    mode: RebalanceMode
    flip: FlipMethod
    objectives: Objectives
    budget_accelerators: int
    cooldown_seconds: int
    roles: tuple[RoleState, ...]
    now: datetime
    allocation: Vector = ()
    """The last decision that was written; empty for a new group."""
    recommended: Vector = ()
    """In Recommend: the split that was last recommended."""
    decided_at: datetime | None = None
    moved_at: datetime | None = None
    """When the last move ended."""
    settled: bool = True
    """No transfer is under way and no role has more replicas than the allocation gives it."""
    moving: tuple[tuple[str, str], ...] = ()
    """(giver, taker) of each transfer that goes forward; empty while one is rolled back."""
    traffic: Traffic | None = None
    generated_tokens_per_second: float = 0.0
    """Tokens of answers that engines write now, short window."""
    corrections: Corrections = field(default_factory=Corrections)
    hold: Hold | None = None
    """Set when the metrics are not to be trusted; `traffic` is then None."""


@dataclass(frozen=True)
class Finding:
    """What is to be said in a condition. `status` None is Unknown."""

    status: bool | None
    reason: str
    message: str
