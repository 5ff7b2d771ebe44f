"""The picture of one logical node: everything that its next step depends on, frozen. Reads only, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from weft.api import DeviceAttachment, LogicalNode
from weft.api.conditions import is_true
from weft.api.maintenance import Drain
from weft.api.meta import ObjectMeta
from weft.api.names import ANNOTATION_MODE, TAINT_LOGICAL_NODE
from weft.api.pools import Maintenance, PoolKind
from weft.api.resources import (
    FABRICS,
    GPU_POOLS,
    LOGICAL_NODES,
    MEMORY_POOLS,
    NODES,
    PODS,
    STORAGE_POOLS,
)
from weft.binding.ages import BoundAges, Since
from weft.binding.assignments import Outcome
from weft.binding.closed import closed
from weft.binding.evidence import Certainty
from weft.binding.hosts import match
from weft.binding.inventory import Picture
from weft.binding.keys import LogicalNodeKey
from weft.binding.objects import (
    NodeView,
    by_place,
    claims_of,
    is_published,
    place_of,
    recent_node,
    taint_value,
    view_node,
)
from weft.binding.plan import Assignment
from weft.binding.session import FabricSession
from weft.cluster import Cluster, Object
from weft.controllers import Now
from weft.fabric.errors import FabricError

Place = tuple[str, str]
"""Fabric and host."""
RESOURCE_OF = {
    PoolKind.GPU: GPU_POOLS,
    PoolKind.MEMORY: MEMORY_POOLS,
    PoolKind.STORAGE: STORAGE_POOLS,
}


@dataclass
class Attempt:
    """What this pass has done at one host so far. A new pass starts with none: it reads before it writes."""

    reading: frozenset[str] | None = None
    """The devices that the manager showed at the host after the last call; None: it could not be read."""
    verified: bool = False
    """Whether the host was read, or tried to be read, after the last call."""
    called: bool = False
    pods_known: bool = False
    """Whether the API server was asked for the pods of the Node."""
    node_known: bool = False
    """Whether the API server was asked for the Node."""
    evicted: bool = False
    """Whether the pods were asked to go."""
    kept: tuple[str, ...] = ()
    """Those of them that a PodDisruptionBudget keeps."""
    problem: FabricError | None = None
    """What the last call or reading came to, when it came to nothing."""


@dataclass(frozen=True)
class HostView:
    """One host that claims of the logical node name, and what can be done there."""

    fabric: str
    host: str
    node: NodeView
    trouble: str = ""
    """Why nothing can be asked of the manager now; empty: it can be."""
    picture: Picture | None = None
    """Of the last inventory what concerns the host and the claimed devices; None: this leader has none."""
    certainty: Mapping[str, Certainty] = field(default_factory=dict)
    """By the name of the device."""
    attached: frozenset[str] = frozenset()
    """Claimed devices that were seen here after they were attached: by this process, or as the status says that an
    earlier leader wrote."""
    made: bool = False
    """Whether there is a machine only while devices are attached."""
    users: tuple[str, ...] = ()
    """Pods that use devices here."""
    no_answer: frozenset[str] = frozenset()
    """Devices for which a call had no answer and may still take effect."""
    at_fault: frozenset[str] = frozenset()
    """Devices that fail while the manager attaches others."""
    try_alone: bool = False
    """Whether devices should be attached one by one, to find the one that fails."""
    reading: frozenset[str] | None = None
    verified: bool = False
    called: bool = False
    pods_known: bool = False
    node_known: bool = False
    problem: FabricError | None = None
    evicted: bool = False
    kept: tuple[str, ...] = ()
    """These as in `Attempt`."""
    drain: Drain | None = None
    """How the host is to be freed; None: it is not."""
    withheld: Mapping[str, Drain | None] = field(default_factory=dict)
    """Claimed devices that are in maintenance, and how they are to be freed."""
    failed_seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    """How long claimed devices have been faulty or missing, as far as this process knows."""
    leaving_seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    """How long claimed devices have been marked to leave, as far as this process knows."""
    settle_seconds: float = 0.0


@dataclass(frozen=True)
class LogicalNodePicture:
    """One logical node."""

    key: LogicalNodeKey
    node: LogicalNode | None
    """None: the object is gone."""
    claims: tuple[DeviceAttachment, ...] = ()
    """All attachments that name it, also those made for an earlier namesake."""
    hosts: Mapping[Place, HostView] = field(default_factory=dict)
    tainted: tuple[str, ...] = ()
    """Nodes that carry its taint: one, or several when a crash or an edit came in between."""
    bound_seconds: float | None = None
    """How long it has been bound, by a clock that does not jump; None: not known."""
    not_ready_seconds: float | None = field(default=None, compare=False)
    """How long its Node has not been ready, as far as this process knows; None: it is, or it is not bound."""
    draining_seconds: float = field(default=0.0, compare=False)
    """How long it has said that its pods are to leave, as far as this process knows."""
    outcome: Outcome | None = None
    """What placement decided."""
    preempted: Drain | None = None
    """How it is to be freed for one of a greater priority; None: it stays."""
    unplaceable: str = ""
    """Why the assignment that is there cannot be carried out; empty: it can be."""
    taint_goes: bool = field(default=False, compare=False)
    """Whether somebody takes the taint off the Node as often as it is put back."""


def why_not_usable(cluster: Cluster, name: str, session: FabricSession | None) -> str:
    """Why no call can be made at a fabric now; empty: it can."""
    raw = cluster.get(FABRICS, name)
    if raw is None:
        return f"fabric {name} does not exist"
    conditions = {item["type"]: item for item in raw.get("status", {}).get("conditions", [])}
    connected = conditions.get("Connected", {})
    if session is None or not session.was_read or session.trouble:
        if connected.get("status") != "False":
            return f"fabric {name} was not read yet"
        # What the manager said, with its addresses, is for those who may read the Fabric.
        return (
            f"fabric {name} cannot be worked with ({connected['reason']}): its condition Connected says why"
        )
    # The session may be older than the last edit of the Fabric, and its manager another one.
    if (session.uid, session.endpoint) != (raw["metadata"]["uid"], raw["spec"]["endpoint"]):
        return f"fabric {name} was not read yet at its new endpoint"
    if not session.managed or raw["spec"].get("mode") != "Manage":
        paused = ANNOTATION_MODE in raw["metadata"].get("annotations", {})
        back = f"resume it (kubectl weft resume fabric/{name})" if paused else "set spec.mode to Manage"
        return f"fabric {name} is in Observe mode: {back}"
    if session.epoch == 0:
        return f"fabric {name}: the earlier leader is not fenced yet"
    return ""


def observe(
    cluster: Cluster,
    sessions: Mapping[str, FabricSession],
    key: LogicalNodeKey,
    outcome: Outcome | None,
    preempted: Drain | None,
    attempts: Mapping[Place, Attempt],
    tainted: tuple[str, ...],
    ages: BoundAges,
    since: Since,
    now: Now,
) -> LogicalNodePicture:
    """The picture of one logical node.

    `attempts` is what this pass has done so far, `tainted` the names of the Nodes that carry the logical node.
    """
    raw = cluster.get(LOGICAL_NODES, key.name, key.namespace)
    node = recent_node(raw) if raw is not None else None
    claims = tuple(claims_of(cluster, key.namespace, key.name))
    hosts = {
        place: _host_view(cluster, node, sessions.get(place[0]), place, here, attempts.get(place), since, now)
        for place, here in by_place(claims)
    }
    unplaceable = ""
    if isinstance(outcome, Assignment):
        # What a bound one lacks waits for no window.
        wall = None if outcome.waiting.extends else now.wall
        why = (
            why_not_usable(cluster, each, sessions.get(each)) or _why_not_given(cluster, each, wall)
            for each in sorted(outcome.fabrics)
        )
        unplaceable = "; ".join(filter(None, why))
    return LogicalNodePicture(
        key=key,
        node=node,
        bound_seconds=ages.seconds(node, now) if node is not None else None,
        not_ready_seconds=_not_ready(node, hosts, since, now),
        draining_seconds=_draining(node, since, now),
        claims=claims,
        hosts=hosts,
        tainted=tainted,
        outcome=outcome,
        preempted=preempted,
        unplaceable=unplaceable,
    )


def _why_not_given(cluster: Cluster, fabric: str, wall: datetime | None) -> str:
    """Why nothing may be claimed there although calls can be made; empty: it may."""
    raw = cluster.get(FABRICS, fabric)
    return "; ".join(each.words for each in closed([raw], wall).values()) if raw is not None else ""


def _host_view(
    cluster: Cluster,
    node: LogicalNode | None,
    session: FabricSession | None,
    place: Place,
    claims: Sequence[DeviceAttachment],
    attempt: Attempt | None,
    since: Since,
    now: Now,
) -> HostView:
    fabric, host = place
    view = _node_of(cluster, session, place, claims)
    users = tuple(users_of(cluster, claims, view.name))
    trouble = why_not_usable(cluster, fabric, session)
    attempt = attempt or Attempt()
    published = {claim.spec.device for claim in claims if is_published(node, claim)}
    if session is None:
        return HostView(fabric, host, view, trouble, attached=frozenset(published), users=users)
    devices = frozenset(claim.spec.device for claim in claims)
    evidence, settle = session.evidence, session.settle_seconds
    certainty: dict[str, Certainty] = {}
    no_answer: set[str] = set()
    attached: set[str] = set()
    for claim in claims:
        device, uid = claim.spec.device, claim.metadata.uid
        # Of a claim that an earlier leader made, nobody knows whether each of its calls had an answer.
        earlier = not evidence.is_ours(uid)
        # The owner of the object may write its status: what this process knows itself goes before it.
        if evidence.is_attached(uid) or (earlier and device in published):
            attached.add(device)
        certainty[device] = evidence.certainty(uid, device, host, settle, called_earlier=earlier)
        if evidence.may_come_late(device, host, settle, called_earlier=earlier):
            no_answer.add(device)
    picture = session.picture_of(host, devices)
    return HostView(
        fabric,
        host,
        view,
        trouble,
        picture,
        certainty=certainty,
        attached=frozenset(attached),
        made=session.is_made(host),
        users=users,
        no_answer=frozenset(no_answer),
        at_fault=frozenset(
            device for device in devices if session.blame.is_at_fault(device, now.boot, settle)
        ),
        try_alone=session.blame.try_alone(devices),
        reading=attempt.reading,
        verified=attempt.verified,
        called=attempt.called,
        pods_known=attempt.pods_known,
        node_known=attempt.node_known,
        problem=attempt.problem,
        evicted=attempt.evicted,
        kept=attempt.kept,
        drain=host_drain(cluster, fabric, host),
        withheld=_withheld(cluster, claims),
        failed_seconds=_failed(picture, host, claims, since, now),
        leaving_seconds=_leaving(claims, since, now),
        settle_seconds=settle,
    )


def _node_of(
    cluster: Cluster, session: FabricSession | None, place: Place, claims: Sequence[DeviceAttachment]
) -> NodeView:
    """The Node of a machine, or the one as which it registered since."""
    spec = claims[0].spec
    # The claim says which Node it was: neither the Fabric's list nor a taint, which others may edit.
    view = view_node(cluster, spec.node_name)
    raw = cluster.get(FABRICS, place[0])
    if view.exists or raw is None or session is None or session.picture is None:
        return view
    hosts = session.picture.inventory.hosts
    other = match(raw, hosts, cluster.list(NODES)).nodes.get(place[1])
    now = view_node(cluster, other) if other is not None else view
    is_its = now.taint in ("", taint_value(spec.claim_ref.namespace, spec.claim_ref.name))
    return now if now.exists and is_its else view


def host_drain(cluster: Cluster, fabric: str, host: str) -> Drain | None:
    """How a host is to be freed; None: it is not."""
    raw = cluster.get(FABRICS, fabric)
    wanted = raw["spec"].get("maintenance", {}) if raw is not None else {}
    if host not in wanted.get("hosts", ()) or wanted.get("drain") is None:
        return None
    return Drain.model_validate(wanted["drain"])


def _withheld(cluster: Cluster, claims: Sequence[DeviceAttachment]) -> dict[str, Drain | None]:
    found: dict[str, Drain | None] = {}
    for claim in claims:
        ref = claim.spec.pool_ref
        raw = cluster.get(RESOURCE_OF[ref.kind], ref.name)
        spec = raw["spec"].get("maintenance") if raw is not None else None
        if spec and (wanted := Maintenance.model_validate(spec)).means(claim.spec.device):
            found[claim.spec.device] = wanted.drain
    return found


def _failed(
    picture: Picture | None, host: str, claims: Sequence[DeviceAttachment], since: Since, now: Now
) -> dict[str, float]:
    """Claimed devices that a reading that is believed shows as faulty, or not at all."""
    if picture is None or picture.problem:
        # Nothing is known of them: neither that it goes on, nor that it ended.
        return {}
    shown = picture.by_host.get(host, frozenset())
    fine = {claim.spec.device for claim in claims} & shown & picture.healthy
    found: dict[str, float] = {}
    for claim in claims:
        seconds = since.seconds(claim.metadata.uid, claim.spec.device not in fine, now.boot)
        if seconds is not None:
            found[claim.spec.device] = seconds
    return found


def _not_ready(
    node: LogicalNode | None, hosts: Mapping[Place, HostView], since: Since, now: Now
) -> float | None:
    if node is None:
        return None
    views = list(hosts.values())
    down = is_true(node.status.conditions, "Bound") and bool(views) and not views[0].node.ready
    since_then = views[0].node.ready_since if down else ""
    return since.seconds(node.metadata.uid, down, now.boot, since_then)


def _draining(node: LogicalNode | None, since: Since, now: Now) -> float:
    if node is None:
        return 0.0
    holds = is_true(node.status.conditions, "Draining")
    return since.seconds(f"{node.metadata.uid} Draining", holds, now.boot) or 0.0


def _leaving(claims: Sequence[DeviceAttachment], since: Since, now: Now) -> dict[str, float]:
    found: dict[str, float] = {}
    for claim in claims:
        key, holds = f"{claim.metadata.uid} Leaving", is_true(claim.status.conditions, "Leaving")
        if (seconds := since.seconds(key, holds, now.boot)) is not None:
            found[claim.spec.device] = seconds
    return found


def users_of(cluster: Cluster, claims: Sequence[DeviceAttachment], node: str) -> list[str]:
    """Pods that use devices of one host: of the claims' namespace, on the Node that the claims name, and on `node`, as
    which its machine is registered now.

    Those that tolerate the logical node's taint, and those that came after the claim, whatever they tolerate: the
    taint may have been taken off. Found without the Node object, which may be gone.
    """
    spec = claims[0].spec
    namespace = spec.claim_ref.namespace
    value = taint_value(namespace, spec.claim_ref.name)
    since = min(
        (claim.metadata.creation_timestamp for claim in claims if claim.metadata.creation_timestamp),
        default=None,
    )
    users = []
    nodes = {spec.node_name, node}
    for pod in (pod for each in nodes for pod in cluster.select(PODS, place_of, (namespace, each))):
        if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            continue
        # An agent that runs on every Node tolerates everything and uses nothing of the logical node.
        if any(owner["kind"] == "DaemonSet" for owner in pod["metadata"].get("ownerReferences", [])):
            continue
        tolerates = any(_tolerates(each, value) for each in pod["spec"].get("tolerations", []))
        created = ObjectMeta.model_validate(pod["metadata"]).creation_timestamp
        if tolerates or since is None or created is None or created >= since:
            users.append(pod["metadata"]["name"])
    return sorted(users)


def _tolerates(toleration: Object, value: str) -> bool:
    # Without a key it tolerates every taint.
    key = toleration.get("key") or TAINT_LOGICAL_NODE
    return key == TAINT_LOGICAL_NODE and toleration.get("value", value) == value
