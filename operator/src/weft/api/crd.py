"""The CustomResourceDefinitions, generated from the models.

`weft crds --output DIR` and `python -m weft.api.crd DIR` write them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from weft.api import resources
from weft.api.attachment import DeviceAttachment
from weft.api.device_quota import DeviceQuota
from weft.api.engine_profile import EngineProfile
from weft.api.fabric import Fabric
from weft.api.inference import InferenceGroup
from weft.api.inference_role import InferenceRole
from weft.api.logical_node import LogicalNode
from weft.api.meta import Resource
from weft.api.pools import GPUPool, MemoryPool, StoragePool
from weft.api.resources import ResourceType
from weft.api.structural import structural_schema

_HEADER = "# Generated from the models in weft.api by `make generate`. Changes made here are lost.\n"
EVERY_CATEGORY, TENANTS_CATEGORY = "weft-all", "weft"
"""What `kubectl get` takes for all kinds, and for those that are in a namespace, which a tenant may list."""


@dataclass(frozen=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    json_path: str
    description: str
    type: str = "string"
    wide: bool = False
    """Shown with `-o wide` only."""

    def entry(self) -> dict[str, Any]:
        """The column as it stands in the CRD."""
        entry: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "description": self.description,
            "jsonPath": self.json_path,
        }
        return entry | ({"priority": 1} if self.wide else {})


@dataclass(frozen=True)
class Definition:
    """One kind: its model and what the API server is told beside the schema."""

    model: type[Resource]
    resource: ResourceType
    short_names: tuple[str, ...]
    columns: tuple[Column, ...]
    scale: bool = False


class _WithoutAliases(yaml.SafeDumper):
    """Writes out what occurs twice: anchors are legal in a manifest, and nobody expects them there."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _status_of(condition: str, column: str = "") -> Column:
    return Column(
        column or condition, _in_condition(condition, "status"), f"Whether the condition {condition} is true."
    )


def _why(condition: str) -> tuple[Column, Column]:
    return (
        Column("Reason", _in_condition(condition, "reason"), f"Why {condition} is what it is."),
        Column("Message", _in_condition(condition, "message"), f"Why {condition} is what it is.", wide=True),
    )


def _in_condition(condition: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{condition}")].{field}'


_AGE = Column("Age", ".metadata.creationTimestamp", "Time since it was created.", type="date")
_SUSPENDED = Column("Suspended", ".spec.suspend", "Whether it takes nothing new.", type="boolean")
_POOL_COLUMNS = (
    Column("Fabric", ".spec.fabricRef.name", "Fabric of the devices."),
    *(
        Column(name.capitalize(), f".status.devices.{name}", f"Devices: {name}.", "integer")
        for name in ("total", "free", "bound", "reserved", "quarantined", "unavailable")
    ),
    _status_of("Ready"),
    *_why("Ready"),
    _AGE,
)

DEFINITIONS = (
    Definition(
        Fabric,
        resources.FABRICS,
        ("fab",),
        (
            Column("Mode", ".spec.mode", "Whether Weft may change the fabric."),
            _SUSPENDED,
            _status_of("Connected"),
            Column("Devices", ".status.devices", "Devices at the manager.", "integer"),
            Column("Hosts", ".status.hosts", "Hosts at the manager.", "integer"),
            Column("Nodes", ".status.nodes", "Hosts whose Node is known.", "integer"),
            *_why("Connected"),
            Column(
                "Not used", ".status.notUsed", "What the manager reports and Weft does not use.", wide=True
            ),
            Column("Writes", ".status.writes", "How the manager takes changes.", wide=True),
            Column("Endpoint", ".spec.endpoint", "Base URL of the manager.", wide=True),
            _AGE,
        ),
    ),
    Definition(GPUPool, resources.GPU_POOLS, ("gpup",), _POOL_COLUMNS),
    Definition(MemoryPool, resources.MEMORY_POOLS, ("memp",), _POOL_COLUMNS),
    Definition(StoragePool, resources.STORAGE_POOLS, ("stop",), _POOL_COLUMNS),
    Definition(
        DeviceAttachment,
        resources.DEVICE_ATTACHMENTS,
        ("devatt",),
        (
            Column("Host", ".spec.host", "Host that the device is claimed for."),
            _status_of("Quarantined"),
            Column("Namespace", ".spec.claimRef.namespace", "Namespace of the object it is claimed for."),
            Column("Claimed by", ".spec.claimRef.name", "Name of the object it is claimed for."),
            Column("Pool", ".spec.poolRef.name", "Pool that offered the device.", wide=True),
            Column("Message", _in_condition("Quarantined", "message"), "Why it is quarantined.", wide=True),
            _AGE,
        ),
    ),
    Definition(
        DeviceQuota,
        resources.DEVICE_QUOTAS,
        ("devq",),
        (
            _status_of("WithinLimits", "Within limits"),
            _status_of("PoolsFound", "Pools found"),
            *_why("WithinLimits"),
            _AGE,
        ),
    ),
    Definition(
        LogicalNode,
        resources.LOGICAL_NODES,
        ("lnode",),
        (
            _status_of("Bound"),
            Column("Node", ".status.nodeName", "Node that the devices are attached to."),
            Column("Devices", ".status.deviceCount", "Devices that are attached.", "integer"),
            Column("Place", ".status.queuePlace", "Its place in the queue."),
            _why("Bound")[0],
            _status_of("Ready"),
            # Where it is not bound, the same as of Bound; where it is, what is wrong with it.
            _why("Ready")[1],
            _AGE,
        ),
    ),
    Definition(
        EngineProfile,
        resources.ENGINE_PROFILES,
        ("engp",),
        (
            Column(
                "KV tokens", ".spec.kvCapacityTokens", "Tokens whose KV cache a replica holds.", "integer"
            ),
            Column("Max batch", ".spec.maxBatch", "Most requests that decode at the same time.", "integer"),
            _AGE,
        ),
    ),
    Definition(
        InferenceGroup,
        resources.INFERENCE_GROUPS,
        ("infg",),
        (
            Column("Model", ".spec.metrics.models[0]", "First of the names that its requests come under."),
            Column("Split", ".status.split", "Replicas that each role is to have."),
            Column("Desired", ".status.desiredReplicas", "Replicas that all roles are to have.", "integer"),
            Column(
                "Updated", ".status.updatedReplicas", "Replicas of the present template.", "integer", True
            ),
            Column("Serving", ".status.readyReplicas", "Replicas that take requests.", "integer"),
            _status_of("Ready"),
            *_why("Ready"),
            _status_of("ObjectivesMet", "Objectives met"),
            Column("Balance", _in_condition("Balanced", "reason"), "Why Balanced is what it is."),
            Column("Metrics", _in_condition("MetricsFresh", "reason"), "Why MetricsFresh is what it is."),
            Column("Mode", ".spec.rebalance.mode", "Who decides the split.", wide=True),
            _SUSPENDED,
            Column("Maximum", ".spec.accelerators.maximum", "Accelerators it may hold.", "integer", True),
            Column("Decision", ".status.decision.reason", "Why the split is what it is.", wide=True),
            _AGE,
        ),
    ),
    Definition(
        InferenceRole,
        resources.INFERENCE_ROLES,
        ("infr",),
        (
            Column("Group", ".spec.groupRef.name", "Group that the role belongs to."),
            Column("Stage", ".spec.stage", "What the role does."),
            Column("Desired", ".status.desiredReplicas", "Replicas it is to have.", "integer"),
            Column("Replicas", ".status.replicas", "Replicas that have a pod.", "integer"),
            Column("Updated", ".status.updatedReplicas", "Replicas of the present template.", "integer"),
            Column("Serving", ".status.readyReplicas", "Replicas that take requests.", "integer"),
            _status_of("Ready"),
            *_why("Ready"),
            _AGE,
        ),
        scale=True,
    ),
)
"""All kinds, in the order in which they depend on each other."""


def manifests() -> dict[str, str]:
    """All CRDs: file name -> YAML. The same text for the same models, always.

    Raises weft.api.structural.SchemaError when a model is not fit for a CRD.
    """
    return {
        f"{resources.GROUP}_{definition.resource.plural}.yaml": _HEADER
        + yaml.dump(_manifest(definition), Dumper=_WithoutAliases, sort_keys=False, width=110)
        for definition in DEFINITIONS
    }


def write(directory: Path) -> tuple[Path, ...]:
    """Write all CRDs into `directory`, making it if need be, and return the files. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in manifests().items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return tuple(written)


def _manifest(definition: Definition) -> dict[str, Any]:
    resource = definition.resource
    schema = structural_schema(definition.model)
    subresources: dict[str, Any] = {"status": {}} if "status" in schema["properties"] else {}
    if definition.scale:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": list(definition.short_names),
                "categories": [*((TENANTS_CATEGORY,) if resource.namespaced else ()), EVERY_CATEGORY],
            },
            "versions": [
                {
                    "name": resource.version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": subresources,
                    "additionalPrinterColumns": [column.entry() for column in definition.columns],
                }
            ],
        },
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m weft.api.crd DIRECTORY")
    write(Path(sys.argv[1]))
