"""One replica's HTTP server: the part of vLLM's that a router, a load generator and Prometheus see.

`POST /v1/completions` takes the prompt as token ids (so its length is exact) and honours `max_tokens` (as with
`ignore_eos`), `stream` and `kv_transfer_params` as vLLM's NIXL connector does: the prefill request asks for
`do_remote_decode` and one token, and its answer's `kv_transfer_params` go into the decode request.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import time
from dataclasses import asdict
from typing import Any

from aiohttp import web

from weft_playground.engine_model import EngineModel, Sequence
from weft_playground.kv_caches import KVCaches
from weft_playground.lag import LagMeter
from weft_playground.metrics import INTER_TOKEN_SECONDS, REQUEST_TOKENS, TTFT_SECONDS, Metrics
from weft_playground.profile import Profile, SpeedError

PORT = 8000
LOCAL, REMOTE = "local_compute", "external_kv_transfer"
"""Where the KV cache of a prompt comes from."""
_ids = itertools.count(1)


class EngineServer:
    """A replica that listens on `host:port`. `lag` is shared by the replicas of a process."""

    def __init__(
        self,
        name: str,
        model_name: str,
        profile: Profile,
        error: SpeedError,
        caches: KVCaches,
        lag: LagMeter,
    ) -> None:
        self.name = name
        self.model_name = model_name
        self.model = EngineModel(profile, error)
        self._caches = caches
        self._lag = lag
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._runner: web.AppRunner | None = None
        self._exported = Metrics(model_name=model_name, engine="0")
        self._exported.gauge("vllm:num_requests_running", lambda: self.model.requests_running)
        self._exported.gauge("vllm:num_requests_waiting", lambda: self.model.requests_waiting)
        self._exported.gauge("vllm:kv_cache_usage_perc", lambda: self.model.kv_usage)
        self._prompt_tokens = self._exported.counter("vllm:prompt_tokens_total")
        self._prompt_tokens_by_source = self._exported.counters(
            "vllm:prompt_tokens_by_source_total", "source", (LOCAL, REMOTE)
        )
        self._generated_tokens = self._exported.counter("vllm:generation_tokens_total")
        self._succeeded = self._exported.counter("vllm:request_success_total", finished_reason="length")
        self._prompt_lengths = self._exported.histogram("vllm:request_prompt_tokens", REQUEST_TOKENS)
        self._answer_lengths = self._exported.histogram("vllm:request_generation_tokens", REQUEST_TOKENS)
        self._ttft = self._exported.histogram("vllm:time_to_first_token_seconds", TTFT_SECONDS)
        self._inter_token = self._exported.histogram("vllm:inter_token_latency_seconds", INTER_TOKEN_SECONDS)

    async def start(self, host: str, port: int = PORT) -> int:
        """Listen; returns the port (one of the system's choice for 0)."""
        app = web.Application(client_max_size=4 << 20)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", self._health)
        app.router.add_get("/lag", self._lateness)
        self._caches.add_routes(app)
        # handler_cancellation: a client that goes away frees its place in the batch.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, backlog=512).start()
        chosen: int = self._runner.addresses[0][1]
        return chosen

    async def stop(self) -> None:
        """Close the server; the caller closes the KV caches, which replicas may share."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._timer is not None:
            self._timer.cancel()

    async def drain(self, grace_seconds: float) -> None:
        """Wait until no request is left, at most that long: what vLLM does between SIGTERM and its end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_seconds)

    def _release(self, sequence: Sequence) -> None:
        self.model.release(self._loop.time(), sequence)
        self._arm()

    def _submit(self, sequence: Sequence) -> None:
        self.model.submit(self._loop.time(), sequence)
        self._arm()

    def _abort(self, sequence: Sequence) -> None:
        self.model.abort(self._loop.time(), sequence)
        self._arm()

    def _arm(self) -> None:
        """Have `_advance` called at the model's next event; due times come from the model and so do not drift."""
        if self.model.requests_running + self.model.requests_waiting:
            self._idle.clear()
        else:
            self._idle.set()
        due = self.model.next_event()
        if self._timer is not None:
            if due == self._timer_due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_due = due
            # Rounded up: uvloop rounds to milliseconds and would wake too early, many times in a row.
            delay = math.ceil((due - self._loop.time()) * 1000) / 1000
            self._timer = self._loop.call_later(max(0.0, delay), self._advance)

    def _advance(self) -> None:
        now = self._loop.time()
        self._lag.observe(now - self._timer_due)
        self._timer = None
        self.model.advance(now)
        self._arm()

    def _count_token(self, sequence: Sequence, at: float) -> None:
        self._generated_tokens.inc()
        if sequence.last_token is None:
            self._ttft.observe(at - sequence.submitted)
            # Also of a prompt that was computed elsewhere; by source it can be told.
            self._prompt_tokens.inc(sequence.prompt_tokens)
            self._prompt_tokens_by_source[REMOTE if sequence.remote_kv else LOCAL].inc(sequence.prompt_tokens)
        else:
            self._inter_token.observe(at - sequence.last_token)
        if sequence.finished:
            self._succeeded.inc()
            self._prompt_lengths.observe(sequence.prompt_tokens)
            self._answer_lengths.observe(sequence.generated)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        prompt = body.get("prompt")
        if not isinstance(prompt, list) or not prompt:
            return _bad_request("prompt: send a list of token ids")
        max_tokens = int(body.get("max_tokens", 16))
        if max_tokens < 1:
            return _bad_request("max_tokens: at least 1")
        options = body.get("stream_options")
        if options and not body.get("stream"):
            return _bad_request("stream_options: only with stream")
        transfer = body.get("kv_transfer_params") or {}
        if transfer.get("do_remote_decode"):
            return await self._prefill_only(len(prompt), max_tokens)
        # As in vLLM: a KV cache that is gone is computed again here.
        remote_kv = bool(transfer.get("do_remote_prefill")) and await self._caches.holds(transfer)
        sequence = Sequence(len(prompt), max_tokens, remote_kv=remote_kv)
        taken = not remote_kv

        def take(_: Sequence) -> None:
            nonlocal taken
            if not taken:
                taken = True
                self._caches.take(transfer)

        sequence.on_admitted = take
        try:
            if body.get("stream"):
                return await self._stream(request, sequence, bool((options or {}).get("include_usage")))
            return await self._whole(sequence)
        finally:
            # A client that went away before its turn: nobody else will read that cache.
            take(sequence)

    async def _run(self, sequence: Sequence) -> None:
        """Until the last token is out; a cancelled handler takes the sequence out of the batch."""
        done: asyncio.Future[None] = self._loop.create_future()

        def token(sequence: Sequence, at: float) -> None:
            self._count_token(sequence, at)
            if sequence.finished and not done.done():
                done.set_result(None)

        sequence.on_token = token
        self._submit(sequence)
        try:
            await done
        except asyncio.CancelledError:
            self._abort(sequence)
            raise

    async def _prefill_only(self, prompt_tokens: int, max_tokens: int) -> web.Response:
        sequence = Sequence(prompt_tokens, max_tokens, keeps_kv=True)
        try:
            await self._run(sequence)
        except asyncio.CancelledError:
            # Just finished, and nobody is told where its KV cache is.
            self._release(sequence)
            raise
        request_id = f"{self.name}-{next(_ids)}"
        where = self._caches.hold(request_id, lambda: self._release(sequence))
        answer = self._answer(request_id, sequence)
        answer["kv_transfer_params"] = {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": self.name,
            **where,
        }
        return web.json_response(answer)

    async def _whole(self, sequence: Sequence) -> web.Response:
        await self._run(sequence)
        return web.json_response(self._answer(f"cmpl-{next(_ids)}", sequence))

    async def _stream(
        self, request: web.Request, sequence: Sequence, include_usage: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        head = (
            f'data: {{"id":"cmpl-{next(_ids)}","object":"text_completion","created":{int(time.time())},'
            f'"model":"{self.model_name}","choices":['
        ).encode()
        # Every token's event is the same bytes: the text of a token does not matter here, its time does.
        event = head + b'{"index":0,"text":" a","logprobs":null,"finish_reason":null}]}\n\n'
        frame = b"%x\r\n%b\r\n" % (len(event), event)
        transport = request.transport
        assert transport is not None
        first: asyncio.Future[None] = self._loop.create_future()
        done: asyncio.Future[None] = self._loop.create_future()
        opened = False

        def token(sequence: Sequence, at: float) -> None:
            self._count_token(sequence, at)
            if sequence.generated == 1:
                first.set_result(None)
            elif opened:
                # One write per token without waking a task: thousands of them a second share one core.
                transport.write(frame)
            if sequence.finished:
                done.set_result(None)

        sequence.on_token = token
        self._submit(sequence)
        try:
            await first
            # aiohttp sends the headers together with the first data, so what is out by now goes through it.
            opened = True
            await response.write(event * sequence.generated)
            await done
        except (asyncio.CancelledError, ConnectionError):
            self._abort(sequence)
            raise
        end = head + b'{"index":0,"text":"","logprobs":null,"finish_reason":"length"}]}\n\n'
        if include_usage:
            usage = json.dumps(_usage(sequence), separators=(",", ":")).encode()
            end += head + b'],"usage":' + usage + b"}\n\n"
        with contextlib.suppress(ConnectionError):
            await response.write(end + b"data: [DONE]\n\n")
            await response.write_eof()
        return response

    def _answer(self, request_id: str, sequence: Sequence) -> dict[str, Any]:
        return {
            "id": request_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.model_name,
            "choices": [{"index": 0, "text": " a" * sequence.generated, "finish_reason": "length"}],
            "usage": _usage(sequence),
        }

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _lateness(self, _: web.Request) -> web.Response:
        return web.json_response(asdict(self._lag.lag("engines")))

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self._exported.text())


def _usage(sequence: Sequence) -> dict[str, int]:
    return {
        "prompt_tokens": sequence.prompt_tokens,
        "completion_tokens": sequence.generated,
        "total_tokens": sequence.prompt_tokens + sequence.generated,
    }


def _bad_request(message: str) -> web.Response:
    return web.json_response({"object": "error", "message": message, "code": 400}, status=400)
