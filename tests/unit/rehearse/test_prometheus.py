"""Traffic out of a Prometheus server, as requests."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from weft.balancing.settings import SourceSettings
from weft.rehearse.prometheus import read_traffic
from weft.rehearse.trace import Trace, TraceError

STEP = 80.0
"""The long window at a scrape interval of 5 s."""


def series(value: str, **labels: str) -> dict[str, Any]:
    metric = {"namespace": "team", "model_name": "llama"} | labels
    return {"metric": metric, "values": [[1000.0 + STEP * i, value] for i in range(1, 46)]}


def histogram(*buckets: tuple[str, str], **labels: str) -> list[dict[str, Any]]:
    return [series(value, le=bound, **labels) for bound, value in buckets]


RATES = [
    series("2"),
    series("1", model_name="alias"),
    series("50", namespace="others"),
    series("9", model_name="x"),
]
PROMPTS = [
    *histogram(("512", "0"), ("1024", "2"), ("+Inf", "2")),
    *histogram(("512", "0"), ("1024", "1"), ("+Inf", "1"), model_name="alias"),
]
ANSWERS = histogram(("64", "1"), ("128", "2"), ("+Inf", "2"))


@asynccontextmanager
async def server(
    *results: list[dict[str, Any]], status: str = "success"
) -> AsyncIterator[tuple[str, list[Any]]]:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        form = await request.post()
        asked.append(form)
        query = str(form["query"])
        result = results[1 if "input_tokens" in query else 2 if "output_tokens" in query else 0]
        return web.json_response({"status": status, "error": "no", "data": {"result": result}})

    app = web.Application()
    app.router.add_post("/api/v1/query_range", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


async def read(url: str, seed: int = 1, models: tuple[str, ...] = ("llama", "alias")) -> Trace:
    return await read_traffic(SourceSettings(url=url), "team", models, 1000.0, 3600.0, 5.0, seed)


async def test_rates_and_lengths_are_those_of_the_groups_models() -> None:
    async with server(RATES, PROMPTS, ANSWERS) as (url, asked):
        trace = await read(url)
        again = await read(url)
        other = await read(url, seed=2)
    assert {float(form["step"]) for form in asked} == {STEP}
    assert len(trace) == pytest.approx(3 * 3600, rel=0.05)
    assert 0 <= trace.at_seconds[0] < 10
    assert 3590 < trace.seconds < 3600
    assert min(trace.prompt_tokens) > 512
    assert max(trace.prompt_tokens) <= 1024
    assert statistics.fmean(trace.prompt_tokens) == pytest.approx(768, rel=0.02)
    assert statistics.fmean(trace.answer_tokens) == pytest.approx(64, rel=0.05)
    assert trace == again
    assert trace != other


async def test_it_says_so_where_nothing_is_known() -> None:
    async with server(RATES, [], []) as (url, _):
        with pytest.raises(TraceError, match="knows of no request to llama"):
            await read(url, models=("llama",))
    async with server([], [], [], status="error") as (url, _):
        with pytest.raises(TraceError, match="says: no"):
            await read(url)
    with pytest.raises(TraceError, match="gave no usable answer"):
        await read("http://127.0.0.1:9")
