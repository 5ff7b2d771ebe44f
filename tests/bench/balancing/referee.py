"""NVIDIA Dynamo's own replay, as shipped in the wheel ai-dynamo-runtime, driven by a policy of ours.

Prefill workers take one prompt at a time: with more they hold first tokens back until their queue is empty. The replay
has no engine that serves both stages at once, so a flip is one worker less here and one more there: with `drain` the
new one starts when the old one has ended its work, without at once (as engines do that serve both stages; what the
old work would cost the new is not charged, which favours whoever moves).
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import constants
from cases import Case
from seen import ROLES, Moves, Seen

from weft.balancing.pace import LOOK_SECONDS, MOVING_SECONDS
from weft.rehearse import play as rehearsal
from weft.rehearse.world import DECODES, PREFILLS
from weft_playground.dynamo_profile import write_profile
from weft_playground.profile import SpeedError, read_profile
from weft_playground.trace import Request

os.environ.setdefault("DYN_LOG", "error")
BLOCK = 16
TRACE_BLOCK = 512

Decide = Callable[[float, Seen, dict[str, Any]], dict[str, int] | None]
"""(seconds, what is seen, the replay's own snapshot) -> replicas per role; None: as before."""


@dataclass(frozen=True)
class Outcome:
    """How a case went. `within`: share of requests within both objectives."""

    within: float
    requests: int
    answer_tokens: int
    moves: int
    replicas_moved: int
    worker_seconds: float
    log: tuple[tuple[float, int, int], ...] = ()


class Callback:
    """The replay's scaling policy: asks a policy of ours and gives it hardware.

    `interval`: seconds between two decisions; 0: as often as the operator looks. With `drain` a replica's hardware is
    free when its worker has ended; without, as soon as it is told to leave.
    """

    def __init__(
        self, case: Case, made: rehearsal.Case, decide: Decide, interval: float, drain: bool
    ) -> None:
        self.drain, self.most, self.end = drain, case.replicas, case.requests[-1].at_seconds
        self.decide, self.interval = decide, interval
        self.seen = Seen(
            made.scrape_seconds, made.first_counts, made.planned.kv_capacity_tokens, case.requests
        )
        self.moves = self.seen.moves
        self.target = dict(made.first_counts)
        self.next_scrape = made.scrape_seconds
        self.next_look = 0.0

    def initial_tick_ms(self) -> float:
        return constants.SAMPLE_SECONDS * 1000

    def on_tick(self, snapshot: dict[str, Any]) -> dict[str, float | int]:
        now = snapshot["now_ms"] / 1000
        self.seen.look(snapshot, now)
        self._note_moves(snapshot, now)
        if now >= self.next_scrape - 1e-6:
            self.next_scrape += self.seen.scrapes.scrape_seconds
            self.seen.scrape(now)
        if self.next_look <= now <= self.end:
            self.next_look = now + (self.interval or (MOVING_SECONDS if self.moves.busy else LOOK_SECONDS))
            self._ask(snapshot, now)
        self._carry_out(snapshot)
        return {
            "target_prefill": self.target[PREFILLS],
            "target_decode": self.target[DECODES],
            "next_tick_ms": snapshot["now_ms"] + constants.SAMPLE_SECONDS * 1000,
        }

    def _ask(self, snapshot: dict[str, Any], now: float) -> None:
        wanted, moves = self.decide(now, self.seen, snapshot), self.moves
        if wanted is None or wanted == moves.target:
            return
        moves.count += 1
        moves.replicas_moved += sum(max(0, wanted[role] - moves.target[role]) for role in ROLES)
        moves.log.append((now, wanted[PREFILLS], wanted[DECODES]))
        moves.target = wanted
        self._note_moves(snapshot, now)

    def _note_moves(self, snapshot: dict[str, Any], now: float) -> None:
        before, lacking = bool(self.moves.moving), self.moves.target.copy()
        for role in ROLES:
            lacking[role] -= snapshot[f"active_{role}_count"]
        self.moves.moving = ((DECODES, PREFILLS),) * max(0, lacking[PREFILLS])
        self.moves.moving += ((PREFILLS, DECODES),) * max(0, lacking[DECODES])
        if before and not self.moves.moving:
            self.moves.moved_at = now

    def _carry_out(self, snapshot: dict[str, Any]) -> None:
        """Towards what was decided, within the hardware."""
        wanted, target = self.moves.target, self.target
        fewer = {role: min(target[role], wanted[role]) for role in ROLES}
        if self.drain and fewer != target:
            self.target = fewer  # What it frees is given once the replay shows who drains.
            return
        draining = sum(snapshot[f"draining_{role}_count"] for role in ROLES) if self.drain else 0
        room = self.most - sum(fewer.values()) - draining
        for role in ROLES:
            more = max(0, min(room, wanted[role] - fewer[role]))
            fewer[role] += more
            room -= more
        self.target = fewer


def rehearsed_policy(policy: rehearsal.Policy) -> Decide:
    """A policy of `weft rehearse`, asked here as there."""

    def decide(now: float, seen: Seen, _: dict[str, Any]) -> dict[str, int] | None:
        target = policy.look(rehearsal.View(now, seen.scrapes, cast(Any, seen.moves)))
        return None if target is None else {role: target.counts.get(role, 0) for role in ROLES}

    return decide


def play(case: Case, split: tuple[int, int], callback: Callback | None = None) -> Outcome:
    """Replay a case from this split on; without a policy it stays."""
    import dynamo._core as dynamo  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = folder / "report.jsonl"
        result = dynamo.run_mocker_trace_replay(
            [str(written(case, folder))],
            prefill_engine_args=engine(folder, "prefill"),
            decode_engine_args=engine(folder, "decode"),
            num_prefill_workers=split[0],
            num_decode_workers=split[1],
            router_mode="kv_router",
            trace_block_size=TRACE_BLOCK,
            report_jsonl_path=str(report),
            scaling_policy=callback,
        )
        rows = [json.loads(line) for line in report.open()]
    ttft = [row["ttft_ms"] is not None and row["ttft_ms"] <= constants.TTFT_MILLISECONDS for row in rows]
    itl = [(row["itl_ms"] or 0.0) * 1000 <= constants.ITL_MICROSECONDS for row in rows]
    count = len(case.requests)
    moves = callback.moves if callback is not None else Moves({})
    return Outcome(
        within=sum(a and b for a, b in zip(ttft, itl, strict=True)) / count,
        requests=count,
        answer_tokens=sum(each.answer_tokens for each in case.requests),
        moves=moves.count,
        replicas_moved=moves.replicas_moved,
        worker_seconds=result["prefill_worker_seconds"] + result["decode_worker_seconds"],
        log=tuple(moves.log),
    )


def play_aggregated(case: Case) -> Outcome:
    """Replay a case on replicas that all serve both stages: the replay has no mixture of these with others."""
    import dynamo._core as dynamo

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = dynamo.run_mocker_trace_replay(
            [str(written(case, folder))],
            extra_engine_args=engine(folder, "aggregated"),
            num_workers=case.replicas,
            # Its other router has no choice to make, and refuses.
            router_mode="kv_router" if case.replicas > 1 else "round_robin",
            trace_block_size=TRACE_BLOCK,
            sla_ttft_ms=float(constants.TTFT_MILLISECONDS),
            sla_itl_ms=constants.ITL_MICROSECONDS / 1000,
        )
    count = len(case.requests)
    return Outcome(
        within=result["goodput_completed_requests"] / count,
        requests=count,
        answer_tokens=sum(each.answer_tokens for each in case.requests),
        moves=0,
        replicas_moved=0,
        worker_seconds=result["prefill_worker_seconds"] + result["decode_worker_seconds"],
    )


def play_mixed(case: Case, split: tuple[int, int, int], share: float) -> Outcome:
    """Replay a case on prefill, aggregated and decode replicas, of which the aggregated ones get this share of the
    requests by chance. The replay has no router for such a mixture: one that looks at queues would do better."""
    prefill, both, decode = split
    chance = random.Random(f"mixed {case.name}")
    parts: tuple[list[Request], list[Request]] = ([], [])
    for request in case.requests:
        parts[chance.random() < share].append(request)
    apart = play(replace(case, requests=tuple(parts[0])), (prefill, decode))
    whole = play_aggregated(replace(case, requests=tuple(parts[1]), replicas=both))
    count = apart.requests + whole.requests
    return Outcome(
        within=(apart.within * apart.requests + whole.within * whole.requests) / count,
        requests=count,
        answer_tokens=apart.answer_tokens + whole.answer_tokens,
        moves=0,
        replicas_moved=0,
        worker_seconds=apart.worker_seconds + whole.worker_seconds,
    )


def written(case: Case, folder: Path) -> Path:
    """The case as the replay reads it. No two prompts begin alike."""
    trace = folder / "trace.jsonl"
    with trace.open("w") as out:
        for number, request in enumerate(case.requests):
            blocks = -(-request.prompt_tokens // TRACE_BLOCK)
            row = {
                "timestamp": round(request.at_seconds * 1000),
                "input_length": request.prompt_tokens,
                "output_length": request.answer_tokens,
                "hash_ids": list(range(number * 64, number * 64 + blocks)),
            }
            out.write(json.dumps(row) + "\n")
    return trace


def engine(folder: Path, stage: str) -> Any:
    """One worker of the replay. Prefill takes one prompt at a time."""
    import dynamo._core as dynamo

    profile = read_profile()
    return dynamo.MockEngineArgs(
        worker_type=stage,
        num_gpu_blocks=profile.kv_capacity_tokens // BLOCK,
        block_size=BLOCK,
        max_num_seqs=1 if stage == "prefill" else profile.max_batch,
        max_num_batched_tokens=constants.AGGREGATED_CHUNK_TOKENS if stage == "aggregated" else 65_536,
        enable_prefix_caching=False,
        startup_time=constants.FLIP_SECONDS,
        planner_profile_data=str(write_profile(folder, SpeedError())),
    )
