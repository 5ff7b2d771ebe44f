"""A gateway with an endpoint picker in front of one group: takes OpenAI requests, picks replicas, streams through.

As vLLM's prefill/decode proxy does: the prompt goes to a prefill replica with one token asked for, what it answers as
`kv_transfer_params` goes with the same prompt to a decode replica, whose stream is the client's. Replicas come and go
with `update`; a request keeps the replica it was given. While a stage has no serving replica, requests queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
from aiohttp import web

from weft_playground.lag import LagMeter
from weft_playground.metrics import INTER_TOKEN_SECONDS, TOKENS, TTFT_SECONDS, Metrics
from weft_playground.picker import Replica, pick_decode, pick_prefill

_PROMPT_TOKENS = re.compile(rb'"prompt_tokens":(\d+)')
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens":(\d+)')
# The last event holds the usage; it is shorter than this.
_TAIL_BYTES = 600
SILENCE_SECONDS = 300.0
"""A replica that sends nothing for this long is gone without a word, with its node or network; queues are shorter."""


@dataclass(frozen=True)
class Endpoint:
    """A pod that may serve: `stage` is its label's value, `ready` its Ready condition."""

    name: str
    url: str
    stage: str
    ready: bool


class Router:
    """One group's front door."""

    def __init__(self, model_name: str, lag: LagMeter) -> None:
        self._lag = lag
        self.replicas: dict[str, Replica] = {}
        self._changed = asyncio.Event()
        self._picks = itertools.count(1)
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._running = 0
        self._exported = Metrics(model_name=model_name)
        self._exported.gauge("inference_objective_running_requests", lambda: self._running)
        self._requests = self._exported.counter("inference_objective_request_total")
        self._errors = self._exported.counter("inference_objective_request_error_total")
        self._input_tokens = self._exported.histogram("inference_objective_input_tokens", TOKENS)
        self._output_tokens = self._exported.histogram("inference_objective_output_tokens", TOKENS)
        self._ttft = self._exported.histogram("inference_objective_request_ttft_seconds", TTFT_SECONDS)
        self._per_token = self._exported.histogram(
            "inference_objective_normalized_time_per_output_token_seconds", INTER_TOKEN_SECONDS
        )

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (one of the system's choice for 0)."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=SILENCE_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=timeout,
            auto_decompress=False,
        )
        app = web.Application(client_max_size=4 << 20)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/lag", self._lateness)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=512)
        await site.start()
        chosen: int = self._runner.addresses[0][1]
        return chosen

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """Replace the view of the group's pods. Requests on pods that left it finish where they are."""
        seen: dict[str, Replica] = {}
        for endpoint in endpoints:
            replica = self.replicas.get(endpoint.name)
            if replica is None or replica.url != endpoint.url:
                replica = Replica(endpoint.name, endpoint.url)
            replica.stage = endpoint.stage
            replica.serving = endpoint.ready
            seen[endpoint.name] = replica
        for name, replica in self.replicas.items():
            if name not in seen:
                replica.serving = False
        self.replicas = seen
        self._changed.set()
        self._changed = asyncio.Event()

    async def _pick(self, pick: Callable[[Iterable[Replica]], Replica | None]) -> Replica:
        while True:
            changed = self._changed
            replica = pick(self.replicas.values())
            if replica is not None:
                replica.last_picked = next(self._picks)
                return replica
            await changed.wait()

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        arrived = time.monotonic()
        raw = await request.read()
        body = json.loads(raw)
        prompt_tokens = len(body["prompt"])
        self._requests.inc()
        self._running += 1
        try:
            transfer = await self._prefill(body, prompt_tokens)
            return await self._decode(request, body, prompt_tokens, transfer, arrived)
        except (aiohttp.ClientError, ConnectionError) as error:
            self._errors.inc()
            return web.json_response(
                {"object": "error", "message": f"engine: {error}", "code": 502}, status=502
            )
        except asyncio.CancelledError:
            self._errors.inc()
            raise
        finally:
            self._running -= 1

    async def _prefill(self, body: dict[str, Any], prompt_tokens: int) -> dict[str, Any]:
        assert self._session is not None
        # vLLM refuses options of a stream where none is asked for.
        asked = {name: value for name, value in body.items() if name != "stream_options"} | {
            "max_tokens": 1,
            "stream": False,
            "kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False},
        }
        replica = await self._pick(pick_prefill)
        replica.prefill_tokens += prompt_tokens
        try:
            async with self._session.post(
                f"{replica.url}/v1/completions", data=_json(asked), headers=_JSON_TYPE, raise_for_status=True
            ) as answer:
                transfer: dict[str, Any] = json.loads(await answer.read())["kv_transfer_params"]
                return transfer
        finally:
            replica.prefill_tokens -= prompt_tokens

    async def _decode(
        self,
        request: web.Request,
        body: dict[str, Any],
        prompt_tokens: int,
        transfer: dict[str, Any],
        arrived: float,
    ) -> web.StreamResponse:
        assert self._session is not None
        asked = _json(body | {"kv_transfer_params": transfer})
        response = web.StreamResponse()
        replica = await self._pick(pick_decode)
        replica.streams += 1
        replica.stream_tokens += prompt_tokens
        try:
            async with self._session.post(
                f"{replica.url}/v1/completions", data=asked, headers=_JSON_TYPE, raise_for_status=True
            ) as upstream:
                response.headers["Content-Type"] = upstream.headers["Content-Type"]
                response.enable_chunked_encoding()
                tail = b""
                async for data in upstream.content.iter_any():
                    if not tail:
                        await response.prepare(request)
                        self._ttft.observe(time.monotonic() - arrived)
                    await response.write(data)
                    tail = data if len(data) >= _TAIL_BYTES else (tail + data)[-_TAIL_BYTES:]
                await response.write_eof()
        except aiohttp.ClientError:
            # In the middle of an answer there is only one way left to say that it is no answer.
            if response.prepared and request.transport is not None:
                request.transport.close()
            raise
        finally:
            replica.streams -= 1
            replica.stream_tokens -= prompt_tokens
        # As the endpoint picker does: lengths are in the metrics once an answer has ended and told its usage.
        prompt, completion = _PROMPT_TOKENS.search(tail), _COMPLETION_TOKENS.search(tail)
        if prompt and completion:
            tokens = max(1, int(completion[1]))
            self._input_tokens.observe(int(prompt[1]))
            self._output_tokens.observe(tokens)
            self._per_token.observe((time.monotonic() - arrived) / tokens)
        return response

    async def _lateness(self, _: web.Request) -> web.Response:
        """How late this process and its replicas run, as a list: what decides whether the machine is fast enough."""
        assert self._session is not None
        lags = [asdict(self._lag.lag("router"))]
        for replica in self.replicas.values():
            # One that is gone by now measured nothing that its successors do not.
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.get(f"{replica.url}/lag", timeout=_LAG_TIMEOUT) as answer:
                    lags.append(await answer.json())
        return web.json_response(lags)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self._exported.text())


_LAG_TIMEOUT = aiohttp.ClientTimeout(total=5)
_JSON_TYPE = {"Content-Type": "application/json"}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
