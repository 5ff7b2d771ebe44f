"""A kind cluster with Weft's images, and what the demo and the end-to-end tests have in it: chart, Prometheus, routers.

All of it out of docs/examples/kind, as docs/install.md has a user apply it. `python -m weft_dev.kind_site` (`make
kind-up`) makes the cluster and says how to go on.
"""

from __future__ import annotations

import contextlib
import fcntl
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from weft.api.resources import ResourceType
from weft.cluster import NotFoundError, Object
from weft.emulator import journal
from weft.runtime.checks import OWN
from weft_dev import ROOT, containers, images, tools
from weft_dev.commands import CommandError, Kubectl, Release
from weft_dev.containers import ContainerError
from weft_dev.images import Images
from weft_dev.kind import cluster, configuration
from weft_dev.kind.cluster import KindCluster
from weft_dev.kube import Kube
from weft_dev.tools.cache import cache_directory
from weft_dev.tools.progress import say

EXAMPLES = ROOT / "docs" / "examples"
VALUES = EXAMPLES / "kind" / "values.yaml"
PROMETHEUS = EXAMPLES / "kind" / "10-prometheus.yaml"
ROUTER = EXAMPLES / "kind" / "30-router.yaml"
EMULATORS = ("emulator", "emulator-memory")
DELETION_SECONDS = 40.0
SERVICES = ResourceType("", "v1", "services", "Service", True)


@dataclass(frozen=True)
class KindSite:
    """A kind cluster that has Weft's images, and the commands to use it with."""

    cluster: KindCluster
    images: Images
    kube: Kube
    kubectl: Kubectl
    release: Release

    def install(self, *options: str) -> str:
        """The chart with docs/examples/kind/values.yaml; further options are helm's."""
        return self.release.install(f"--values={VALUES}", *options)

    def start_prometheus(self) -> None:
        self.kubectl("apply", "--server-side", "-f", str(PROMETHEUS))

    def start_router(self, namespace: str, group: str) -> None:
        """A router for a group, in its namespace."""
        self.kubectl.apply(router_objects(namespace, group))

    def front(self, namespace: str) -> str:
        """URL of a namespace's router: its Service, by the port that it has on every node."""
        service = self.kube.get(SERVICES, "router", namespace)
        assert service is not None
        address = self.cluster.addresses()[configuration.NODES[0]]
        return f"http://{address}:{service['spec']['ports'][0]['nodePort']}"

    def wait_for_rollouts(self, *namespaces: str) -> None:
        """Until every Deployment of these namespaces is available. Raises CommandError."""
        for namespace in namespaces:
            options = ("--for=condition=Available", "deployment", "--all", "--timeout=120s")
            self.kubectl("-n", namespace, "wait", *options)

    def journal_lines(self) -> list[str]:
        """The journals of both fabrics as one, out of the emulators' pods."""
        read = ("cat", "/var/lib/weft-emulator/journal.jsonl")
        pods = (f"deploy/{self.release.name}-{name}" for name in EMULATORS)
        return journal.joined(
            self.kubectl("-n", self.release.namespace, "exec", pod, "--", *read).splitlines() for pod in pods
        )

    def collect(self, folder: Path) -> None:
        """What it takes to find out what went wrong: objects, events, logs and the fabrics' journal, as files."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            crds = [name.partition("/")[2] for name in self._crds()]
        except CommandError:
            # Without an API server the nodes' journals are what there is.
            crds = []
        everything = ",".join(("nodes,pods,deployments,services,leases,configmaps", *crds))
        listings = {
            "summary.txt": ("get", everything, "-A", "-o", "wide"),
            "objects.yaml": ("get", everything, "-A", "-o", "yaml"),
            "events.txt": ("get", "events", "-A", "--sort-by=.lastTimestamp"),
            "describe-pods.txt": ("describe", "pods", "-A"),
        }
        for name, arguments in listings.items():
            (folder / name).write_text(self._or_error(*arguments))
        for line in self._or_error(
            *("get", "pods", "-A", "--no-headers", "-o", "custom-columns=:metadata.namespace,:metadata.name")
        ).splitlines():
            namespace, _, pod = line.strip().partition(" ")
            logs = ("-n", namespace, "logs", pod.strip(), "--all-containers", "--tail=5000")
            text = self._or_error(*logs) + self._or_error(*logs, "--previous")
            (folder / f"{namespace}.{pod.strip()}.log").write_text(text)
        for node in configuration.NODES:
            (folder / f"{node}.journal.txt").write_text(_journal(node))
        try:
            (folder / "fabric-journal.jsonl").write_text("\n".join(self.journal_lines()))
        except (CommandError, ValueError) as error:
            (folder / "fabric-journal.jsonl").write_text(str(error))

    def _or_error(self, *arguments: str) -> str:
        try:
            return self.kubectl(*arguments)
        except CommandError as error:
            return f"{error}\n"

    def clean(self, *namespaces: str) -> None:
        """Remove all of Weft's, and these namespaces; for a cluster in any state, that of a killed run included."""
        if self._crds():
            self._delete_objects()
        # The chart's check before uninstalling would ask what has just been seen to, in a pod that may not start.
        self.release.uninstall("--no-hooks")
        if crds := self._crds():
            self.kubectl("delete", *crds)
        gone = ("--ignore-not-found", "--wait=true", "--timeout=120s")
        self.kubectl("delete", "namespace", self.release.namespace, *namespaces, *gone)
        cluster_wide = ("delete", "clusterrole,clusterrolebinding")
        self.kubectl(*cluster_wide, "weft-example-prometheus", *gone)
        # Of a release that helm knows no more, since its namespace was deleted before it.
        self.kubectl(*cluster_wide, "--selector=app.kubernetes.io/name=weft", *gone)

    def _crds(self) -> list[str]:
        names = self.kubectl("get", "crd", "-o", "name").split()
        return [name for name in names if name.endswith(".weft.dev")]

    def _delete_objects(self) -> None:
        """With the operator, if it runs; without it, whatever holds them back is taken off: no hardware is here."""
        for kind in OWN:
            for each in self._all(kind):
                self.kube.delete(kind, each["metadata"]["name"], each["metadata"].get("namespace", ""))
        deadline = time.monotonic() + DELETION_SECONDS
        while any(self._all(kind) for kind in OWN) and time.monotonic() < deadline:
            time.sleep(0.5)
        for kind in OWN:
            for each in self._all(kind):
                name, namespace = each["metadata"]["name"], each["metadata"].get("namespace", "")
                with contextlib.suppress(NotFoundError):  # Gone by itself in the meantime.
                    self.kube.patch(kind, name, {"metadata": {"finalizers": None}}, namespace)

    def _all(self, kind: ResourceType) -> list[Object]:
        try:
            return self.kube.list(kind)
        except NotFoundError:
            return []


@contextlib.contextmanager
def reserved(*, shared: bool = False) -> Iterator[None]:
    """While this lasts, nobody else changes the cluster: neither takes everything out of it nor puts other images in.

    `shared` is for who only brings this clone's images, which several may do at once. Raises ContainerError where
    somebody else has the cluster. The kernel ends it with the process.
    """
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    folder = cache_directory() / "kind"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "use.lock").open("a") as lock:
        try:
            fcntl.flock(lock, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ContainerError(
                "make kind-up, test-e2e or demo-kind has the cluster already: let it end first"
            ) from None
        yield


def prepare(tell: Callable[[str], None]) -> KindSite:
    """The cluster, up and with this clone's images. Raises what tools, containers, images and the cluster raise."""
    # What a node image is made of is provided where one has to be made: most machines can pull one.
    binaries = tools.provide(("kind", "kubectl", "helm"))
    if not containers.running() and not containers.obstacle():
        tell("starting dockerd, which does not run here; make kind-down ends it")
    containers.engine()
    built = images.build(tell)
    made = cluster.up(tell)
    made.load(built.operator, built.demo, built.prometheus)
    return KindSite(
        made,
        built,
        Kube(made.kubeconfig),
        Kubectl(binaries["kubectl"], made.kubeconfig),
        Release(binaries["helm"], made.kubeconfig),
    )


def router_objects(namespace: str, group: str) -> Sequence[Object]:
    """The example's router, for another namespace and group."""
    text = ROUTER.read_text().replace("demo/llama-70b=", f"{namespace}/{group}=")
    objects = list(yaml.safe_load_all(text))
    for each in objects:
        each["metadata"]["namespace"] = namespace
        for subject in each.get("subjects", ()):
            subject["namespace"] = namespace
    return objects


def _journal(node: str) -> str:
    """The end of what containerd, the kubelet and systemd said on a node."""
    try:
        return containers.docker("exec", node, "journalctl", "--no-pager", "--lines=2000", timeout_seconds=30)
    except ContainerError as error:
        return f"{error}\n"


def next_steps(site: KindSite) -> str:
    """What to type in the shell that uses the cluster."""
    # An alias is split into words when it is used.
    kubectl, helm = (shlex.quote(shlex.quote(str(path))) for path in (site.kubectl.binary, site.release.helm))
    return f"""
export KUBECONFIG={shlex.quote(str(site.cluster.kubeconfig))}
alias kubectl={kubectl} helm={helm}

docs/install.md goes on from here. `make kind-down` removes the cluster."""


def main() -> int:
    # As Ctrl-C: what is under way is ended in order.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with reserved(shared=True):
            print(next_steps(prepare(say)))
    except (ContainerError, tools.ToolError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted: make kind-up goes on from what there is, make kind-down removes it")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
