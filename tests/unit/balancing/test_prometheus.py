"""The Prometheus client against a small HTTP server: sharing, limits, and answers that make no sense."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from weft.balancing.presets import PRESETS, VLLM, Windows
from weft.balancing.prometheus import PrometheusSource, SourceError, parse
from weft.balancing.series import EngineSeries
from weft.balancing.settings import SourceSettings

pytestmark = pytest.mark.virtual_time

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Server:
    """Answers every query with the same bytes."""

    url: str = ""
    body: bytes = b'{"status": "success", "data": {"resultType": "vector", "result": []}}'
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    queries: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.queries.append(str((await request.post())["query"]))
        await asyncio.sleep(self.delay_seconds)
        return web.Response(body=self.body, status=self.status, headers=self.headers)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_post("/api/v1/query", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@dataclass
class Clock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


async def test_a_hundred_groups_cause_one_query_per_tick(server: Server) -> None:
    clock = Clock()
    source = PrometheusSource(SourceSettings(url=server.url), clock)
    await asyncio.gather(*(source.read(VLLM) for _ in range(100)))
    assert len(server.queries) == 1
    clock.now += timedelta(seconds=1.1)
    await asyncio.gather(*(source.read(VLLM) for _ in range(100)))
    assert len(server.queries) == 2
    await source.close()


async def test_a_failure_is_shared_for_a_tick_too(server: Server) -> None:
    server.status, server.body = 503, b"busy"
    told: list[str] = []
    source = PrometheusSource(
        SourceSettings(url=server.url), Clock(), lambda outcome, _seconds: told.append(outcome)
    )
    results = await asyncio.gather(*(source.read(VLLM) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(one, SourceError) for one in results)
    assert len(server.queries) == 1
    assert told == ["failed"]
    await source.close()


async def test_a_clock_that_jumps_back_does_not_keep_an_old_answer(server: Server) -> None:
    clock = Clock()
    source = PrometheusSource(SourceSettings(url=server.url), clock)
    await source.read(VLLM)
    clock.now -= timedelta(hours=1)
    await source.read(VLLM)
    assert len(server.queries) == 2
    await source.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"delay_seconds": 5.0}, "in time"),
        ({"body": b"x" * 10_000}, "larger than 2,048 bytes"),
        ({"body": b"<html>"}, "without valid JSON"),
        ({"body": b"[" * 1500}, "without valid JSON"),
        ({"body": b"[1]"}, "answered 200"),
        (
            {"status": 400, "body": b'{"status": "error", "error": "parse error"}'},
            "answered 400: parse error",
        ),
        ({"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}}, "answered 302"),
        ({"body": b'{"status": "success", "data": {"resultType": "scalar", "result": [0, "1"]}}'}, "scalar"),
        ({"body": b'{"status": "success", "data": {"resultType": "vector", "result": [{}]}}'}, "form"),
        ({"body": b'{"status": "success"}'}, "form"),
    ],
)
async def test_an_answer_that_cannot_be_used_is_refused_in_words(
    server: Server, change: dict[str, object], says: str
) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    source = PrometheusSource(
        SourceSettings(url=server.url, timeout_seconds=0.5, max_response_bytes=2048), Clock()
    )
    with pytest.raises(SourceError, match=says):
        await source.read(VLLM)
    await source.close()


async def test_a_server_that_is_not_there_is_refused_in_words() -> None:
    source = PrometheusSource(SourceSettings(url="http://127.0.0.1:1"), Clock())
    with pytest.raises(SourceError, match="cannot be reached"):
        await source.read(VLLM)
    await source.close()


def series(signal: str, value: str, **labels: str) -> dict[str, object]:
    return {"metric": {"weft_signal": signal, "namespace": "team-a", **labels}, "value": [0, value]}


def snapshot_of(*result: dict[str, object]) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


def test_series_are_sorted_by_signal_namespace_and_pod_or_model() -> None:
    body = snapshot_of(
        series("engine:running", "3", pod="a-0"),
        series("front:requests_long", "NaN", model_name="m"),
        series("front:ttft_buckets", "5", model_name="m", le="+Inf"),
        series("front:ttft_buckets", "2", model_name="m", le="0.5"),
        series("engine:running", "9"),  # of no pod: belongs to nobody
    )
    snapshot = parse(200, body, NOW)
    assert snapshot.engines == {("team-a", "a-0"): EngineSeries(running=3)}
    front_end = snapshot.front_ends[("team-a", "m")]
    assert front_end.requests_long is not None
    assert math.isnan(front_end.requests_long)  # judged later
    assert front_end.ttft_buckets == ((0.5, 2.0), (math.inf, 5.0))
    assert len(snapshot.front_ends) == 1
    assert not front_end.repeated


def test_a_series_that_comes_twice_is_noted() -> None:
    body = snapshot_of(
        series("engine:running", "3", pod="a-0"),
        series("engine:running", "4", pod="a-0"),
        series("front:ttft_buckets", "1", model_name="m", le="1"),
        series("front:ttft_buckets", "1", model_name="m", le="1.0"),
        series("engine:running", "3", pod="a-1"),
    )
    snapshot = parse(200, body, NOW)
    assert {pod for (_, pod), engine in snapshot.engines.items() if engine.repeated} == {"a-0"}
    assert snapshot.front_ends[("team-a", "m")].repeated


def test_what_a_pod_says_of_itself_that_is_no_number_costs_no_other_pod_the_answer() -> None:
    strange: dict[str, Any] = {**series("engine:waiting", "1", pod="mine"), "histogram": [0, {"count": "1"}]}
    del strange["value"]  # its gauge is a native histogram
    body = snapshot_of(
        series("engine:running", "3", pod="mine"),
        strange,
        series("engine:itl_buckets", "4", pod="mine", le="abc"),
        series("engine:itl_buckets", "5", pod="mine", le="NaN"),
        series("engine:itl_buckets", "2", pod="mine", le="0.5"),
        series("engine:running", "7", pod="yours"),
    )
    snapshot = parse(200, body, NOW)
    assert snapshot.engines == {
        ("team-a", "mine"): EngineSeries(running=3, itl_buckets=((0.5, 2.0),)),
        ("team-a", "yours"): EngineSeries(running=7),
    }


def test_windows_grow_with_the_scrape_interval_so_that_rates_have_enough_samples() -> None:
    assert (Windows(1).short_seconds, Windows(1).long_seconds) == (15, 60)
    assert (Windows(5).short_seconds, Windows(5).long_seconds) == (20, 80)
    assert (Windows(15).short_seconds, Windows(15).long_seconds) == (45, 180)
    for scrape in (6, 10, 30):  # one may be missing
        assert Windows(scrape).short_seconds >= 3 * scrape
    query = VLLM.query(Windows(15))
    assert "$" not in query
    assert "[45000ms]" in query
    assert "[180000ms]" in query


def test_no_query_names_a_tenant_a_pod_or_a_model() -> None:
    for preset in PRESETS.values():
        # Only what the exporters themselves write, alike for everybody.
        labels = re.findall(r'(\w+)(?:=~?|!=)"', preset.query(Windows(1)))
        assert {*labels} <= {"source", "priority", "__name__", "mode", "dynamo_endpoint", "dynamo_component"}


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "prometheus:9090", "http://host/?query=1", "http://a b"]
)
def test_a_source_is_an_http_address(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        SourceSettings(url=url)
