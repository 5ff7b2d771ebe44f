"""Values that travel between observing, deciding and acting. All are frozen; none refers to the cluster."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from weft.api import FlipMethod, Objectives, RebalanceMode, RoleAllocation, Stage
from weft.balancing.profile import Profile
from weft.balancing.series import Buckets

COLD_START_SECONDS = 60.0
"""Of a new replica, where none has been seen to start."""


@dataclass(frozen=True, order=True)
class Split:
    """Replicas per role; a role that is not named has none. True where it names one."""

    counts: tuple[tuple[str, int], ...] = ()
    """(role, replicas), ordered by role."""

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Split:
        """The split with these replicas per role."""
        return cls(tuple(sorted(counts.items())))

    @classmethod
    def read(cls, allocation: Iterable[RoleAllocation]) -> Split:
        """A split as it stands in a status."""
        return cls.of({one.role: one.replicas for one in allocation})

    def written(self) -> tuple[RoleAllocation, ...]:
        """The split as it is written into a status."""
        return tuple(RoleAllocation(role=role, replicas=replicas) for role, replicas in self.counts)

    def __getitem__(self, role: str) -> int:
        # There are few: a look at each takes no longer than a dictionary that has to be made first.
        for name, count in self.counts:
            if name == role:
                return count
        return 0

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        """For people: "decode 4, prefill 5"."""
        return ", ".join(f"{role} {replicas}" for role, replicas in self.counts)

    @property
    def total(self) -> int:
        """Replicas of all roles."""
        return sum(replicas for _, replicas in self.counts)

    def names(self, role: str) -> bool:
        """Whether it says anything of the role, be it zero."""
        return any(name == role for name, _ in self.counts)

    def moved(self, giver: str, taker: str) -> Split:
        """The split once one replica has changed from one role to another; none has fewer than zero."""
        return Split.of({**self.replicas, giver: max(0, self[giver] - 1), taker: self[taker] + 1})

    def exchanged(self, giver: str, given: int, taker: str, taken: int) -> Split:
        """The split with so many replicas fewer of one role and more of the other."""
        return Split.of({**self.replicas, giver: self[giver] - given, taker: self[taker] + taken})

    @cached_property
    def replicas(self) -> dict[str, int]:
        """By role."""
        return dict(self.counts)


NO_SPLIT = Split()


@dataclass(frozen=True)
class Rates:
    """What the front end counted in one window, per second."""

    requests: float
    """Requests that arrived."""
    prompts: float
    """Prompts whose length was recorded: at arrival or, by the endpoint picker, when their answer ended."""
    prompt_tokens: float
    answers: float
    """Answers that ended: only then their length is known."""
    answer_tokens: float

    def row(self) -> tuple[float, ...]:
        """All of them in the order of the fields."""
        return (self.requests, self.prompts, self.prompt_tokens, self.answers, self.answer_tokens)

    @staticmethod
    def added(parts: Iterable[Rates]) -> Rates:
        """The rates of several models together."""
        return Rates(*(sum(column) for column in zip(*(one.row() for one in parts), strict=True)))


@dataclass(frozen=True)
class Past:
    """The largest long-window rates of the last minutes (`presets.PAST_SECONDS`)."""

    requests_per_second: float
    prompt_tokens_per_second: float = 0.0
    """Zero where the front end does not count them; and the next."""
    answer_tokens_per_second: float = 0.0
    prompt_buckets: Buckets = ()
    """Lengths over all of the time; empty where the front end does not count them. And the next."""
    answer_buckets: Buckets = ()


@dataclass(frozen=True)
class Kept:
    """What became of the promise over the last hours."""

    in_time: float
    """Share of the requests that met the objectives."""
    requests: float
    """So many requests that is of; old ones count less."""
    headroom: float
    """What this asks for beyond the headroom of the promise, as a part of what is needed; below zero: less."""
    stages: Mapping[Stage, float] = field(default_factory=dict)
    """The same of a stage beyond that: more where a request takes little hardware."""


@dataclass(frozen=True)
class Answers:
    """What the decode replicas that take requests have to write, as their engines tell."""

    running: float
    """Requests that are being written."""
    waiting: float = 0.0
    caches: float | None = None
    """KV caches that those fill, in caches of one replica; None: not known."""


@dataclass(frozen=True)
class Traffic:
    """The offered load of one model, as its front end sees it."""

    short: Rates
    long: Rates
    short_seconds: float
    """Length of the short window."""
    peak_prompt_tokens_per_second: float = 0.0
    """Largest short-window rate in the recent past (about one long window)."""
    peak_answer_tokens_per_second: float = 0.0
    past: Past | None = None
    """The last minutes as a whole; None where they are not known from beginning to end."""
    prompt_buckets: Buckets = ()
    """Prompt lengths in tokens over the long window."""
    answer_buckets: Buckets = ()
    ttft_buckets: Buckets = ()
    """Time to first token in seconds over the long window, per request."""
    itl_buckets: Buckets = ()
    """Time between tokens in seconds over the long window, per token, of all serving engines."""
    history: tuple[Rates, ...] = ()
    """One window after the other, back from now; may be empty: what the load was before is then not known."""
    history_seconds: float = 60.0
    """Length of each of these."""
    prompts_read: bool = False
    """Prompts are those that prefill has read; else those whose answers have ended, which tell of the load before."""
    record: Kept | None = None
    """None: not known, or nothing was promised."""
    answers: Answers | None = None
    """That decode has now, a mean over the short window; None: not known."""
    answers_before: tuple[tuple[float, Answers], ...] = ()
    """(seconds ago, what it had then), back from now for 20 minutes, as far as that is known."""

    @property
    def long_seconds(self) -> float:
        """Length of the long window: four of the short one."""
        return 4 * self.short_seconds


@dataclass(frozen=True)
class EngineLoad:
    """What one engine reports of itself. Rates and means are over the long window; None: not known."""

    running: float
    """Requests being worked on now."""
    waiting: float
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
    kv_usage: float | None = None
    """Part of its KV cache that is used, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class PodLoad(EngineLoad):
    """What the engine of one pod reports."""

    sampled_at: datetime
    """When its oldest series was scraped, by the operator's clock."""
    kv_unread: float | None = None
    """Prompts whose KV cache nobody read in time, in the last 20 minutes."""
    ended: float | None = None
    """Requests that ended on it since it began to count."""


@dataclass(frozen=True)
class Engine:
    """One replica with what its engine reports."""

    role: str
    load: EngineLoad
    steady: bool = True
    """It serves and has had this role during the whole long window: its speed may be compared with the profile."""
    serving_seconds: float = math.inf
    """How long it has served. Rates over a longer window are too low by the part before; means are not."""


@dataclass(frozen=True)
class Queues:
    """Requests in the engines now."""

    prompts_waiting: float
    """At prefill, beyond those being worked on."""
    answers_present: float
    """At decode, written or waiting for it."""


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
    start_seconds: float = 0.0
    """What a replica takes until it serves, where one of another role does not become it but ends, and it is made."""
    hold_seconds: float = 0.0
    """How long one that leaves may still be sent requests, or its KV caches be read: it ends no earlier."""
    profile: Profile | None = None
    profile_error: str = ""
    kept: int = 0
    """Replicas that it cannot give to another role now, since too few of those that it has serve."""
    asks_anew: bool = False
    """It is to have `spec_replicas`, whatever the allocation says: somebody edited them while nothing else decides."""


@dataclass(frozen=True)
class SplitInputs:
    """Everything that a group's split is decided from."""

    mode: RebalanceMode
    flip: FlipMethod
    objectives: Objectives
    budget_accelerators: int
    cooldown_seconds: float
    roles: tuple[RoleState, ...]
    now: datetime
    allocation: Split = NO_SPLIT
    """The last decision that was written; empty for a new group."""
    left_out: int = 0
    """Replicas that the roles asked for and the budget had no room for when `allocation` was decided on, or since."""
    recommended: Split = NO_SPLIT
    """In Recommend: the split that was last recommended."""
    decided_from: Split = NO_SPLIT
    """What held before the last decision; empty where it is not known."""
    decided_at: datetime | None = None
    moved_at: datetime | None = None
    """When the last move ended: a replica entered the router."""
    settled: bool = True
    """No transfer is under way and no role has more replicas than the allocation gives it."""
    moving: tuple[tuple[str, str], ...] = ()
    """(giver, taker) of each transfer that goes forward; empty while one is rolled back."""
    traffic: Traffic | None = None
    generated_tokens_per_second: float = 0.0
    """Tokens of answers that engines write now, short window."""
    flips_overlap: bool = False
    """A replica that flips takes new work at once, and ends the old beside it."""
    queues: Queues | None = None
    """None: not known; taken as what the offered work keeps busy."""
    answers_in_time: float | None = None
    """Share of answers within the objective between tokens by the engines' mean times, long window; None: not known."""
    corrections: Corrections = field(default_factory=Corrections)
    hold: Hold | None = None
    """Set when the metrics are not to be trusted; `traffic` is then None."""
    minimum_accelerators: int | None = None
    """None: the number of replicas is fixed."""
    starting: tuple[tuple[str, float], ...] = ()
    """(role, seconds until it serves) of each replica of the allocation that does not serve yet; infinite where nothing
    says that it will, since it waits for hardware."""
    cold_start_seconds: float = COLD_START_SECONDS
    """From the decision on a new replica to its first request."""
    scaled_at: datetime | None = None
    """When another number of replicas was last decided."""
    grown_at: datetime | None = None
    """When more replicas were."""
    to_zero: bool = False
    """It may be left without replicas, and the front end tells which requests wait."""
    asleep: bool = False
    """It has no replicas, since nobody asked for anything, and nobody does."""

    @property
    def serving(self) -> Split:
        """What of the allocation serves now."""
        absent = Counter(role for role, _ in self.starting)
        return Split.of({role: max(0, count - absent[role]) for role, count in self.allocation.counts})


@dataclass(frozen=True)
class Finding:
    """What is to be said in a condition. `status` None is Unknown."""

    status: bool | None
    reason: str
    message: str


@dataclass(frozen=True)
class Note:
    """What is to be said in an Event."""

    reason: str
    message: str
    warning: bool = False
