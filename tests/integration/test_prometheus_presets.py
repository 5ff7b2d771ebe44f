"""Every built-in preset on its exporters' own texts, through a real Prometheus: what was put in is what Weft reads."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from support.expositions import STEPS, Changes, Counter, Gauge, Histogram, history
from weft.balancing.conditions import demand_estimated, metrics_fresh
from weft.balancing.presets import PRESETS, Windows
from weft.balancing.prometheus import PrometheusSource
from weft.balancing.settings import SourceSettings
from weft.balancing.signals import Group, Reading, read
from weft.balancing.state import Finding
from weft_dev import prometheus

MODEL = "tiny"
SCRAPE_SECONDS = 15.0
TTFT = {0.25: 0.5, 1.0: 0.75}
ITL = {0.1: 0.9}

# 4 requests/s of 900 prompt and 120 answer tokens, over one prefill and one decode engine.
VLLM_PREFILL: Changes = {
    "vllm:num_requests_running": Gauge(2),
    "vllm:num_requests_waiting": Gauge(6, growth=0.02),
    "vllm:kv_cache_usage_perc": Gauge(0.25),
    'vllm:prompt_tokens_by_source_total{source="local_compute"}': Counter(3600),
    "vllm:request_prompt_tokens": Histogram(4, 900, {1000.0: 1.0}),
    "vllm:request_generation_tokens": Histogram(4, 1, {1.0: 1.0}),
    "vllm:time_to_first_token_seconds": Histogram(4, 0.3, TTFT),
    "vllm:nixl_num_kv_expired_reqs_total": Counter(0.02),
}
VLLM_DECODE: Changes = {
    "vllm:num_requests_running": Gauge(24),
    "vllm:num_requests_waiting": Gauge(0),
    "vllm:kv_cache_usage_perc": Gauge(0.5),
    # What was pulled from prefill is no prompt that decode computed.
    "vllm:prompt_tokens_total": Counter(3600),
    'vllm:prompt_tokens_by_source_total{source="external_kv_transfer"}': Counter(3600),
    "vllm:generation_tokens_total": Counter(480),
    "vllm:inter_token_latency_seconds": Histogram(476, 0.05, ITL),
    "vllm:request_prompt_tokens": Histogram(4, 900, {1000.0: 1.0}),
    "vllm:request_generation_tokens": Histogram(4, 120, {200.0: 1.0}),
}


def before(changes: Changes) -> Changes:
    """The same under the previous names."""
    renamed = {
        "vllm:kv_cache_usage_perc": "vllm:gpu_cache_usage_perc",
        "vllm:inter_token_latency_seconds": "vllm:time_per_output_token_seconds",
        'vllm:prompt_tokens_by_source_total{source="local_compute"}': "vllm:prompt_tokens_total",
    }
    return {
        renamed.get(name, name): one for name, one in changes.items() if not re.search("external|nixl", name)
    }


SGLANG_PREFILL: Changes = {
    "sglang:num_running_reqs": Gauge(2),
    "sglang:num_queue_reqs": Gauge(4, growth=0.02),
    "sglang:num_prefill_bootstrap_queue_reqs": Gauge(2),
    "sglang:token_usage": Gauge(0.25),
    "sglang:realtime_tokens_total": Counter(3600),
    "sglang:num_requests_total": Counter(4),
    "sglang:prompt_tokens_total": Counter(3600),
    "sglang:generation_tokens_total": Counter(4),
}
SGLANG_DECODE: Changes = {
    "sglang:num_running_reqs": Gauge(24),
    "sglang:num_queue_reqs": Gauge(0),
    "sglang:num_decode_prealloc_queue_reqs": Gauge(0),
    "sglang:num_decode_transfer_queue_reqs": Gauge(0),
    "sglang:token_usage": Gauge(0.5),
    "sglang:num_requests_total": Counter(4),
    "sglang:prompt_tokens_total": Counter(3600),
    "sglang:generation_tokens_total": Counter(480),
    "sglang:inter_token_latency_seconds": Histogram(480, 0.05, ITL),
}
DYNAMO_PREFILL: Changes = {
    'dynamo_component_inflight_requests{dynamo_endpoint="generate"}': Gauge(7),
    "dynamo_component_request_duration_seconds": Histogram(4, 0.3),
}
DYNAMO_DECODE: Changes = {
    "vllm:num_requests_running": Gauge(24),
    "vllm:num_requests_waiting": Gauge(0),
    "vllm:kv_cache_usage_perc": Gauge(0.5),
    "vllm:inter_token_latency_seconds": Histogram(480, 0.05, ITL),
}


def picker(family: str, prompt: str, answer: str, ttft: str = "", requests: float = 4.02) -> Changes:
    found: dict[str, Counter | Gauge | Histogram] = {
        f"{family}_request_total": Counter(requests),
        prompt: Histogram(3.5, 900, {1024.0: 1.0}),
        answer: Histogram(3.5, 120, {128.0: 1.0}),
    }
    if ttft:
        found[ttft] = Histogram(3.5, 0.3, {0.4: 0.5, 1.0: 0.75})
    return found


LLMD = picker(
    "llm_d_epp",
    "llm_d_epp_request_input_tokens",
    "llm_d_epp_request_output_tokens",
    "llm_d_epp_request_ttft_seconds",
)
OBJECTIVE = picker(
    "inference_objective", "inference_objective_input_tokens", "inference_objective_output_tokens"
)
DYNAMO: Changes = {
    "dynamo_frontend_requests_started_total": Counter(2.01),  # of each of two endpoints
    "dynamo_frontend_input_sequence_tokens": Histogram(4, 900, {1000.0: 1.0}),
    "dynamo_frontend_output_sequence_tokens": Histogram(3.5, 120, {200.0: 1.0}),
    "dynamo_frontend_time_to_first_token_seconds": Histogram(4, 0.3, TTFT),
}
SMG: Changes = {
    "smg_router_requests_total": Counter(2.01),  # of each of streamed and not
    "smg_pd_ttft_seconds": Histogram(4, 0.3, TTFT),
}


@dataclass(frozen=True)
class Target:
    """One exporter: its text, what was put in, and the labels that Prometheus gives it."""

    text: str
    changes: Changes = field(default_factory=dict)
    pod: str = ""
    without: str = ""
    more: Mapping[str, str] = field(default_factory=dict)
    job: str = ""
    rank: int = 0
    """Of vLLM's engine, as its series name it."""
    steps: int = STEPS


@dataclass(frozen=True)
class World:
    """The targets of one namespace."""

    preset: str
    targets: tuple[Target, ...]
    models: tuple[str, ...] = (MODEL,)
    alone: bool = True


def engines(kind: str, prefill: Changes, decode: Changes) -> tuple[Target, ...]:
    return Target(f"{kind}-prefill.txt", prefill, "p-0"), Target(f"{kind}-decode.txt", decode, "d-0")


VLLM = engines("vllm-0.32.0", VLLM_PREFILL, VLLM_DECODE)
SGLANG = engines("sglang-0.5.23", SGLANG_PREFILL, SGLANG_DECODE)
DYNAMOS = engines("dynamo-1.4.2", DYNAMO_PREFILL, DYNAMO_DECODE)
BASE = ("base",)

WORLDS = {
    "llm-d": World("vllm", (*VLLM, Target("llm-d-router.txt", {**OBJECTIVE, **LLMD})), BASE),
    "endpoint-picker": World("vllm", (*VLLM, Target("endpoint-picker.txt", OBJECTIVE)), BASE),
    "previous-names": World(
        "vllm",
        (
            *engines("vllm-previous-names", before(VLLM_PREFILL), before(VLLM_DECODE)),
            Target(
                "endpoint-picker-previous-names.txt",
                picker("inference_model", "inference_model_input_tokens", "inference_model_output_tokens"),
            ),
        ),
        BASE,
    ),
    "vllm-router": World(
        "vllm-router",
        (*VLLM, Target("vllm-router-0.1.17.txt", {"vllm_router_pd_requests_total": Counter(4)})),
    ),
    "vllm-smg": World("vllm-smg", (*VLLM, Target("smg-1.13.0.txt", SMG))),
    "sglang": World("sglang", (*SGLANG, Target("smg-1.13.0.txt", SMG))),
    "sglang-epp": World("sglang-epp", (*SGLANG, Target("endpoint-picker.txt", OBJECTIVE)), BASE),
    "dynamo": World("dynamo", (*DYNAMOS, Target("dynamo-1.4.2-frontend.txt", DYNAMO))),
}
"""What a front end counts when: 4.02 requests/s arrive, of which 4 leave prefill's queue."""

IDLE: Changes = {"vllm_router_pd_requests_total": Counter(0)}
PICKER = Target("endpoint-picker.txt", OBJECTIVE)
WRONG = {
    # Token series without samples while requests flow: as Dynamo 1.4.2 wrote it.
    "no-samples": World(
        "dynamo",
        (
            *DYNAMOS,
            Target(
                "dynamo-1.4.2-frontend-no-samples.txt",
                {
                    "dynamo_frontend_requests_started_total": Counter(2),
                    "dynamo_frontend_output_sequence_tokens": Histogram(3.5, 120),
                },
            ),
        ),
    ),
    "no-front-end": World("vllm", VLLM, BASE),
    "queue-at-front-end": World(
        "vllm",
        (
            *VLLM,
            Target("llm-d-router.txt", {**LLMD, "llm_d_epp_flow_control_queue_size": Gauge(300, growth=1.5)}),
        ),
        BASE,
    ),
    "adapters": World("vllm", (*VLLM, PICKER), ("other",)),
    "front-end-says-none": World(
        "vllm",
        (*VLLM, Target("endpoint-picker.txt", {"inference_objective_request_total": Counter(0)})),
        BASE,
    ),
    "front-end-says-none-and-engines-tell-less": World(
        "dynamo",
        (
            *DYNAMOS,
            Target("dynamo-1.4.2-frontend.txt", {"dynamo_frontend_requests_started_total": Counter(0)}),
        ),
    ),
    "front-end-counts-more": World(
        "vllm",
        (
            *VLLM,
            Target("endpoint-picker.txt", {**OBJECTIVE, "inference_objective_request_total": Counter(9)}),
        ),
        BASE,
    ),
    "replicas-of-prometheus": World(
        "vllm",
        (
            *(
                Target(one.text, one.changes, one.pod, more={"prometheus_replica": replica}, job=one.text)
                for one in (*VLLM, PICKER)
                for replica in "ab"
            ),
        ),
        BASE,
    ),
    "ranks-at-ports-of-their-own": World(
        "vllm",
        (
            VLLM[0],
            *(Target("vllm-0.32.0-decode.txt", VLLM_DECODE, "d-0", rank=rank) for rank in (0, 1)),
            PICKER,
        ),
        BASE,
    ),
    "one-pod-twice": World("vllm", (*VLLM, VLLM[1], PICKER), BASE),
    "one-pod-lacks-a-series": World(
        "vllm",
        (
            *VLLM,
            Target("vllm-0.32.0-decode.txt", VLLM_DECODE, "d-1"),
            Target(
                "vllm-0.32.0-decode.txt",
                {k: v for k, v in VLLM_DECODE.items() if "waiting" not in k},
                "d-2",
                without="num_requests_waiting",
            ),
            PICKER,
        ),
        BASE,
    ),
    "not-a-number": World(
        "vllm",
        (
            *VLLM,
            Target(
                "vllm-0.32.0-decode.txt",
                {**VLLM_DECODE, "vllm:num_requests_running": Gauge(float("nan"))},
                "d-1",
            ),
            PICKER,
        ),
        BASE,
    ),
    "no-histogram": World(
        "vllm-router",
        (
            *(
                Target(
                    one.text,
                    {k: v for k, v in one.changes.items() if "first" not in k},
                    one.pod,
                    "first_token",
                )
                for one in VLLM
            ),
            Target("vllm-router-0.1.17.txt", {"vllm_router_pd_requests_total": Counter(4)}),
        ),
    ),
    "router-of-several-groups": World(
        "vllm-router",
        (*VLLM, Target("vllm-router-0.1.17.txt", {"vllm_router_pd_requests_total": Counter(4)})),
        alone=False,
    ),
}


Readings = Mapping[str, Reading]


async def _read(source: PrometheusSource, name: str, world: World) -> Reading:
    preset = PRESETS[world.preset]
    pods = {one.pod for one in world.targets if one.pod}
    stages = {pod: "prefill" if pod.startswith("p") else "decode" for pod in pods}
    group = Group(name, world.models, pods, pods, stages, pods, pods, alone=world.alone)
    return read(await source.read(preset), group, SCRAPE_SECONDS, preset)


@pytest.fixture(scope="module")
def told(tool_paths: dict[str, Path]) -> Readings:
    """What Weft reads of each namespace, all in one Prometheus."""
    return asyncio.run(_all_read(tool_paths["prometheus"]))


async def _all_read(binary: Path) -> Readings:
    now = time.time()
    worlds = WORLDS | WRONG
    texts = {
        f"{name}-{number}": history(one.text, one.changes, now, steps=one.steps, without=one.without).replace(
            'engine="0"', f'engine="{one.rank}"'
        )
        for name, world in worlds.items()
        for number, one in enumerate(world.targets)
    }

    async def handle(request: web.Request) -> web.Response:
        return web.Response(text=texts[request.match_info["who"]])

    app = web.Application()
    app.router.add_get("/{who}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    jobs: dict[str, list[dict[str, object]]] = {}
    for name, world in worlds.items():
        for number, one in enumerate(world.targets):
            labels = {"namespace": name, "__metrics_path__": f"/{name}-{number}", **one.more}
            if one.job:
                labels["instance"] = one.job
            if one.pod:
                labels["pod"] = one.pod
            jobs.setdefault(f"{name}/{one.job or number}", []).append(
                {"targets": [f"127.0.0.1:{port}"], "labels": labels}
            )
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": name, "static_configs": targets} for name, targets in jobs.items()],
    }
    server = await asyncio.to_thread(prometheus.start, json.dumps(config), binary=binary)
    settings = SourceSettings(url=server.url, scrape_interval_seconds=SCRAPE_SECONDS)
    source = PrometheusSource(settings)
    try:
        wanted = sum(len(world.targets) for world in worlds.values())
        for _ in range(100):
            if len(await asyncio.to_thread(server.query, "up == 1")) == wanted:
                break
            await asyncio.sleep(0.1)
        readings = {name: await _read(source, name, world) for name, world in worlds.items()}
        for hours in (-9, 9):
            ahead = PrometheusSource(settings, lambda hours=hours: datetime.now(UTC) + timedelta(hours=hours))
            readings[f"clock {hours}"] = await _read(ahead, "llm-d", worlds["llm-d"])
            await ahead.close()
        return readings
    finally:
        await source.close()
        await asyncio.to_thread(server.stop)
        await runner.cleanup()


@pytest.mark.parametrize("name", WORLDS)
def test_a_preset_reads_what_its_exporters_were_given(told: Readings, name: str) -> None:
    reading = told[name]
    assert reading.hold is None
    assert reading.left_out == {}
    traffic = reading.traffic
    assert traffic is not None
    for window in (traffic.short, traffic.long):
        assert window.requests == pytest.approx(4.02, rel=1e-3)
        assert window.prompt_tokens / window.prompts == pytest.approx(900, rel=1e-3)
        assert window.answer_tokens / window.answers == pytest.approx(120, rel=1e-3)
    shares = dict(traffic.ttft_buckets)
    if name in ("vllm-router", "endpoint-picker", "previous-names", "llm-d", "vllm-smg", "sglang", "dynamo"):
        assert shares[1.0] / shares[float("inf")] == pytest.approx(0.75, rel=1e-3)
    between = dict(traffic.itl_buckets)
    assert between[0.1] / between[float("inf")] == pytest.approx(0.9, rel=1e-3)
    prefill, decode = reading.loads["p-0"], reading.loads["d-0"]
    assert (decode.running, decode.waiting, decode.kv_usage) == (24, 0, 0.5)
    assert decode.generated_tokens_per_second == pytest.approx(480, rel=1e-3)
    assert decode.inter_token_seconds == pytest.approx(0.05, rel=1e-3)
    assert prefill.prompt_tokens_per_second == pytest.approx(3600, rel=1e-3)
    if name in ("previous-names", "sglang", "sglang-epp", "dynamo"):
        assert prefill.kv_unread is decode.kv_unread is None, "nobody counts it there"
    else:
        assert prefill.kv_unread is not None
        assert (prefill.kv_unread > 1, decode.kv_unread) == (True, 0)
    counted = (prefill.ended or 0) > 0, (decode.ended or 0) > 0
    assert counted == ((False, False) if name == "dynamo" else (True, True)), "the simulator does not tell it"
    if name == "dynamo":  # its simulator's prefill tells only how many requests it has and has ended
        assert (prefill.running, prefill.waiting) == (1, 6)
    else:
        assert (prefill.running, prefill.waiting, prefill.kv_usage) == (2, 6, 0.25)
        if name not in ("previous-names", "sglang", "sglang-epp"):
            assert decode.prompt_tokens_per_second == 0


@pytest.mark.parametrize("hours", [-9, 9])
def test_ages_are_told_by_the_clock_of_prometheus_and_not_the_operator_s(told: Readings, hours: int) -> None:
    reading = told[f"clock {hours}"]
    assert reading.hold is None
    assert reading.traffic is not None
    assert reading.traffic.short.requests == pytest.approx(4.02, rel=1e-3)


def says(reading: Reading) -> tuple[bool | None, str, str]:
    found: Finding = demand_estimated(reading)
    return found.status, found.reason, found.message


def test_series_of_lengths_without_samples_while_requests_flow_are_named_and_nothing_is_decided(
    told: Readings,
) -> None:
    status, reason, message = says(told["no-samples"])
    assert (status, reason) == (None, "LengthsUnknown")
    assert "dynamo_frontend_input_sequence_tokens_sum" in message


def test_without_a_front_end_the_offered_work_is_what_engines_ended_and_what_queues_grew(
    told: Readings,
) -> None:
    reading = told["no-front-end"]
    status, reason, message = says(reading)
    assert (status, reason) == (True, "FrontEndNotTrusted")
    assert "llm_d_epp_request_total" in message
    assert reading.traffic is not None
    assert reading.traffic.short.requests == pytest.approx(4.02, rel=1e-3)
    assert reading.traffic.short.prompt_tokens == pytest.approx(3600, rel=1e-3)


def test_what_waits_before_the_counter_of_requests_is_added(told: Readings) -> None:
    reading = told["queue-at-front-end"]
    assert says(reading)[:2] == (True, "QueueGrowth")
    assert reading.traffic is not None
    assert reading.traffic.short.requests == pytest.approx(4.02 + 1.5, rel=1e-3)
    assert reading.asked is True


def test_a_front_end_without_flow_control_tells_no_request_that_would_wake_a_group(told: Readings) -> None:
    assert {told[name].asked for name in ("vllm-router", "vllm-smg", "sglang", "dynamo")} == {None}


def test_adapters_under_names_that_no_group_has_are_named(told: Readings) -> None:
    reading = told["adapters"]
    assert says(reading)[:2] == (True, "FrontEndNotTrusted")
    assert reading.traffic is not None
    assert reading.traffic.short.requests == pytest.approx(4.02, rel=1e-3)


def test_a_front_end_that_counts_none_while_engines_work_is_contradicted(told: Readings) -> None:
    reading = told["front-end-says-none"]
    assert says(reading)[:2] == (True, "FrontEndMissesRequests")
    assert reading.traffic is not None
    assert reading.traffic.short.requests == pytest.approx(4.02, rel=1e-3)
    held = told["front-end-says-none-and-engines-tell-less"].hold
    assert held is not None
    assert held.reason == "Contradiction"


def test_a_front_end_that_counts_far_more_than_engines_get_is_said(told: Readings) -> None:
    reading = told["front-end-counts-more"]
    assert says(reading)[:2] == (True, "FrontEndCountsMore")
    assert reading.traffic is not None
    assert reading.traffic.short.requests == pytest.approx(9, rel=1e-3)


def test_ranks_of_a_pod_with_a_port_each_are_one_replica_and_a_pod_that_is_scraped_twice_is_left_out(
    told: Readings,
) -> None:
    """vLLM's external load balancing of data-parallel ranks, as llm-d's DP-aware guide starts it."""
    reading = told["ranks-at-ports-of-their-own"]
    assert (reading.hold, reading.left_out) == (None, {})
    decode = reading.loads["d-0"]
    assert (decode.running, decode.waiting, decode.kv_usage) == (48, 0, 0.5)
    assert decode.generated_tokens_per_second == pytest.approx(960, rel=1e-3)
    assert [hold.reason for hold in told["one-pod-twice"].left_out.values()] == ["ScrapedTwice"]


def test_replicas_of_prometheus_are_never_added_up(told: Readings) -> None:
    held = told["replicas-of-prometheus"].hold
    assert held is not None
    assert held.reason == "ScrapedTwice"
    assert "replicaLabels" in held.message


@pytest.mark.parametrize(
    ("name", "pod", "word"),
    [("one-pod-lacks-a-series", "d-2", "vllm:num_requests_waiting"), ("not-a-number", "d-1", "NotANumber")],
)
def test_one_pod_that_cannot_be_read_is_left_out_and_named(
    told: Readings, name: str, pod: str, word: str
) -> None:
    reading = told[name]
    assert reading.hold is None
    assert list(reading.left_out) == [pod]
    found = metrics_fresh(reading, Windows(SCRAPE_SECONDS))
    assert (found.status, found.reason) == (True, "PartlyFresh")
    assert word in found.message
    assert reading.traffic is not None
    assert reading.traffic.short.requests == pytest.approx(4.02, rel=1e-3)


def test_a_histogram_that_nobody_has_is_not_an_empty_one(told: Readings) -> None:
    reading = told["no-histogram"]
    assert reading.hold is None
    assert reading.traffic is not None
    assert reading.traffic.ttft_buckets == ()


def test_a_router_without_names_of_models_before_several_groups_is_not_shared_out(told: Readings) -> None:
    reading = told["router-of-several-groups"]
    status, reason, message = says(reading)
    assert (status, reason) == (True, "FrontEndNotTrusted")
    assert "attach the label model_name" in message
