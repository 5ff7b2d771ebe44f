"""What a group's and a role's conditions say. Pure.

No message holds a number that moves by itself: those are metrics. So a status is written only when something
happened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from weft.api import InferenceGroup, InferenceRole, RebalanceMode, Stage, Transfer
from weft.api.conditions import is_false, is_true
from weft.api.inference import MOST_ROLES
from weft.balancing.demand import only_begun, share_within
from weft.balancing.edits import asks_anew
from weft.balancing.observe import GroupPicture
from weft.balancing.presets import PAST_SECONDS, Windows
from weft.balancing.profile import Profile, Unusable
from weft.balancing.refusals import Refusal
from weft.balancing.replicas import Replica, serving_in
from weft.balancing.sent_late import words
from weft.balancing.series import Buckets
from weft.balancing.signals import Reading
from weft.balancing.stages import PLANNED, is_planned, parts_of
from weft.balancing.state import Finding, Split
from weft.balancing.steps import Subject
from weft.plain import listed

SCRAPE_SECONDS_MOST = 5.0
"""Scrapes that are further apart than this are named in the condition."""
IN_PROGRESS = ("Moving", "Scaling", "Starting", "WaitingForTurn")
"""Reasons of Balanced=False that pass by themselves; any other is an obstacle."""
ATTAINMENT_BAND = 0.005
"""Once missed, objectives count as met again this far above the promised share: the condition must not flap."""


def ready(picture: GroupPicture, refusals: Mapping[Subject, Refusal], allocation: Split) -> Finding:
    """Ready: a request can pass, and no role is kept from running."""
    if not picture.all_roles:
        return Finding(False, "NoRoles", "no InferenceRole refers to this group")
    for name in sorted(picture.all_roles):
        if name not in picture.roles:
            return template_missing(name)
        refused = refusals.get(Subject("role", name))
        if refused is not None and not picture.serving(name):
            return Finding(False, refused.finding.reason, f"role {name}: {refused.finding.message}")
    if asleep(picture):
        text = "no role is to have replicas: in Auto they are made when a request waits at the front end"
        return Finding(False, "ScaledToZero", text)
    has = {role.spec.stage for role in picture.roles.values()} - {Stage.ENCODE}
    serves = {role.spec.stage for name, role in picture.roles.items() if picture.serving(name)}
    if parts_of(serves) >= set(PLANNED):
        if _encoders_missing(picture, serves):
            text = "no replica serves Encode yet: requests with images, audio or video cannot pass, or wait"
            return Finding(False, "NoServingReplica", text)
        return Finding(True, "Serving", "a request can pass: every stage that it needs has a serving replica")
    needed = (Stage.AGGREGATED,) if has == {Stage.AGGREGATED} else PLANNED
    absent = [stage for stage in needed if stage not in has]
    if absent and Stage.AGGREGATED not in has:
        text = f"no role of stage {absent[0]} refers to this group: a request needs Prefill and Decode, or Aggregated"
        return Finding(False, "StageMissing", text)
    coming = serves | {role.spec.stage for name, role in picture.roles.items() if allocation[name]}
    none = [stage for stage in needed if stage not in coming]
    if none and Stage.AGGREGATED not in coming:
        text = f"no replica is made for {' or '.join(none)}: the condition Balanced says why"
        return Finding(False, "NoReplicaGiven", text)
    missing = " or ".join(stage for stage in needed if stage not in serves)
    return Finding(False, "NoServingReplica", f"no replica serves {missing} yet")


def _encoders_missing(picture: GroupPicture, serves: Collection[Stage]) -> bool:
    asked = any(
        role.spec.replicas_asked for role in picture.roles.values() if role.spec.stage is Stage.ENCODE
    )
    return asked and Stage.ENCODE not in serves


def template_missing(role: str) -> Finding:
    """Said while a role cannot make pods; those that it has stay."""
    return Finding(
        False,
        "TemplateMissing",
        f"role {role} has no pod template, nor has the group: set spec.template in one of them",
    )


def too_many_roles(names: Collection[str]) -> Finding | None:
    """Said of a group, and of these roles, that are more than it can have; None where there are none."""
    if not names:
        return None
    text = (
        f"a group has at most {MOST_ROLES} roles, and {listed(sorted(names))} came later: delete them, or others of the"
        " group"
    )
    return Finding(False, "TooManyRoles", text)


def metrics_fresh(reading: Reading, windows: Windows, asleep: bool = False) -> Finding:
    """MetricsFresh: what is read is recent and whole. Also what rare scrapes cost. `asleep`: no role is to have any
    replica."""
    if reading.hold is None:
        text = "the metrics of all serving replicas and of the front end are recent"
        if windows.scrape_seconds > SCRAPE_SECONDS_MOST:
            text += (
                f"; with scrapes every {windows.scrape_seconds:g} s a shift of the load is seen whole only after"
                f" {windows.short_seconds:g} s: scrape every {SCRAPE_SECONDS_MOST:g} s or more often"
            )
        if reading.left_out:
            names = sorted(reading.left_out)
            why = reading.left_out[names[0]]
            return Finding(
                True,
                "PartlyFresh",
                f"left out: {listed(names)} ({why.reason}: {why.message}); the others speak for them",
            )
        return Finding(True, "Fresh", text)
    if reading.hold.reason == "NoReplicas" and asleep:
        return Finding(
            None, "ScaledToZero", "there are no replicas: only what waits at the front end is read"
        )
    return Finding(False, reading.hold.reason, f"{reading.hold.message}; the split holds meanwhile")


def demand_estimated(reading: Reading) -> Finding:
    """DemandEstimated: whether the offered work is told by the front end, or concluded, or not known yet."""
    if reading.traffic is None:
        return Finding(None, "MetricsNotFresh", "unknown while the metrics are not fresh: nothing is decided")
    traffic = reading.traffic
    if reading.demand is not None:
        return reading.demand
    if max(traffic.short.requests, traffic.long.requests) <= 0:
        return Finding(None, "NoRequests", "no request arrived: nothing is decided")
    if only_begun(traffic):
        text = (
            "the load has begun or more than doubled just now: its rates are not whole yet, and nothing is decided"
            " until the long window shows it too"
        )
        return Finding(None, "LoadBegan", text)
    return Finding(False, "Counted", "the front end counts the requests and their lengths")


def removing(replicas: Sequence[Replica], reading: Reading, sent_late: Collection[str]) -> Finding:
    """Ready, of a group that is being deleted: whose requests it waits for, and how long where nothing tells.

    `sent_late`: replicas on which requests go on beginning.
    """
    left = sorted(one.name for one in replicas if one.has_pod)
    if not left:
        return Finding(False, "Removing", "the last logical nodes give their devices back")
    names = listed(left)
    if len(left) == 1:
        text = f"1 replica finishes its requests before it is removed: {names}"
    else:
        text = f"{len(left)} replicas finish their requests before they are removed: {names}"
    if not reading.loads.keys() >= set(left):
        text += "; without recent metrics a replica stays until its drain times out"
    elif sent_late:
        text += f". {words(sent_late)}; until then a replica stays until its drain times out"
    return Finding(False, "Removing", text)


def asleep(picture: GroupPicture) -> bool:
    """Whether no role is to have any replica."""
    allocation = Split.read(picture.group.status.allocation)
    return bool(allocation) and not allocation.total


def able_to_scale_to_zero(picture: GroupPicture) -> Finding | None:
    """AbleToScaleToZero: whether the last replicas go while nobody asks; None where no role says that they may."""
    if all(role.spec.min_replicas for role in picture.all_roles.values()):
        return None
    if not picture.may_be_without_replicas:
        text = (
            "minReplicas 0 has an effect in Auto, with accelerators.minimum 0 and minReplicas 0 of all roles: until"
            " then one replica of each role stays"
        )
        return Finding(False, "RolesKeepReplicas", text)
    if picture.asked is None or picture.untold:
        text = (
            f"nothing tells which requests wait at the front end, as the preset {picture.group.spec.metrics.preset}"
            " reads it: one replica of each role stays, since nothing would wake the group; an endpoint picker with"
            " flow control tells it"
        )
        return Finding(False, "NoActivator", text)
    text = (
        f"all replicas go when no request has come for {PAST_SECONDS / 60:.0f} minutes, and come when one waits at the"
        " front end"
    )
    return Finding(True, "FrontEndQueues", text)


def kv_caches_read(reading: Reading) -> Finding | None:
    """KVCachesRead: whether decode reads what prefill computes for it; None where no engine counts what is not read."""
    unread = {name: load.kv_unread for name, load in reading.loads.items() if load.kv_unread is not None}
    if not unread:
        return None
    of = sorted(name for name, count in unread.items() if count > 0)
    minutes = f"{PAST_SECONDS / 60:.0f} minutes"
    if not of:
        return Finding(True, "AllRead", f"no KV cache of a prompt was left unread in the last {minutes}")
    text = (
        f"the lease of KV caches that {listed(of)} computed ended in the last {minutes} before decode had read them:"
        " these requests failed, were computed anew, or their clients had gone. Look whether decode replicas reach"
        " these pods (the KV connector's port, the interconnect) and are not overloaded; if reads are only slow, raise"
        " the lease (vLLM: kv_lease_duration in kv_connector_extra_config), and kv_hold_seconds of the preset with it"
    )
    return Finding(False, "KVExpired", text)


def objectives_met(group: InferenceGroup, reading: Reading) -> Finding:
    """ObjectivesMet: in the long window the promised share is within the objectives.

    First tokens are counted per request, as the front end sees them; times between tokens per token, as engines
    report them.
    """
    if reading.traffic is None:
        return Finding(None, "MetricsNotFresh", "unknown while the metrics are not fresh")
    objectives = group.spec.objectives
    promised = objectives.attainment_permille / 1000
    if not is_true(group.status.conditions, "ObjectivesMet"):
        promised = min(promised + ATTAINMENT_BAND, (1 + promised) / 2)
    first, between = objectives.time_to_first_token_milliseconds, objectives.inter_token_latency_microseconds
    latencies: list[tuple[str, float, Buckets]] = []
    if first is not None:
        latencies.append(("time to first token", first, reading.traffic.ttft_buckets))
    if between is not None:
        latencies.append(("time between tokens", between / 1000, reading.traffic.itl_buckets))
    missed, coarse = [], []
    unknown: list[str] = []
    absent: list[str] = []
    for what, milliseconds, buckets in latencies:
        shares = share_within(buckets, milliseconds / 1000)
        if shares is None:
            (unknown if buckets else absent).append(what)
            continue
        if shares[0] < promised:
            missed.append(f"{what} {milliseconds:g} ms")
        if shares[0] < shares[1]:
            coarse.append(what)
    note = (
        f" (the objective for {' and '.join(coarse)} lies between two histogram buckets: counted at the lower one)"
        if coarse
        else ""
    )
    if reading.first_token_of_engines and first is not None:
        note += " (time to first token as prefill's engines count it: the front end does not tell it)"
    if missed:
        share = objectives.attainment_permille / 10
        return Finding(False, "Missed", f"fewer than {share:g} % are within {' and '.join(missed)}{note}")
    if absent:
        text = f"nothing tells {' and '.join(absent)}: the preset's histogram has no series here"
        return Finding(None, "HistogramMissing", text)
    if unknown:
        return Finding(None, "NoRequests", f"no request to judge {' and '.join(unknown)} by")
    return Finding(True, "Met", f"the promised share is within the objectives{note}")


def balanced(
    transfers: Sequence[Transfer],
    hanging: Collection[str],
    allocation: Split,
    roles: Mapping[str, InferenceRole],
    replicas: Sequence[Replica],
    obstacles: Sequence[Finding | None],
) -> Finding:
    """Balanced: the replicas are where the allocation wants them, and nothing keeps the split from following.

    `hanging`: replicas that get no further in their transfer.
    """
    for obstacle in obstacles:
        if obstacle is not None:
            return obstacle
    if transfers:
        moves = ", ".join(
            f"{one.replica} from {one.from_} to {one.to}"
            + (" (does not get ready; nothing waits for it)" if one.replica in hanging else "")
            for one in transfers
        )
        return Finding(False, "Moving", f"on the way: {moves}")
    counts = {name: sum(one.role == name and one.has_pod for one in replicas) for name in roles}
    short = [name for name in roles if counts[name] != allocation[name]]
    if short or any(one.role not in roles for one in replicas):
        return Finding(False, "Scaling", "replicas are being made or removed")
    late = [name for name in roles if len(serving_in(replicas, name)) < allocation[name]]
    if late:
        return Finding(False, "Starting", f"not every replica takes requests yet: {', '.join(sorted(late))}")
    return Finding(True, "AsDecided", "every role has the serving replicas that the allocation gives it")


def waiting_for_hardware(replicas: Sequence[Replica], where: str = "") -> Finding | None:
    """Said while a new replica has no devices or no Node; None where none waits. `where`: the only domain that it can
    be in."""
    waiting = [one for one in replicas if one.waits_for_hardware and not one.serving and not one.removing]
    if not waiting:
        return None
    names = listed([one.name for one in waiting])
    kinds = " and ".join(
        kind
        for kind, there in (
            ("LogicalNode", any(not one.has_pod for one in waiting)),
            ("pod", any(one.has_pod for one in waiting)),
        )
        if there
    )
    text = f"no free hardware yet for {names}{where}: see the {kinds} of that name; until then it is not counted on"
    return Finding(False, "WaitingForHardware", text)


def role_ready(
    role: InferenceRole, has_template: bool, allocation: Split, replicas: Sequence[Replica]
) -> Finding:
    """Ready of a role: it has the replicas it is to have and they take requests."""
    name = role.metadata.name
    if not has_template:
        return template_missing(name)
    serving = len(serving_in(replicas, name))
    if not serving and not allocation[name] and not role.spec.scale_target_ref and role.spec.replicas_asked:
        if role.spec.min_replicas:
            text = "no replica is made for the role: the condition Balanced of its group says why"
            return Finding(False, "NoReplicaGiven", text)
        return Finding(False, "NoneNeeded", "minReplicas is 0, and the role is to have no replica now")
    if serving >= allocation[name]:
        return Finding(True, "Serving", "all its replicas take requests")
    return Finding(False, "Progressing", "not all of its replicas take requests yet")


def keeps_up(picture: GroupPicture, name: str, now: datetime) -> Finding:
    """KeepsUp of a role of stage Encode: whether what waits at its replicas is more, for long, than they work on."""
    if not any(one.name in picture.reading.loads for one in serving_in(picture.replicas, name)):
        preset = picture.group.spec.metrics.preset
        text = (
            f"nothing tells what waits at its replicas: none serves, or they have no series of running and waiting"
            f" requests that the preset {preset} reads"
        )
        return Finding(None, "NotTold", text)
    since, known = picture.overrun_since.get(name), picture.roles[name].status.conditions
    window = timedelta(seconds=picture.windows.long_seconds)
    if since is not None and (now - since >= window or is_false(known, "KeepsUp")):
        text = (
            "more requests wait at its replicas than they work on, for longer than a burst: first tokens are late for"
            " it; raise spec.replicas, or make its replicas faster"
        )
        return Finding(False, "QueueLong", text)
    return Finding(
        True, "QueueShort", "no more requests wait at its replicas than they work on, but for bursts"
    )


def profile_valid(profile: Profile | Unusable | None) -> Finding:
    """ProfileValid of a role: the measured speed of its replicas can be used."""
    if isinstance(profile, Unusable):
        return Finding(False, "ProfileUnusable", profile.why)
    if profile is None:
        return Finding(None, "TemplateMissing", "the role has no template to run")
    return Finding(True, "ProfileRead", "the measured profile is usable")


def replicas_ignored(group: InferenceGroup, role: InferenceRole, allocation: Split, left_out: int) -> Finding:
    """ReplicasIgnored of a role: the allocation differs from what its spec asks for. `left_out`: replicas of the group
    for which its budget has no room."""
    asked, name = role.spec.replicas_asked, role.metadata.name
    given = allocation[name] if allocation.names(name) else asked
    if given < asked and left_out:
        text = (
            "accelerators.maximum of the group has no room for all replicas that its roles ask for: this one is"
            f" given {given} of {asked}"
        )
        return Finding(True, "BudgetTooSmall", text)
    mode = group.spec.rebalance.mode
    if given != asked and (mode is RebalanceMode.AUTO or not asks_anew(group, role)):
        text = f"Auto gives this role {given} replicas; spec.replicas ({asked}) was the starting point"
        if mode is not RebalanceMode.AUTO:
            text = f"the role keeps the {given} replicas that Auto gave it: edit spec.replicas ({asked}) for others"
        return Finding(True, "DecidedByAuto", text)
    if not is_planned(role.spec.stage):
        text = (
            f"Auto holds roles of stage {role.spec.stage} at what they ask for, since no engine tells what they need:"
            " set spec.replicas, or have an autoscaler write it through /scale"
        )
        return Finding(False, "HeldAsAsked", text)
    return Finding(False, "AsAsked", "the role has the replicas that spec.replicas asks for")
