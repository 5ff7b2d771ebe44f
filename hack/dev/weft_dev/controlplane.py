"""A real Kubernetes control plane without containers: etcd, API server, controllers and scheduler.

Everything listens on free ports of 127.0.0.1 and writes into one directory. It has a kubeconfig of its own;
KUBECONFIG, ~/.kube and the current context are neither read nor written. It has no nodes: weft_dev.kubelet
plays them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from weft.api.resources import ResourceType
from weft.cluster import ClusterError
from weft_dev import tools
from weft_dev.certificates import Certificates, make_certificates
from weft_dev.kube import Kube
from weft_dev.processes import ProcessError, ProcessGroup, Stoppable, free_ports, log_tail

TOOLS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
SERVICE_RANGE = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
START_SECONDS = 120.0
"""Long enough for two busy cores; when idle a start takes 3 to 8 seconds."""
ATTEMPTS = 3
POLL_SECONDS = 0.05
HTTP_OK = 200
DEFINITIONS = ResourceType(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False
)
AUDIT_LOG = "audit.jsonl"
"""In the control plane's directory, when `start` was asked for it."""


@dataclass(frozen=True)
class ControlPlane(Stoppable):
    """A running control plane."""

    url: str
    """`https://127.0.0.1:<port>`"""
    token: str
    """Bearer token of a member of system:masters."""
    ca_file: Path
    """What the API server's certificate is checked against."""
    kubeconfig: Path
    """With the same identity, for kubectl and for `weft run`."""
    directory: Path
    """Data and logs; removed when the control plane stops, unless the caller of `start` chose it."""
    processes: ProcessGroup = field(repr=False, compare=False)
    apiserver_command: tuple[str, ...] = field(repr=False, compare=False)
    servers: tuple[str, ...] = field(repr=False, compare=False)
    """Names of the servers that run, as `processes` knows them."""

    def client(self) -> Kube:
        """A client with the administrator's rights."""
        return Kube(self.kubeconfig)

    def restart_apiserver(
        self, *, grace_seconds: float = 1.0, timeout_seconds: float = START_SECONDS
    ) -> None:
        """Stop the API server, start it again on the same port, and wait until it is ready."""
        self.stop_apiserver(grace_seconds=grace_seconds)
        self.start_apiserver(timeout_seconds=timeout_seconds)

    def stop_apiserver(self, *, grace_seconds: float = 1.0) -> None:
        """Stop the API server alone; a grace of 0 kills it."""
        self.processes.stop("kube-apiserver", grace_seconds=grace_seconds)

    def start_apiserver(self, *, timeout_seconds: float = START_SECONDS) -> None:
        """Start the API server after `stop_apiserver`, and wait until it is ready."""
        self.processes.start("kube-apiserver", self.apiserver_command, environment=server_environment())
        _wait_ready(self, time.monotonic() + timeout_seconds)


def start(
    directory: Path | None = None,
    *,
    controllers: bool = True,
    scheduler: bool = True,
    audit: bool = False,
    binaries: Mapping[str, Path] | None = None,
    timeout_seconds: float = START_SECONDS,
) -> ControlPlane:
    """Start a control plane and wait until pods can be created in the `default` namespace (or, without the
    controllers, until the API server is ready).

    `directory` is for data and logs and is kept; without it a temporary one is used. `audit` makes the API server note
    every request, but not its body, in AUDIT_LOG, one JSON object a line. `binaries` are the paths of
    TOOLS, found or built by `weft_dev.tools` when they are not given. Raises ProcessError with the end of a log.
    """
    binaries = binaries or tools.provide(TOOLS)
    for attempt in range(1, ATTEMPTS + 1):
        processes = ProcessGroup(directory, prefix="weft-control-plane-")
        try:
            plane = _launch(processes, binaries, controllers=controllers, scheduler=scheduler, audit=audit)
            _wait_ready(plane, time.monotonic() + timeout_seconds)
        except ProcessError as error:
            processes.close()
            # Another process took one of the ports between our look and the server's bind.
            if "address already in use" not in str(error) or attempt == ATTEMPTS:
                raise
        except BaseException:
            processes.close()
            raise
        else:
            return plane
    raise AssertionError("the last attempt returns or raises")


def install_crds(kube: Kube, files: Iterable[Path], *, timeout_seconds: float = 60.0) -> list[str]:
    """Apply CustomResourceDefinitions and wait until their objects can be listed; returns their names."""
    names, paths = [], []
    for file in sorted(files):
        for body in filter(None, yaml.safe_load_all(file.read_text())):
            name = body["metadata"]["name"]
            kube.apply(DEFINITIONS, body)
            names.append(name)
            spec = body["spec"]
            paths += [
                f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}"
                for version in spec["versions"]
                if version["served"]
            ]
    deadline = time.monotonic() + timeout_seconds
    # Established is said some time before: 404, then 429 for as long as the storage is made.
    for path in paths:
        while kube.raw("GET", path, query={"limit": "1"})[0] != HTTP_OK:
            if time.monotonic() > deadline:
                raise ProcessError(f"the API server does not serve {path} after {timeout_seconds:g} s")
            time.sleep(POLL_SECONDS)
    return names


def server_environment() -> dict[str, str]:
    """This process's environment without what would send the servers to another cluster or through a proxy."""
    dropped = {"KUBECONFIG", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in dropped}
    # Two busy cores are shared with the tests: garbage collection at twice the heap costs less than it saves.
    return {**kept, "GOGC": os.environ.get("GOGC", "200")}


def _launch(
    processes: ProcessGroup, binaries: Mapping[str, Path], *, controllers: bool, scheduler: bool, audit: bool
) -> ControlPlane:
    directory = processes.directory
    certificates = make_certificates(directory / "certificates", SERVICE_ADDRESS)
    etcd_port, peer_port, port = free_ports(3)
    token = secrets.token_hex(16)
    token_file = directory / "certificates" / "tokens.csv"
    token_file.touch(mode=0o600)
    token_file.write_text(f'{token},weft-admin,weft-admin,"system:masters"\n')
    url = f"https://127.0.0.1:{port}"
    optional = (("kube-controller-manager", controllers), ("kube-scheduler", scheduler))
    servers = ("etcd", "kube-apiserver", *(name for name, wanted in optional if wanted))
    kubeconfig = directory / "kubeconfig"
    write_kubeconfig(kubeconfig, url, token, certificates.ca)
    apiserver = (
        str(binaries["kube-apiserver"]),
        *_apiserver_flags(port, etcd_port, certificates, token_file),
        *(_audit_flags(directory) if audit else ()),
    )
    plane = ControlPlane(url, token, certificates.ca, kubeconfig, directory, processes, apiserver, servers)

    environment = server_environment()

    def launch(name: str, *flags: str) -> None:
        processes.start(name, [binaries[name], *flags], environment=environment)

    launch("etcd", *_etcd_flags(directory, etcd_port, peer_port))
    processes.start("kube-apiserver", apiserver, environment=environment)
    common = (f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1")
    _wait_listening(plane, time.monotonic() + START_SECONDS)
    if controllers:
        launch(
            "kube-controller-manager",
            *common,
            "--secure-port=0",
            f"--service-account-private-key-file={certificates.service_account_key}",
            f"--root-ca-file={certificates.ca}",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        )
    if scheduler:
        launch("kube-scheduler", *common, "--secure-port=0", "--kube-api-qps=200", "--kube-api-burst=400")
    return plane


def _etcd_flags(directory: Path, port: int, peer_port: int) -> Iterator[str]:
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    yield f"--data-dir={directory / 'etcd'}"
    yield f"--listen-client-urls={client}"
    yield f"--advertise-client-urls={client}"
    yield f"--listen-peer-urls={peer}"
    yield f"--initial-advertise-peer-urls={peer}"
    yield f"--initial-cluster=default={peer}"
    yield "--log-level=warn"
    # The data does not outlive the run, so a crash of the machine can lose nothing.
    yield "--unsafe-no-fsync"


def _apiserver_flags(
    port: int, etcd_port: int, certificates: Certificates, token_file: Path
) -> Iterator[str]:
    yield f"--etcd-servers=http://127.0.0.1:{etcd_port}"
    yield "--bind-address=127.0.0.1"
    yield "--advertise-address=127.0.0.1"
    yield f"--secure-port={port}"
    yield f"--tls-cert-file={certificates.serving_certificate}"
    yield f"--tls-private-key-file={certificates.serving_key}"
    yield f"--token-auth-file={token_file}"
    yield "--authorization-mode=RBAC"
    yield "--service-account-issuer=https://kubernetes.default.svc"
    yield f"--service-account-key-file={certificates.service_account_key}"
    yield f"--service-account-signing-key-file={certificates.service_account_key}"
    yield f"--service-cluster-ip-range={SERVICE_RANGE}"
    # The Service `kubernetes` must not get a loopback address as its endpoint; nothing here uses it.
    yield "--endpoint-reconciler-type=none"
    yield "--allow-privileged=true"


def _audit_flags(directory: Path) -> Iterator[str]:
    policy = directory / "audit-policy.json"
    rule = {"level": "Metadata", "omitStages": ["RequestReceived"]}
    policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [rule]}))
    yield f"--audit-policy-file={policy}"
    yield f"--audit-log-path={directory / AUDIT_LOG}"


def write_kubeconfig(path: Path, url: str, token: str, ca_file: Path) -> None:
    """Write a kubeconfig with one context, readable by its owner only. JSON is YAML, and needs no library.

    The CA is named and not copied: clients that are given its bytes write them into a temporary file, which stays when
    their process is ended.
    """
    path.touch(mode=0o600)
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {"name": "weft", "cluster": {"server": url, "certificate-authority": str(ca_file)}}
                ],
                "users": [{"name": "weft-admin", "user": {"token": token}}],
                "contexts": [{"name": "weft", "context": {"cluster": "weft", "user": "weft-admin"}}],
                "current-context": "weft",
            },
            indent=2,
        )
    )


def _wait_listening(plane: ControlPlane, deadline: float) -> None:
    """Wait until the API server answers at all: the controllers give up when it does not for 10 s."""
    kube = plane.client()
    while True:
        plane.processes.check("etcd", "kube-apiserver")
        with contextlib.suppress(ClusterError):
            kube.raw("GET", "/livez")
            return
        _sleep_before(deadline, plane, "kube-apiserver")


def _wait_ready(plane: ControlPlane, deadline: float) -> None:
    kube = plane.client()
    path = "/api/v1/namespaces/default/serviceaccounts/default"
    controllers = "kube-controller-manager" in plane.servers
    while True:
        plane.processes.check(*plane.servers)
        with contextlib.suppress(ClusterError):
            if kube.raw("GET", "/readyz")[0] == 200 and (not controllers or kube.request("GET", path)):
                return
        _sleep_before(deadline, plane, "kube-apiserver")


def _sleep_before(deadline: float, plane: ControlPlane, name: str) -> None:
    if time.monotonic() > deadline:
        raise ProcessError(f"{name} is not ready in time:\n{log_tail(plane.processes.log(name))}")
    time.sleep(POLL_SECONDS)
