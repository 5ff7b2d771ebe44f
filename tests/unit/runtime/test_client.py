"""Requests to an API server that has trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from kubernetes.aio import client as k8s

from weft.api.resources import LOGICAL_NODES
from weft.cluster import ClusterError, NotFoundError
from weft.runtime import client
from weft.runtime.client import KubeClient

NODE = {"metadata": {"name": "n", "namespace": "a", "resourceVersion": "1"}, "status": {}}


class Troubled:
    """Answers every request with 500, as it does when an admission webhook is down."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.instead: tuple[int, str] | None = None
        """Status and text of what a gateway before it answers."""

    async def refuse(self, request: web.Request) -> web.Response:
        self.requests.append(request.method)
        if self.instead is not None:
            return web.Response(status=self.instead[0], text=self.instead[1])
        body = {"kind": "Status", "code": 500, "reason": "InternalError", "message": "failed calling webhook"}
        return web.json_response(body, status=500)


@pytest.fixture
async def troubled() -> AsyncIterator[tuple[Troubled, str]]:
    server, app = Troubled(), web.Application()
    app.router.add_route("*", "/{path:.*}", server.refuse)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield server, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_what_the_api_server_refuses_is_told_at_once_and_not_tried_again_behind_our_back(
    troubled: tuple[Troubled, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, url = troubled
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        f"{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: '{url}'}}}}],"
        " contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {token: t}}]}"
    )
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    told: list[tuple[str, int]] = []
    kube = KubeClient(
        await client.load_configuration(), requested=lambda method, status, _: told.append((method, status))
    )
    try:
        for call in (
            kube.get(LOGICAL_NODES, "n", "a"),
            kube.list(LOGICAL_NODES),
            kube.replace_status(LOGICAL_NODES, NODE),
            kube.delete(LOGICAL_NODES, "n", "a"),
            kube.patch(LOGICAL_NODES, "n", "a", {}),
            kube.create(LOGICAL_NODES, NODE),
        ):
            with pytest.raises(ClusterError, match="failed calling webhook"):
                async with asyncio.timeout(5):
                    await call
    finally:
        await kube.close()
    assert server.requests == ["GET", "GET", "PUT", "DELETE", "PATCH", "POST"]
    assert [method for method, _ in told] == server.requests
    assert {status for _, status in told} == {500}


@pytest.mark.parametrize(
    "instead",
    [
        (200, "<html>Back in a minute</html>"),
        (200, '"ok"'),
        (502, '"no healthy upstream"'),
        (503, "null"),
        (404, "404 page not found"),
        (404, "{}"),
    ],
    ids=["a page", "text", "an error as text", "an error as nothing", "no page", "no object"],
)
async def test_a_gateway_that_answers_in_place_of_the_api_server_counts_as_trouble_of_the_api_server(
    troubled: tuple[Troubled, str], instead: tuple[int, str]
) -> None:
    server, url = troubled
    server.instead = instead
    configuration = k8s.Configuration()
    configuration.host = url
    kube = KubeClient(configuration)
    try:
        for call in (
            kube.get(LOGICAL_NODES, "n", "a"),
            kube.list(LOGICAL_NODES),
            kube.delete(LOGICAL_NODES, "n", "a"),
            kube.served(LOGICAL_NODES.group, LOGICAL_NODES.version),
        ):
            with pytest.raises(ClusterError) as raised:
                await call
            assert raised.value.status == (instead[0] if instead[0] >= 400 else 0)
            # What is claimed is still claimed, and nobody may remove the definitions.
            assert not isinstance(raised.value, NotFoundError)
    finally:
        await kube.close()
