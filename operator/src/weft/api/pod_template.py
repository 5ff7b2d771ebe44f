"""The pod template that a group's replicas are made from, and the labels that a role lays over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_POD_PART: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

POD_TEMPLATE: dict[str, Any] = {
    "type": "object",
    "x-kubernetes-preserve-unknown-fields": True,
    "maxProperties": 8,
    "required": ["spec"],
    "properties": {
        "metadata": {**_POD_PART, "maxProperties": 16, "description": "Labels and annotations of the pods."},
        "spec": {
            **_POD_PART,
            "maxProperties": 64,
            "description": "Spec of the pods, as in any Kubernetes workload.",
        },
    },
}
"""Schema of a pod template. What is inside is the API server's to judge, by a dry-run of a Pod."""


def labelled(template: dict[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """The template with these labels laid over its own. The argument stays as it is."""
    if not labels:
        return template
    metadata = template.get("metadata") or {}
    return {**template, "metadata": {**metadata, "labels": {**(metadata.get("labels") or {}), **labels}}}
