"""A group in virtual time: arrivals, a router, replicas that come, change their role and go."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from heapq import heappop, heappush

from weft.rehearse.engine import DECODE, PREFILL, WHOLE, Engine, Speeds
from weft.rehearse.scrapes import TOKEN_BOUNDS, TTFT_BOUNDS
from weft.rehearse.trace import Trace

PREFILLS, DECODES, AGGREGATES = "prefill", "decode", "aggregated"
"""The roles of a rehearsed group, one per stage."""
ROLES = (PREFILLS, DECODES, AGGREGATES)


@dataclass(eq=False, slots=True)
class Replica:
    """One replica, as the router and the one who moves it see it."""

    number: int
    role: str
    engine: Engine
    created_at: float
    serving: bool = False
    """In the router."""
    ready_at: float = 0.0
    """When a replica that starts will serve."""
    moving_to: str = ""
    """The role it is on its way to."""
    leaving: bool = False
    """It is drained to be removed."""
    out_since: float = 0.0
    """Since when it is out of the router."""
    in_since: float = 0.0
    role_since: float = -math.inf
    switched_at: float = math.inf
    """When a move will have changed its role."""
    rolled_back_at: float = -math.inf
    prefill_tokens: int = 0
    """Sent there and not answered yet."""
    streams: int = 0
    stream_tokens: int = 0
    last_picked: int = 0


@dataclass(frozen=True)
class Objectives:
    """In seconds; infinite where nothing is promised."""

    ttft_seconds: float
    itl_seconds: float
    attainment: float = 0.99


NO_OBJECTIVES = Objectives(math.inf, math.inf)


class World:
    """Runs from `run_until` to `run_until`. A request that nobody can serve waits in the router."""

    def __init__(
        self,
        trace: Trace,
        speeds: Speeds,
        factors: Mapping[int, tuple[float, float]] | None = None,
        objectives: Objectives = NO_OBJECTIVES,
    ) -> None:
        """`factors` on the profile's times by replica number: (prefill, decode); 1.1 is ten per cent slower."""
        self.trace = trace
        self.speeds = speeds
        self.factors = factors or {}
        self.objectives = objectives
        self.prompt_tokens, self.answer_tokens = trace.prompt_tokens, trace.answer_tokens
        self.now = 0.0
        self.replicas: dict[int, Replica] = {}
        self.made = 0
        """Replicas ever made: the next one's number."""
        self.accelerator_seconds = 0.0
        """Of replicas that are gone, in replicas."""
        self.ttft = array("d", [math.nan]) * len(trace)
        self.itl = array("d", [math.nan]) * len(trace)
        """Mean time between the tokens of an answer; 0 for a single token. Not a number until it has ended."""
        self.done = 0
        self.met = 0
        """Of those that have their answer, how many within the objectives."""
        self._next = 0
        self._due: list[tuple[float, int]] = []
        self._picks = 0
        self._prefills: list[Replica] = []
        self._decodes: list[Replica] = []
        self._prefill_at: dict[int, tuple[int, int]] = {}
        """(replica, prompt tokens to read there) by request."""
        self._decode_at: dict[int, int] = {}
        self._source: dict[int, int] = {}
        self._wants_prefill: list[int] = []
        self._wants_decode: list[int] = []
        self._releases: list[tuple[int, int]] = []
        tokens = len(TOKEN_BOUNDS) + 1
        self._front = [0.0] * (5 + 2 * tokens + len(TTFT_BOUNDS) + 1)
        """As scraped: requests, prompts, prompt tokens, answers, answer tokens, then the three histograms."""
        self._answers, self._ttfts = 5 + tokens, 5 + 2 * tokens

    def clone(self) -> World:
        """A copy that goes its own way."""
        other = World.__new__(World)
        for name, value in self.__dict__.items():
            shared = name in ("trace", "speeds", "factors", "objectives")
            setattr(other, name, value if shared else copy(value))
        other.replicas = {}
        for number, one in self.replicas.items():
            twin = Replica(**{slot: getattr(one, slot) for slot in Replica.__slots__})
            twin.engine = one.engine.clone(other)
            other.replicas[number] = twin
        other.update_router()
        return other

    # Replicas

    def create(self, role: str, ready_at: float) -> Replica:
        """A new replica; it serves from `ready_at` on, at once if that is not later than now."""
        number = self.made
        self.made += 1
        factors = self.factors.get(number, (1.0, 1.0))
        one = Replica(number, role, Engine(number, self.speeds, *factors, self), self.now, ready_at=ready_at)
        self.replicas[number] = one
        if ready_at <= self.now:
            self.enter(one)
        return one

    def enter(self, one: Replica) -> None:
        """Into the router."""
        one.serving, one.in_since = True, self.now
        self.update_router()

    def leave(self, one: Replica) -> None:
        """Out of the router; what it has it finishes."""
        one.serving, one.out_since = False, self.now
        self.update_router()

    def remove(self, one: Replica) -> None:
        """It is gone, and its hardware free."""
        del self.replicas[one.number]
        self.accelerator_seconds += self.now - one.created_at

    def held_seconds(self) -> float:
        """Replica-seconds held so far: starting, serving, draining."""
        return self.accelerator_seconds + sum(self.now - one.created_at for one in self.replicas.values())

    def serving(self, role: str) -> int:
        return sum(one.serving and one.role == role for one in self.replicas.values())

    def update_router(self) -> None:
        """After any change of who serves what."""
        serving = [one for one in self.replicas.values() if one.serving]
        self._prefills = [one for one in serving if one.role != DECODES]
        self._decodes = [one for one in serving if one.role != PREFILLS]
        if self._prefills and self._wants_prefill:
            waiting, self._wants_prefill = self._wants_prefill, []
            for request in waiting:
                self._send(request)
        if self._decodes and self._wants_decode:
            waiting, self._wants_decode = self._wants_decode, []
            for request in waiting:
                self._decode(request)
        self._release()

    # Time

    def run_until(self, until: float) -> None:
        """Everything up to then."""
        due, arrivals = self._due, self.trace.at_seconds
        count = len(arrivals)
        while True:
            now = due[0][0] if due else math.inf
            if self._next < count and arrivals[self._next] <= now:
                now = arrivals[self._next]
                if now > until:
                    break
                self.now = now
                request = self._next
                self._next += 1
                front = self._front
                front[0] += 1
                self._send(request)
            else:
                if now > until or not due:
                    break
                _, number = heappop(due)
                one = self.replicas.get(number)
                if one is None or one.engine.due != now:
                    continue  # it was put forward
                self.now = now
                one.engine.fire()
                self._schedule(one.engine)
            if self._releases:
                self._release()
        if until < math.inf:
            self.now = until

    @property
    def finished(self) -> bool:
        """All requests have their answer."""
        return self.done == len(self.trace)

    def _schedule(self, engine: Engine) -> None:
        if engine.due < math.inf:
            heappush(self._due, (engine.due, engine.number))

    def _release(self) -> None:
        while self._releases:
            number, request = self._releases.pop()
            if one := self.replicas.get(number):
                one.engine.release(request, self.now)
                self._schedule(one.engine)

    # The router

    def _send(self, request: int) -> None:
        if not self._prefills:
            self._wants_prefill.append(request)
            return
        tokens = self.prompt_tokens[request]
        if self.trace.blocks:
            # A router that follows KV caches: the least to read, with what waits there.
            cached = {one.number: one.engine.cached_tokens(request) for one in self._prefills}
            one = min(
                self._prefills, key=lambda each: (each.prefill_tokens - cached[each.number], each.last_picked)
            )
            tokens -= cached[one.number]
        else:
            one = min(self._prefills, key=_prefill_load)
        self._picked(one)
        one.prefill_tokens += tokens
        self._prefill_at[request] = one.number, tokens
        kind = PREFILL
        if one.role == AGGREGATES:
            kind = WHOLE
            self._takes_stream(one, request)
        one.engine.submit(kind, request, self.now)
        self._schedule(one.engine)

    def _decode(self, request: int) -> None:
        if not self._decodes:
            self._wants_decode.append(request)
            return
        one = min(self._decodes, key=_decode_load)
        self._picked(one)
        self._takes_stream(one, request)
        one.engine.submit(DECODE, request, self.now)
        self._schedule(one.engine)

    def _picked(self, one: Replica) -> None:
        self._picks += 1
        one.last_picked = self._picks

    def _takes_stream(self, one: Replica, request: int) -> None:
        one.streams += 1
        one.stream_tokens += self.prompt_tokens[request]
        self._decode_at[request] = one.number

    # What engines tell

    def prefilled(self, request: int) -> None:
        """The prompt is read, its KV cache waits there for a decode replica."""
        number, tokens = self._prefill_at.pop(request)
        self._source[request] = number
        self.replicas[number].prefill_tokens -= tokens
        self._decode(request)

    def admitted(self, request: int) -> None:
        """A decode replica reads the KV cache."""
        self._releases.append((self._source.pop(request), request))

    def first_token(self, request: int, at: float) -> None:
        """Its first token is, or will be, out then."""
        seconds = at - self.trace.at_seconds[request]
        self.ttft[request] = seconds
        self._front[self._ttfts + bisect_left(TTFT_BOUNDS, seconds)] += 1
        if request in self._prefill_at:
            number, tokens = self._prefill_at.pop(request)
            self.replicas[number].prefill_tokens -= tokens

    def answered(self, request: int, now: float) -> None:
        """Its last token is out."""
        prompt, answer = self.prompt_tokens[request], self.answer_tokens[request]
        first = self.trace.at_seconds[request] + self.ttft[request]
        self.itl[request] = (now - first) / max(1, answer - 1)
        self.done += 1
        objectives = self.objectives
        self.met += (
            self.ttft[request] <= objectives.ttft_seconds and self.itl[request] <= objectives.itl_seconds
        )
        one = self.replicas[self._decode_at.pop(request)]
        one.streams -= 1
        one.stream_tokens -= prompt
        # As the endpoint picker does: lengths are in the metrics once an answer has ended.
        front = self._front
        front[1] += 1
        front[2] += prompt
        front[3] += 1
        front[4] += answer
        front[5 + bisect_left(TOKEN_BOUNDS, prompt)] += 1
        front[self._answers + bisect_left(TOKEN_BOUNDS, answer)] += 1

    # What is scraped

    def front_row(self) -> list[float]:
        return self._front.copy()

    def engine_rows(self) -> dict[int, list[float]]:
        """Of the replicas whose engine runs."""
        rows: dict[int, list[float]] = {}
        for number, one in self.replicas.items():
            if one.ready_at <= self.now:
                engine = one.engine
                generated, seconds, count, buckets = engine.counters(self.now)
                rows[number] = [
                    *(engine.running, engine.waiting, engine.kv_usage),
                    *(engine.ended_total, engine.ended_prompt_tokens_total, engine.prompt_tokens_total),
                    *(generated, seconds, count, *buckets),
                ]
        return rows


def _prefill_load(one: Replica) -> tuple[int, int]:
    return one.prefill_tokens, one.last_picked


def _decode_load(one: Replica) -> tuple[int, int]:
    return one.streams, one.stream_tokens
