"""NVIDIA Dynamo's own planner, from the wheel ai-dynamo, in the replay that it was written for.

Nothing of it is ours but its settings (constants.py) and what it is told of the engines: its models are bootstrapped
from the profile, as its own replay does from AIConfigurator's estimates. It sees the replay's own snapshots, as often
as it asks for, whatever the scrape interval of the others.
"""

from __future__ import annotations

import logging
from typing import Any

import constants
from cases import Case
from referee import Decide
from seen import ROLES, Seen

from weft.rehearse.opponents import DynamoSettings
from weft.rehearse.world import DECODES, PREFILLS
from weft_playground.dynamo_profile import decode_ms
from weft_playground.profile import read_profile


def available() -> str:
    """Why it cannot be had, or nothing."""
    try:
        import dynamo.planner.offline.replay_adapter  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        return str(error)
    return ""


def shipped_planner(case: Case, settings: DynamoSettings = constants.SHIPPED) -> Decide:
    """Its decisions on this many replicas. To be asked at every snapshot: it keeps its own time."""
    from dynamo.planner.offline.replay_adapter import _merge_traffic

    logging.disable(logging.ERROR)
    adapter = _adapter(case, settings)
    due = adapter.initial_tick_ms()
    pending: dict[str, Any] = {}

    def decide(_: float, seen: Seen, snapshot: dict[str, Any]) -> dict[str, int] | None:
        nonlocal due, pending
        traffic = _merge_traffic(pending.get("traffic"), snapshot["traffic"])
        passes = {
            key: [*pending.get(key, ()), *snapshot[key]]
            for key in (f"{role}_fpm_snapshots" for role in ROLES)
        }
        pending = {"traffic": traffic, **passes}
        if due is None or snapshot["now_ms"] < due:
            return None
        answer = adapter.on_tick({**snapshot, **pending})
        pending, due = {}, answer["next_tick_ms"]
        wanted = {PREFILLS: answer["target_prefill"], DECODES: answer["target_decode"]}
        return {role: seen.moves.target[role] if count is None else count for role, count in wanted.items()}

    return decide


def _adapter(case: Case, settings: DynamoSettings) -> Any:
    from dynamo.planner.config.planner_config import PlannerConfig
    from dynamo.planner.core.types import EngineCapabilities, WorkerCapabilities
    from dynamo.planner.offline.replay_adapter import create_replay_planner_adapter

    profile = read_profile()
    config = PlannerConfig.model_validate(
        {
            "mode": "disagg",
            "optimization_target": "sla",
            "backend": "mocker",
            "pre_deployment_sweeping_mode": "none",
            "ttft_ms": float(constants.TTFT_MILLISECONDS),
            "itl_ms": constants.ITL_MICROSECONDS / 1000,
            "min_gpu_budget": case.replicas,
            "max_gpu_budget": case.replicas,
            "prefill_engine_num_gpu": 1,
            "decode_engine_num_gpu": 1,
            "throughput_adjustment_interval_seconds": int(settings.interval_seconds),
            "enable_throughput_scaling": True,
            "enable_load_scaling": settings.load_interval_seconds > 0,
            "load_adjustment_interval_seconds": int(settings.load_interval_seconds) or 5,
            "load_scaling_down_sensitivity": round(100 * settings.sensitivity),
            "load_predictor": "constant",
        }
    )
    config.advisory = True
    limits = {"num_gpu": 1, "max_num_batched_tokens": 65_536, "max_kv_tokens": profile.kv_capacity_tokens}
    adapter = create_replay_planner_adapter(
        config,
        WorkerCapabilities(
            prefill=EngineCapabilities(max_num_seqs=1, **limits),
            decode=EngineCapabilities(max_num_seqs=profile.max_batch, **limits),
        ),
    )
    prefill, decode = _passes()
    adapter.install_benchmark_fpms(prefill_fpms=prefill, decode_fpms=decode)
    return adapter


def _passes() -> tuple[list[Any], list[Any]]:
    """Forward passes at the profile's speeds: prompts of many lengths; batches of many sizes and contexts."""
    from dynamo.common.forward_pass_metrics import ForwardPassMetrics, ScheduledRequestMetrics

    profile = read_profile()
    prefill = [
        ForwardPassMetrics(
            wall_time=profile.prefill(tokens),
            scheduled_requests=ScheduledRequestMetrics(num_prefill_requests=1, sum_prefill_tokens=tokens),
        )
        for tokens in range(100, 8001, 500)
    ]
    decode = [
        ForwardPassMetrics(
            wall_time=decode_ms(profile, batch) / 1000,
            scheduled_requests=ScheduledRequestMetrics(
                num_decode_requests=batch, sum_decode_kv_tokens=batch * context
            ),
        )
        for context in (500, 2000, 4000)
        for batch in range(1, profile.max_batch + 1, max(1, profile.max_batch // 8))
        if batch * context <= profile.kv_capacity_tokens
    ]
    return prefill, decode
