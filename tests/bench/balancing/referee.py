"""NVIDIA Dynamo's own replay, as shipped in the wheel ai-dynamo-runtime, driven by a policy of ours.

Prefill workers take one prompt at a time: with more they hold first tokens back until their queue is empty. The replay
has no engine that serves both stages at once, so a flip is one worker less here and one more there: with `drain` the
new one starts when the old one has ended its work, without at once (as engines do that serve both stages; what the
old work would cost the new is not charged, which favours whoever moves).
"""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import constants
from cases import Case
from prometheus_view import PrometheusView, Worker

from weft_playground.profile import Profile, read_profile
from weft_playground.trace import Request

os.environ.setdefault("DYN_LOG", "error")
BLOCK = 16
TRACE_BLOCK = 512

Policy = Callable[[float, PrometheusView, tuple[int, int], "Moves"], tuple[int, int] | None]
"""(seconds, what is seen, prefill and decode as decided, what is under way) -> prefill and decode; None: as before."""


@dataclass
class Moves:
    """What has been decided and what is under way."""

    count: int = 0
    replicas: int = 0
    decided_at: float | None = None
    decided_from: tuple[int, int] | None = None
    moved_at: float | None = None
    under_way: tuple[tuple[str, str], ...] = ()
    log: list[tuple[float, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """How a case went. `within`: share of requests within both objectives."""

    within: float
    ttft_within: float
    itl_within: float
    requests: int
    moves: int
    replicas_moved: int
    worker_seconds: float
    log: tuple[tuple[float, int, int], ...]
    spans: tuple[tuple[float, bool], ...] = ()
    """Arrival in seconds of each request, and whether it was within."""


def npz(folder: Path, prefill_factor: float, decode_factor: float) -> Path:
    """The profile as the wheel reads it: numpy's file format, written by hand."""
    profile = read_profile()
    isl = [float(x) for x in profile.prefill.xs]
    batches = [float(x) for x in profile.decode.xs]
    context = [500.0, 1000.0, 2000.0, 4000.0]
    active = sorted({b * c for b in batches for c in context})
    arrays: dict[str, tuple[tuple[int, ...], list[float]]] = {
        "prefill_isl": ((len(isl),), isl),
        "prefill_ttft_ms": ((len(isl),), [profile.prefill(x) * 1000 * prefill_factor for x in isl]),
        "decode_active_kv_tokens": ((len(active),), active),
        "decode_context_length": ((len(context),), context),
        "decode_itl": (
            (len(active), len(context)),
            [decode_ms(profile, kv / c) * decode_factor for kv in active for c in context],
        ),
    }
    path = folder / f"profile-{prefill_factor:g}-{decode_factor:g}.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, (shape, values) in arrays.items():
            archive.writestr(f"{name}.npy", _npy(shape, values))
    return path


def decode_ms(profile: Profile, batch: float) -> float:
    return profile.decode(min(float(profile.max_batch), max(1.0, batch))) * 1000


def _npy(shape: tuple[int, ...], values: Sequence[float]) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape!r}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    out = io.BytesIO()
    out.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
    out.write(struct.pack(f"<{len(values)}d", *values))
    return out.getvalue()


class Callback:
    """The replay's scaling policy: keeps Prometheus's view, asks the policy after each scrape, carries moves out."""

    def __init__(
        self, requests: Sequence[Request], split: tuple[int, int], policy: Policy, scrape: float, drain: bool
    ) -> None:
        self.policy, self.scrape, self.drain = policy, scrape, drain
        self.decided = self.target = split
        self.view = PrometheusView(scrape)
        self.moves = Moves()
        self.next_scrape = scrape
        self.end = requests[-1].at_seconds

    def initial_tick_ms(self) -> float:
        return constants.SAMPLE_SECONDS * 1000

    def on_tick(self, seen: dict[str, Any]) -> dict[str, float | int]:
        now = seen["now_ms"] / 1000
        self._count(seen, now)
        self._carry_out(seen, now)
        if now >= self.next_scrape - 1e-6 and now <= self.end:
            self.next_scrape += self.scrape
            self.view.scrape(now)
            wanted = self.policy(now, self.view, self.decided, self.moves)
            if wanted is not None and wanted != self.decided:
                self.moves.count += 1
                self.moves.replicas += abs(wanted[0] - self.decided[0])
                self.moves.decided_at, self.moves.decided_from = now, self.decided
                self.moves.log.append((now, *wanted))
                self.decided = wanted
                self._carry_out(seen, now)
        return {
            "target_prefill": self.target[0],
            "target_decode": self.target[1],
            "next_tick_ms": seen["now_ms"] + constants.SAMPLE_SECONDS * 1000,
        }

    def _count(self, seen: dict[str, Any], now: float) -> None:
        view, traffic = self.view, seen["traffic"]
        view.requests += traffic["num_req"]
        ended = traffic["shape_count"]
        if ended:
            view.answers += ended
            view.prompt_tokens += ended * traffic["avg_isl"]
            view.answer_tokens += ended * traffic["avg_osl"]
            view.prompts_hist.observe(traffic["avg_isl"], ended)
            view.answers_hist.observe(traffic["avg_osl"], ended)
            view.ttft.observe(traffic["avg_ttft_ms"] / 1000, traffic["ttft_count"])
        alive: set[tuple[str, int]] = set()
        for role in ("prefill", "decode"):
            for worker_id in (*seen[f"active_{role}_ids"], *seen[f"draining_{role}_ids"]):
                alive.add((role, worker_id))
                view.workers.setdefault((role, worker_id), Worker(role, now if now > 1 else -1e6))
        for key in [key for key in view.workers if key not in alive]:
            del view.workers[key]
        for worker in view.workers.values():
            if worker.role == "prefill" and not worker.waiting:
                worker.running = 0.0
        for one in seen["prefill_fpm_snapshots"]:
            if worker := view.workers.get(("prefill", one["worker_id"])):
                worker.running, worker.waiting = 1.0, one["num_queued_prefill"]
        for one in seen["decode_fpm_snapshots"]:
            if worker := view.workers.get(("decode", one["worker_id"])):
                worker.running = one["num_decode_requests"]
                worker.waiting = one["num_queued_decode"] + one["num_queued_prefill"]
                if one["wall_time"] > 0:
                    tokens = one["num_decode_requests"] * constants.SAMPLE_SECONDS / one["wall_time"]
                    worker.tokens += tokens
                    worker.itl_tokens += tokens
                    worker.itl_seconds += tokens * one["wall_time"]
                    view.itl.observe(one["wall_time"], tokens)

    def _carry_out(self, seen: dict[str, Any], now: float) -> None:
        """Towards what was decided; with a drain the taker gets its replica when the giver is rid of it."""
        prefill, decode = self.decided
        total = prefill + decode
        draining = (seen["draining_prefill_count"], seen["draining_decode_count"])
        if self.drain:
            down = (min(self.target[0], prefill), min(self.target[1], decode))
            room = total - sum(down) - sum(draining)
            held = self.target[0] + self.target[1] > sum(down)
            if held:  # begin the drain; what it frees is given in a later tick
                self.target = down
            elif room > 0:
                up_prefill = min(room, prefill - down[0])
                self.target = (down[0] + up_prefill, down[1] + min(room - up_prefill, decode - down[1]))
        else:
            self.target = self.decided
        starting = (seen["starting_prefill_count"], seen["starting_decode_count"])
        before = bool(self.moves.under_way)
        lacking = (
            self.decided[0] - seen["active_prefill_count"],
            self.decided[1] - seen["active_decode_count"],
        )
        ways: list[tuple[str, str]] = []
        ways += [("decode", "prefill")] * max(0, lacking[0])
        ways += [("prefill", "decode")] * max(0, lacking[1])
        self.moves.under_way = tuple(ways) if self.target != self.decided or sum(starting) or ways else ()
        if before and not self.moves.under_way:
            self.moves.moved_at = now


def play(
    case: Case,
    split: tuple[int, int],
    policy: Policy | None = None,
    scrape: float = 1.0,
    drain: bool = True,
    factors: tuple[float, float] = (1.0, 1.0),
) -> Outcome:
    """Replay a case from this split on; without a policy it stays."""
    import dynamo._core as dynamo  # type: ignore[import-not-found]

    profile = read_profile()
    callback = Callback(case.requests, split, policy, scrape, drain) if policy else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trace, report = folder / "trace.jsonl", folder / "report.jsonl"
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

        def engine(stage: str, most: int) -> Any:
            return dynamo.MockEngineArgs(
                worker_type=stage,
                num_gpu_blocks=profile.kv_capacity_tokens // BLOCK,
                block_size=BLOCK,
                max_num_seqs=most,
                max_num_batched_tokens=65_536,
                enable_prefix_caching=False,
                startup_time=constants.FLIP_SECONDS,
                planner_profile_data=str(npz(folder, *factors)),
            )

        result = dynamo.run_mocker_trace_replay(
            [str(trace)],
            prefill_engine_args=engine("prefill", 1),
            decode_engine_args=engine("decode", profile.max_batch),
            num_prefill_workers=split[0],
            num_decode_workers=split[1],
            router_mode="kv_router",
            trace_block_size=TRACE_BLOCK,
            report_jsonl_path=str(report),
            scaling_policy=callback,
        )
        rows = [json.loads(line) for line in report.open()]
    moves = callback.moves if callback else Moves()
    ttft = [row["ttft_ms"] is not None and row["ttft_ms"] <= constants.TTFT_MILLISECONDS for row in rows]
    itl = [(row["itl_ms"] or 0.0) * 1000 <= constants.ITL_MICROSECONDS for row in rows]
    count = len(case.requests)
    return Outcome(
        within=sum(a and b for a, b in zip(ttft, itl, strict=True)) / count,
        ttft_within=sum(ttft) / count,
        itl_within=sum(itl) / count,
        requests=count,
        moves=moves.count,
        replicas_moved=moves.replicas,
        worker_seconds=result["prefill_worker_seconds"] + result["decode_worker_seconds"],
        log=tuple(moves.log),
        spans=tuple(
            (row["arrival_time_ms"] / 1000, a and b) for row, a, b in zip(rows, ttft, itl, strict=True)
        ),
    )
