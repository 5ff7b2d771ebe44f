"""What a policy sees of the replay: the samples that Prometheus would have, and the replicas that the API server shows.

The samples go to the store that `weft rehearse` has for its own engines, so that a policy asks here what it asks there.
The replay tells of a request's lengths and times when its answer ends, so all histograms are of ended answers; of an
engine it tells the last pass before a look, so tokens are counted from the speed and the batch of that pass. Prompt
tokens per engine are not told: policies take prefill to be as fast as its profile says.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import constants

from weft.rehearse.engine import ITL_BOUNDS
from weft.rehearse.scrapes import TOKEN_BOUNDS, TTFT_BOUNDS, Scrapes
from weft.rehearse.world import DECODES, PREFILLS
from weft_playground.trace import Request

ROLES = (PREFILLS, DECODES)


@dataclass
class Worker:
    """One worker of the replay, with the names that a rehearsed replica has."""

    number: int
    role: str
    role_since: float
    serving: bool = False
    leaving: bool = False
    moving_to: str = ""
    """One that starts is a replica whose role is being changed."""
    ready_at: float = float("inf")
    in_since: float = float("inf")
    running: float = 0.0
    waiting: float = 0.0
    kv_tokens: float = 0.0
    prompts: float = 0.0
    prompt_tokens: float = 0.0
    """Of prompts that it has read."""
    tokens: float = 0.0
    itl_seconds: float = 0.0
    itl_counts: list[float] = field(default_factory=lambda: [0.0] * (len(ITL_BOUNDS) + 1))

    def row(self, kv_capacity_tokens: int) -> list[float]:
        usage = self.kv_tokens / kv_capacity_tokens
        return [
            *(self.running, self.waiting, usage, self.prompts, self.prompt_tokens, 0.0, self.tokens),
            *(self.itl_seconds, self.tokens, *self.itl_counts),
        ]


@dataclass
class Workers:
    """All that exist, by number."""

    replicas: dict[int, Worker] = field(default_factory=dict)


@dataclass
class Moves:
    """What was decided and what is under way, with the names that a rehearsal's mover has."""

    target: dict[str, int]
    world: Workers = field(default_factory=Workers)
    moving: tuple[tuple[str, str], ...] = ()
    """(giver, taker) of each replica that is on its way."""
    moved_at: float | None = None
    count: int = 0
    replicas_moved: int = 0
    log: list[tuple[float, int, int]] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return bool(self.moving) or any(not one.serving for one in self.world.replicas.values())


class Seen:
    """Follows the replay's snapshots."""

    def __init__(
        self,
        scrape_seconds: float,
        target: dict[str, int],
        kv_capacity_tokens: int,
        requests: Sequence[Request],
    ) -> None:
        self.scrapes = Scrapes(scrape_seconds)
        self.moves = Moves(dict(target))
        self._kv_capacity_tokens = kv_capacity_tokens
        self._first_tokens = 0.0
        """Of prompts that no engine has been seen to read."""
        # Of a prompt that has been read the replay tells what it and its answer will take together.
        self._prompts_of: dict[int, deque[int]] = defaultdict(deque)
        for one in requests:
            self._prompts_of[one.prompt_tokens + one.answer_tokens - 1].append(one.prompt_tokens)
        self._numbers: dict[tuple[str, int], int] = {}
        tokens = len(TOKEN_BOUNDS) + 1
        self._front = [0.0] * (5 + 2 * tokens + len(TTFT_BOUNDS) + 1)
        self._prompts, self._answers, self._ttfts = 5, 5 + tokens, 5 + 2 * tokens

    def look(self, snapshot: dict[str, Any], now: float) -> None:
        """One snapshot of the replay."""
        self._count(snapshot["traffic"])
        self._follow(snapshot, now)
        workers = self.moves.world.replicas
        for worker in workers.values():
            if worker.role == PREFILLS and not worker.waiting:
                worker.running = 0.0
        for role in ROLES:
            for one in snapshot[f"{role}_fpm_snapshots"]:
                worker = workers.get(self._numbers.get((role, one["worker_id"]), -1))
                if worker is not None:
                    self._engine(worker, one)

    def scrape(self, now: float) -> None:
        """Keep what the targets show now; one that starts shows nothing."""
        rows = {
            number: worker.row(self._kv_capacity_tokens)
            for number, worker in self.moves.world.replicas.items()
            if worker.ready_at <= now
        }
        self.scrapes.add(now, self._front.copy(), rows)

    def _count(self, traffic: dict[str, Any]) -> None:
        front, ended = self._front, traffic["shape_count"]
        front[0] += traffic["num_req"]
        if ended:
            prompt, answer = traffic["avg_isl"], traffic["avg_osl"]
            for column, value in enumerate((ended, ended * prompt, ended, ended * answer), start=1):
                front[column] += value
            front[self._prompts + bisect_left(TOKEN_BOUNDS, prompt)] += ended
            front[self._answers + bisect_left(TOKEN_BOUNDS, answer)] += ended
        if traffic["ttft_count"]:
            self._first_tokens += traffic["ttft_count"]
            seconds = traffic["avg_ttft_ms"] / 1000
            front[self._ttfts + bisect_left(TTFT_BOUNDS, seconds)] += traffic["ttft_count"]

    def _follow(self, snapshot: dict[str, Any], now: float) -> None:
        workers = self.moves.world.replicas
        alive: set[int] = set()
        for role in ROLES:
            for state in ("starting", "active", "draining"):
                for worker_id in snapshot[f"{state}_{role}_ids"]:
                    number = self._numbers.setdefault((role, worker_id), len(self._numbers))
                    alive.add(number)
                    # Who is there at the first look has been there for long.
                    since = now if now > 1 else float("-inf")
                    worker = workers.setdefault(number, Worker(number, role, since))
                    worker.leaving = state == "draining"
                    worker.moving_to = role if state == "starting" else ""
                    if state == "active" and not worker.serving:
                        worker.ready_at, worker.in_since = min(worker.ready_at, now), since
                    worker.serving = state == "active"
        for number in workers.keys() - alive:
            del workers[number]

    def _engine(self, worker: Worker, told: dict[str, Any]) -> None:
        if worker.role == PREFILLS:
            worker.running, worker.waiting = 1.0, told["num_queued_prefill"]
            alike = self._prompts_of.get(told["sum_decode_kv_tokens"])
            if told["num_decode_requests"] == 1 and alike:
                # Of two short prompts between two looks the last one is told: the other counts as alike.
                count = min(2.0, max(1.0, self._first_tokens))
                self._first_tokens -= count
                worker.prompts += count
                worker.prompt_tokens += count * alike.popleft()
            return
        worker.running = told["num_decode_requests"]
        worker.waiting = told["num_queued_decode"] + told["num_queued_prefill"]
        worker.kv_tokens = told["sum_decode_kv_tokens"]
        seconds = told["wall_time"]
        if seconds > 0:
            tokens = told["num_decode_requests"] * constants.SAMPLE_SECONDS / seconds
            worker.tokens += tokens
            worker.itl_seconds += tokens * seconds
            worker.itl_counts[bisect_left(ITL_BOUNDS, seconds)] += tokens
