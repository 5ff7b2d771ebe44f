"""Whether a replica that was taken out of the router has finished its work. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from weft.api import Stage
from weft.balancing.replicas import Replica
from weft.balancing.state import PodLoad
from weft.balancing.steps import DeletePod, GateReason, ReturnToRouter, Step, Switch

CONDITION_SECONDS = 1.0
"""Times of conditions are whole seconds, cut off."""
ROUTER_SECONDS = 5.0
"""Within so long a router that watches pods sends nothing more to one that is not Ready."""
END_SECONDS = 10.0
"""An engine is ended, or asked to change its stage, by what was scraped so long after: a router that learns of it by
asking now and then, or through others, sends for some seconds, and what an ended engine gets is lost."""
QUEUED_SECONDS = 30.0
"""While prompts wait a decode replica is not ended sooner: routers choose it as a request arrives, and its engine hears
of that request only when the prompt has been read."""


def ends_decode_after(prompts_wait: bool) -> float:
    """Seconds out of the router until a decode replica may be ended. `prompts_wait`: some do at prefill replicas."""
    return QUEUED_SECONDS if prompts_wait else END_SECONDS


def seen_to_end_after() -> float:
    """Seconds after a replica left the router from which on a scrape tells whether its engine may be ended."""
    return CONDITION_SECONDS + END_SECONDS


def seen_idle_after(scrape_seconds: float) -> float:
    """Seconds after a replica left the router from which on a scrape tells whether it is idle."""
    return CONDITION_SECONDS + min(scrape_seconds, ROUTER_SECONDS)


def idle(replica: Replica, load: PodLoad | None, scrape_seconds: float) -> bool:
    """Nothing runs or waits in it, seen after the router can no longer send it anything.

    Counts only what was scraped a full scrape interval after the pod turned not Ready, or after ROUTER_SECONDS where
    scrapes are rarer: until then the router may still have been sending.
    """
    since = out_since(replica)
    if load is None or since is None:
        return False
    seen_after = since + timedelta(seconds=seen_idle_after(scrape_seconds))
    return load.sampled_at >= seen_after and load.running == 0 and load.waiting == 0


def out_since(replica: Replica) -> datetime | None:
    """When it left the router; None while it may be sent requests."""
    if replica.gate is not False or replica.gate_changed_at is None or replica.ready:
        return None
    return max(moment for moment in (replica.gate_changed_at, replica.ready_changed_at) if moment is not None)


def timed_out(replica: Replica, timeout_seconds: int, now: datetime) -> bool:
    """Whether its drain takes longer than it may."""
    since = replica.gate_changed_at
    return replica.gate is False and since is not None and now - since > timedelta(seconds=timeout_seconds)


def may_stop(
    replica: Replica,
    load: PodLoad | None,
    others: Iterable[PodLoad | None],
    prompts_wait: bool,
    scrape_seconds: float,
    kv_hold_seconds: float,
    kv_use_tells_reads: bool,
    timeout_seconds: int,
    now: datetime,
) -> bool:
    """Whether its engine may be ended: idle for sure, and no other replica still reads KV caches or embeddings from it.

    `prompts_wait`: some do at prefill replicas.
    Those reads have ended when the rest of the group is idle too; when its KV cache is unused, where the engine counts
    what is still to be read; else when the connector's lease has passed since it was first seen idle: the lease of a
    prompt begins when it is computed, which in a long queue is long after the replica left the router. Or the drain
    timed out.
    """
    if not replica.pod_running or replica.gate is None or timed_out(replica, timeout_seconds, now):
        return True
    since = out_since(replica)
    if load is None or since is None or not idle(replica, load, scrape_seconds):
        return False
    if load.sampled_at < since + timedelta(seconds=seen_to_end_after()):
        return False
    if replica.stage == Stage.DECODE.label:
        return now - since >= timedelta(seconds=ends_decode_after(prompts_wait))
    if all(one is not None and one.running + one.waiting == 0 for one in others):
        return True
    # What prefill still reads of an encoder is in no KV cache.
    told = kv_use_tells_reads and replica.stage != Stage.ENCODE.label
    if told and load.kv_usage is not None:
        return load.kv_usage == 0
    return replica.idle_since is not None and now - replica.idle_since >= timedelta(seconds=kv_hold_seconds)


def drains_ended(
    steps: Iterable[Step], replicas: Iterable[Replica], now: datetime
) -> Iterator[tuple[GateReason, float]]:
    """What each drain that these steps end was for, and its seconds; RolledBack: the replica stays what it was."""
    by_name = {one.name: one for one in replicas}
    for step in steps:
        if not isinstance(step, Switch | DeletePod | ReturnToRouter):
            continue
        replica = by_name.get(step.replica)
        if replica is None or replica.gate is not False or replica.gate_changed_at is None:
            continue
        if replica.gate_reason in (GateReason.TRANSFER, GateReason.REMOVING):
            end = GateReason.ROLLED_BACK if isinstance(step, ReturnToRouter) else replica.gate_reason
            yield GateReason(end), (now - replica.gate_changed_at).total_seconds()
