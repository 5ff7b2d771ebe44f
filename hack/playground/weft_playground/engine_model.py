"""What one replica does with its requests, and when: no clock, no network.

A replica works like vLLM with continuous batching, one thing at a time on its GPUs:

- a prefill: one prompt, first come first served; its time is the profile's at that length. With `step_tokens`, as many
  prompts as have that many tokens together, the last of them in part, in the time of one prompt as long as all;
- a decode step: one token for every running sequence; its time is the profile's at that batch size.

Both alternate when both are wanted. A sequence is admitted while the batch has room and its prompt fits into what is
free of the KV cache; else it waits, in order. Answers take room as they grow: where none is left for the next token
of all, the sequence that joined last gives its own back, waits in front of the others, and is computed anew. A
sequence whose KV cache comes from another replica skips the prefill and joins the batch after the transfer. A
prefill-only sequence keeps its KV cache until the reader has taken it (`release`).

The caller owns the time: `submit(now, ...)`, then `advance(now)` at the time that `next_event` names. The same class
runs behind real sockets (engine_server.py) and in virtual time (rehearsal.py), so both follow the same rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from weft_playground.profile import (
    KV_TRANSFER_SECONDS_PER_TOKEN,
    KV_TRANSFER_SETUP_SECONDS,
    Profile,
    SpeedError,
)


@dataclass(eq=False)
class Sequence:
    """One request on one replica. `generated` counts the tokens handed out so far; times are the caller's."""

    prompt_tokens: int
    max_tokens: int
    remote_kv: bool = False
    keeps_kv: bool = False
    on_token: Callable[[Sequence, float], None] | None = None
    on_admitted: Callable[[Sequence], None] | None = None
    submitted: float = 0.0
    first_token: float | None = None
    last_token: float | None = None
    generated: int = 0
    ready_at: float = 0.0
    computed: int = 0
    """Tokens of the prompt, and of the answer of one that gave its KV cache back."""
    aborted: bool = False

    @property
    def kv_tokens(self) -> int:
        """What its KV cache takes while it has one."""
        return self.prompt_tokens + (0 if self.keeps_kv else self.generated)

    @property
    def finished(self) -> bool:
        return self.generated >= self.max_tokens


@dataclass(eq=False)
class EngineModel:
    """State of one replica. Not thread-safe; `now` must not go back."""

    profile: Profile
    error: SpeedError = field(default_factory=SpeedError)
    step_tokens: int = 0
    """As vLLM steps, with this --max-num-batched-tokens: it also asks for a KV cache only when a step begins. 0: one
    prompt at a time, and a KV cache as soon as there is room for it."""
    waiting: deque[Sequence] = field(default_factory=deque)
    to_prefill: deque[Sequence] = field(default_factory=deque)
    transferring: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    held: set[Sequence] = field(default_factory=set)
    _busy_until: float | None = None
    _prefilling: list[Sequence] = field(default_factory=list)
    _stepping: list[Sequence] = field(default_factory=list)
    _decode_next: bool = False

    def submit(self, now: float, sequence: Sequence) -> None:
        """Take a request. Its `on_token` is called once per token, with the time the token is out."""
        sequence.submitted = now
        self.waiting.append(sequence)
        self._admit(now)
        self._start(now)

    def release(self, now: float, sequence: Sequence) -> None:
        """The reader has taken this prefilled sequence's KV cache."""
        if sequence in self.held:
            self.held.remove(sequence)
            self._admit(now)
            self._start(now)

    def abort(self, now: float, sequence: Sequence) -> None:
        """The client went away: drop the sequence where it is. A step that has begun still takes its time."""
        if sequence.aborted or sequence.finished:
            return
        sequence.aborted = True
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            return
        for place in (self.to_prefill, self.transferring, self.running):
            if sequence in place:
                place.remove(sequence)
        self._admit(now)
        self._start(now)

    def next_event(self) -> float | None:
        """When `advance` has to be called next; None while there is nothing to do."""
        if self._busy_until is not None:
            return self._busy_until
        return min((sequence.ready_at for sequence in self.transferring), default=None)

    def advance(self, now: float) -> None:
        """Finish what ends at or before `now`, hand out its tokens, start what comes next.

        A step that is finished late (a busy event loop) is counted at the time it was due, and the next one
        starts there: delays of the caller do not add up.
        """
        while (due := self.next_event()) is not None and due <= now:
            if self._busy_until is not None:
                self._finish(due)
            self._admit(due)
            self._start(due)

    @property
    def requests_running(self) -> int:
        """As vLLM counts: sequences in the step or prefill that is under way, or ready for the next step."""
        return len(self.running) + sum(not sequence.aborted for sequence in self._prefilling)

    @property
    def requests_waiting(self) -> int:
        """As vLLM counts: not admitted, not prefilled yet, or waiting for a KV cache from elsewhere."""
        return len(self.waiting) + len(self.to_prefill) + len(self.transferring)

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use, 0..1."""
        return min(1.0, self.held_tokens / self.profile.kv_capacity_tokens)

    @property
    def held_tokens(self) -> int:
        places = (self.running, self.transferring, self.to_prefill, self.held, self._prefilling)
        return sum(sequence.kv_tokens for place in places for sequence in place if not sequence.aborted)

    def _admit(self, now: float) -> None:
        while self.waiting:
            sequence = self.waiting[0]
            held, coming = self.held_tokens, len(self.running)
            empty = held == 0
            fits = held + coming + sequence.kv_tokens <= self.profile.kv_capacity_tokens
            admitted = self.requests_running + len(self.to_prefill) + len(self.transferring)
            if admitted >= self.profile.max_batch or not (fits or empty):
                return
            self.waiting.popleft()
            if sequence.on_admitted is not None:
                sequence.on_admitted(sequence)
            if sequence.remote_kv:
                transfer = KV_TRANSFER_SETUP_SECONDS + KV_TRANSFER_SECONDS_PER_TOKEN * sequence.prompt_tokens
                begins = self._busy_until if self.step_tokens and self._busy_until is not None else now
                sequence.ready_at = begins + transfer
                self.transferring.append(sequence)
            else:
                self.to_prefill.append(sequence)

    def _preempt(self) -> None:
        """Take sequences out of the batch, the last to join first, until the others have room for a token each."""
        while (
            len(self.running) > 1 and self.held_tokens + len(self.running) > self.profile.kv_capacity_tokens
        ):
            sequence = self.running.pop()
            sequence.remote_kv, sequence.computed = False, 0
            self.waiting.appendleft(sequence)

    def _start(self, now: float) -> None:
        """Begin the next prefill or decode step if the replica is idle."""
        if self._busy_until is not None:
            return
        if self.transferring:
            arrived = [sequence for sequence in self.transferring if sequence.ready_at <= now]
            arrived.sort(key=lambda sequence: sequence.ready_at)
            if arrived:
                self.transferring = [sequence for sequence in self.transferring if sequence.ready_at > now]
                self.running += arrived
        if self.to_prefill and not (self._decode_next and self.running):
            room = tokens = self.step_tokens or self.to_prefill[0].kv_tokens
            while self.to_prefill and room:
                sequence = self.to_prefill.popleft()
                part = min(room, sequence.kv_tokens - sequence.computed)
                sequence.computed += part
                room -= part
                self._prefilling.append(sequence)
            self._busy_until = now + self.profile.prefill(tokens - room) * self.error.prefill
            self._decode_next = True
        elif self.running:
            self._preempt()
            self._stepping = list(self.running)
            self._busy_until = now + self.profile.decode(len(self._stepping)) * self.error.decode
            self._decode_next = False

    def _finish(self, now: float) -> None:
        # Stays busy until the last callback has returned: one that submits must not start the next step half-way.
        produced = self._stepping
        if self._prefilling:
            produced = [each for each in self._prefilling if each.computed == each.kv_tokens]
            self.running += [each for each in produced if not each.aborted]
            # Only the last one may be done in part.
            rest = self._prefilling[-1]
            if rest.computed < rest.kv_tokens and not rest.aborted:
                self.to_prefill.appendleft(rest)
            self._prefilling = []
        self._stepping = []
        for sequence in produced:
            if sequence.aborted:
                continue
            sequence.generated += 1
            if sequence.finished:
                self.running.remove(sequence)
                if sequence.keeps_kv:
                    self.held.add(sequence)
            if sequence.on_token is not None:
                sequence.on_token(sequence, now)
            if sequence.first_token is None:
                sequence.first_token = now
            sequence.last_token = now
        self._busy_until = None
