"""One seed of the fault suite on the pure core: the schedule of `support.schedule`, in memory and in virtual time.

The controllers, the queue, the cache and the lease are the real ones; the API server, the watches, the fabric manager
and the clocks are played. Beyond what is done to processes, replicas are killed at a message, wall clocks jump, and
time runs out for logical nodes. The witness is that of `tests/faults`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from support import schedule as schedules
from support.memory_cluster import MemoryCluster
from support.schedule import (
    FAULT_SECONDS,
    GPUS,
    HOSTS,
    MEMORIES,
    SETTLE_SECONDS,
    TENANTS,
    TIMEOUT_SECONDS,
    Act,
    Trouble,
)
from support.simulated import groups as of_groups
from support.simulated.api import Server
from support.simulated.groups import Groups
from support.simulated.loop import Stuck, VirtualLoop
from support.simulated.manager import Kind, Manager, SimulatedDriver, gpu, memory
from support.simulated.process import CURRENT, factory
from support.simulated.replica import LEASE_SECONDS, NAMESPACE, Replica
from support.wire import PASS, WatchWay
from support.witness import Claim, Use, condition, left_over, unsettled, violations
from weft.api.names import TAINT_DRAINING, TAINT_LOGICAL_NODE
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    LEASES,
    LOGICAL_NODES,
    MEMORY_POOLS,
    NAMESPACES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    ResourceType,
)
from weft.cluster import ClusterError, Object

BEGIN = 1000.0
WALL = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT_SECONDS = 2 * LEASE_SECONDS + 2 * SETTLE_SECONDS + 30.0
"""Two leases, two settlings, and the pause after credentials were refused."""
LOOK_SECONDS = 0.5
RESTART_SECONDS = 0.3
MOST_MESSAGES = 60
"""A replica that is killed at a message is killed at one of so many."""


@dataclass(frozen=True)
class Verdict:
    """How a seed went."""

    seed: int
    violations: tuple[str, ...]
    attaches: int
    struck: dict[str, int]
    trace: int
    """Equal for two runs in which the same happened at the same times."""


def play(run: Run, say: Callable[[str], object] | None = None) -> Verdict:
    """Carry a seed out; `say` is given a line for everything that happens."""
    rng = random.Random(f"weft names {run.seed}")
    run.say = say
    with (
        patch("weft.binding.fabrics.open_driver", run.open_driver),
        patch("weft.runtime.leadership.boottime", run.loop.time),
        patch.object(uuid, "uuid4", lambda: uuid.UUID(int=rng.getrandbits(128))),
    ):
        try:
            with run.complaints:
                run.loop.run_until_complete(run.main())
        except Stuck:
            run.found.append("the operators wait for ever")
        finally:
            run.close()
    return Verdict(run.seed, tuple(run.found), len(run.manager.journal), run.server.struck, run.trace)


class Complaints(logging.Handler):
    """What the operators log that can only be a defect: exceptions that nobody expected, passes that do not end."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._logger = logging.getLogger("weft")

    def __enter__(self) -> None:
        self._logger.addHandler(self)
        self._logger.setLevel(logging.DEBUG if self._run.say else logging.WARNING)
        self._logger.propagate = False

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        self._run.tell("operator", record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            self._run.found.append(f"raised: {type(error).__name__}: {error} ({record.getMessage()})")
        elif "more steps in one pass" in record.msg:
            self._run.found.append(record.getMessage())


class Run:
    """One seed."""

    def __init__(self, seed: int, *, leaders: bool = False, groups: bool = False) -> None:
        """`leaders`: each leader is stopped beyond its lease, or cut off from the API server, again and again.
        `groups`: two inference groups are there, too, on a larger rack."""
        self.seed = seed
        self._leaders = leaders
        self._gpus, self._memories, self._hosts = GPUS, MEMORIES, HOSTS
        if groups:
            self._gpus, self._memories, self._hosts = of_groups.GPUS, of_groups.MEMORIES, of_groups.HOSTS
        self.say: Callable[[str], object] | None = None
        self.schedule = schedules.make(seed)
        self.rng = random.Random(f"weft simulated {seed}")
        self.loop = VirtualLoop(BEGIN, lambda: self.rng.uniform(0.0, 0.02))
        self.loop.set_task_factory(factory)
        self.found: list[str] = []
        self.trace = 0
        self.cluster = MemoryCluster(self.wall, schemas=False)
        self.cluster.heard = self._heard
        self.server = Server(self.loop, self.rng, self.cluster)
        self._in_maintenance_until = 0.0
        self.manager = self._manager()
        self.claims: list[Claim] = []
        self.uses: dict[tuple[str, str], Use] = {}
        self._groups = Groups(seed, self.cluster, self._runs, self._ends) if groups else None
        more = self._groups.acts if self._groups is not None else []
        self.acts = sorted([*self.schedule.acts, *self._more_acts(), *more], key=lambda act: act.at)
        self._disturbed: set[str] = set()
        """uids of logical nodes whose release was asked for."""
        self._skew = timedelta()
        self._replicas: list[Replica] = []
        self._names = 0
        self.complaints = Complaints(self)

    def _manager(self) -> Manager:
        flags, rng = self.schedule.emulator, self.rng
        latency = float(flags[flags.index("--latency-ms") + 1]) / 1000 if "--latency-ms" in flags else 0.0
        kind = Kind(
            latency=latency,
            tasks="--async-tasks" in flags,
            forgets_tasks=rng.random() < 0.3,
            whole_lists=rng.random() < 0.5,
            sessions=rng.random() < 0.5,
        )
        gpus = [gpu(f"gpu-{n}", of_groups.domain_of(f"gpu-{n}")) for n in range(self._gpus)]
        devices = [*gpus, *(memory(f"cxl-{n}") for n in range(self._memories))]
        manager = Manager(self.loop, rng, kind, devices, self._hosts)
        manager.struck = self.server.struck
        manager.tell = self.server.tell = self.tell
        return manager

    def _more_acts(self) -> list[Act]:
        rng, acts = self.rng, []
        chances = (("kill-at", 0.3), ("kill-at", 0.3), ("cut-operator", 0.1), ("jump", 0.2))
        if self._leaders:
            chances = (
                ("stop-operator", 1.0),
                ("cut-operator", 1.0),
                ("stop-operator", 0.5),
                ("cut-operator", 0.5),
            )
        for verb, chance in chances:
            if rng.random() < chance:
                at, pick, seconds = (
                    rng.uniform(0.1, FAULT_SECONDS - 0.5),
                    rng.randrange(1000),
                    rng.uniform(0.2, 1.5),
                )
                acts.append(Act(at, verb, pick=pick, seconds=seconds))
        return acts

    def __str__(self) -> str:
        acts = [f"  {act.at:.1f} s {act.verb} {act.tenant}/{act.name} pick {act.pick}" for act in self.acts]
        return "\n".join([str(self.manager.kind), *map(str, self.schedule.episodes), *acts])

    # The clocks, the drivers, and what is noted of the world

    def wall(self) -> datetime:
        """The API server's clock; a replica's may be set."""
        return WALL + timedelta(seconds=self.loop.now)

    def open_driver(self, _name: str, connection: object, _called: object) -> SimulatedDriver:
        return SimulatedDriver(self.manager, CURRENT.get(), TIMEOUT_SECONDS)

    def _heard(self, kind: str, resource: ResourceType, obj: Object) -> None:
        # To the microsecond, as the manager's journal has it.
        name, now = obj["metadata"]["name"], datetime.fromtimestamp(self.loop.now, UTC).timestamp()
        if resource != LEASES:
            self.tell("api", kind, resource.plural, obj["metadata"], obj.get("status"))
        self.trace = hash((self.trace, now, kind, resource.plural, name))
        if resource == DEVICE_ATTACHMENTS and kind == "ADDED":
            if self._groups is not None and (wrong := self._groups.too_much(obj)):
                self.found.append(wrong)
            spec, ref = obj["spec"], obj["spec"]["claimRef"]
            owner = f"{ref['namespace']}/{ref['name']}"
            self.claims.append(Claim(name, spec["device"], spec["host"], owner, now))
        elif resource == DEVICE_ATTACHMENTS and kind == "DELETED":
            last = max(n for n, claim in enumerate(self.claims) if claim.name == name)
            old = self.claims[last]
            self.claims[last] = Claim(old.name, old.device, old.host, old.owner, old.created, now)
        self.server.changed(kind, resource, obj)

    def tell(self, who: str, *what: object) -> None:
        if self.say is not None:
            self.say(f"{self.loop.now:.4f} {who}: {' '.join(map(str, what))}")

    # The run

    async def main(self) -> None:
        await self._build()
        keeper = self.loop.create_task(self._keep_up())
        await self._until(
            lambda: "" if self._free(GPU_POOLS) == self._gpus else "nothing is offered", 30, "begun"
        )
        if self._groups is not None:
            await self._groups.build()
            await self._until(self._groups.unserved, 30, "begun")
        began = self.loop.now
        trouble = Trouble(self.schedule, began, self.loop.time)
        self.manager.treat = self.server.treat = trouble.treatment
        self.server.treat_line = trouble.line
        for act in self.acts:
            await asyncio.sleep(began + act.at - self.loop.now)
            # What meets an object that is just going away is refused, as it would be anywhere.
            with contextlib.suppress(ClusterError):
                self.tell("act", act)
                await self._do(act)
        await asyncio.sleep(began + FAULT_SECONDS - self.loop.now)
        self.manager.treat = self.server.treat = lambda _message: PASS
        self.server.treat_line = lambda _message: WatchWay.PASS
        self.manager.failing.clear()
        await self._end_maintenance()
        self.manager.vanished.clear()
        await self._until(self._unsettled, LIMIT_SECONDS, "converged")
        if self._groups is not None:
            await self._groups.delete()
            await self._until(lambda: "a group" if self._there() else "", LIMIT_SECONDS, "gone")
        for key in [key for key, use in self.uses.items() if use.end is None]:
            await self._leave(key)
        for node in self.cluster.list(LOGICAL_NODES):
            await self._delete(node)
        for claim in self.cluster.list(DEVICE_ATTACHMENTS):
            # An administrator clears what was quarantined.
            if condition(claim, "Quarantined") == "True":
                await self.cluster.delete(DEVICE_ATTACHMENTS, claim["metadata"]["name"])
        await self._until(self._left_over, LIMIT_SECONDS, "given back")
        keeper.cancel()
        self.found += violations(self.manager.journal, self.claims, list(self.uses.values()))
        self.trace = hash((self.trace, *(line["time"] for line in self.manager.journal)))

    def close(self) -> None:
        """End everything that is still under way."""
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=1))
        self.loop.close()

    async def _until(self, problem: Callable[[], str], limit: float, what: str) -> None:
        deadline = self.loop.now + limit
        while found := problem():
            if self.loop.now > deadline:
                self.found.append(f"not {what} within {limit:g} s: {found}")
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def _build(self) -> None:
        cluster = self.cluster
        for tenant in TENANTS:
            await cluster.create(NAMESPACES, {"metadata": {"name": tenant}})
        for host in self.manager.hosts:
            node = await cluster.create(NODES, {"metadata": {"name": f"node-{host}"}, "spec": {}})
            status = {
                "allocatable": {"cpu": "32", "memory": "256Gi"},
                "conditions": [{"type": "Ready", "status": "True"}],
            }
            await cluster.write_status(NODES, node, status)
            await cluster.patch(NODES, f"node-{host}", "", {"spec": {"taints": None}})
        hosts = [{"host": host, "nodeName": f"node-{host}"} for host in self.manager.hosts]
        limits = {"settleSeconds": SETTLE_SECONDS, "requestTimeoutSeconds": TIMEOUT_SECONDS}
        spec = {"mode": "Manage", "endpoint": "https://rack", "limits": limits, "hosts": hosts}
        await cluster.create(FABRICS, {"metadata": {"name": "rack"}, "spec": spec})
        await cluster.create(PRIORITY_CLASSES, {"metadata": {"name": "urgent"}, "value": 10})
        for resource in (GPU_POOLS, MEMORY_POOLS):
            pool: Object = {"fabricRef": {"name": "rack"}, "selector": {}, "allowedNamespaces": {}}
            if self.schedule.preempts:
                drain = {"timeoutSeconds": 1, "afterTimeout": "Force"}
                pool["preemption"] = {"scope": "AnyNamespace", "drain": drain}
            await cluster.create(resource, {"metadata": {"name": "rack"}, "spec": pool})

    async def _keep_up(self) -> None:
        """Replicas as a Deployment keeps them; a second one only where the first is going to need it."""
        operator = {"kill-at", "cut-operator", *schedules.OPERATOR_VERBS}
        count = 2 if any(act.verb in operator for act in self.acts) else 1
        while True:
            for replica in [each for each in self._replicas if each.has_ended]:
                self._replicas.remove(replica)
            while len(self._replicas) < count:
                self._names += 1
                self._replicas.append(Replica(self.server, f"operator-{self._names}", self._replica_wall))
            for key in [key for key, use in self.uses.items() if use.end is None]:
                pod = self.cluster.get(PODS, key[1], key[0])
                # As a kubelet ends what was evicted.
                if pod is not None and "deletionTimestamp" in pod["metadata"]:
                    await self._leave(key)
            if self._groups is not None:
                with contextlib.suppress(ClusterError):
                    await self._groups.play()
            if self._in_maintenance_until and self.loop.now > self._in_maintenance_until:
                await self._end_maintenance()
            await asyncio.sleep(RESTART_SECONDS)

    async def _end_maintenance(self) -> None:
        self._in_maintenance_until = 0.0
        for resource in (GPU_POOLS, FABRICS):
            await self._maintain(resource, None)

    def _replica_wall(self) -> datetime:
        return self.wall() + self._skew

    def _leader(self) -> Replica | None:
        lease = self.cluster.get(LEASES, "weft-operator", NAMESPACE) or {"spec": {}}
        holder = lease["spec"].get("holderIdentity")
        return next((each for each in self._replicas if each.name == holder and not each.has_ended), None)

    # What users, administrators and machines do

    async def _do(self, act: Act) -> None:
        match act.verb:
            case "create":
                await self._create(act)
            case "recompose":
                assert self._groups is not None
                await self._groups.recompose(act)
            case "delete":
                if node := self._pick(self._own_nodes(), act):
                    await self._delete(node)
            case "use":
                if node := self._pick(list(filter(self._is_usable, self._own_nodes())), act):
                    await self._use(node, f"pod-{len(self.uses)}")
            case "leave":
                if running := [key for key, use in self.uses.items() if use.end is None]:
                    await self._leave(running[act.pick % len(running)])
            case "delete-claim":
                own = {node["metadata"]["uid"] for node in self._own_nodes()}
                claims = self.cluster.list(DEVICE_ATTACHMENTS)
                # Of what a pod of a group uses nobody takes the claim away: it would wait for the pod.
                found = [
                    each for each in claims if not self._groups or each["spec"]["claimRef"]["uid"] in own
                ]
                if claim := self._pick(found, act):
                    self._disturbed.add(claim["spec"]["claimRef"]["uid"])
                    await self.cluster.delete(DEVICE_ATTACHMENTS, claim["metadata"]["name"])
            case "strip":
                if node := self._pick(self._own_nodes(), act):
                    metadata = node["metadata"]
                    await self._delete(node)
                    patch = {"metadata": {"finalizers": None}}
                    await self.cluster.patch(LOGICAL_NODES, metadata["name"], metadata["namespace"], patch)
            case "untaint":
                host = self.manager.hosts[act.pick % HOSTS]
                await self.cluster.patch(NODES, f"node-{host}", "", {"spec": {"taints": None}})
            case "restart-manager":
                self.manager.down_until = self.loop.now + act.seconds
            case "fail-device":
                self.manager.failing[f"gpu-{act.pick % GPUS}"] = 3
            case "vanish":
                # One that is away twice within settleSeconds looks as if it had been away all the time.
                device, back = f"gpu-{act.pick % GPUS}", self.loop.now + act.seconds
                if self.manager.vanished.get(device, 0.0) + SETTLE_SECONDS + 1.0 < self.loop.now:
                    self.manager.vanished[device] = back
            case "resize":
                if node := self._pick(self._own_nodes(), act):
                    metadata = node["metadata"]
                    spec = {"accelerators": [{"name": "main", "count": act.gpus}]}
                    await self.cluster.patch(
                        LOGICAL_NODES, metadata["name"], metadata["namespace"], {"spec": spec}
                    )
            case "maintain-device":
                spec = {"devices": [f"gpu-{act.pick % GPUS}"], "drain": {}}
                await self._maintain(GPU_POOLS, spec, act)
            case "maintain-host":
                force = {"timeoutSeconds": 1, "afterTimeout": "Force"}
                spec = {"hosts": [self.manager.hosts[act.pick % HOSTS]], "drain": force}
                await self._maintain(FABRICS, spec, act)
            case "jump":
                self._skew = timedelta(hours=(-10, 10)[act.pick % 2])
            case _:
                if leader := self._leader():
                    self._to_operator(leader, act)

    async def _maintain(self, resource: ResourceType, spec: Object | None, act: Act | None = None) -> None:
        await self.cluster.patch(resource, "rack", "", {"spec": {"maintenance": spec}})
        if act is not None:
            self._in_maintenance_until = self.loop.now + act.seconds

    def _to_operator(self, leader: Replica, act: Act) -> None:
        match act.verb:
            case "kill-operator":
                leader.process.kill()
            case "kill-at":
                leader.process.kill_at(1 + act.pick % MOST_MESSAGES, after=act.pick % 2 == 0)
            case "term-operator":
                leader.terminate()
            case "cut-operator":
                leader.process.cut_until = self.loop.now + LEASE_SECONDS + act.seconds
            case "stop-operator":
                leader.process.stopped_until = self.loop.now + LEASE_SECONDS + act.seconds

    def _pick(self, found: list[Object], act: Act) -> Object | None:
        if act.name:
            wanted = act.tenant, act.name
            found = [o for o in found if (o["metadata"]["namespace"], o["metadata"]["name"]) == wanted]
        return found[act.pick % len(found)] if found else None

    def _own_nodes(self) -> list[Object]:
        """Those that users made."""
        return [node for node in self.cluster.list(LOGICAL_NODES) if not of_groups.is_of_group(node)]

    async def _create(self, act: Act) -> None:
        spec: Object = {"accelerators": [{"name": "main", "count": act.gpus}]}
        if act.memory:
            spec["memory"] = [{"name": "kv", "size": "512Gi"}]
        if self.rng.random() < 0.1:
            spec["ttlSecondsAfterBound"] = 3
        if act.replaces:
            spec["onDeviceFailure"] = "Replace"
        if act.urgent:
            spec["priorityClassName"] = "urgent"
        metadata = {"name": act.name, "namespace": act.tenant}
        await self.cluster.create(LOGICAL_NODES, {"metadata": metadata, "spec": spec})

    async def _delete(self, node: Object) -> None:
        self._disturbed.add(node["metadata"]["uid"])
        await self.cluster.delete(LOGICAL_NODES, node["metadata"]["name"], node["metadata"]["namespace"])

    def _is_usable(self, node: Object) -> bool:
        if condition(node, "Bound") != "True" or node["metadata"]["uid"] in self._disturbed:
            return False
        # The scheduler places nothing on a Node with a taint that the pod does not tolerate.
        at = self.cluster.get(NODES, node["status"]["nodeName"]) or {"spec": {}}
        return all(taint["key"] != TAINT_DRAINING for taint in at["spec"].get("taints", []))

    async def _use(self, node: Object, name: str) -> None:
        space, owner = node["metadata"]["namespace"], node["metadata"]["name"]
        toleration = {"key": TAINT_LOGICAL_NODE, "value": f"{space}.{owner}", "effect": "NoSchedule"}
        spec = {
            "nodeName": node["status"]["nodeName"],
            "containers": [{"name": "main", "image": "none"}],
            "tolerations": [toleration],
        }
        await self.cluster.create(PODS, {"metadata": {"name": name, "namespace": space}, "spec": spec})
        self.uses[space, name] = Use(node["status"]["host"], f"{space}/{owner}", self.loop.now)

    def _runs(self, pod: Object, node: Object) -> None:
        """A replica's pod runs; an earlier one may have had its name."""
        space, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        if earlier := self.uses.pop((space, name), None):
            self.uses[space, f"{name} of {earlier.start}"] = earlier
        self.uses[space, name] = Use(node["status"]["host"], f"{space}/{name}", self.loop.now)

    async def _ends(self, key: tuple[str, str]) -> None:
        if key in self.uses and self.uses[key].end is None:
            await self._leave(key)
        else:
            await self.cluster.delete(PODS, key[1], key[0], grace_seconds=0)

    async def _leave(self, key: tuple[str, str]) -> None:
        use = self.uses[key]
        self.uses[key] = Use(use.host, use.owner, use.start, self.loop.now)
        await self.cluster.delete(PODS, key[1], key[0], grace_seconds=0)

    # What has to be so afterwards

    def _unsettled(self) -> str:
        used = {use.owner for use in self.uses.values() if use.end is None}
        nodes, claims = self.cluster.list(LOGICAL_NODES), self.cluster.list(DEVICE_ATTACHMENTS)
        pairs = set(self.manager.pairs)
        # A list that was sent before its repeat, and is written after it, takes back what the repeat attached.
        lists = self.manager.kind.whole_lists
        sizes = self._gpus, self._memories, self._hosts
        waiting = self._groups.waiting() if self._groups is not None else set()
        problem = unsettled(nodes, claims, pairs, used, *sizes, may_be_lost=lists, pinned=waiting)
        return problem or (self._groups.unsettled() if self._groups is not None else "")

    def _there(self) -> bool:
        return self._groups is not None and self._groups.is_there()

    def _left_over(self) -> str:
        nodes = self.cluster.list(NODES)
        tainted = [
            node["metadata"]["name"]
            for node in nodes
            if any(taint["key"] == TAINT_LOGICAL_NODE for taint in node["spec"].get("taints", []))
        ]
        free = {
            "GPUPool": (self._free(GPU_POOLS), self._gpus),
            "MemoryPool": (self._free(MEMORY_POOLS), self._memories),
        }
        claims = self.cluster.list(DEVICE_ATTACHMENTS)
        return left_over(self.cluster.list(LOGICAL_NODES), claims, set(self.manager.pairs), tainted, free)

    def _free(self, resource: ResourceType) -> int:
        pool = self.cluster.get(resource, "rack") or {}
        return int((pool.get("status", {}).get("devices") or {}).get("free", 0))
