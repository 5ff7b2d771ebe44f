"""One seed of the fault suite: a rack, two tenants, what they do, and the verdict of the witness.

The rack's fabric manager and the API server are reached by the operator through the wire alone; the users and the
checks go past it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

from support.schedule import (
    GPUS,
    HOSTS,
    MEMORIES,
    SETTLE_SECONDS,
    TENANTS,
    TIMEOUT_SECONDS,
    Act,
    Schedule,
    Trouble,
)
from support.wire import Message, Wire
from support.witness import Claim, Use, attached, condition, left_over, unsettled, violations
from support.world import World, eventually
from weft.api.names import TAINT_DRAINING, TAINT_LOGICAL_NODE
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    LOGICAL_NODES,
    MEMORY_POOLS,
    NODES,
    PODS,
    ResourceType,
)
from weft.cluster import ClusterError
from weft.emulator.journal import entries
from weft_dev.controlplane import ControlPlane

Object = dict[str, Any]

POLL_SECONDS = 0.2
URGENT = "weft-faults-urgent"
FORCE = {"timeoutSeconds": 1, "afterTimeout": "Force"}


class Lane:
    """A rack with a schedule. `operator_act` carries out what concerns the operators, which lanes share."""

    def __init__(
        self,
        plane: ControlPlane,
        wire: Wire,
        namespaces: dict[str, str],
        schedule: Schedule,
        operator_act: Callable[[Act], None],
    ) -> None:
        self.schedule = schedule
        self.violations: list[str] = []
        self.uses: dict[tuple[str, str], Use] = {}
        """Pods that ran or run, by namespace and name."""
        self.converged_seconds = 0.0
        self._namespaces = namespaces
        self._operator_act = operator_act
        self._disturbed: set[str] = set()
        """uids of logical nodes whose release was asked for."""
        self._pods = 0
        self._clear_at = math.inf
        """When a device that vanished comes back."""
        self._in_maintenance_until = math.inf
        self._wire = wire
        self.world = World(plane, namespaces[TENANTS[0]], hosts=HOSTS, gpus=GPUS, memories=MEMORIES)
        self.kube = self.world.kube
        url = self.world.start_emulator(*schedule.emulator)
        proxied = wire.add(self.world.name, url)
        times = {"settle_seconds": SETTLE_SECONDS, "timeout": TIMEOUT_SECONDS}
        self.world.create(endpoint=proxied, tenants=tuple(namespaces.values()), **times)
        if schedule.preempts:
            preemption = {"scope": "AnyNamespace", "drain": FORCE}
            for resource in (GPU_POOLS, MEMORY_POOLS):
                self.kube.patch(resource, self.world.name, {"spec": {"preemption": preemption}})
        self._keys = [self.world.name.encode(), *(name.encode() for name in namespaces.values())]
        self.trouble: Trouble | None = None

    def await_operator(self) -> None:
        """Wait until an operator offers the rack's devices."""
        eventually(lambda: self._free(GPU_POOLS) == GPUS, 60, what="the rack is offered")

    def _free(self, resource: ResourceType) -> int:
        pool = self.kube.get(resource, self.world.name) or {}
        return int((pool.get("status", {}).get("devices") or {}).get("free", 0))

    def start(self) -> None:
        """Begin the schedule."""
        self._started = time.monotonic()
        self.trouble = Trouble(self.schedule, self._started, time.monotonic)

    def owns(self, message: Message) -> bool:
        """Whether a message is about this lane's objects."""
        if not message.is_api:
            return message.side == self.world.name
        return any(key in message.path.encode() or key in message.body for key in self._keys)

    # What users, administrators and machines do

    def run(self) -> None:
        """Carry the schedule out, and then wait until all is well; what is not, is in `violations`."""
        for act in self.schedule.acts:
            self._sleep_until(self._started + act.at)
            # What meets an object that is just going away is refused, as it would be anywhere.
            with contextlib.suppress(ClusterError):
                self._do(act)
        self._sleep_until(self._started + self.schedule.seconds)
        self._end_maintenance()
        self.trouble = None
        self.world.clear_faults()
        if not self.attaches:
            # Its users took back what a slow machine had not bound yet, and without a bind nothing is shown.
            self._create(Act(self.schedule.seconds, "create", "b", "last", gpus=1))

    def _sleep_until(self, moment: float) -> None:
        while True:
            now = time.monotonic()
            if self._clear_at <= now:
                self._clear_at = math.inf
                self.world.clear_faults()
            if self._in_maintenance_until <= now:
                self._end_maintenance()
            self._end_evicted()
            if now >= moment:
                return
            time.sleep(min(POLL_SECONDS, moment - now))

    def _end_maintenance(self) -> None:
        self._in_maintenance_until = math.inf
        for resource in (GPU_POOLS, FABRICS):
            self.kube.patch(resource, self.world.name, {"spec": {"maintenance": None}})

    def _end_evicted(self) -> None:
        """As a kubelet ends pods that were evicted or deleted."""
        for key in [key for key, use in self.uses.items() if use.end is None]:
            pod = self.kube.get(PODS, key[1], key[0])
            if pod is not None and "deletionTimestamp" in pod["metadata"]:
                self._leave(key)

    def _do(self, act: Act) -> None:
        match act.verb:
            case "create":
                self._create(act)
            case "delete":
                if node := self._pick(self._nodes(), act):
                    self._delete(node)
            case "use":
                if node := self._pick([n for n in self._nodes() if self._is_usable(n)], act):
                    self._use(node)
            case "leave":
                if running := [key for key, use in self.uses.items() if use.end is None]:
                    self._leave(running[act.pick % len(running)])
            case "delete-claim":
                if claim := self._pick(self.world.claims(), act):
                    self._disturbed.add(claim["spec"]["claimRef"]["uid"])
                    self.kube.delete(DEVICE_ATTACHMENTS, claim["metadata"]["name"])
            case "strip":
                if node := self._pick(self._nodes(), act):
                    self._delete(node)
                    where = node["metadata"]["namespace"]
                    patch = {"metadata": {"finalizers": None}}
                    self.kube.patch(LOGICAL_NODES, node["metadata"]["name"], patch, where)
            case "untaint":
                host = self.world.hosts[act.pick % HOSTS]
                patch = {"spec": {"taints": None}}
                self.kube.patch(NODES, f"{self.world.name}-{host}", patch)
            case "cordon" | "uncordon":
                host = self.world.hosts[act.pick % HOSTS]
                spec = {"unschedulable": act.verb == "cordon"}
                self.kube.patch(NODES, f"{self.world.name}-{host}", {"spec": spec})
            case "restart-manager":
                port = int(self.world.emulator_url.rsplit(":", 1)[1])
                self.world.stop_emulator()
                time.sleep(act.seconds)
                self.world.start_emulator(*self.schedule.emulator, port=port)
            case "fail-device":
                match = {"block": f"gpu-{act.pick % GPUS}"}
                self.world.faults({"kind": "fail", "match": match, "times": 3})
            case "vanish":
                self.world.faults({"kind": "vanish", "match": {"block": f"gpu-{act.pick % GPUS}"}})
                self._clear_at = time.monotonic() + act.seconds
            case "resize":
                if node := self._pick(self._nodes(), act):
                    spec = {"accelerators": [{"name": "main", "count": act.gpus}]}
                    where = node["metadata"]["namespace"]
                    self.kube.patch(LOGICAL_NODES, node["metadata"]["name"], {"spec": spec}, where)
            case "maintain-device":
                self._maintain(GPU_POOLS, {"devices": [f"gpu-{act.pick % GPUS}"], "drain": {}}, act)
            case "maintain-host":
                self._maintain(FABRICS, {"hosts": [self.world.hosts[act.pick % HOSTS]], "drain": FORCE}, act)
            case _:
                self._operator_act(act)

    def _maintain(self, resource: ResourceType, maintenance: Object, act: Act) -> None:
        self.kube.patch(resource, self.world.name, {"spec": {"maintenance": maintenance}})
        self._in_maintenance_until = time.monotonic() + act.seconds

    def _nodes(self) -> list[Object]:
        return [node for space in self._namespaces.values() for node in self.kube.list(LOGICAL_NODES, space)]

    def _pick(self, found: list[Object], act: Act) -> Object | None:
        if act.name:
            wanted = self._namespaces[act.tenant], act.name
            found = [o for o in found if (o["metadata"]["namespace"], o["metadata"]["name"]) == wanted]
        found.sort(key=lambda obj: (obj["metadata"].get("namespace", ""), obj["metadata"]["name"]))
        return found[act.pick % len(found)] if found else None

    def _create(self, act: Act) -> None:
        spec: Object = {"accelerators": [{"name": "main", "count": act.gpus}]}
        if act.memory:
            spec["memory"] = [{"name": "kv", "size": "512Gi"}]
        if act.replaces:
            spec["onDeviceFailure"] = "Replace"
        if act.urgent:
            spec["priorityClassName"] = URGENT
        kind = {"apiVersion": LOGICAL_NODES.api_version, "kind": LOGICAL_NODES.kind}
        body = {**kind, "metadata": {"name": act.name}, "spec": spec}
        self.kube.create(LOGICAL_NODES, body, self._namespaces[act.tenant])

    def _delete(self, node: Object) -> None:
        self._disturbed.add(node["metadata"]["uid"])
        self.kube.delete(LOGICAL_NODES, node["metadata"]["name"], node["metadata"]["namespace"])

    def _is_usable(self, node: Object) -> bool:
        if condition(node, "Bound") != "True" or node["metadata"]["uid"] in self._disturbed:
            return False
        # The scheduler places nothing on a Node with a taint that the pod does not tolerate.
        at = self.kube.get(NODES, node["status"]["nodeName"]) or {"spec": {}}
        return all(taint["key"] != TAINT_DRAINING for taint in at["spec"].get("taints", []))

    def _use(self, node: Object) -> None:
        space, owner = node["metadata"]["namespace"], node["metadata"]["name"]
        self._pods += 1
        name = f"{owner}-{self._pods}"
        value = f"{space}.{owner}"
        spec = {
            "nodeName": node["status"]["nodeName"],
            "containers": [{"name": "main", "image": "none"}],
            "tolerations": [
                {"key": TAINT_LOGICAL_NODE, "operator": "Equal", "value": value, "effect": "NoSchedule"}
            ],
            # Long enough to be ended by `_end_evicted`, which notes when.
            "terminationGracePeriodSeconds": 30,
        }
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.kube.create(PODS, body, space)
        self.uses[space, name] = Use(node["status"]["host"], f"{space}/{owner}", time.time())

    def _leave(self, key: tuple[str, str]) -> None:
        use = self.uses[key]
        self.uses[key] = Use(use.host, use.owner, use.start, time.time())
        self.kube.delete(PODS, key[1], key[0], grace_seconds=0)

    # What has to be so afterwards

    def finish(self, claims: Callable[[], list[Claim]], limit: float) -> None:
        """Wait until everything is where it belongs, then take all back, and look at the journal."""
        began = time.monotonic()
        self._arrive(self.unsettled, limit, "not converged")
        self.converged_seconds = time.monotonic() - began
        for key in [key for key, use in self.uses.items() if use.end is None]:
            self._leave(key)
        for node in self._nodes():
            self._delete(node)
        self._arrive(self.unclean, limit, "not given back")
        mine = [claim for claim in claims() if claim.name.startswith(f"{self.world.name}.")]
        tenants = self._namespaces.values()
        strangers = {claim.owner for claim in mine if claim.owner.split("/")[0] not in tenants}
        self.violations += [f"crossing: a device was claimed for {owner}" for owner in sorted(strangers)]
        self.violations += violations(self.journal(), mine, list(self.uses.values()))

    def _arrive(self, problem: Callable[[], str], limit: float, what: str) -> None:
        deadline = time.monotonic() + limit
        while found := problem():
            self._end_evicted()
            if time.monotonic() > deadline:
                self.violations.append(f"{what} within {limit:g} s: {found}")
                return
            time.sleep(POLL_SECONDS)

    @property
    def attaches(self) -> int:
        """So many took effect."""
        return sum(act["act"] == "attach" and act["outcome"] == "done" for act in self.journal())

    def journal(self) -> list[Object]:
        return entries(self.world.journal.read_text().splitlines())

    def unsettled(self) -> str:
        """What is not yet as the objects say, or nothing."""
        used = {use.owner for use in self.uses.values() if use.end is None}
        pairs = attached(self.journal())
        return unsettled(self._nodes(), self.world.claims(), pairs, used, GPUS, MEMORIES, HOSTS)

    def unclean(self) -> str:
        """What is left after everything was deleted, or nothing. An administrator clears what was quarantined."""
        claims = self.world.claims()
        for claim in claims:
            if condition(claim, "Quarantined") == "True" and not claim["metadata"].get("deletionTimestamp"):
                self.kube.delete(DEVICE_ATTACHMENTS, claim["metadata"]["name"])
        tainted = [host for host in self.world.hosts if self._is_tainted(host)]
        pools = ((GPU_POOLS, GPUS), (MEMORY_POOLS, MEMORIES))
        free = {resource.kind: (self._free(resource), count) for resource, count in pools}
        return left_over(self._nodes(), claims, attached(self.journal()), tainted, free)

    def _is_tainted(self, host: str) -> bool:
        node = self.kube.get(NODES, f"{self.world.name}-{host}") or {"spec": {}}
        return any(taint["key"] == TAINT_LOGICAL_NODE for taint in node["spec"].get("taints", []))

    def close(self) -> None:
        self.world.close()
        for space in list(self._namespaces.values())[1:]:
            for node in self.kube.list(LOGICAL_NODES, space):
                with contextlib.suppress(ClusterError):
                    name = node["metadata"]["name"]
                    self.kube.delete(LOGICAL_NODES, name, space)
                    self.kube.patch(LOGICAL_NODES, name, {"metadata": {"finalizers": None}}, space)
        self._wire.remove(self.world.name)
