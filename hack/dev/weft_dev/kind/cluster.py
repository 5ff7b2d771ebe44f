"""The cluster itself: made once, found again, mended when it was stopped, made anew when that does not help."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from weft_dev import containers, tools
from weft_dev.commands import CommandError, Kubectl
from weft_dev.containers import ContainerError, docker
from weft_dev.kind import configuration, health, loading, nodes
from weft_dev.tools.cache import cache_directory
from weft_dev.tools.progress import progress
from weft_dev.tools.progress import say as say_on_stderr
from weft_offline import node_image

Say = Callable[[str], None]
COMMAND_SECONDS = 60.0
CREATE_SECONDS = 600.0
MEND_SECONDS = 75.0
POLL_SECONDS = 0.5
IMAGES = ("weft-node", "weft-node-os", "weft-demo", "weft-prometheus", "weft-base", "weft-build")
"""Repositories of the images that Weft makes; of `weft` it makes `weft:dev` only."""
TEST_LABEL = "label=dev.weft.part=test"
"""Of containers that tests start beside the cluster."""


@dataclass(frozen=True)
class KindCluster:
    """A cluster that runs."""

    kubeconfig: Path
    """An administrator's; nothing else reads or writes it."""
    kubectl: Path

    def addresses(self) -> dict[str, str]:
        """The InternalIP of each node by name."""
        return {node.name: node.address for node in nodes.find()}

    def load(self, *images: str) -> list[str]:
        """Bring images from the engine to all nodes, but for those that are there; returns what was loaded.

        Raises ContainerError.
        """
        with _locked():
            return loading.load(images, [node.name for node in nodes.find()])

    def run(self, *arguments: str, timeout_seconds: float = COMMAND_SECONDS) -> str:
        """Run kubectl and return what it printed. Raises ContainerError with what it says."""
        try:
            return Kubectl(self.kubectl, self.kubeconfig)(*arguments, timeout_seconds=timeout_seconds)
        except CommandError as error:
            raise ContainerError(str(error)) from error


def up(say: Say = say_on_stderr) -> KindCluster:
    """Return the running cluster, after starting, mending or making it. Raises ContainerError, ToolError.

    An existing healthy cluster is returned as it is, with all that is in it.
    """
    containers.engine()
    with _locked() as lock:
        binaries = tools.provide(("kind", "kubectl"))
        cluster = KindCluster(_folder() / "kubeconfig", binaries["kubectl"])
        if found := nodes.find():
            _check_ours(found)
        image = node_image.ensure(say)
        if found:
            reason = _why_unfit(found, image) or _mend(cluster, binaries["kind"], found, image, say)
            if not reason:
                return cluster
            say(f"making the cluster anew: {reason}")
            _delete(binaries["kind"])
            node_image.prune()
        _create(cluster, binaries["kind"], image, lock)
        return cluster


def down(say: Say = say_on_stderr, *, keep_images: bool = False, keep_engine: bool = False) -> None:
    """Remove the cluster and, unless they are kept, Weft's images; end the engine if it was started by Weft.

    Raises ContainerError, also for a cluster of this name that Weft did not make.
    """
    with _locked():
        if containers.running():
            if found := nodes.find():
                _check_ours(found)
                _delete(tools.provide(("kind",))["kind"])
                say("removed the cluster weft")
            # Those of tests that were killed.
            if left := docker("ps", "--all", "--quiet", "--filter", TEST_LABEL).split():
                docker("rm", "--force", *left)
            _remove_network()
            _begun().unlink(missing_ok=True)
            if not keep_images:
                _remove_images(say)
            if not keep_engine:
                _stop_engine(say)
        else:
            say("no container engine runs; a cluster that stopped with one is removed after: make kind-up")
        (_folder() / "kubeconfig").unlink(missing_ok=True)


def status() -> list[str]:
    """Lines that say what there is."""
    if not containers.running():
        return ["container engine: none runs"]
    ours = containers.started_here()
    lines = [f"container engine: runs{f', started by Weft as process {ours}' if ours else ''}"]
    found = nodes.find()
    lines += [
        f"{node.name}: {f'runs at {node.address}' if node.running else 'does not run'}" for node in found
    ] or ["cluster: none"]
    if found:
        lines.append(f"kubeconfig: {_folder() / 'kubeconfig'}")
    return lines


def _begun() -> Path:
    """A file that is there from before a cluster is made until it is complete, and marked in its nodes."""
    return _folder() / "begun"


def _check_ours(found: list[nodes.Node]) -> None:
    """Raise ContainerError for a cluster that somebody else made under the same name."""
    if _begun().exists() or any(node.own_image or nodes.marked_address(node) is not None for node in found):
        return
    raise ContainerError(
        f"there is a kind cluster {configuration.CLUSTER} that Weft did not make; if nobody needs it: "
        f"kind delete cluster --name {configuration.CLUSTER}"
    )


def _remove_network() -> None:
    # Other kind clusters are in it too, and those that are stopped could not be started without it.
    if not docker("ps", "--all", "--quiet", "--filter", "network=kind").strip():
        with contextlib.suppress(ContainerError):  # There is none, or something else uses it.
            docker("network", "rm", "kind")


def _why_unfit(found: list[nodes.Node], image: str) -> str:
    """Why these nodes cannot be the cluster that is wanted; empty when they can."""
    names = tuple(node.name for node in found)
    if names != configuration.NODES:
        return f"it has the nodes {', '.join(names)}"
    if any(nodes.marked_address(node) is None for node in found):
        return "it was never completed"
    wanted = docker("image", "inspect", "--format", "{{.Id}}", image).strip()
    if any(node.image_id != wanted for node in found):
        return "the node image has changed"
    return ""


def _mend(cluster: KindCluster, kind: Path, found: list[nodes.Node], image: str, say: Say) -> str:
    """Start what does not run and wait until all is well; returns why that did not help, or nothing."""
    addresses = {node.name: nodes.marked_address(node) or "" for node in found}
    # Addresses are given out in the order of starting, and the control plane is bound to its own.
    for node in sorted((node for node in found if not node.running), key=lambda node: addresses[node.name]):
        say(f"starting {node.name}, which did not run")
        with contextlib.suppress(ContainerError):
            docker("unpause", node.name)
        docker("start", node.name)
    current = nodes.find()
    for node in current:
        if node.address != addresses[node.name]:
            return f"{node.name} has got another address"
    _guard(image, current)
    if not cluster.kubeconfig.exists():
        # Another cache folder than the one that it was made with.
        _kind(kind, "export", "kubeconfig", timeout_seconds=COMMAND_SECONDS)
    if not _trouble(cluster, current):
        return ""
    with progress("waiting for the nodes of the cluster", 25):
        deadline = time.monotonic() + MEND_SECONDS
        while trouble := _trouble(cluster, current):
            if time.monotonic() > deadline:
                return trouble
            time.sleep(POLL_SECONDS)
    return ""


def _guard(image: str, found: list[nodes.Node]) -> None:
    # A node of our own image has this from its entrypoint.
    if image == configuration.OFFICIAL_IMAGE:
        nodes.guard(found)


def _trouble(cluster: KindCluster, found: list[nodes.Node]) -> str:
    """What is wrong with the running cluster; empty when nothing is."""
    started = {node.name: node.started for node in found}
    try:
        leases = _items(cluster, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")
        pods = _items(cluster, "/api/v1/namespaces/kube-system/pods")
    except ContainerError as error:
        return str(error)
    return health.unrenewed(leases, started, datetime.now(UTC)) or health.unready(pods, started)


def _items(cluster: KindCluster, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(cluster.run("get", "--raw", path))["items"]
    return items


def _create(cluster: KindCluster, kind: Path, image: str, lock: int) -> None:
    with progress("making a kind cluster of three nodes", 45):
        wanted = _folder() / "cluster.json"
        wanted.write_text(configuration.configuration(image))
        _begun().touch()
        _kind(
            *(kind, "create", "cluster", f"--config={wanted}"),
            timeout_seconds=CREATE_SECONDS,
            # If this process is killed, kind goes on, and whoever comes next waits for it.
            lock=lock,
        )
        # One is enough here, and both run on the control plane.
        cluster.run("--namespace=kube-system", "scale", "deployment/coredns", "--replicas=1")
        made = nodes.find()
        _guard(image, made)
        deadline = time.monotonic() + CREATE_SECONDS
        while trouble := _trouble(cluster, made):
            if time.monotonic() > deadline:
                raise ContainerError(f"the new cluster does not get ready: {trouble}")
            time.sleep(POLL_SECONDS)
        nodes.mark(made)
        _begun().unlink()


def _delete(kind: Path) -> None:
    with progress("removing the cluster", 10):
        _kind(kind, "delete", "cluster", timeout_seconds=CREATE_SECONDS)


def _kind(kind: Path, *arguments: str, timeout_seconds: float, lock: int | None = None) -> None:
    """Run kind on the cluster. Raises ContainerError with the end of what it said."""
    # Without a name kind takes that of KIND_CLUSTER_NAME or "kind", which is a cluster of the user's.
    which = (f"--name={configuration.CLUSTER}", f"--kubeconfig={_folder() / 'kubeconfig'}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KIND_")}
    # Left by a kind that was killed: whoever works on this kubeconfig holds the lock of this module.
    (_folder() / "kubeconfig.lock").unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [kind, *arguments, *which],
            env={**environment, "KIND_EXPERIMENTAL_PROVIDER": "docker"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_seconds,
            pass_fds=() if lock is None else (lock,),
        )
    except subprocess.TimeoutExpired as error:
        raise ContainerError(f"kind {arguments[0]} did not end in {timeout_seconds:.0f} s") from error
    if done.returncode != 0:
        raise ContainerError(f"kind {arguments[0]}: {done.stdout.decode(errors='replace').strip()[-3000:]}")


def _remove_images(say: Say) -> None:
    listed = docker("image", "list", "--format", "{{.Repository}} {{.Tag}}").splitlines()
    ours = [
        f"{repository}:{tag}"
        for repository, tag in (line.split() for line in listed)
        if tag != "<none>" and (repository in IMAGES or (repository, tag) == ("weft", "dev"))
    ]
    if node_image.image_label(configuration.OFFICIAL_IMAGE, "") is not None:
        ours.append(configuration.OFFICIAL_IMAGE)
    removed = []
    for name in ours:
        try:
            # Not by force: that takes an image from under a container of the user's that does not run.
            docker("rmi", name)
            removed.append(name)
        except ContainerError as error:
            say(f"{name} stays: {error}")
    node_image.prune()
    if removed:
        say(f"removed the images {', '.join(removed)}")


def _stop_engine(say: Say) -> None:
    if containers.started_here() is None:
        return
    if docker("ps", "--quiet").strip():
        say("the container engine goes on, because other containers run: docker ps")
    else:
        containers.stop()
        say("stopped the container engine, which Weft had started")


def _folder() -> Path:
    return cache_directory() / "kind"


@contextlib.contextmanager
def _locked() -> Iterator[int]:
    """One process at a time makes, mends or removes the cluster; yields the descriptor of the lock."""
    _folder().mkdir(parents=True, exist_ok=True)
    with (_folder() / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress("waiting for another process that works on the cluster"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()
