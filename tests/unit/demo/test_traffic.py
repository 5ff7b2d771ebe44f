"""Load, router and engines together over real sockets, on fast engines."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from support.eventually import eventually
from weft_dev.processes import free_ports
from weft_playground import engine_pod, kv_caches, router
from weft_playground.engine_server import EngineServer
from weft_playground.kv_caches import KVCaches
from weft_playground.lag import LagMeter, lags_behind
from weft_playground.load import Progress, Result, Target, run_load
from weft_playground.profile import Curve, Profile, SpeedError
from weft_playground.router import Endpoint, Router
from weft_playground.trace import Request

FAST = Profile(prefill=Curve((100.0, 1000.0), (0.002, 0.02)), decode=Curve((1.0, 32.0), (0.004, 0.005)))

ONE_TOKEN = (
    b'data: {"choices":[{}]}\n\ndata: {"choices":[{}]}\n\n'
    b'data: {"choices":[],"usage":{"completion_tokens":1}}\n\ndata: [DONE]\n\n'
)


class Site:
    """Engines on loopback addresses behind one router."""

    def __init__(self) -> None:
        self.lag = LagMeter()
        self.caches = [KVCaches()]
        self.router = Router("m", LagMeter())
        self.engines: dict[str, EngineServer] = {}
        self.urls: dict[str, str] = {}
        self.stages: dict[str, str] = {}
        self.port = 0

    async def add(self, name: str, stage: str, *, pod: bool = False) -> None:
        """`pod`: a replica that shares no memory with the others."""
        (port,) = free_ports(1)
        if pod:
            self.caches.append(KVCaches(("127.0.0.1", port)))
        engine = EngineServer(name, "m", FAST, SpeedError(), self.caches[-1], self.lag)
        await engine.start("127.0.0.1", port)
        self.engines[name] = engine
        self.urls[name] = f"http://127.0.0.1:{port}"
        self.stages[name] = stage

    def show(self, *unready: str) -> None:
        self.router.update(
            Endpoint(name, self.urls[name], stage, name not in unready) for name, stage in self.stages.items()
        )

    async def load(self, requests: list[Request]) -> list[Result]:
        out = io.StringIO()
        await run_load([Target("g", f"http://127.0.0.1:{self.port}", "m")], requests, out, self.lag)
        results = [Result(**json.loads(line)) for line in out.getvalue().splitlines()]
        return sorted(results, key=lambda each: each.index)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    made.port = await made.router.start("127.0.0.1", 0)
    yield made
    await made.router.stop()
    for engine in made.engines.values():
        await engine.stop()
    for caches in made.caches:
        await caches.close()


async def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/completions", json=body) as answer:
        assert answer.status == 200
        result: dict[str, Any] = await answer.json()
        return result


async def scrape(url: str) -> dict[str, float]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        lines = [line for line in (await answer.text()).splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0].partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_answers_have_exactly_the_tokens_asked_for(site: Site) -> None:
    await site.add("p", "prefill")
    await site.add("d", "decode")
    site.show()
    requests = [Request(0.005 * i, 50 + 10 * i, 1 + i % 7) for i in range(40)]
    results = await site.load(requests)
    assert [each.error for each in results if not each.ok] == []
    assert [each.tokens for each in results] == [request.answer_tokens for request in requests]


async def test_an_engine_refuses_options_of_a_stream_where_none_is_asked_for(site: Site) -> None:
    await site.add("p", "prefill")
    body = {"prompt": [1], "max_tokens": 1, "stream": False, "stream_options": {"include_usage": True}}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{site.urls['p']}/v1/completions", json=body) as answer,
    ):
        assert answer.status == 400
        assert "stream_options" in await answer.text()


async def test_each_stage_works_on_its_own_replica(site: Site) -> None:
    await site.add("p", "prefill")
    await site.add("d", "decode")
    site.show()
    await site.load([Request(0.0, 200, 10) for _ in range(5)])
    prefill, decode = await scrape(site.urls["p"]), await scrape(site.urls["d"])
    assert prefill["vllm:generation_tokens_total"] == 5, "one token per prompt, as vLLM's prefill side"
    assert decode["vllm:generation_tokens_total"] == 50
    assert decode["vllm:inter_token_latency_seconds_count"] == 45
    assert site.engines["p"].model.held_tokens == 0, "KV caches that were read are released"


async def test_a_pod_reads_the_kv_cache_of_another_pod_and_frees_it_there(site: Site) -> None:
    await site.add("p", "prefill", pod=True)
    await site.add("d", "decode", pod=True)
    site.show()
    results = await site.load([Request(0.0, 200, 10) for _ in range(5)])
    assert [each.error for each in results if not each.ok] == []
    prefill = site.engines["p"].model
    await eventually(lambda: prefill.held_tokens == 0, what="KV caches that were read are released")


async def test_a_prompt_is_computed_again_where_the_pod_with_its_kv_cache_is_gone(site: Site) -> None:
    await site.add("p", "prefill", pod=True)
    await site.add("d", "decode", pod=True)
    site.show()
    lost = await post(
        site.urls["p"],
        {"prompt": [0] * 50, "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}},
    )
    await site.engines.pop("p").stop()
    asked = {"prompt": [0] * 50, "max_tokens": 4, "kv_transfer_params": lost["kv_transfer_params"]}
    answer = await post(site.urls["d"], asked)
    assert answer["usage"]["completion_tokens"] == 4


async def prefilled(site: Site) -> dict[str, Any]:
    """Has replica p compute a prompt; returns what its router would hand on."""
    asked = {"prompt": [0] * 50, "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
    transfer: dict[str, Any] = (await post(site.urls["p"], asked))["kv_transfer_params"]
    return transfer


@pytest.mark.virtual_time
async def test_a_kv_cache_that_nobody_comes_for_is_freed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_caches, "HOLD_SECONDS", 0.2)
    await site.add("p", "prefill")
    await prefilled(site)
    model = site.engines["p"].model
    assert model.held_tokens == 50
    await eventually(lambda: model.held_tokens == 0, what="the KV cache is freed")


async def test_a_kv_cache_is_freed_when_its_reader_gives_up_in_the_queue(site: Site) -> None:
    await site.add("p", "prefill", pod=True)
    await site.add("d", "decode", pod=True)
    decode = site.engines["d"].model
    long = [
        asyncio.create_task(post(site.urls["d"], {"prompt": [0], "max_tokens": 10_000})) for _ in range(64)
    ]
    await eventually(lambda: len(decode.waiting) > 0, what="the decode replica is full")
    queue = len(decode.waiting)
    asked = {"prompt": [0] * 50, "max_tokens": 4, "kv_transfer_params": await prefilled(site)}
    reader = asyncio.create_task(post(site.urls["d"], asked))
    await eventually(lambda: len(decode.waiting) == queue + 1, what="the reader waits")
    assert site.engines["p"].model.held_tokens == 50
    for each in (reader, *long):
        each.cancel()
    await eventually(lambda: site.engines["p"].model.held_tokens == 0, what="the KV cache is freed")


async def test_an_engine_still_takes_what_was_under_way_to_it_when_it_was_told_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr(engine_pod, "PORT", port)
    monkeypatch.setattr(engine_pod, "LINGER_SECONDS", 1.0)
    url = f"http://127.0.0.1:{port}"
    engine = asyncio.create_task(engine_pod.serve("engine-0", "127.0.0.1", "m", SpeedError(), 20.0))

    async def listens() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            return bool(await scrape(url))
        return False

    await eventually(listens, what="the engine listens")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.1)
    answer = await post(url, {"prompt": [0] * 100, "max_tokens": 30})
    assert answer["usage"]["completion_tokens"] == 30
    await asyncio.wait_for(engine, 10)


async def test_an_answer_whose_replica_dies_in_the_middle_is_cut_off_and_nothing_else_is_put_in(
    site: Site,
) -> None:
    async def dying(request: web.Request) -> web.StreamResponse:
        if not json.loads(await request.read())["stream"]:
            return web.json_response({"kv_transfer_params": {}})
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"data: {}\n\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with serving(dying) as url:
        site.router.update([Endpoint("a", url, "aggregated", True)])
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        body = b'{"prompt":[0],"max_tokens":5,"stream":true}'
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert b"data: {}" in answer
    assert answer.count(b"HTTP/1.1") == 1
    assert not answer.endswith(b"0\r\n\r\n"), "it does not look complete"
    series = await scrape(f"http://127.0.0.1:{site.port}")
    assert series["inference_objective_request_error_total"] == 1


@pytest.mark.virtual_time
async def test_a_replica_that_falls_silent_fails_its_request_instead_of_holding_it_for_ever(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    monkeypatch.setattr(router, "SILENCE_SECONDS", 0.3)
    impatient = Router("m", LagMeter())
    port = await impatient.start("127.0.0.1", 0)
    try:
        async with serving(silent) as url:
            impatient.update([Endpoint("p", url, "aggregated", True)])
            out = io.StringIO()
            await run_load(
                [Target("g", f"http://127.0.0.1:{port}", "m")], [Request(0.0, 10, 5)], out, site.lag
            )
            assert "HTTP 502" in Result(**json.loads(out.getvalue())).error
            assert [each.prefill_tokens for each in impatient.replicas.values()] == [0]
    finally:
        await impatient.stop()


def test_a_router_that_is_gone_is_named() -> None:
    (port,) = free_ports(1)
    with pytest.raises(OSError, match=rf"router at http://127\.0\.0\.1:{port}"):
        lags_behind([f"http://127.0.0.1:{port}"])


async def test_labels_that_flip_under_load_lose_no_request(site: Site) -> None:
    for name, stage in (("a", "prefill"), ("b", "prefill"), ("c", "decode"), ("d", "decode")):
        await site.add(name, stage)
    site.show()

    async def flips() -> None:
        chance = random.Random(1)
        while True:
            name = chance.choice("bc")
            site.show(name)
            await asyncio.sleep(0.02)
            site.stages[name] = "decode" if site.stages[name] == "prefill" else "prefill"
            site.show()
            await asyncio.sleep(0.02)

    flipping = asyncio.create_task(flips())
    results = await site.load([Request(0.005 * i, 300, 20) for i in range(150)])
    flipping.cancel()
    assert len(results) == 150
    assert [each.error for each in results if not each.ok] == []


async def test_requests_queue_while_a_stage_has_no_replica(site: Site) -> None:
    await site.add("p", "prefill")
    await site.add("d", "decode")
    site.show("d")

    async def open_later() -> None:
        await asyncio.sleep(0.5)
        site.show()

    opening = asyncio.create_task(open_later())
    (result,) = await site.load([Request(0.0, 100, 3)])
    await opening
    assert result.ok
    assert result.ttft > 0.25


async def test_a_replica_that_left_the_ready_set_finishes_what_it_has(site: Site) -> None:
    await site.add("p", "prefill")
    await site.add("d", "decode")
    await site.add("e", "decode")
    site.show("e")
    loading = asyncio.create_task(site.load([Request(0.0, 100, 100)]))
    await eventually(lambda: site.engines["d"].model.requests_running)
    site.show("d")
    (result,) = await loading
    assert result.ok
    assert site.engines["e"].model.requests_running == 0


async def test_the_router_exports_the_endpoint_pickers_metrics(site: Site) -> None:
    await site.add("p", "prefill")
    await site.add("d", "decode")
    site.show()
    await site.load([Request(0.0, 200, 10) for _ in range(3)])
    series = await scrape(f"http://127.0.0.1:{site.port}")
    assert series["inference_objective_request_total"] == 3
    assert series["inference_objective_input_tokens_sum"] == 600
    assert series["inference_objective_output_tokens_sum"] == 30
    assert series["inference_objective_request_ttft_seconds_count"] == 3
    assert series["inference_objective_running_requests"] == 0
    assert series["inference_objective_request_error_total"] == 0


async def test_lengths_are_in_the_routers_metrics_when_the_answer_has_ended(site: Site) -> None:
    await site.add("p", "prefill")
    await site.add("d", "decode")
    site.show()
    loading = asyncio.create_task(site.load([Request(0.0, 200, 100)]))
    await eventually(lambda: site.engines["d"].model.requests_running)
    meanwhile = await scrape(f"http://127.0.0.1:{site.port}")
    await loading
    afterwards = await scrape(f"http://127.0.0.1:{site.port}")
    counted = "inference_objective_input_tokens_sum"
    assert meanwhile["inference_objective_request_total"] == 1
    assert (meanwhile[counted], afterwards[counted]) == (0, 200)


async def test_every_request_has_a_prompt_of_its_own_and_both_groups_get_the_same() -> None:
    prompts: list[tuple[int, ...]] = []

    async def keep(request: web.Request) -> web.StreamResponse:
        prompts.append(tuple(json.loads(await request.read())["prompt"]))
        return web.Response(body=ONE_TOKEN)

    async with serving(keep) as url:
        targets = [Target("auto", url, "m"), Target("paused", url, "m")]
        await run_load(targets, [Request(0.0, 50, 1) for _ in range(4)], io.StringIO(), LagMeter())
    assert sorted(prompts.count(each) for each in set(prompts)) == [2, 2, 2, 2]
    assert len({prompt[:4] for prompt in prompts}) == 4, "no beginning in common that a cache could serve"
    assert {len(prompt) for prompt in prompts} == {50}


async def test_the_load_is_open_loop_and_latency_counts_from_the_scheduled_time() -> None:
    """A server that answers the first request only when the last has come would stop a closed loop."""
    arrived = 0
    last = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        nonlocal arrived
        arrived += 1
        if arrived == 5:
            last.set()
        await last.wait()
        return web.Response(body=ONE_TOKEN)

    async with serving(slow) as url:
        out = io.StringIO()
        requests = [Request(0.1 * i, 10, 1) for i in range(5)]
        await run_load([Target("g", url, "m")], requests, out, LagMeter())
    results = sorted(
        (Result(**json.loads(line)) for line in out.getvalue().splitlines()), key=lambda r: r.index
    )
    assert all(each.ok for each in results)
    assert results[0].ttft >= 0.39


async def test_a_late_send_makes_the_latency_longer_instead_of_hiding_it() -> None:
    async def blocked() -> None:
        await asyncio.sleep(0.3)
        # The schedule's zero is 0.2 s after the start: the request of 0.15 s is due while this blocks.
        time.sleep(0.5)  # noqa: ASYNC251  # what a busy machine does to an event loop

    async def quick(request: web.Request) -> web.StreamResponse:
        return web.Response(body=ONE_TOKEN)

    async with serving(quick) as url:
        out, lag = io.StringIO(), LagMeter()
        blocking = asyncio.create_task(blocked())
        await run_load([Target("g", url, "m")], [Request(0.15, 10, 1)], out, lag)
        await blocking
    result = Result(**json.loads(out.getvalue()))
    assert result.ttft >= result.sent_late >= 0.2
    assert lag.lag("load").max_seconds >= 0.2


async def test_an_answer_that_is_cut_short_is_a_failure() -> None:
    async def short(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b'data: {"choices":[{}]}\n\n')

    async with serving(short) as url:
        out = io.StringIO()
        await run_load([Target("g", url, "m")], [Request(0.0, 10, 5)], out, LagMeter())
    result = Result(**json.loads(out.getvalue()))
    assert not result.ok
    assert "asked for 5 tokens" in result.error


@contextlib.asynccontextmanager
async def serving(handler: object) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/completions", handler)  # type: ignore[arg-type]  # the two handlers above
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def result(index: int, *, error: str = "") -> Result:
    return Result("g", index, 0.0, 100, 10, 0.5, 0.06, 0.06, 10, 0.0, not error, error)


def test_the_load_says_how_it_goes_since_the_last_time_and_what_failed_in_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = io.StringIO()
    progress = Progress(out, shift_seconds=40, objectives=(3.0, 0.1))
    for each in (result(0), result(1, error="HTTP 502")):
        progress.write(json.dumps(asdict(each)) + "\n")
    progress.say(10)
    progress.say(50)
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        "0:10  first mix: 2 answers, 50 % within objectives;"
        " median first token 0.50 s, 60 ms between tokens; 1 failed in all"
    )
    assert second == "0:50  second mix (longer prompts, shorter answers): no answers; 1 failed in all"
    assert len(out.getvalue().splitlines()) == 2, "the file gets every result"
