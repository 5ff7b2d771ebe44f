"""Which replicas are to be made and which are to go, so that the allocation comes true. Pure.

Replicas are counted per kind (roles that can exchange replicas): within a kind the roles' shares are brought
about by transfers, and only the total by creating and removing. A replica whose logical node has no pod yet
belongs to no role: its pod will be made for the role that lacks most.

The budget counts every replica until nothing of it is left, also one that is being removed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from weft.api import InferenceRole
from weft.balancing.observe import GroupPicture
from weft.balancing.replicas import Replica, revision_of, serving_in, shape_of
from weft.balancing.role_switch import strays
from weft.balancing.state import Finding, PodLoad, Split
from weft.balancing.steps import CheckTemplate, CreateNode, CreatePod, DeletePod, Relabel, Step
from weft.balancing.stuck import lost
from weft.balancing.taken_away import taken_away
from weft.plain import listed

REPLACE_AFTER = timedelta(seconds=10)
"""A pod that failed younger than this is not replaced yet: one that fails at once must not be made in a loop."""
REPLACE_AFTER_AT_MOST = timedelta(minutes=5)
"""The wait doubles with each that ends before one runs, as a kubelet's does between restarts of a container."""


@dataclass(frozen=True)
class Roster:
    """What is to be done about the number of replicas."""

    create: tuple[Step, ...] = ()
    """CreatePod; CheckTemplate, then CreateNode."""
    remove: tuple[str, ...] = ()
    """Replicas to take out of the router, drain and delete; those under way included."""
    rolled: Mapping[str, str] = field(default_factory=dict)
    """Of those: the ones that serve and go for their role's newer template, by name their role."""
    repair: tuple[Step, ...] = ()
    """DeletePod for pods that ended and are to be made again; Relabel for logical nodes behind their pods."""
    obstacle: Finding | None = None
    turn: Finding | None = None
    """Which replicas serve on although their devices are taken away."""

    @property
    def ending(self) -> frozenset[str]:
        """Replicas whose pods are to go."""
        ended = (step.replica for step in self.repair if isinstance(step, DeletePod))
        return frozenset((*self.remove, *ended))


def effective_roles(replicas: Sequence[Replica], transfers: Mapping[str, str]) -> dict[str, str]:
    """The role of each replica, a transfer taken as done. `transfers`: replica to role."""
    return {one.name: transfers.get(one.name, one.role) for one in replicas}


def plan_roster(
    picture: GroupPicture,
    allocation: Split,
    transfers: Mapping[str, str],
    now: datetime,
    no_rollout: Finding | None = None,
) -> Roster:
    """What has to be created and removed. `transfers`: replica to role, of those that go forward. `no_rollout`: why
    none is made anew from a changed template now."""
    roles, kinds, replicas = picture.roles, picture.kinds, picture.replicas
    budget_accelerators = picture.group.spec.accelerators.maximum
    effective = effective_roles(replicas, transfers)
    away = taken_away(picture, allocation, now)
    leaving = [
        one for one in replicas if one.name in away.leave or _must_leave(one, effective[one.name], picture)
    ]
    # In the place of one whose machine is gone, or whose devices are taken away, another is made; the budget counts
    # both.
    staying = [one for one in replicas if one not in leaving and not lost(one, now) and not one.node_draining]
    remove = [one.name for one in leaving]
    obstacle: Finding | None = None
    pods: list[CreatePod] = []
    nodes: list[CreateNode] = []
    used = picture.accelerators_held
    names = {*picture.taken, *(one.name for one in replicas)}
    # Where one role's replica takes the place of another's the donor is wholly gone before, and few go at a time.
    own = {name: role for name, role in roles.items() if role.spec.scale_target_ref is None}
    wanted_accelerators = places = accelerators_of(own, dict(allocation.counts))
    if picture.recomposes:
        present = Counter(effective[one.name] for one in replicas if not lost(one, now))
        places -= accelerators_of(own, present)
        places -= sum(max(1, one.accelerators) for one in replicas if effective[one.name] not in roles)
    serving = accelerators_of(own, Counter(effective[one.name] for one in replicas if one.serving))
    spare = max(_of_one_exchange(own), wanted_accelerators // 4) - max(0, wanted_accelerators - serving)
    made = {kinds[name] for name in own}
    for kind in sorted(made):
        members = [one for one in staying if kinds.get(effective[one.name]) == kind]
        wanted = {name: allocation[name] for name in roles if kinds[name] == kind}
        lacking = Counter(wanted)
        lacking.subtract(Counter(effective[one.name] for one in members if one.has_pod))
        surplus = len(members) - sum(wanted.values())
        gone, held = _victims(members, effective, wanted, lacking, surplus, transfers, picture)
        if picture.recomposes:
            idle = [name for name in gone if not _serves(name, members)]
            costs = {one.name: _cost(roles.get(effective[one.name])) for one in members}
            donors = [name for name in gone if name not in idle]
            while donors and sum(costs[name] for name in donors) > spare:
                donors.pop()
            spare -= sum(costs[name] for name in donors)
            gone = idle + donors
        remove += gone
        obstacle = obstacle or held
        for one in members:
            if one.has_pod or one.node_deleting or one.name in gone:
                continue
            role = _most_lacking(lacking, effective[one.name])
            lacking[role] -= 1
            if one.node_bound and one.node_name:
                pods.append(CreatePod(role, one.name, "its logical node is bound", one.node_name))
        for _ in range(-surplus):
            role = _most_lacking(lacking, "")
            cost = roles[role].spec.accelerators_counted
            if places < _cost(roles[role]):
                break
            if used + cost > budget_accelerators:
                last = next((one for one in away.last if one.role == role), None)
                if last is not None or not away.serve_on:
                    obstacle = obstacle or waits_for_budget(budget_accelerators, last)
                break
            lacking[role] -= 1
            used += cost
            places -= _cost(roles[role])
            name = free_name(picture.group.metadata.name, names)
            names.add(name)
            reason = "the role has fewer replicas than the allocation gives it"
            if roles[role].spec.node is None:
                pods.append(CreatePod(role, name, reason))
            else:
                nodes.append(CreateNode(role, name, reason))
    old: list[str] = []
    if not (remove or nodes or pods or transfers or obstacle):
        old, obstacle = _outdated(staying, effective, roles)
        # What serves nobody may be of a template that never runs: its successor waits for no window.
        goes_on = bool(old) and not any(one.serving for one in staying if one.name in old)
        waits = (no_rollout or away.told) if (old or obstacle) and not goes_on else None
        if waits is not None:
            old, obstacle = [], waits
        remove += old
        surge = _surge(staying, effective, picture, used, names) if obstacle and not waits else None
        if isinstance(surge, CreatePod):
            pods.append(surge)
        elif surge is not None:
            nodes.append(surge)
    first = {one.role: one for one in reversed(nodes)}
    checks = [CheckTemplate(role, first[role].replica, "before hardware is bound") for role in sorted(first)]
    rolled = {one.name: effective[one.name] for one in staying if one.serving and one.name in old}
    checks += [CheckTemplate(role, name, "before a replica goes for it") for name, role in rolled.items()]
    ended = [
        DeletePod(one.name, "its pod ended and is made again")
        for one in staying
        if one.pod_finished
        and not one.pod_deleting
        and effective[one.name] in roles
        and (one.created_at is None or now - one.created_at >= _replaced_after(one))
    ]
    astray = set(strays(picture, transfers))
    ended += [
        DeletePod(one.name, "its engine serves another stage than its role's and is made again")
        for one in staying
        if one.name in astray and one.name not in remove
    ]
    ended += [
        DeletePod(
            one.name,
            "its logical node has left the Node that it waits for, and it is made again for the other one",
        )
        for one in staying
        if one.astray and not one.pod_deleting and not one.pod_finished and one.name not in remove
    ]
    behind = [
        Relabel(one.name, "its pod serves another role than it was made for", one.role)
        for one in staying
        if one.has_pod and one.has_node and not one.node_deleting and one.node_role != one.role
    ]
    return Roster((*pods, *checks, *nodes), tuple(remove), rolled, (*ended, *behind), obstacle, away.told)


def _replaced_after(one: Replica) -> timedelta:
    doubled = min(max(0, one.pods_ended - 1), 10)
    return min(REPLACE_AFTER * (1 << doubled), REPLACE_AFTER_AT_MOST)


def accelerators_of(roles: Mapping[str, InferenceRole], replicas: Mapping[str, int]) -> int:
    """Accelerators of so many replicas per role, as the roles are now."""
    return sum(_cost(role) * replicas.get(name, 0) for name, role in roles.items())


def _cost(role: InferenceRole | None) -> int:
    """Accelerators of a replica, where what has none counts as one."""
    return max(1, role.spec.accelerators_counted) if role is not None else 1


def _of_one_exchange(roles: Mapping[str, InferenceRole]) -> int:
    """Accelerators of the replicas of one role that make room for one of another, at most."""
    costs = {_cost(role) for role in roles.values()}
    return max((math.ceil(taken / given) * given for taken in costs for given in costs), default=1)


def _must_leave(one: Replica, role: str, picture: GroupPicture) -> bool:
    """A replica of a role that is gone, one whose removal began, or a bare node of a shape or a domain no longer asked
    for or with a name that is taken.

    What a role without a template has stays as it is: a template is taken away by mistake, or to be moved.
    """
    if one.removing or role not in picture.all_roles:
        return True
    if one.has_pod or not one.has_node:
        return False
    # Under a name that somebody else's pod has got meanwhile, it would wait for its own for ever.
    other = one.misplaced or one.shape != shape_of(picture.all_roles[role])
    return other or one.name in picture.taken


def _serves(name: str, members: Sequence[Replica]) -> bool:
    return any(one.name == name and one.serving for one in members)


def _victims(
    members: Sequence[Replica],
    effective: Mapping[str, str],
    wanted: Mapping[str, int],
    lacking: Mapping[str, int],
    surplus: int,
    transfers: Mapping[str, str],
    picture: GroupPicture,
) -> tuple[list[str], Finding | None]:
    """The replicas of a kind that are too many: first those that serve nobody, then the least loaded of the role with
    most."""
    loads, replicas, roles = picture.reading.loads, picture.replicas, picture.roles
    candidates = [one for one in members if one.name not in transfers]
    over = {role: -count for role, count in lacking.items()}
    gone: list[str] = []
    for _ in range(max(0, surplus)):
        rest = [one for one in candidates if one.name not in gone]
        if not rest:
            break
        victim = min(
            rest,
            key=lambda one: (
                not _sole_of_old(one, members, roles),
                one.has_pod and not one.pod_deleting,
                one.serving,
                -over.get(effective[one.name], 0),
                not _is_old(one, roles.get(effective[one.name])),
                work(loads.get(one.name)),
                -one.number,
            ),
        )
        others = [one for one in serving_in(replicas, victim.role) if one.name not in (victim.name, *gone)]
        if victim.serving and not others and wanted.get(victim.role):
            return gone, no_spare(victim.role, replicas)
        gone.append(victim.name)
        over[effective[victim.name]] = over.get(effective[victim.name], 0) - 1
    return gone, None


def _outdated(
    staying: Sequence[Replica], effective: Mapping[str, str], roles: Mapping[str, InferenceRole]
) -> tuple[list[str], Finding | None]:
    """Replicas made from an older template that are to go now.

    Those that serve nobody at once, also those of a template that never ran. Of the others one, when all serve: of the
    role that is furthest behind, so that no stage is long without a partner of its revision.
    """
    old = [one for one in staying if _is_old(one, roles.get(effective[one.name]))]
    idle = [one.name for one in old if not one.serving and not one.pod_deleting]
    if idle or not all(one.serving for one in staying):
        return idle, None
    behind = Counter(effective[one.name] for one in old)
    of_role = Counter(effective[one.name] for one in staying)
    for one in sorted(old, key=lambda one: (-behind[one.role] / of_role[one.role], one.number)):
        if len(serving_in(staying, one.role)) > 1:
            return [one.name], None
    return [], no_spare(old[0].role, staying) if old else None


def work(load: PodLoad | None) -> float:
    """Requests that a replica has; none where nothing is known of it."""
    return load.running + load.waiting if load is not None else 0.0


def _is_old(one: Replica, role: InferenceRole | None) -> bool:
    return role is not None and one.has_pod and (one.misplaced or one.revision != revision_of(role))


def _sole_of_old(one: Replica, members: Sequence[Replica], roles: Mapping[str, InferenceRole]) -> bool:
    """Whether it is its role's only serving replica, of an older template: it goes when the new one serves."""
    return one.serving and _is_old(one, roles.get(one.role)) and len(serving_in(members, one.role)) == 1


def _surge(
    staying: Sequence[Replica],
    effective: Mapping[str, str],
    picture: GroupPicture,
    used: int,
    names: Collection[str],
) -> CreatePod | CreateNode | None:
    """One replica more for a role whose only one is of an older template, where the budget has room for it."""
    for one in staying:
        role = picture.roles.get(effective[one.name])
        if role is None or not _sole_of_old(one, staying, picture.roles):
            continue
        if used + role.spec.accelerators_counted > picture.group.spec.accelerators.maximum:
            continue
        name, reason = (
            free_name(picture.group.metadata.name, names),
            "takes the place of one of an older template",
        )
        make = CreatePod if role.spec.node is None else CreateNode
        return make(role.metadata.name, name, reason)
    return None


def no_spare(role: str, replicas: Iterable[Replica]) -> Finding:
    """Said instead of taking the last serving replica of a role; names those of it that do not serve."""
    away = [one.name for one in replicas if one.role == role and one.has_pod and not one.serving]
    text = f"role {role} has no serving replica to spare" + (
        f" (not serving: {listed(away)})" if away else ""
    )
    return Finding(False, "NoSpareReplica", f"{text}: the move waits until it has")


def waits_for_budget(budget_accelerators: int, last: Replica | None = None) -> Finding:
    """Said while a new replica does not fit. `last`: the one whose place it is to take, where that is the last
    that serves its role, and its devices are taken away."""
    text = (
        f"a new replica waits until another is wholly gone: accelerators.maximum, {budget_accelerators}, is used"
        if last is None
        else f"{last.name}, the last that serves role {last.role}, is to give its devices back: raise"
        f" accelerators.maximum, {budget_accelerators}, so that another serves before it is evicted with its requests"
    )
    return Finding(False, "WaitingForBudget", text)


def _most_lacking(lacking: Mapping[str, int], own: str) -> str:
    """The role to make a pod for: its own if that lacks one, else the one that lacks most."""
    if lacking.get(own, 0) > 0:
        return own
    return max(sorted(lacking), key=lambda role: lacking[role])


def free_name(group_name: str, names: Collection[str]) -> str:
    """The name of the next replica."""
    number = 0
    while f"{group_name}-{number}" in names:
        number += 1
    return f"{group_name}-{number}"
