"""What the chart says about permissions, in a control plane without containers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from support.chart import NAMESPACE, of_kind
from weft.api.resources import LEASES, NAMESPACES, ResourceType
from weft_dev import controlplane
from weft_dev.controlplane import ControlPlane

Object = dict[str, Any]

RBAC = "rbac.authorization.k8s.io"
SERVICE_ACCOUNTS = ResourceType("", "v1", "serviceaccounts", "ServiceAccount", True)
ROLE_BINDINGS = ResourceType(RBAC, "v1", "rolebindings", "RoleBinding", True)
APPLIED = (
    SERVICE_ACCOUNTS,
    ResourceType(RBAC, "v1", "clusterroles", "ClusterRole", False),
    ResourceType(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", False),
    ResourceType(RBAC, "v1", "roles", "Role", True),
    ROLE_BINDINGS,
    LEASES,
)
TENANT = "team-a"
"""A namespace beside the release's."""


@contextmanager
def started(
    binaries: dict[str, Path], rendered: list[Object], directory: Path, *, audit: bool = False
) -> Iterator[ControlPlane]:
    """A control plane with the chart's definitions, accounts, roles and Lease; `directory` is for files."""
    with controlplane.start(binaries=binaries, audit=audit) as plane:
        kube = plane.client()
        crds = directory / "crds.yaml"
        crds.write_text(yaml.safe_dump_all(of_kind(rendered, "CustomResourceDefinition")))
        controlplane.install_crds(kube, [crds])
        for name in (NAMESPACE, TENANT):
            kube.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for resource in APPLIED:
            for body in of_kind(rendered, resource.kind):
                kube.apply(resource, body)
        yield plane


def write_account(plane: ControlPlane, account: str, file: Path, namespace: str = NAMESPACE) -> None:
    """Write a kubeconfig with a token of a ServiceAccount, by default of the release, as its pods have it."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600},
    }
    token = plane.client().request("POST", path, request)["status"]["token"]
    controlplane.write_kubeconfig(file, plane.url, token, plane.ca_file)
