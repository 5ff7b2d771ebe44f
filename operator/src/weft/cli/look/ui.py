"""`weft ui`: the page of the cluster on the user's own machine, on loopback, for whoever has its address."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web

from weft.cli.look.board import Board
from weft.cli.look.page import page, policy
from weft.cli.look.reading import AskError

ADDRESS = "127.0.0.1"
NAMES = frozenset({ADDRESS, "localhost"})
"""Host names that the page answers to. Others come from a site whose name was made to lead here."""
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def application(read: Callable[[], Awaitable[Board]], token: str) -> web.Application:
    """Serves `GET /<token>/`, read anew for each request, one at a time; all else is refused."""
    one_at_a_time = asyncio.Lock()

    async def show(request: web.Request) -> web.Response:
        if request.headers.get("Host", "").partition(":")[0] not in NAMES:
            return _refused(403, "this page answers to 127.0.0.1 and localhost alone")
        if not secrets.compare_digest(request.match_info["token"].encode(), token.encode()):
            return _refused(404, "there is no such page")
        try:
            async with one_at_a_time:
                board = await read()
        except AskError as error:
            return _refused(503, str(error))
        nonce = secrets.token_urlsafe(16)
        return web.Response(
            text=page(board, nonce, live=True),
            content_type="text/html",
            headers={**HEADERS, "Content-Security-Policy": f"{policy(nonce)}; frame-ancestors 'none'"},
        )

    made = web.Application()
    made.router.add_get("/{token}/", show, allow_head=False)
    return made


def _refused(status: int, why: str) -> web.Response:
    return web.Response(status=status, text=why, headers=HEADERS)


async def serve(read: Callable[[], Awaitable[Board]], say: Callable[[str], None]) -> None:
    """Serves until it is cancelled; `say` is told the address. Raises AskError where nothing can be read at all."""
    await read()
    token = secrets.token_urlsafe(24)
    runner = web.AppRunner(application(read, token), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, ADDRESS, 0)
        await site.start()
        port = runner.addresses[0][1]
        say(f"http://{ADDRESS}:{port}/{token}/")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
