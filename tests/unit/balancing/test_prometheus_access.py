"""Prometheus as people have it: behind TLS, a login, a proxy, a path, a tenant's header."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from weft.balancing.presets import VLLM
from weft.balancing.prometheus import PrometheusSource, SourceError
from weft.balancing.settings import SourceSettings

EMPTY = {"status": "success", "data": {"resultType": "vector", "result": []}}


@dataclass
class Server:
    """A TLS server that remembers what it was asked; `path` in front of the API."""

    directory: Path
    url: str = ""
    requests: list[web.Request] = field(default_factory=list)
    forms: list[Any] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        self.forms.append(await request.post())
        shown = request.get_extra_info("peercert") or {}
        self.subjects += [
            value for part in shown.get("subject", ()) for name, value in part if name == "commonName"
        ]
        return web.json_response(EMPTY)

    async def ask(self, **settings: Any) -> web.Request:
        """The request that a source with these settings made."""
        source = PrometheusSource(
            SourceSettings(url=self.url, ca_file=str(self.directory / "ca"), **settings)
        )
        try:
            await source.read(VLLM)
        finally:
            await source.close()
        return self.requests[-1]

    def file(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)


async def serve(directory: Path, clients: trustme.CA | None = None) -> AsyncIterator[Server]:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    authority.cert_pem.write_to_path(directory / "ca")
    server = Server(directory)
    app = web.Application()
    app.router.add_route("*", "/monitoring/api/v1/query", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, max_line_size=1 << 16)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    server.url = f"https://127.0.0.1:{runner.addresses[0][1]}/monitoring/"
    yield server
    await runner.cleanup()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async for one in serve(tmp_path):
        yield one


async def test_a_server_behind_a_path_is_believed_by_its_own_authority_only(server: Server) -> None:
    assert (await server.ask()).path == "/monitoring/api/v1/query"
    for trusted in (None, server.directory / "other"):
        trustme.CA().cert_pem.write_to_path(server.directory / "other")
        source = PrometheusSource(SourceSettings(url=server.url, ca_file=str(trusted) if trusted else None))
        with pytest.raises(SourceError, match="cannot be reached"):
            await source.read(VLLM)
        await source.close()


async def test_a_token_that_is_replaced_counts_from_the_next_query_on(server: Server) -> None:
    token = server.file("token", "one\n")
    source = PrometheusSource(
        SourceSettings(url=server.url, ca_file=str(server.directory / "ca"), bearer_token_file=token)
    )
    for wanted in ("one", "two"):
        server.file("token", f"{wanted}\n")
        source._last.clear()
        await source.read(VLLM)
        assert server.requests[-1].headers["Authorization"] == f"Bearer {wanted}"
    await source.close()


async def test_a_token_that_is_not_there_is_named_and_nothing_is_asked(server: Server) -> None:
    missing = str(server.directory / "nowhere")
    with pytest.raises(SourceError, match=r"nowhere .*cannot be read"):
        await server.ask(bearer_token_file=missing)
    with pytest.raises(SourceError, match="is empty or has more than one line") as refused:
        await server.ask(bearer_token_file=server.file("token", "secret\nsecret"))
    assert "secret" not in str(refused.value)
    assert server.requests == []


async def test_a_login_is_sent_as_basic_authentication(server: Server) -> None:
    login = {"username": "weft", "password_file": server.file("password", "pässword\n")}
    sent = (await server.ask(basic_auth=login)).headers["Authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")).decode() == "weft:pässword"


async def test_a_client_certificate_is_shown_also_after_it_was_replaced(tmp_path: Path) -> None:
    clients = trustme.CA()
    async for server in serve(tmp_path, clients):
        files = {"certificate_file": str(tmp_path / "cert"), "key_file": str(tmp_path / "key")}
        source = PrometheusSource(SourceSettings(url=server.url, ca_file=str(tmp_path / "ca"), **files))
        for name in ("first", "second"):
            issued = clients.issue_cert("weft.example", common_name=name)
            (tmp_path / "cert").write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
            issued.private_key_pem.write_to_path(tmp_path / "key")
            source._last.clear()
            await source.read(VLLM)
        await source.close()
        assert server.subjects[0] == "first"
        (tmp_path / "key").write_text("none")
        with pytest.raises(SourceError, match=r"certificates .* cannot be used"):
            await server.ask(**files)


async def test_headers_and_parameters_go_with_every_query(server: Server) -> None:
    more = {"dedup": ["true"], "replicaLabels[]": ["prometheus_replica", "rule_replica"]}
    asked = await server.ask(headers={"X-Scope-OrgID": "team-a"}, query_parameters=more)
    assert asked.headers["X-Scope-OrgID"] == "team-a"
    assert asked.query.getall("replicaLabels[]") == more["replicaLabels[]"]
    assert asked.query["dedup"] == "true"
    assert "vllm:num_requests_running" in server.forms[-1]["query"]


async def test_get_has_everything_in_its_address(server: Server) -> None:
    asked = await server.ask(method="GET", query_parameters={"dedup": ["true"]})
    assert asked.method == "GET"
    assert asked.query["dedup"] == "true"
    assert "vllm:num_requests_running" in asked.query["query"]
    assert asked.query["timeout"] == "5000ms"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"bearer_token_file": "/t", "basic_auth": {"username": "a", "password_file": "/p"}},
            "set one of them",
        ),
        ({"bearer_token_file": "/t", "headers": {"authorization": "x"}}, "Authorization is set"),
        ({"key_file": "/k"}, "needs certificate_file"),
        ({"url": "http://host", "ca_file": "/ca"}, "https://"),
        ({"query_parameters": {"query": ["up"]}}, "query is set by Weft"),
        ({"headers": {"X": "a\r\nB: c"}}, "headers"),
        ({"bearer_token_file": "token"}, "bearer_token_file"),
        ({"method": "PUT"}, "method"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_by_name(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SourceSettings(**{"url": "https://prometheus", **settings})
