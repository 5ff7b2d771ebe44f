from __future__ import annotations

from typing import Any

import pytest

from weft.api.resources import DEVICE_ATTACHMENTS, FABRICS, LOGICAL_NODES, ResourceType
from weft.cli.main import main
from weft.cluster import ClusterError, UnknownAddressError
from weft.runtime import checks
from weft.runtime.checks import SHOWN, refusal


def test_a_refusal_names_what_to_delete_in_its_order_and_how_to_stay() -> None:
    text = refusal(
        {LOGICAL_NODES: ["a/one"], DEVICE_ATTACHMENTS: ["rack.gpu-0"], FABRICS: ["rack"]},
        "helm rollback weft 2 -n weft-system",
    )
    lines = text.splitlines()
    assert "  logicalnodes: a/one" in lines
    assert [line for line in lines if line.startswith("  kubectl")] == [
        "  kubectl delete logicalnodes.weft.dev --all -A",
        "  kubectl delete fabrics.weft.dev --all",
    ]
    assert "  helm rollback weft 2 -n weft-system" in lines


def test_a_refusal_counts_what_it_does_not_name() -> None:
    names = [f"a/{number:02}" for number in range(SHOWN + 3)]
    text = refusal({LOGICAL_NODES: names})
    assert f"{names[SHOWN - 1]}, and 3 more" in text
    assert names[SHOWN] not in text


class _Sulking:
    """A client of an API server that refuses the first requests and then answers."""

    def __init__(self, *refusals: ClusterError) -> None:
        self._refusals = list(refusals)
        self._renewals = 0

    def _maybe(self) -> None:
        if self._refusals:
            raise self._refusals.pop(0)

    async def list(self, _: ResourceType) -> tuple[list[dict[str, Any]], int]:
        self._maybe()
        return [], 1

    async def get(self, *_: Any) -> dict[str, Any]:
        self._maybe()
        self._renewals += 1
        return {"spec": {"holderIdentity": "weft-0", "renewTime": str(self._renewals)}}

    async def served(self, *_: Any) -> set[str]:
        return {resource.plural for resource in checks.OWN}

    async def close(self) -> None:
        return


NO_ANSWER, BUSY = ClusterError(0, "NoAnswer", "timeout"), ClusterError(503, "Unavailable", "starting")
FORBIDDEN = ClusterError(403, "Forbidden", "the account may not list")


def met(monkeypatch: pytest.MonkeyPatch, client: _Sulking) -> None:
    """Let the checks meet this client, without pauses."""

    async def nothing(*_: Any) -> str:
        return ""

    monkeypatch.setattr(checks, "load_configuration", nothing)
    monkeypatch.setattr(checks, "_ready", nothing)
    monkeypatch.setattr(checks, "KubeClient", lambda *_: client)
    monkeypatch.setattr(checks, "POLL_SECONDS", 0.0)


async def test_an_api_server_that_restarts_refuses_no_uninstallation(monkeypatch: pytest.MonkeyPatch) -> None:
    met(monkeypatch, _Sulking(NO_ANSWER, BUSY))
    assert await checks.removable() == ""


async def test_definitions_behind_a_gateway_that_finds_nothing_are_not_said_to_be_removable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "PATIENCE_SECONDS", 0.0)
    met(monkeypatch, _Sulking(UnknownAddressError(404, "", "404 page not found")))
    with pytest.raises(ClusterError, match="page not found"):
        await checks.removable()


async def test_an_api_server_that_restarts_fails_no_helm_test(monkeypatch: pytest.MonkeyPatch) -> None:
    met(monkeypatch, _Sulking(NO_ANSWER, BUSY))
    assert await checks.installed("http://weft:8080", "weft-system", 30.0) == ""


async def test_a_lease_that_may_not_be_read_is_said_to_be_the_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    met(monkeypatch, _Sulking(*[FORBIDDEN] * 3))
    assert "the account may not list" in await checks.installed("http://weft:8080", "weft-system", 0.0)


def test_a_check_that_got_no_answer_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    met(monkeypatch, _Sulking(FORBIDDEN))
    assert main(["check", "removable", "--undo=helm rollback weft 1"]) == 1
    said = capsys.readouterr().err
    assert "the account may not list" in said
    assert "helm uninstall --no-hooks" in said
    assert "\n  helm rollback weft 1\n" in said
