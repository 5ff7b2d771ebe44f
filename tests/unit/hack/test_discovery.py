"""Targets for a Prometheus that cannot ask Kubernetes itself."""

from __future__ import annotations

from typing import Any

from weft_dev.discovery import targets


def pod(name: str, **status: str) -> dict[str, Any]:
    return {"metadata": {"namespace": "demo", "name": name}, "status": status}


def test_a_pod_with_an_address_is_one_target_with_its_namespace_and_name() -> None:
    assert targets([pod("llama-0", podIP="127.64.0.2", phase="Running")], 8000) == [
        {"targets": ["127.64.0.2:8000"], "labels": {"namespace": "demo", "pod": "llama-0"}}
    ]


def test_pods_without_an_address_and_those_that_have_ended_are_none() -> None:
    pods = [
        pod("waiting"),
        pod("done", podIP="127.64.0.3", phase="Succeeded"),
        pod("broken", podIP="127.64.0.4", phase="Failed"),
    ]
    assert targets(pods, 8000) == []
