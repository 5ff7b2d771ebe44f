"""What one replica does with its requests, and when: events, no tokens.

The rules are those of the playground's engines (hack/playground, EngineModel), which serve real sockets at the
speed of a profile; tests/unit/rehearse holds both against each other. A replica does one thing at a time:

- a prefill: one prompt, first come first served, whole or in chunks;
- a decode step: one token for every running request, in the time of that batch (and of its KV cache).

Both alternate where both are wanted, which is how a replica that serves two stages, or still decodes while it has
begun to prefill, slows itself. A request is admitted in order, while the batch has room and its prompt fits into what
is free of the KV cache. One whose prompt was read elsewhere joins the batch after the transfer of its KV cache. Answers
take room as they grow: where none is left for the next token of all, the request that joined last gives its own back,
waits in front of all others, and has its prompt and its answer so far computed here anew (as vLLM's scheduler does).
Steps between two changes of the batch are one event: their times follow in closed form.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from weft.balancing.profile import Profile

if TYPE_CHECKING:
    from weft.rehearse.world import World

PREFILL, DECODE, WHOLE = 0, 1, 2
"""What a replica is asked for: the prompt alone, the answer of a prompt that was read elsewhere, or both."""
ITL_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
"""vLLM's histogram of the time between tokens, in seconds."""
STEPS_AT_ONE_SPEED = 32
"""Where a step's time follows the KV cache: steps until it is looked at anew."""
_IDLE, _PREFILLING, _DECODING = 0, 1, 2
_EPSILON = 1e-9


@dataclass(frozen=True)
class Speeds:
    """How fast a replica is, as measured, and what moving a KV cache takes."""

    profile: Profile
    transfer_setup_seconds: float = 0.005
    transfer_seconds_per_token: float = 320 * 1024 * 8 / 200e9
    """A KV cache of 320 KiB per token over 200 Gbit/s."""
    decode_seconds_per_kv_token: float = 0.0
    """Added to a step per token in the KV caches of the batch, beside the profile's time of the batch."""
    chunk_tokens: int = 0
    """A longer prompt is read in pieces of this size, with a decode step between them; 0: whole."""

    def transfer_seconds(self, prompt_tokens: int) -> float:
        return self.transfer_setup_seconds + self.transfer_seconds_per_token * prompt_tokens


class Engine:
    """State of one replica. `due` is when `fire` has to be called next; infinite while there is nothing to do."""

    __slots__ = (
        *(
            "number",
            "due",
            "ended_total",
            "ended_prompt_tokens_total",
            "prompt_tokens_total",
            "generated_total",
            "itl_seconds_total",
            "itl_counts",
        ),
        *(
            "_speeds",
            "_step_seconds",
            "_prefill_factor",
            "_decode_factor",
            "_world",
            "_waiting",
            "_to_prefill",
        ),
        *(
            "_transferring",
            "_running",
            "_fresh",
            "_joins",
            "_preempted",
            "_parked",
            "_resident",
            "_clock",
            "_mode",
            "_begun",
        ),
        *(
            "_step",
            "_steps",
            "_prefilling",
            "_decode_next",
            "_last_step_end",
            "_joined",
            "_cache",
            "_readers",
        ),
    )

    def __init__(
        self, number: int, speeds: Speeds, prefill_factor: float, decode_factor: float, world: World
    ) -> None:
        """The factors are on the profile's times: 1.1 is ten per cent slower."""
        profile = speeds.profile
        self.number = number
        self.due = math.inf
        self.ended_total = 0
        self.ended_prompt_tokens_total = 0
        self.prompt_tokens_total = 0
        self.generated_total = 0
        self.itl_seconds_total = 0.0
        self.itl_counts = [0] * (len(ITL_BOUNDS) + 1)
        self._speeds = speeds
        self._prefill_factor, self._decode_factor = prefill_factor, decode_factor
        self._step_seconds = [
            profile.inter_token_seconds(max(1, n)) * decode_factor for n in range(profile.max_batch + 1)
        ]
        self._world = world
        self._waiting: deque[tuple[int, int]] = deque()
        self._readers = 0
        """Of those that wait to be admitted, the ones that want an answer."""
        self._to_prefill: deque[tuple[int, int, float, int]] = deque()
        """(kind, request, seconds of a piece or 0 before the first, pieces left)"""
        self._transferring: list[tuple[float, int]] = []
        self._running: list[tuple[int, int, int]] = []
        """(clock at which it ends, how many joined before it, request), a heap. The clock counts decode steps."""
        self._joins = 0
        self._fresh: list[int] = []
        self._preempted: dict[int, tuple[int, float]] = {}
        """Per request that gave its KV cache back: tokens of its answer that are left, and when the last was out."""
        self._parked = 0
        """Tokens in the KV caches of requests that are admitted, or wait for their reader, and are not in the batch."""
        self._resident = 0
        """Tokens in the KV caches of the batch, as of the last change of it."""
        self._clock = 0
        self._mode = _IDLE
        self._begun = self._step = 0.0
        self._steps = 0
        self._prefilling: tuple[int, int, float, int] | None = None
        self._decode_next = False
        self._last_step_end = 0.0
        self._cache: OrderedDict[int, None] = OrderedDict()
        """Blocks of prompts that were read, the least recently used first."""
        self._joined: set[int] = set()
        """Of the running ones, those that had a token from a prefill since the last step."""

    def clone(self, world: World) -> Engine:
        """A copy that goes its own way and belongs to another world."""
        other = Engine.__new__(Engine)
        for name in Engine.__slots__:
            value = getattr(self, name)
            if name not in ("_step_seconds", "_speeds", "_world") and hasattr(value, "copy"):
                value = value.copy()
            setattr(other, name, value)
        other._world = world
        return other

    @property
    def running(self) -> int:
        """As vLLM counts: in the step or prefill that is under way, or ready for the next step."""
        return len(self._running) + (self._prefilling is not None)

    @property
    def waiting(self) -> int:
        """As vLLM counts: not admitted, not prefilled yet, or waiting for a KV cache from elsewhere."""
        return len(self._waiting) + len(self._to_prefill) + len(self._transferring)

    @property
    def idle(self) -> bool:
        return not (
            self._running or self._prefilling or self._waiting or self._to_prefill or self._transferring
        )

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use, 0 to 1: what is there, not what is reserved for the rest of answers."""
        used = self._resident + self._parked
        return min(1.0, used / self._speeds.profile.kv_capacity_tokens)

    @property
    def holds_nothing(self) -> bool:
        """No KV cache is reserved: none waits for its reader."""
        return not (self._resident or self._parked)

    def counters(self, now: float) -> tuple[int, float, int, list[int]]:
        """Tokens generated, seconds between tokens, their number, and their histogram up to now, counted in
        the middle of a run of steps too."""
        counts = self.itl_counts
        generated, seconds = self.generated_total, self.itl_seconds_total
        if self._mode == _DECODING:
            steps = self._steps_done(now)
            if steps > 0:
                counts = counts.copy()
                generated += steps * len(self._running)
                seconds += self._count_intervals(counts, steps)
        return generated, seconds, sum(counts), counts

    def _steps_done(self, now: float) -> int:
        """Of the run of steps that is under way."""
        if self._mode != _DECODING:
            return 0
        return min(self._steps, int((now - self._begun) / self._step + _EPSILON))

    def cached_tokens(self, request: int) -> int:
        """How much of a prompt's beginning need not be read again here; at least one token always is."""
        world = self._world
        blocks = world.trace.blocks[request] if world.trace.blocks else ()
        count = 0
        for block in blocks:
            if block not in self._cache:
                break
            count += 1
        return min(count * world.trace.block_tokens, world.prompt_tokens[request] - 1)

    def _keep_blocks(self, blocks: Sequence[int]) -> None:
        """Remember a prompt that was read; what the KV cache has no room for beside its requests is forgotten."""
        cache = self._cache
        for block in blocks:
            cache[block] = None
            cache.move_to_end(block)
        free = self._speeds.profile.kv_capacity_tokens - self._resident - self._parked
        room = max(0, free // self._world.trace.block_tokens)
        while len(cache) > room:
            cache.popitem(last=False)

    def submit(self, kind: int, request: int, now: float) -> None:
        """Take a request."""
        self._waiting.append((kind, request))
        if kind != PREFILL:
            self._readers += 1
        self._admit(now)
        self._wake(now)

    def release(self, request: int, now: float) -> None:
        """The reader has this request's KV cache."""
        self._parked -= self._world.prompt_tokens[request]
        self._admit(now)
        self._wake(now)

    def fire(self) -> None:
        """Finish what ends now and start what comes next."""
        now = self.due
        if self._mode == _PREFILLING:
            self._end_prefill(now)
        elif self._mode == _DECODING:
            self._end_steps(now)
        # Busy until here: a request that one of the callbacks submitted must not start the next step half-way.
        self._mode = _IDLE
        self._admit(now)
        self._start(now)

    def _admit(self, now: float) -> None:
        waiting, world, profile = self._waiting, self._world, self._speeds.profile
        while waiting:
            working = self.running + len(self._to_prefill) + len(self._transferring)
            if working >= profile.max_batch:
                return
            kind, request = waiting[0]
            if not self._fits(kind, request, working, now):
                # What is held here may wait for readers, some of them in this very queue: they go first.
                if kind != PREFILL or not self._readers:
                    return
                place = next(i for i, (each, _) in enumerate(waiting) if each != PREFILL)
                kind, request = waiting[place]
                if not self._fits(kind, request, working, now):
                    return
                del waiting[place]
            else:
                waiting.popleft()
            self._parked += self._tokens(request)
            if kind != PREFILL:
                self._readers -= 1
            if kind == DECODE:
                ready = now + self._speeds.transfer_seconds(world.prompt_tokens[request])
                heappush(self._transferring, (ready, request))
                world.admitted(request)
            else:
                self._to_prefill.append((kind, request, 0.0, 1))

    def _tokens(self, request: int) -> int:
        """Of its prompt, and of the answer of one that gave its KV cache back."""
        tokens = self._world.prompt_tokens[request]
        if request in self._preempted:
            tokens += self._world.answer_tokens[request] - self._preempted[request][0]
        return tokens

    def _fits(self, kind: int, request: int, working: int, now: float) -> bool:
        """Into the KV cache, beside the next token of all; what is too large for it, when nothing else is there. An
        answer also when nothing else works, whatever is held: a replica that serves both stages could else wait for
        itself."""
        batch = len(self._running)
        held = self._parked + self._resident + batch * self._steps_done(now)
        alone = not held or (kind != PREFILL and not working)
        return alone or held + batch + self._tokens(request) <= self._speeds.profile.kv_capacity_tokens

    def _room_steps(self) -> int:
        """Decode steps until the KV cache is full, from the last change of the batch on; at least one."""
        free = self._speeds.profile.kv_capacity_tokens - self._resident - self._parked
        return max(1, free // len(self._running))

    def _preempt(self) -> None:
        """Take requests out of the batch, the last to join first, until the others have room for a token each."""
        running, world = self._running, self._world
        capacity = self._speeds.profile.kv_capacity_tokens
        while len(running) > 1 and self._resident + self._parked + len(running) > capacity:
            victim = max(running, key=lambda each: each[1])
            running.remove(victim)
            end, _, request = victim
            left = end - self._clock
            self._resident -= world.prompt_tokens[request] + world.answer_tokens[request] - left
            self._preempted[request] = (left, self._last_step_end)
            if request in self._fresh:
                self._fresh.remove(request)
            self._joined.discard(request)
            self._waiting.appendleft((WHOLE, request))
            self._readers += 1
        heapify(running)

    def _wake(self, now: float) -> None:
        """Something came: begin, or end the run of steps at the step in which it can be taken up."""
        if self._mode == _IDLE:
            self._start(now)
        elif self._mode == _DECODING:
            limit = self._steps
            if self._to_prefill:
                limit = min(limit, self._steps_until(now))
            if self._transferring:
                limit = min(limit, self._steps_until(self._transferring[0][0]))
            limit = min(limit, max(self._room_steps(), self._steps_until(now)))
            if limit < self._steps:
                self._steps = limit
                self.due = self._begun + limit * self._step

    def _steps_until(self, moment: float) -> int:
        return max(1, math.ceil((moment - self._begun) / self._step - _EPSILON))

    def _start(self, now: float) -> None:
        transferring = self._transferring
        while transferring and transferring[0][0] <= now + _EPSILON:
            _, request = heappop(transferring)
            self._parked -= self._world.prompt_tokens[request]
            self._join(request, self._world.answer_tokens[request])
            self._fresh.append(request)
        running = self._running
        if self._to_prefill and not (self._decode_next and running):
            self._begin_prefill(now)
        elif running:
            self._decode_next = False
            self._preempt()
            step = self._step_seconds[min(len(running), len(self._step_seconds) - 1)]
            steps = min(running[0][0] - self._clock, self._room_steps())
            per_kv_token = self._speeds.decode_seconds_per_kv_token
            if per_kv_token:
                steps = min(steps, STEPS_AT_ONE_SPEED)
                middle = self._resident + len(running) * (steps - 1) / 2
                step += per_kv_token * middle * self._decode_factor
            self._mode, self._begun, self._step = _DECODING, now, step
            if self._to_prefill:
                steps = 1
            elif transferring:
                steps = min(steps, self._steps_until(transferring[0][0]))
            self._steps = steps
            for request in self._fresh:
                self._world.first_token(request, now + step)
            self.due = now + steps * step
        else:
            self.due = transferring[0][0] if transferring else math.inf

    def _join(self, request: int, tokens: int) -> None:
        if not self._running:
            self._last_step_end = math.inf  # no interval is counted over a time with nothing to decode
        heappush(self._running, (self._clock + tokens, self._joins, request))
        self._joins += 1
        self._resident += self._world.prompt_tokens[request] + self._world.answer_tokens[request] - tokens

    def _begin_prefill(self, now: float) -> None:
        kind, request, piece, left = self._to_prefill.popleft()
        if not piece:
            tokens = self._tokens(request)
            seconds = self._prefill_seconds(tokens, self.cached_tokens(request))
            chunk = self._speeds.chunk_tokens
            left = math.ceil(tokens / chunk) if chunk else 1
            piece = seconds / left
        self._prefilling = (kind, request, piece, left)
        self._mode, self._decode_next = _PREFILLING, True
        self.due = now + piece

    def _prefill_seconds(self, tokens: int, cached: int) -> float:
        profile = self._speeds.profile
        seconds = profile.prefill_seconds(tokens)
        if cached:
            # The rest attends to what is cached: it takes no less than the difference, and than as much alone.
            seconds = max(seconds - profile.prefill_seconds(cached), profile.prefill_seconds(tokens - cached))
        return seconds * self._prefill_factor

    def _end_prefill(self, now: float) -> None:
        assert self._prefilling is not None
        kind, request, piece, left = self._prefilling
        self._prefilling = None
        if left > 1:
            self._to_prefill.appendleft((kind, request, piece, left - 1))
            return
        world = self._world
        if world.trace.blocks:
            self._keep_blocks(world.trace.blocks[request])
        if kind == PREFILL:
            # Its KV cache stays until `release`.
            self.prompt_tokens_total += world.prompt_tokens[request]
            self._ended(request)
            world.prefilled(request)
            return
        self._parked -= self._tokens(request)
        left, last = self._preempted.pop(request, (world.answer_tokens[request], math.nan))
        self.generated_total += 1
        if left == world.answer_tokens[request]:
            self.prompt_tokens_total += world.prompt_tokens[request]
            world.first_token(request, now)
        else:
            self.itl_counts[bisect_left(ITL_BOUNDS, now - last)] += 1
            self.itl_seconds_total += now - last
        if left == 1:
            self._ended(request)
            world.answered(request, now)
        else:
            self._join(request, left - 1)
            self._joined.add(request)

    def _ended(self, request: int) -> None:
        """Engines count a request when they have done their part of it, in whatever role."""
        self.ended_total += 1
        self.ended_prompt_tokens_total += self._world.prompt_tokens[request]

    def _end_steps(self, now: float) -> None:
        running, world = self._running, self._world
        self.generated_total += self._steps * len(running)
        self.itl_seconds_total += self._count_intervals(self.itl_counts, self._steps)
        self._resident += self._steps * len(running)
        self._clock += self._steps
        self._last_step_end = now
        self._fresh.clear()
        self._joined.clear()
        while running and running[0][0] <= self._clock:
            _, _, request = heappop(running)
            self._resident -= world.prompt_tokens[request] + world.answer_tokens[request]
            self._ended(request)
            world.answered(request, now)

    def _count_intervals(self, counts: list[int], steps: int) -> float:
        """Count the times between tokens of the first steps of the present run; returns their sum in seconds.

        The first of them lasts since the last run for those that were in it; who has joined had no token before.
        """
        step, batch = self._step, len(self._running)
        old = batch - len(self._fresh) - len(self._joined)
        first = max(step, self._begun + step - self._last_step_end) if old else step
        usual = batch * (steps - 1) + len(self._joined)
        counts[bisect_left(ITL_BOUNDS, first)] += old
        counts[bisect_left(ITL_BOUNDS, step)] += usual
        return first * old + step * usual
