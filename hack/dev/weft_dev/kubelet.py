"""Plays nodes and their kubelets against a real API server: no containers, but pods that run and are addressed.

Nodes register themselves and renew their leases, so the node lifecycle controller sees them Ready. A pod bound to one
of them gets a loopback address of 127.64.0.0/16, runs, and is Ready when its readiness gates are. `on_start` and
`on_stop` let the caller put a server behind the address; `python -m weft_dev.kubelet` does without.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import ipaddress
import itertools
import logging
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from weft.api.resources import LEASES, NODES, PODS
from weft.cluster import AlreadyExistsError, ClusterError, ConflictError, NotFoundError, Object
from weft_dev.kube_async import AsyncKube, connected
from weft_dev.pod_status import ready_patch, running_patch

POD_NETWORK = ipaddress.IPv4Network("127.64.0.0/16")
NODE_ADDRESS = "127.0.0.1"
LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
RENEW_SECONDS = 15.0
DEFAULT_GRACE_SECONDS = 30
RETRY_SECONDS = 0.5

OnStart = Callable[[Object, str], Awaitable[None]]
OnStop = Callable[[Object], Awaitable[None]]

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Pod:
    """A pod of one of our nodes: as last seen, and the task that looks after it."""

    object: Object
    ip: str = ""
    started_at: str = ""
    gone: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, pod: Object) -> None:
        """Take what a watch or the answer to a write says, whichever comes first: never an older one over a newer."""
        if _version(pod) > _version(self.object):
            self.object = pod
            self.changed.set()


class Kubelet:
    """All nodes of a demo or test in one object.

    `on_start(pod, ip)` is awaited before the pod runs; OSError "address in use" makes it try another address.
    `on_stop(pod)` is awaited when the pod is to end, at most for its grace period; then the pod is deleted.
    """

    def __init__(
        self,
        api: AsyncKube,
        nodes: Sequence[str],
        on_start: OnStart | None = None,
        on_stop: OnStop | None = None,
    ) -> None:
        self._api = api
        self._nodes = tuple(nodes)
        self._on_start = on_start
        self._on_stop = on_stop
        self._pods: dict[str, _Pod] = {}
        self._addresses = _addresses()

    async def run(self, registered: Callable[[], None] | None = None) -> None:
        """Register the nodes (then call `registered`) and look after them until cancelled."""
        await asyncio.gather(*(self._register(node) for node in self._nodes))
        if registered is not None:
            registered()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew_for_ever())
            await self._follow_pods(tasks)

    async def _register(self, node: str) -> None:
        body = node_object(node, _now())
        while True:
            try:
                with contextlib.suppress(AlreadyExistsError):
                    await self._api.create(NODES, body)
                await self._api.patch(NODES, node, "", {"status": body["status"]}, subresource="status")
                with contextlib.suppress(AlreadyExistsError):
                    await self._api.create(LEASES, _lease(node))
                return
            except ClusterError as error:
                # Just after a start the namespace of the leases may not be there yet.
                log.info("node %s: %s; trying again", node, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _renew_for_ever(self) -> None:
        """One lease after the other, evenly: a request every RENEW_SECONDS / nodes."""
        while True:
            for node in self._nodes:
                await asyncio.sleep(RENEW_SECONDS / len(self._nodes))
                try:
                    renewed = {"spec": {"renewTime": _now_micro()}}
                    await self._api.patch(LEASES, node, LEASE_NAMESPACE, renewed)
                except NotFoundError:
                    await self._register(node)
                except ClusterError as error:
                    log.warning("lease of %s: %s", node, error)

    async def _follow_pods(self, tasks: asyncio.TaskGroup) -> None:
        nodes = set(self._nodes)
        async for found in self._api.follow(PODS, fields="spec.nodeName!="):
            for uid in self._pods.keys() - found.keys():
                gone = self._pods.pop(uid)
                gone.gone = True
                gone.changed.set()
            for uid, pod in found.items():
                if pod["spec"].get("nodeName") not in nodes or _ended(pod):
                    continue
                if known := self._pods.get(uid):
                    known.see(pod)
                else:
                    self._pods[uid] = _Pod(pod)
                    tasks.create_task(self._look_after(self._pods[uid]))

    async def _look_after(self, pod: _Pod) -> None:
        """A pod's whole life: start, keep condition Ready right, stop."""
        started = False
        while not (pod.gone or _terminating(pod.object)):
            pod.changed.clear()
            try:
                if not started:
                    await self._start(pod)
                    started = True
                await self._write_ready(pod)
            except NotFoundError:
                # Its deletion is on its way to us.
                pass
            except (ClusterError, OSError) as error:
                log.warning("pod %s: %s; trying again", pod.object["metadata"]["name"], error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await pod.changed.wait()
        await self._stop(pod, started)

    async def _start(self, pod: _Pod) -> None:
        pod.started_at = pod.started_at or _now()
        if not pod.ip:
            pod.ip = await self._open(pod.object)
        patch = running_patch(pod.object, pod.ip, NODE_ADDRESS, _now(), pod.started_at)
        pod.see(await self._patch_status(pod.object["metadata"], patch))

    async def _open(self, pod: Object) -> str:
        """Find an address for a pod, its earlier one if it has run before, and start what listens there."""
        used = {other.ip for other in self._pods.values()}
        earlier: str = pod.get("status", {}).get("podIP", "")
        for ip in itertools.chain([earlier] if earlier else [], self._addresses):
            if ip in used:
                continue
            try:
                if self._on_start is not None:
                    await self._on_start(pod, ip)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise
            return ip
        raise AssertionError("the addresses do not end")

    async def _write_ready(self, pod: _Pod) -> None:
        patch = ready_patch(pod.object, _now())
        if patch is not None:
            pod.see(await self._patch_status(pod.object["metadata"], patch))

    async def _patch_status(self, metadata: Object, patch: Object) -> Object:
        # The uid makes a patch meant for an earlier pod of the same name fail.
        body = {"metadata": {"uid": metadata["uid"]}, **patch}
        return await self._api.patch(
            PODS, metadata["name"], metadata["namespace"], body, subresource="status"
        )

    async def _stop(self, pod: _Pod, started: bool) -> None:
        metadata = pod.object["metadata"]
        grace = 0 if pod.gone else metadata.get("deletionGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
        if started and self._on_stop is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._on_stop(pod.object), max(1.0, grace))
        while not pod.gone:
            try:
                await self._api.delete(
                    PODS, metadata["name"], metadata["namespace"], grace_seconds=0, uid=metadata["uid"]
                )
                return
            except (NotFoundError, ConflictError):
                return  # It is gone, and a namesake may be there.
            except ClusterError as error:
                log.warning("pod %s: %s; trying again", metadata["name"], error)
                await asyncio.sleep(RETRY_SECONDS)


def node_object(name: str, now: str) -> Object:
    """A Ready node with room for any pod; `now` is RFC 3339."""
    room = {"cpu": "64", "memory": "1Ti", "pods": "110", "ephemeral-storage": "1Ti"}
    problems = ("MemoryPressure", "DiskPressure", "PIDPressure")
    conditions = [{"type": kind, "status": "False", "reason": "KubeletHasNo" + kind} for kind in problems]
    conditions.append({"type": "Ready", "status": "True", "reason": "KubeletReady"})
    for condition in conditions:
        condition |= {"lastHeartbeatTime": now, "lastTransitionTime": now, "message": "emulated"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
            },
        },
        "status": {
            "capacity": room,
            "allocatable": room,
            "conditions": conditions,
            "addresses": [
                {"type": "InternalIP", "address": NODE_ADDRESS},
                {"type": "Hostname", "address": name},
            ],
        },
    }


def node_names(text: str) -> list[str]:
    """`worker-0..25` is 26 names; commas separate names and ranges."""
    names = []
    for part in text.split(","):
        prefix, dots, last = part.partition("..")
        if not dots:
            names.append(part)
            continue
        stem = prefix.rstrip("0123456789")
        names += [f"{stem}{number}" for number in range(int(prefix[len(stem) :]), int(last) + 1)]
    return names


def _addresses() -> Iterator[str]:
    """Addresses of the pod network, for ever, from a random one on: several demos may run on one machine."""
    size = POD_NETWORK.num_addresses
    number = random.randrange(size)
    while True:
        number = (number + 1) % size
        # .0 and .255 look like a network's own addresses.
        if number % 256 not in (0, 255):
            yield str(POD_NETWORK[number])


def _lease(node: str) -> Object:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node, "namespace": LEASE_NAMESPACE},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": _now_micro()},
    }


def _version(pod: Object) -> int:
    return int(pod["metadata"]["resourceVersion"])


def _ended(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _terminating(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now_micro() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def _main(kubeconfig: Path, nodes: Sequence[str]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with connected(kubeconfig) as api:
        running = asyncio.create_task(
            Kubelet(api, nodes).run(lambda: print(f"{len(nodes)} nodes registered", flush=True))
        )
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--nodes", type=node_names, required=True, help="names and ranges: worker-0..25")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s kubelet: %(message)s")
    asyncio.run(_main(arguments.kubeconfig, arguments.nodes))
