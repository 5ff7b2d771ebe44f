"""Recorded traffic out of the user's own Prometheus: rates and lengths over a range, drawn as requests.

Prometheus kept no single request. Each step's requests arrive as a Poisson process of its rate, their lengths drawn
from its histograms, values spread evenly within a bucket: what the planner assumes too. For a seed the same requests.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from weft.balancing.access import Access, AccessError
from weft.balancing.presets import PRESETS, Windows
from weft.balancing.series import Buckets
from weft.balancing.settings import SourceSettings
from weft.plain import plain
from weft.rehearse.trace import Trace, TraceError

POINTS_MOST = 5000
"""Of a range: Prometheus refuses more than 11,000 per series."""
TIMEOUT_SECONDS = 60.0


async def read_traffic(
    server: SourceSettings,
    namespace: str,
    models: Sequence[str],
    start: float,
    seconds: float,
    scrape_seconds: float,
    seed: int,
    preset: str = "vllm",
) -> Trace:
    """The traffic of these models from `start` (Unix time) on.

    Raises TraceError with what to do where the server does not answer or knows nothing of them.
    """
    windows = Windows(scrape_seconds)
    step = max(windows.long_seconds, math.ceil(seconds / POINTS_MOST))
    window = Windows(step / 4 / 4) if step > windows.long_seconds else windows
    expressions = PRESETS[preset].front_end
    wanted = ("requests_long", "prompt_buckets", "answer_buckets")
    async with ranges(server, TIMEOUT_SECONDS) as asked:
        answers = await asyncio.gather(
            *(asked.ask(window.fill(expressions[name]), start, seconds, step) for name in wanted)
        )
    rates, prompts, answers_buckets = (
        _by_time(answer, namespace, models, histogram)
        for answer, histogram in zip(answers, (False, True, True), strict=True)
    )
    chance = random.Random(seed)
    rows: list[tuple[float, int, int]] = []
    lengths: tuple[Buckets, Buckets] | None = None
    for at in sorted(rates):
        found = _cumulative(prompts.get(at)), _cumulative(answers_buckets.get(at))
        lengths = found if all(found) else lengths
        if lengths is None:
            continue
        # A rate at a moment is over the range before it.
        rows += _requests(at - start - step, step, rates[at][math.inf], lengths, chance)
    if not rows:
        raise TraceError(
            f"the Prometheus server knows of no request to {', '.join(models)} in namespace {namespace} in that time:"
            f" it is asked for {expressions['requests_long']}"
        )
    return Trace.of(row for row in rows if 0 <= row[0] < seconds)


def _requests(
    begin: float, seconds: float, rate: float, lengths: tuple[Buckets, Buckets], chance: random.Random
) -> Iterator[tuple[float, int, int]]:
    if rate <= 0:
        return
    at = begin + chance.expovariate(rate)
    while at < begin + seconds:
        yield at, _drawn(lengths[0], chance), _drawn(lengths[1], chance)
        at += chance.expovariate(rate)


def _drawn(buckets: Buckets, chance: random.Random) -> int:
    """A value of a histogram; beyond its last finite bound that bound."""
    mark = chance.random() * buckets[-1][1]
    lower = below = 0.0
    for bound, cumulative in buckets:
        if cumulative >= mark and cumulative > below:
            upper = lower if math.isinf(bound) else bound
            return max(1, math.ceil(lower + (upper - lower) * (mark - below) / (cumulative - below)))
        lower, below = bound, max(below, cumulative)
    return max(1, math.ceil(lower))


def _cumulative(points: Mapping[float, float] | None) -> Buckets:
    """A histogram's rates by bound, rising; empty where nothing was counted."""
    buckets = tuple(sorted((points or {}).items()))
    return buckets if buckets and buckets[-1][1] > 0 else ()


class Ranges:
    """A Prometheus server that is asked for ranges, by way of a session; see `ranges`."""

    def __init__(self, server: SourceSettings, session: aiohttp.ClientSession) -> None:
        self._server = server
        self._session = session
        self._access = Access(server)

    async def ask(self, query: str, start: float, seconds: float, step: float) -> list[dict[str, Any]]:
        """The series of a range, as the API's `result`; its first point is one step after `start` (Unix time).

        Raises TraceError with what to do where the server gives no usable answer. A login in the URL is not in the
        text.
        """
        server = self._server
        form = [
            ("query", query),
            ("start", f"{start + step:.3f}"),
            ("end", f"{start + seconds:.3f}"),
            ("step", f"{step:g}"),
        ]
        more = [(name, value) for name, values in server.query_parameters.items() for value in values]
        try:
            # A redirect would lead to an address that nobody named, with what lets one in here.
            async with self._session.post(
                f"{server.url.rstrip('/')}/api/v1/query_range",
                params=more,
                data=form,
                headers=self._access.headers(),
                ssl=self._access.ssl(),
                allow_redirects=False,
            ) as response:
                if response.status in (401, 403):
                    raise TraceError(
                        f"the Prometheus server at {shown(server.url)} answers {response.status}: it wants another"
                        " token, login, certificate or header"
                    )
                if response.status in (301, 302, 303, 307, 308):
                    raise TraceError(
                        f"the Prometheus server at {shown(server.url)} redirects, which is not followed: name the"
                        " address that it is really at, and what lets one in"
                    )
                body = await response.json(content_type=None)
                if body["status"] != "success":
                    raise TraceError(f"the Prometheus server says: {body.get('error', body['status'])}")
                result: list[dict[str, Any]] = body["data"]["result"]
                return result
        except AccessError as error:
            raise TraceError(str(error)) from error
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, TraceError):
                raise
            raise TraceError(
                f"the Prometheus server at {shown(server.url)} gave no usable answer:"
                f" {type(error).__name__}: {plain(error)}"
            ) from error


@asynccontextmanager
async def ranges(server: SourceSettings, timeout_seconds: float) -> AsyncIterator[Ranges]:
    """The server, to be asked by way of connections that end with this."""
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Ranges(server, session)


def shown(url: str) -> str:
    """The URL without a login."""
    return re.sub("//[^/]*@", "//", url)


def _by_time(
    result: Sequence[Mapping[str, Any]], namespace: str, models: Sequence[str], histogram: bool
) -> dict[float, dict[float, float]]:
    """By moment, and bound of a histogram (else infinity): the sum over the models' series."""
    found: dict[float, dict[float, float]] = {}
    for series in result:
        labels = series["metric"]
        if labels.get("namespace") != namespace or labels.get("model_name") not in models:
            continue
        bound = float(labels["le"]) if histogram else math.inf
        for at, text in series["values"]:
            value = float(text)
            if math.isfinite(value):
                points = found.setdefault(float(at), {})
                points[bound] = points.get(bound, 0.0) + value
    return found
