"""The preset's queries against a real Prometheus that scrapes a small exporter.

Each test has a server of its own. All are started together: what is read of one can be trusted only seconds later.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from weft.balancing.presets import VLLM
from weft.balancing.prometheus import TICK_SECONDS, PrometheusSource, SourceError
from weft.balancing.series import signal_names
from weft.balancing.settings import SourceSettings
from weft.balancing.signals import Group, Reading, read
from weft.rehearse.prometheus import read_traffic
from weft.rehearse.scrapes import Samples
from weft_dev import prometheus

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAMESPACE, MODEL = "team-a", "llama"
PODS = ("llama-0", "llama-1")
SCRAPE_SECONDS = 0.5
_RANK = f'{{model_name="{MODEL}",engine="1"}}'
SECOND_RANK = (
    f"vllm:num_requests_running{_RANK} 1",
    f"vllm:num_requests_waiting{_RANK} 3",
    f"vllm:kv_cache_usage_perc{_RANK} 0.1",
)
"""What a pod with data parallelism tells in addition: a scheduler and a KV cache per rank."""


def ended(name: str, count: float, mean: float) -> list[str]:
    """A histogram of one bucket."""
    label = f'model_name="{MODEL}"'
    return [
        f'{name}_bucket{{{label},le="+Inf"}} {count}',
        f"{name}_sum{{{label}}} {count * mean}",
        f"{name}_count{{{label}}} {count}",
    ]


@dataclass
class Exporter:
    """Two engines and a front end on one port each; counters grow at known rates per second of real time."""

    started: float = field(default_factory=time.monotonic)
    running: dict[str, str] = field(default_factory=lambda: {"llama-0": "1", "llama-1": "3"})
    restarted: dict[str, float] = field(default_factory=dict)
    """Since when a target counts from zero again."""
    gone: set[str] = field(default_factory=set)

    def seconds(self, who: str) -> float:
        return time.monotonic() - self.restarted.get(who, self.started)

    def engine(self, pod: str) -> str:
        t = self.seconds(pod)
        label = f'{{model_name="{MODEL}",engine="0"}}'
        itl = f'model_name="{MODEL}"'
        return "\n".join(
            [
                f"vllm:num_requests_running{label} {self.running[pod]}",
                f"vllm:num_requests_waiting{label} 2",
                f"vllm:prompt_tokens_total{label} {1000 * t}",
                f"vllm:generation_tokens_total{label} {200 * t}",
                f"vllm:kv_cache_usage_perc{label} 0.5",
                *(SECOND_RANK if pod == PODS[1] else ()),
                f"vllm:nixl_num_kv_expired_reqs_total{label} 0",
                f"vllm:request_success_total{label} {2 * t}",
                *ended("vllm:request_prompt_tokens", 2 * t, 500),
                *ended("vllm:request_generation_tokens", 2 * t, 100),
                *ended("vllm:time_to_first_token_seconds", 2 * t, 0.2),
                # 200 intervals per second of 0.05 s each.
                f'vllm:inter_token_latency_seconds_bucket{{{itl},le="0.025"}} 0',
                f'vllm:inter_token_latency_seconds_bucket{{{itl},le="0.075"}} {200 * t}',
                f'vllm:inter_token_latency_seconds_bucket{{{itl},le="+Inf"}} {200 * t}',
                f"vllm:inter_token_latency_seconds_sum{{{itl}}} {10 * t}",
                f"vllm:inter_token_latency_seconds_count{{{itl}}} {200 * t}",
                "",
            ]
        )

    def front_end(self) -> str:
        t = self.seconds("router")
        # 5 requests/s; prompts of 1,000 tokens, answers of 100; half of the first tokens within a second.
        histograms = {
            "inference_objective_input_tokens": (("512", 0.0), ("1024", 5.0), ("+Inf", 5.0), 5000.0),
            "inference_objective_output_tokens": (("64", 0.0), ("128", 5.0), ("+Inf", 5.0), 500.0),
            "inference_objective_request_ttft_seconds": (("1", 2.5), ("2.5", 5.0), ("+Inf", 5.0), 7.5),
        }
        lines = [
            f'inference_objective_request_total{{model_name="{MODEL}"}} {5 * t}',
            f'inference_extension_flow_control_queue_size{{model_name="{MODEL}"}} 0',
        ]
        for name, (*buckets, total) in histograms.items():
            for bound, rate in buckets:  # type: ignore[misc]  # the last item of the row is the sum's rate
                lines.append(f'{name}_bucket{{model_name="{MODEL}",le="{bound}"}} {float(rate) * t}')
            lines.append(f'{name}_sum{{model_name="{MODEL}"}} {float(total) * t}')  # type: ignore[arg-type]
            lines.append(f'{name}_count{{model_name="{MODEL}"}} {5 * t}')
        return "\n".join([*lines, ""])

    async def handle(self, request: web.Request) -> web.Response:
        who = request.match_info["who"]
        if who in self.gone:
            raise web.HTTPServiceUnavailable
        return web.Response(text=self.front_end() if who == "router" else self.engine(who))


@dataclass
class Scraped:
    """A running Prometheus, what it scrapes, and how balancing reads it."""

    exporter: Exporter
    port: int
    """The exporter's."""
    server: prometheus.Prometheus
    source: PrometheusSource

    async def reading(self) -> Reading:
        snapshot = await self.source.read(VLLM)
        return read(snapshot, Group(NAMESPACE, [MODEL], set(PODS), set(PODS)), SCRAPE_SECONDS)

    async def until(self, wanted: Callable[[Reading], bool], seconds: float = 90.0) -> Reading:
        """The first reading that is as wanted."""
        deadline = time.monotonic() + seconds
        while not wanted(found := await self.reading()):
            assert time.monotonic() < deadline, f"not within {seconds} s: {found.hold}"
            await asyncio.sleep(0.2)
        return found


def config(port: int, *, twice: bool = False) -> str:
    def job(name: str, who: str, labels: dict[str, str]) -> dict[str, object]:
        target = {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": NAMESPACE, **labels}}
        return {"job_name": name, "metrics_path": f"/{who}", "static_configs": [target]}

    jobs = [job(f"engine-{pod}", pod, {"pod": pod}) for pod in PODS]
    jobs.append(job("router", "router", {}))
    if twice:
        jobs.append(job("engines-again", PODS[0], {"pod": PODS[0]}))
    interval = f"{round(SCRAPE_SECONDS * 1000)}ms"
    return json.dumps(
        {"global": {"scrape_interval": interval, "scrape_timeout": interval}, "scrape_configs": jobs}
    )


@asynccontextmanager
async def scraped(binary: Path) -> AsyncIterator[Scraped]:
    exporter = Exporter()
    app = web.Application()
    app.router.add_get("/{who}", exporter.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port: int = runner.addresses[0][1]
    # Starting blocks: in a thread, so that the exporter answers the first scrapes.
    server = await asyncio.to_thread(prometheus.start, config(port), binary=binary)
    source = PrometheusSource(SourceSettings(url=server.url, scrape_interval_seconds=SCRAPE_SECONDS))
    try:
        yield Scraped(exporter, port, server, source)
    finally:
        await source.close()
        await asyncio.to_thread(server.stop)
        await runner.cleanup()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worlds(tool_paths: dict[str, Path], request: pytest.FixtureRequest) -> AsyncIterator[list[Scraped]]:
    """One for each test of this file that is to run and has not taken its own."""
    tests = [item for item in request.session.items if item.path == request.path]
    count = sum("world" in item.fixturenames for item in tests)
    async with AsyncExitStack() as running:
        starts = (running.enter_async_context(scraped(tool_paths["prometheus"])) for _ in range(count))
        yield list(await asyncio.gather(*starts))


@pytest.fixture
def world(worlds: list[Scraped]) -> Scraped:
    return worlds.pop()


def is_held(reason: str) -> Callable[[Reading], bool]:
    return lambda reading: reading.hold is not None and reading.hold.reason == reason


def is_trusted(reading: Reading) -> bool:
    return reading.hold is None and not reading.left_out


def is_left_out(pod: str, reason: str) -> Callable[[Reading], bool]:
    return lambda reading: (
        reading.hold is None and pod in reading.left_out and reading.left_out[pod].reason == reason
    )


async def test_every_query_of_the_preset_returns_what_the_exporters_said(world: Scraped) -> None:
    # Right once the short window (15 s) is full and a step of the peak's (5 s) has fallen into it.
    await world.until(
        lambda r: (
            r.traffic is not None
            and r.traffic.short.requests > 4.8
            and r.traffic.peak_prompt_tokens_per_second > 4500
        )
    )
    snapshot = await world.source.read(VLLM)
    for series in (snapshot.engines[(NAMESPACE, PODS[0])], snapshot.front_ends[(NAMESPACE, MODEL)]):
        # Those of the past have their first point at a multiple of the long window, a minute.
        missing = [signal for signal in signal_names(type(series)) if getattr(series, signal) is None]
        assert [signal for signal in missing if "past" not in signal] == []
        assert [signal for signal, buckets in series.histograms() if not buckets] == []
    reading = await world.reading()
    assert reading.traffic is not None
    short = reading.traffic.short
    assert short.requests == pytest.approx(5, rel=0.1)
    assert short.prompt_tokens / short.prompts == pytest.approx(1000, rel=0.01)
    assert short.answer_tokens / short.answers == pytest.approx(100, rel=0.01)
    assert reading.traffic.peak_prompt_tokens_per_second == pytest.approx(5000, rel=0.1)
    counts = dict(reading.traffic.ttft_buckets)
    assert counts[1.0] / counts[2.5] == pytest.approx(0.5, rel=0.01)
    load = reading.loads[PODS[1]]
    # Of both ranks: requests add up, and of their caches together three tenths are used.
    assert (load.running, load.waiting) == (4, 5)
    assert load.kv_usage == pytest.approx(0.3)
    assert load.generated_tokens_per_second == pytest.approx(200, rel=0.1)
    assert load.inter_token_seconds == pytest.approx(0.05, rel=0.01)
    assert load.busy_share == 1
    assert load.mean_running == pytest.approx(4)
    itl = dict(reading.traffic.itl_buckets)
    assert itl[0.025] == 0
    assert itl[0.075] == itl[float("inf")] > 0
    await rates_are_those_of_a_rehearsal(world.server.url)
    # And its range queries are the server's: 5 requests/s, fewer for the part of the minute before it began.
    trace = await read_traffic(
        SourceSettings(url=world.server.url),
        NAMESPACE,
        (MODEL,),
        time.time() - 60,
        60.0,
        SCRAPE_SECONDS,
        seed=1,
    )
    assert 50 < len(trace) < 400
    assert 512 < min(trace.prompt_tokens) <= max(trace.prompt_tokens) <= 1024
    assert 64 < min(trace.answer_tokens) <= max(trace.answer_tokens) <= 128


async def rates_are_those_of_a_rehearsal(url: str) -> None:
    """What `weft rehearse` shows its policies: Prometheus's own rates out of the same samples."""

    async def ask(query: str, at: float) -> list[dict[str, Any]]:
        form = {"query": query, "time": f"{at:.3f}"}
        async with session.post(f"{url}/api/v1/query", data=form) as answer:
            result: list[dict[str, Any]] = (await answer.json())["data"]["result"]
            return result

    name, now = "inference_objective_input_tokens_sum", round(time.time(), 3)
    samples = Samples()
    async with aiohttp.ClientSession() as session:
        ((series),) = await ask(f"{name}[10m]", now)
        for at, value in series["values"]:
            samples.add(float(at), [float(value)], 600.0)
        compared = 0
        for ago in (0.0, 0.3, 1.7, 4.1, 12.0):
            for window in (1.3, 5.0, 15.0, 60.0):
                found = await ask(f"rate({name}[{round(window * 1000)}ms])", now - ago)
                own = samples.rate(now - ago, window, slice(0, 1))
                assert (own is None) == (not found)
                if own is not None:
                    assert own[0] == pytest.approx(float(found[0]["value"][1]), rel=1e-6)
                    compared += 1
    assert compared >= 15


async def test_a_pod_that_is_gone_is_left_out_and_a_front_end_that_is_gone_holds_the_group(
    world: Scraped,
) -> None:
    await world.until(is_trusted)
    world.exporter.gone = {PODS[1]}
    held = await world.until(is_left_out(PODS[1], "SeriesMissing"))
    assert held.traffic is not None
    world.exporter.gone = {"router"}
    held = await world.until(
        lambda reading: (
            is_held("SeriesMissing")(reading) and MODEL in (reading.hold.message if reading.hold else "")
        )
    )
    assert held.traffic is None
    world.exporter.gone = set()
    await world.until(is_trusted)
    # Last, since averages over the long window stay without meaning until it has passed.
    for value in ("NaN", "+Inf", "-1"):
        world.exporter.running[PODS[0]] = value
        await world.until(is_left_out(PODS[0], "NotANumber"))


async def test_a_pod_that_two_jobs_scrape_is_left_out(world: Scraped) -> None:
    await world.until(is_trusted)
    await asyncio.to_thread(world.server.reload, config(world.port, twice=True))
    await world.until(is_left_out(PODS[0], "ScrapedTwice"))


@pytest.mark.parametrize(
    ("who", "wanted"),
    [(PODS[0], is_left_out(PODS[0], "CounterReset")), ("router", is_held("CounterReset"))],
)
async def test_counters_that_start_again_are_not_believed(
    world: Scraped, who: str, wanted: Callable[[Reading], bool]
) -> None:
    await world.until(is_trusted)
    world.exporter.restarted[who] = time.monotonic()
    await world.until(wanted)


async def test_an_answer_that_lacks_what_another_server_has_holds_the_group(
    tool_paths: dict[str, Path],
) -> None:
    # What it has itself is fine; the rest is at a server that does not answer.
    unreachable = {"url": "http://127.0.0.1:1/read", "read_recent": True}
    partial = json.dumps({"remote_read": [unreachable], "scrape_configs": []})
    server = await asyncio.to_thread(prometheus.start, partial, binary=tool_paths["prometheus"])
    source = PrometheusSource(SourceSettings(url=server.url))
    try:
        reading = read(await source.read(VLLM), Group(NAMESPACE, [MODEL], set(PODS), set(PODS)), 15.0)
        assert is_held("PartialAnswer")(reading)
        assert reading.hold is not None
        assert "remote_read" in reading.hold.message
    finally:
        await source.close()
        await asyncio.to_thread(server.stop)


async def test_a_server_that_stops_scraping_or_answering_holds_the_group(world: Scraped) -> None:
    await world.until(is_trusted)
    # Scraped once a minute from here on: what is there gets older than three intervals of half a second.
    slow = config(world.port).replace("500ms", "60s")
    await asyncio.to_thread(world.server.reload, slow)
    await world.until(
        lambda reading: reading.hold is not None and reading.hold.reason in ("Stale", "SeriesMissing")
    )
    await asyncio.to_thread(world.server.stop)
    await asyncio.sleep(TICK_SECONDS)  # the last answer is shared until then
    with pytest.raises(SourceError, match="cannot be reached"):
        await world.source.read(VLLM)
