"""Packets to Service and pod addresses that nothing has are refused in the node, and do not leave the machine."""

from __future__ import annotations

import functools
import ipaddress
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from weft_dev.containers import docker
from weft_dev.kind.cluster import KindCluster
from weft_dev.kind.configuration import NODES, POD_RANGE, SERVICE_RANGE

REFUSED = "Connection refused"
UNREACHABLE = "No route to host"
# Without a guard a connection attempt goes on for more than a minute.
ATTEMPT_SECONDS = 4
PODS_SECONDS = 60.0
NAMESPACE = "weft-guards"


@dataclass(frozen=True)
class Places:
    """Where to try from, and what nothing has."""

    pods: dict[str, str]
    """Address of a pod by node."""
    ranges: dict[str, str]
    """Range of pod addresses by node."""
    unused_service: str


@pytest.fixture(scope="module")
def places(kind_cluster: KindCluster) -> Iterator[Places]:
    """Starts a pod on every node."""
    listed = json.loads(kind_cluster.run("get", "nodes", "--output=json"))["items"]
    names = [name for image in listed[0]["status"]["images"] for name in image.get("names") or ()]
    pause = next(name for name in names if "/pause:" in name)
    # A run that was killed may have left it.
    kind_cluster.run("delete", "namespace", NAMESPACE, "--ignore-not-found")
    kind_cluster.run("create", "namespace", NAMESPACE)
    try:
        for node in NODES:
            spec = {
                "nodeName": node,
                "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}],
            }
            kind_cluster.run(
                *("run", node, f"--namespace={NAMESPACE}", f"--image={pause}", "--image-pull-policy=Never"),
                f"--overrides={json.dumps({'spec': spec})}",
            )
        kind_cluster.run(
            *("wait", "pod", "--all", "--for=condition=Ready", f"--namespace={NAMESPACE}"),
            f"--timeout={PODS_SECONDS:.0f}s",
            timeout_seconds=PODS_SECONDS + 10,
        )
        pods = json.loads(kind_cluster.run("get", "pods", f"--namespace={NAMESPACE}", "--output=json"))[
            "items"
        ]
        services = json.loads(kind_cluster.run("get", "services", "--all-namespaces", "--output=json"))[
            "items"
        ]
        taken = {service["spec"]["clusterIP"] for service in services}
        yield Places(
            {pod["spec"]["nodeName"]: pod["status"]["podIP"] for pod in pods},
            {node["metadata"]["name"]: node["spec"]["podCIDR"] for node in listed},
            next(address for address in _from_the_end(SERVICE_RANGE) if address not in taken),
        )
    finally:
        kind_cluster.run("delete", "namespace", NAMESPACE)


@pytest.fixture(scope="module")
def leaving(kind_cluster: KindCluster) -> Iterator[LeavingPackets]:
    counter = LeavingPackets()
    try:
        counter.begin()
        yield counter
    finally:
        counter.end()


class LeavingPackets:
    """Counts, and drops, what the machine would pass on for the cluster: rules in its own network namespace.

    They are set from a container in that namespace, so that this needs no more rights than the engine gives.
    """

    def __init__(self) -> None:
        image = docker("inspect", "--format", "{{.Config.Image}}", NODES[0]).strip()
        place = ("--privileged", "--network=host", "--entrypoint=sleep", "--label=dev.weft.part=test")
        self.container = docker("run", "--detach", "--rm", *place, image, "infinity").strip()
        bridge = "br-" + docker("network", "inspect", "--format", "{{.Id}}", "kind")[:12]
        # To another interface than the one it came from: what goes from node to node stays on the bridge.
        self.rules = [
            f"FORWARD -i {bridge} ! -o {bridge} -d {addresses} -j DROP"
            for addresses in (POD_RANGE, SERVICE_RANGE)
        ]

    def begin(self) -> None:
        self._remove_rules()
        self._run(*(f"iptables -t mangle -I {rule}" for rule in self.rules))

    def end(self) -> None:
        self._remove_rules()
        docker("rm", "--force", self.container)

    def count(self) -> int:
        listed = self._run("iptables -t mangle -L FORWARD --verbose --exact --numeric")
        found = [line.split() for line in listed.splitlines() if "DROP" in line and " br-" in line]
        ours = [int(words[0]) for words in found if words[-1] in (POD_RANGE, SERVICE_RANGE)]
        assert len(ours) == len(self.rules), listed
        return sum(ours)

    def _remove_rules(self) -> None:
        # Those of a run that was killed too.
        self._run(*(f"while iptables -t mangle -D {rule} 2>/dev/null; do :; done" for rule in self.rules))

    def _run(self, *commands: str) -> str:
        return docker("exec", self.container, "sh", "-c", "; ".join(commands))


def _from_the_end(addresses: str) -> Iterator[str]:
    network = ipaddress.ip_network(addresses)
    return (str(network[-number]) for number in range(2, 200))


def attempt(node: str, address: str, *, pod: str = "") -> str:
    """What the system says to a connection from the node, or from the pod with that address on it."""
    connect = f"timeout {ATTEMPT_SECONDS} bash -c 'exec 3<>/dev/tcp/{address}/80' 2>&1 || echo status $?"
    if pod:
        said = docker("exec", node, "ip", "netns", "exec", namespace_of(node, pod), "bash", "-c", connect)
    else:
        said = docker("exec", node, "bash", "-c", connect)
    found = re.search(r"connect: (.+)|(status 124)", said)
    assert found, f"{node} to {address}: {said!r}"
    return found[1] or "no answer"


@functools.cache
def namespace_of(node: str, pod: str) -> str:
    """The name of a pod's network namespace on its node."""
    find = (
        f"for n in $(ip netns list | cut -d' ' -f1); do ip -n $n -4 addr | grep -q ' {pod}/' && echo $n; done"
    )
    (name,) = docker("exec", node, "bash", "-c", f"{find}; true").split()
    return name


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("source", ["node", "pod"])
def test_an_unused_service_address_is_refused_at_once(
    node: str, source: str, places: Places, leaving: LeavingPackets
) -> None:
    before = leaving.count()
    said = attempt(node, places.unused_service, pod=places.pods[node] if source == "pod" else "")
    assert (said, leaving.count() - before) == (REFUSED, 0)


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("source", ["node", "pod"])
def test_an_unused_pod_address_is_unreachable_at_once(
    node: str, source: str, places: Places, leaving: LeavingPackets
) -> None:
    others = next(name for name in NODES if name != node)
    unused = {
        "the node's own range": next(_from_the_end(places.ranges[node])),
        "another node's range": next(_from_the_end(places.ranges[others])),
        "nobody's range": next(_from_the_end(POD_RANGE)),
    }
    before = leaving.count()
    pod = places.pods[node] if source == "pod" else ""
    said = {whose: attempt(node, address, pod=pod) for whose, address in unused.items()}
    assert said == dict.fromkeys(unused, UNREACHABLE)
    assert leaving.count() - before == 0


def test_pods_of_different_nodes_reach_each_other(places: Places) -> None:
    """That a guard would stop everything is not what the tests above may pass for."""
    first, *_, last = NODES
    deadline = time.monotonic() + 20
    # Nothing listens there, so the pod itself refuses.
    while (said := attempt(first, places.pods[last], pod=places.pods[first])) != REFUSED:
        assert time.monotonic() < deadline, said
        time.sleep(0.5)
