"""Open-loop load: `python -m weft_playground.load --model M demo-auto=http://127.0.0.1:8001 ...`

Each request is sent when the trace says, whatever became of the ones before it.

The same requests go to every target. Latencies count from the scheduled time, so a sender that is late makes them
longer instead of hiding it; streams are read to their last token and the tokens are counted. Every ten seconds a line
says how it goes; one line of JSON per request goes to a file (`--out`) as it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import aiohttp
import uvloop

from weft_playground.case import ENGINES, Case
from weft_playground.lag import LagMeter, write_lag
from weft_playground.processes import measure_loop, until_stopped
from weft_playground.trace import Request

_COMPLETION_TOKENS = re.compile(rb'"completion_tokens":(\d+)')
_EVENT = b"data: {"
_END = b"data: [DONE]"
_TOKEN_IDS = range(3, 97)  # in any vocabulary, also a tiny model's
_TAIL_BYTES = 600
PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class Result:
    """What the client saw of one request. Times in seconds; `scheduled` from the start of the load.

    `ok`: the stream ended well with exactly the tokens asked for; otherwise `error` says what was wrong.
    """

    group: str
    index: int
    scheduled: float
    prompt_tokens: int
    answer_tokens: int
    ttft: float
    mean_inter_token: float
    max_inter_token: float
    tokens: int
    sent_late: float
    ok: bool
    error: str = ""


@dataclass(frozen=True)
class Target:
    """A group's front door."""

    group: str
    url: str
    model_name: str


async def run_load(
    targets: Sequence[Target],
    requests: Iterable[Request],
    out: IO[str] | Progress,
    lag: LagMeter,
    *,
    started: Callable[[float], None] | None = None,
) -> None:
    """Send everything and wait for every answer. `started` is told the monotonic time of the schedule's zero.

    A request is only asked for once the one before it was sent: `requests` may still decide when to end.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        zero = time.monotonic() + 0.2
        if started is not None:
            started(zero)
        tasks: list[asyncio.Task[None]] = []

        async def one(target: Target, index: int, request: Request, prompt: str) -> None:
            result = await _send(session, target, index, request, prompt, zero, lag)
            out.write(json.dumps(asdict(result), separators=(",", ":")) + "\n")
            out.flush()

        for index, request in enumerate(requests):
            # No two prompts begin alike: a prefix cache would answer the second of them without computing it.
            prompt = ",".join(map(str, random.choices(_TOKEN_IDS, k=request.prompt_tokens)))
            delay = zero + request.at_seconds - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            tasks += [asyncio.create_task(one(target, index, request, prompt)) for target in targets]
        await asyncio.gather(*tasks)


async def _send(
    session: aiohttp.ClientSession,
    target: Target,
    index: int,
    request: Request,
    prompt: str,
    zero: float,
    lag: LagMeter,
) -> Result:
    due = zero + request.at_seconds
    body = (
        f'{{"model":"{target.model_name}","max_tokens":{request.answer_tokens},"ignore_eos":true,"stream":true,'
        f'"stream_options":{{"include_usage":true}},"prompt":[{prompt}]}}'
    )
    late = time.monotonic() - due
    lag.observe(late)
    first = last = 0.0
    longest = 0.0
    events = 0
    tail = b""
    error = ""
    try:
        async with session.post(
            f"{target.url}/v1/completions", data=body, headers={"Content-Type": "application/json"}
        ) as response:
            if response.status != 200:
                error = f"HTTP {response.status}: {(await response.text())[:200]}"
            else:
                async for data in response.content.iter_any():
                    now = time.monotonic()
                    if first == 0.0:
                        first = now
                    elif now - last > longest:
                        longest = now - last
                    # An event may be cut anywhere between two reads.
                    events += (tail[1 - len(_EVENT) :] + data).count(_EVENT)
                    last = now
                    tail = data if len(data) >= _TAIL_BYTES else (tail + data)[-_TAIL_BYTES:]
    except (aiohttp.ClientError, ConnectionError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    found = _COMPLETION_TOKENS.search(tail)
    tokens = int(found[1]) if found else 0
    # vLLM puts what came since the last event into one, where the reader or the machine was slow.
    whole = tokens == request.answer_tokens and events > 0 and tail.rstrip().endswith(_END)
    if not error and not whole:
        error = f"asked for {request.answer_tokens} tokens, got {events} events, usage says {tokens}"
    return Result(
        group=target.group,
        index=index,
        scheduled=request.at_seconds,
        prompt_tokens=request.prompt_tokens,
        answer_tokens=request.answer_tokens,
        ttft=(first - due) if first else 0.0,
        mean_inter_token=(last - first) / max(1, tokens - 1) if first else 0.0,
        max_inter_token=longest,
        tokens=tokens,
        sent_late=late,
        ok=not error,
        error=error,
    )


class Progress:
    """Stands in front of the file of results and says on stdout how it goes."""

    def __init__(self, out: IO[str], shift_seconds: float, objectives: tuple[float, float]) -> None:
        """`objectives`: seconds to the first token and between tokens."""
        self._out = out
        self._shift_seconds = shift_seconds
        self._objectives = objectives
        self._recent: list[Result] = []
        self._answers = 0
        self._failed = 0

    def write(self, line: str) -> None:
        result = Result(**json.loads(line))
        self._recent.append(result)
        self._answers += 1
        self._failed += not result.ok
        self._out.write(line)

    def flush(self) -> None:
        self._out.flush()

    async def run(self, zero: float) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            self.say(time.monotonic() - zero)

    def say(self, at: float) -> None:
        """The answers that ended since the last time."""
        minutes, seconds = divmod(int(at), 60)
        recent, self._recent = self._recent, []
        middle = len(recent) // 2
        text = "no answers"
        if recent:
            first = sorted(each.ttft for each in recent)[middle]
            between = sorted(each.mean_inter_token for each in recent)[middle]
            met = sum(self._meets(each) for each in recent)
            text = (
                f"{len(recent)} answers, {met / len(recent) * 100:.0f} % within objectives;"
                f" median first token {first:.2f} s, {between * 1000:.0f} ms between tokens"
            )
        mix = "first mix" if at < self._shift_seconds else "second mix (longer prompts, shorter answers)"
        print(f"{minutes}:{seconds:02d}  {mix}: {text}; {self._failed} failed in all", flush=True)

    def end(self) -> None:
        """The last line."""
        print(f"all answers are in: {self._answers}, of which {self._failed} failed", flush=True)

    def _meets(self, result: Result) -> bool:
        first, between = self._objectives
        return result.ok and result.ttft <= first and result.mean_inter_token <= between


async def serve(
    targets: Sequence[Target],
    case: Case,
    objectives: tuple[float, float],
    out: Path,
    lag_file: Path | None,
    zero_file: Path | None,
) -> None:
    """The process's work: play the case's requests, leave results, lateness and the time of the start in files."""
    requests = case.requests()
    sending, reading = LagMeter(), LagMeter()
    with out.open("w") as file:
        progress = Progress(file, case.shift_seconds, objectives)
        helpers = [asyncio.create_task(measure_loop(reading))]

        def started(zero: float) -> None:
            helpers.append(asyncio.create_task(progress.run(zero)))
            if zero_file is not None:
                _write_zero(zero_file, zero)

        await until_stopped(run_load(targets, requests, progress, sending, started=started))
        for helper in helpers:
            helper.cancel()
        progress.end()
    if lag_file is not None:
        write_lag(lag_file, sending.lag("load"))
        write_lag(lag_file.with_suffix(".reading"), reading.lag("reading of streams"))


def _write_zero(path: Path, zero: float) -> None:
    """The monotonic time of the schedule's zero: the same clock in every process of the machine."""
    draft = path.with_suffix(".part")
    draft.write_text(str(zero))
    draft.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--offset", type=float, default=0.0, help="minutes by which both stretches are moved")
    parser.add_argument("--engines", choices=ENGINES, default=ENGINES[0], help="how much of the trace")
    parser.add_argument("--time-to-first-token", type=float, default=3.0, metavar="SECONDS", help="objective")
    parser.add_argument("--inter-token-latency", type=float, default=0.1, metavar="SECONDS", help="objective")
    parser.add_argument("--out", type=Path, default=Path(os.devnull), help="a line of JSON per request")
    parser.add_argument("--lag-file", type=Path, help="how late this process ran")
    parser.add_argument("--zero-file", type=Path, help="the monotonic time at which the load begins")
    parser.add_argument("targets", nargs="+", metavar="GROUP=URL")
    arguments = parser.parse_args()
    targets = []
    for text in arguments.targets:
        group, _, url = text.partition("=")
        targets.append(Target(group, url, arguments.model))
    case = Case(offset_minutes=arguments.offset, engines=arguments.engines)
    objectives = (arguments.time_to_first_token, arguments.inter_token_latency)
    uvloop.run(serve(targets, case, objectives, arguments.out, arguments.lag_file, arguments.zero_file))


if __name__ == "__main__":
    main()
