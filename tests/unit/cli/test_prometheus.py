"""How a Prometheus is reached by `weft ui` and `weft rehearse`: as the operator's settings of a source have it."""

from __future__ import annotations

import argparse
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from weft.balancing.settings import SourceSettings
from weft.cli.look.commands import main
from weft.cli.look.recorded import read_records
from weft.cli.prometheus import add_options, settings_of

NOW = 1_767_268_800.0


def settings(*argv: str, url: str | None = "https://thanos:9090") -> SourceSettings | None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prometheus")
    add_options(parser)
    return settings_of(parser.parse_args([*(["--prometheus", url] if url else []), *argv]))


@asynccontextmanager
async def guarded(directory: Path) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """A server that wants a certificate, a token and a tenant, and has nothing to tell."""
    authority, clients, seen = trustme.CA(), trustme.CA(), []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    clients.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.cert_pem.write_to_path(directory / "ca")
    own = clients.issue_cert("weft@example")
    own.private_key_and_cert_chain_pem.write_to_path(directory / "own")

    async def answer(request: web.Request) -> web.Response:
        seen.append(request)
        if request.headers.get("Authorization") != "Bearer canary":
            return web.Response(status=401, text="who are you?")
        return web.json_response({"status": "success", "data": {"resultType": "matrix", "result": []}})

    app = web.Application()
    app.router.add_post("/api/v1/query_range", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        await runner.cleanup()


async def test_a_server_behind_tls_a_certificate_a_token_and_a_tenant_is_asked_with_all_of_them(
    tmp_path: Path,
) -> None:
    async with guarded(tmp_path) as (url, seen):
        (tmp_path / "token").write_text("canary\n")
        known = ["--prometheus-ca", f"{tmp_path}/ca", "--prometheus-cert", f"{tmp_path}/own"]
        token = ["--prometheus-token-file", f"{tmp_path}/token"]
        more = ["--prometheus-header", "X-Scope-OrgID: team-a", "--prometheus-parameter", "dedup=true"]
        asked = settings(*known, *token, *more, url=url)
        assert asked is not None
        records = await read_records(asked, NOW, 3600)
        assert "has nothing of Weft's metrics" in records.missing
        assert seen[-1].headers["X-Scope-OrgID"] == "team-a"
        assert seen[-1].query["dedup"] == "true"

        (tmp_path / "token").write_text("old")
        refused = (await read_records(asked, NOW, 3600)).missing
        assert "answers 401: it wants another token" in refused
        seen.clear()
        for without in (known[:2], known[2:]):
            asked = settings(*without, *token, url=url)
            assert asked is not None
            assert "gave no usable answer" in (await read_records(asked, NOW, 3600)).missing
        assert seen == []


@pytest.mark.parametrize(
    ("argv", "url", "words"),
    [
        ([], "localhost:9090", "--prometheus: has to begin with http:// or https://"),
        (["--prometheus-ca", "/ca"], None, "--prometheus-ca: goes with --prometheus URL"),
        (["--prometheus-ca", "/ca"], "http://p", "has to begin with https:// where certificates are set"),
        (["--prometheus-key", "/key"], "https://p", "needs certificate_file"),
        (["--prometheus-token-file", "/t"], "https://a:b@p", "has a login, and a token is given, too"),
        (["--prometheus-header", "X Y:z"], "https://p", "--prometheus-header: is not of the form"),
    ],
)
def test_options_that_do_not_go_together_are_refused_with_what_to_change(
    argv: list[str], url: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="--prometheus") as caught:
        settings(*argv, url=url)
    assert words in str(caught.value)
    with pytest.raises(SystemExit) as ended:
        main("ui", [*(["--prometheus", url] if url else []), *argv])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


async def test_a_redirect_is_not_followed_with_what_lets_one_in() -> None:
    async def away(_: web.Request) -> web.Response:
        raise web.HTTPFound("http://127.0.0.1:1/elsewhere")

    app = web.Application()
    app.router.add_post("/api/v1/query_range", away)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        assert (
            "redirects, which is not followed"
            in (await read_records(SourceSettings(url=url), NOW, 60)).missing
        )
    finally:
        await runner.cleanup()
