"""The Kubernetes resources that Weft reads or writes, as the API server addresses them."""

from __future__ import annotations

from dataclasses import dataclass

GROUP = "weft.dev"
VERSION = "v1alpha2"


@dataclass(frozen=True)
class ResourceType:
    """One resource of the API: where its objects live and what they are called."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """The `apiVersion` of its objects: `v1` for the core group, else `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of all objects, of a namespace's, or of one object or its subresource."""
        scope = ("namespaces", namespace) if namespace else ()
        parts = ("apis" if self.group else "api", self.api_version, *scope, self.plural, name, subresource)
        return "/" + "/".join(part for part in parts if part)


FABRICS = ResourceType(GROUP, VERSION, "fabrics", "Fabric", False)
GPU_POOLS = ResourceType(GROUP, VERSION, "gpupools", "GPUPool", False)
MEMORY_POOLS = ResourceType(GROUP, VERSION, "memorypools", "MemoryPool", False)
STORAGE_POOLS = ResourceType(GROUP, VERSION, "storagepools", "StoragePool", False)
DEVICE_ATTACHMENTS = ResourceType(GROUP, VERSION, "deviceattachments", "DeviceAttachment", False)
DEVICE_QUOTAS = ResourceType(GROUP, VERSION, "devicequotas", "DeviceQuota", True)
LOGICAL_NODES = ResourceType(GROUP, VERSION, "logicalnodes", "LogicalNode", True)
INFERENCE_GROUPS = ResourceType(GROUP, VERSION, "inferencegroups", "InferenceGroup", True)
INFERENCE_ROLES = ResourceType(GROUP, VERSION, "inferenceroles", "InferenceRole", True)
ENGINE_PROFILES = ResourceType(GROUP, VERSION, "engineprofiles", "EngineProfile", True)

NODES = ResourceType("", "v1", "nodes", "Node", False)
NAMESPACES = ResourceType("", "v1", "namespaces", "Namespace", False)
PODS = ResourceType("", "v1", "pods", "Pod", True)
PRIORITY_CLASSES = ResourceType("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", False)
SECRETS = ResourceType("", "v1", "secrets", "Secret", True)
EVENTS = ResourceType("events.k8s.io", "v1", "events", "Event", True)
LEASES = ResourceType("coordination.k8s.io", "v1", "leases", "Lease", True)

POOLS = (GPU_POOLS, MEMORY_POOLS, STORAGE_POOLS)
"""The three pool resources, in the order in which requests name them."""

SCALE = "scale"
"""The subresource that says how many replicas a workload has, and is to have."""
