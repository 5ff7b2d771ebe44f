"""Reads one Prometheus server: one query per preset and tick, shared by all groups that use it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import aiohttp

from weft.balancing.access import Access, AccessError
from weft.balancing.presets import SIGNAL_LABEL, Preset, Windows
from weft.balancing.series import EngineSeries, FrontEndSeries, Series, Snapshot, histogram_names
from weft.balancing.settings import SourceSettings

S = TypeVar("S", bound=Series)

TICK_SECONDS = 1.0
"""An answer, or a failure, is shared for this long."""


class SourceError(Exception):
    """The server did not give a usable answer. The message has no moving numbers: it ends in a condition."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class PrometheusSource:
    """One server. `read` may be called by many groups at once; `close` when the operator ends."""

    def __init__(
        self,
        settings: SourceSettings,
        clock: Callable[[], datetime] = _utc_now,
        queried: Callable[[str, float], None] | None = None,
    ) -> None:
        """`queried` is told of each query: answered or failed, and the seconds that it took."""
        self._queried = queried
        self.windows = Windows(settings.scrape_interval_seconds)
        self._settings = settings
        self._access = Access(settings)
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._lock = asyncio.Lock()
        self._last: dict[str, tuple[datetime, Snapshot | SourceError]] = {}

    async def read(self, preset: Preset) -> Snapshot:
        """The newest snapshot, at most a tick old.

        Raises SourceError; a failure is shared for a tick as an answer is, so that a server that is down is
        asked once and not once per group.
        """
        async with self._lock:
            known = self._last.get(preset.name)
            now = self._clock()
            if known is None or not timedelta(0) <= now - known[0] < timedelta(seconds=TICK_SECONDS):
                time = asyncio.get_running_loop().time
                began = time()
                try:
                    answer: Snapshot | SourceError = await self._query(preset, now)
                except SourceError as error:
                    answer = error
                if self._queried is not None:
                    outcome = "failed" if isinstance(answer, SourceError) else "answered"
                    self._queried(outcome, time() - began)
                # From the end of the query: a server that answers slowly is not asked without pause.
                known = self._last[preset.name] = (self._clock(), answer)
        if isinstance(known[1], SourceError):
            raise SourceError(str(known[1]))
        return known[1]

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _query(self, preset: Preset, now: datetime) -> Snapshot:
        settings = self._settings
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=settings.timeout_seconds), trust_env=False
            )
        url = f"{settings.url.rstrip('/')}/api/v1/query"
        form = [
            ("query", preset.query(self.windows)),
            ("timeout", f"{round(settings.timeout_seconds * 1000)}ms"),
        ]
        more = [(name, value) for name, values in settings.query_parameters.items() for value in values]
        asked: dict[str, Any] = (
            {"params": more, "data": form} if settings.method == "POST" else {"params": [*more, *form]}
        )
        try:
            asked |= {"headers": self._access.headers(), "ssl": self._access.ssl()}
        except AccessError as error:
            raise SourceError(str(error)) from error
        try:
            # A redirect would lead to an address that no administrator named.
            async with self._session.request(
                settings.method, url, allow_redirects=False, **asked
            ) as response:
                body = await _read_at_most(response, settings.max_response_bytes)
                status = response.status
        except TimeoutError as error:
            raise SourceError("the Prometheus server did not answer in time") from error
        except aiohttp.ClientError as error:
            raise SourceError(
                f"the Prometheus server cannot be reached or broke off ({type(error).__name__})"
            ) from error
        return parse(status, body, now)


def parse(status: int, body: bytes, taken_at: datetime) -> Snapshot:
    """An answer of the query API as a snapshot. Raises SourceError."""
    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError) as error:  # RecursionError: nesting deeper than the parser's stack
        raise SourceError(f"the Prometheus server answered {status} without valid JSON") from error
    if status != 200 or not isinstance(answer, dict) or answer.get("status") != "success":
        said = answer.get("error", "") if isinstance(answer, dict) else ""
        raise SourceError(f"the Prometheus server answered {status}: {str(said)[:200]}")
    try:
        data = answer["data"]
        if data["resultType"] != "vector":
            raise SourceError(f"the Prometheus server answered with a {str(data['resultType'])[:20]}")
        # What a query language's warning says of one series is in its values; the others say that some are missing.
        warnings = tuple(
            str(one)[:200] for one in answer.get("warnings") or () if not str(one).startswith("PromQL ")
        )
        return _snapshot(data["result"], taken_at, warnings)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise SourceError("the Prometheus server's answer has not the form of its query API") from error


def _snapshot(result: list[dict[str, Any]], taken_at: datetime, warnings: tuple[str, ...]) -> Snapshot:
    engines, front_ends = _Gathered(EngineSeries), _Gathered(FrontEndSeries)
    for series in result:
        labels = series["metric"]
        if "histogram" in series:
            continue  # a native one, under the name of a number: whoever exposes it must not cost all others the answer
        value = float(series["value"][1])
        kind, _, signal = labels[SIGNAL_LABEL].partition(":")
        gathered, subject = (engines, "pod") if kind == "engine" else (front_ends, "model_name")
        gathered.add(labels.get("namespace", ""), labels.get(subject, ""), signal, labels.get("le"), value)
    return Snapshot(taken_at, engines.series(), front_ends.series(), warnings)


class _Gathered(Generic[S]):
    """The series of all engines, or of all front ends, of one answer."""

    def __init__(self, kind: type[S]) -> None:
        self._kind = kind
        self._histograms = frozenset(histogram_names(kind))
        self._values: dict[tuple[str, str], dict[str, float]] = {}
        self._points: dict[tuple[str, str], dict[str, dict[float, float]]] = {}
        self._repeated: set[tuple[str, str]] = set()

    def add(self, namespace: str, subject: str, signal: str, bound: str | None, value: float) -> None:
        """One series: a number, or the point of a histogram at a bound."""
        if not namespace or (not subject and self._kind is EngineSeries):
            return  # it belongs to nobody here
        if (bound is None) == (signal in self._histograms):
            return  # an expression that lost its `le`, or has one too many
        key = (namespace, subject)
        values = self._values.setdefault(key, {})
        if bound is None:
            known: dict[Any, float] = values
            at: Any = signal
        else:
            at = _bound(bound)
            if math.isnan(at):
                return
            known = self._points.setdefault(key, {}).setdefault(signal, {})
        if at in known:  # also a bound that came as "1" and as "1.0"
            self._repeated.add(key)
        known[at] = value

    def series(self) -> dict[tuple[str, str], S]:
        """What was added, by namespace and pod or model. TypeError where a signal was never asked for."""
        return {
            key: self._kind(
                repeated=key in self._repeated,
                **values,
                **{
                    signal: tuple(sorted(points.items()))
                    for signal, points in self._points.get(key, {}).items()
                },
            )
            for key, values in self._values.items()
        }


def _bound(text: str) -> float:
    """The bound of a bucket; NaN where it is none: any pod may expose any label, and Prometheus passes it on."""
    try:
        return float(text)
    except ValueError:
        return math.nan


async def _read_at_most(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(1 << 16):
        size += len(chunk)
        if size > limit_bytes:
            response.close()
            raise SourceError(f"the Prometheus server's answer is larger than {limit_bytes:,} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
