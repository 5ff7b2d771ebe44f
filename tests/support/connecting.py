"""The operator's client of a control plane that a test started."""

from __future__ import annotations

from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config

from weft.runtime.client import KubeClient
from weft_dev.controlplane import ControlPlane


async def kube_client(plane: ControlPlane) -> KubeClient:
    """With the administrator's rights, whatever KUBECONFIG says; to be closed."""
    configuration = k8s.Configuration()
    await k8s_config.load_kube_config(config_file=str(plane.kubeconfig), client_configuration=configuration)
    configuration.retries = None
    return KubeClient(configuration)
