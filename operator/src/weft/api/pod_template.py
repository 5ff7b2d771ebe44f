"""The pod template that a group's replicas are made from, and the labels that a role lays over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_POD_PART: dict[str, Any] = {
    "type": "object",
    "x-kubernetes-preserve-unknown-fields": True,
    "maxProperties": 64,
}


def _part(description: str, **properties: Any) -> dict[str, Any]:
    return {**_POD_PART, "description": description, "properties": properties}


def _parts(description: str, of: dict[str, Any] = _POD_PART) -> dict[str, Any]:
    kept = {"x-kubernetes-list-type": "atomic", "maxItems": 256}
    return {"type": "array", **kept, "description": description, "items": of}


def _texts(description: str) -> dict[str, Any]:
    value = {"type": "string", "maxLength": 262_144}
    return {
        "type": "object",
        "maxProperties": 256,
        "description": description,
        "additionalProperties": value,
    }


_TERM = _part("Alternative.", matchFields=_parts("What fields of the Node must be."))
_AFFINITY = _part(
    "Where the pods go.",
    nodeAffinity=_part(
        "Which Nodes come into question.",
        requiredDuringSchedulingIgnoredDuringExecution=_part(
            "What a Node must have.", nodeSelectorTerms=_parts("Alternatives.", _TERM)
        ),
    ),
)

POD_TEMPLATE: dict[str, Any] = {
    "type": "object",
    "x-kubernetes-preserve-unknown-fields": True,
    "maxProperties": 8,
    "required": ["spec"],
    "properties": {
        "metadata": {
            **_part(
                "Labels and annotations of the pods.",
                labels=_texts("Labels."),
                annotations=_texts("Annotations."),
            ),
            "maxProperties": 16,
        },
        "spec": _part(
            "Spec of the pods, as in any Kubernetes workload.",
            readinessGates=_parts("Conditions that a pod needs to be ready; Weft adds its own."),
            tolerations=_parts("Taints that the pods tolerate; Weft adds its own."),
            affinity=_AFFINITY,
        ),
    },
}
"""Schema of a pod template. What is inside is the API server's to judge, by a dry-run of a Pod; only where Weft itself
lays something over it the form is prescribed."""


def labelled(template: dict[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """The template with these labels laid over its own. The argument stays as it is."""
    if not labels:
        return template
    metadata = template.get("metadata") or {}
    return {**template, "metadata": {**metadata, "labels": {**(metadata.get("labels") or {}), **labels}}}
