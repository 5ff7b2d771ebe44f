"""Serves /livez, /readyz, /metrics and, for `weft plan`, /plan over HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


class HealthServer:
    """`live` and `ready` answer whether the process should be kept and whether it does its work.

    `failures` counts the keys that fail, by controller. They are said beside `ready` and do not change it: what one
    tenant's object runs into is no reason to take the operator out of service.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        live: Callable[[], bool],
        ready: Callable[[], bool],
        failures: Callable[[], Mapping[str, int]],
        plan: Callable[[web.Request], Awaitable[web.Response]] | None = None,
    ) -> None:
        self._registry = registry
        app = web.Application()
        app.router.add_get("/livez", _probe(live, dict))
        app.router.add_get("/readyz", _probe(ready, failures))
        app.router.add_get("/metrics", self._metrics)
        if plan is not None:
            app.router.add_post("/plan", plan)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError when it is taken."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


def _probe(
    healthy: Callable[[], bool], failures: Callable[[], Mapping[str, int]]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(_: web.Request) -> web.Response:
        said = [f"failing {kind}: {count}" for kind, count in sorted(failures().items())]
        well = healthy()
        text = "".join(f"{line}\n" for line in ["ok" if well else "not ok", *said])
        return web.Response(status=200 if well else 503, text=text)

    return handler
