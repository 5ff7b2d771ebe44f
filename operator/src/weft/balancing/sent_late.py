"""Requests that go on beginning on a replica that has left the router. Pure, but for what it remembers.

What sends them then follows no readiness: the replica never becomes idle, and what it is sent when its engine ends is
lost. How many have begun is what ended since, and what it has now, less what it had before: answers that take minutes
are in both, and requests that were aborted only make it less. A decode replica is sent requests for as long as their
prompts wait: of it is counted when the replicas that read prompts have ended as many as they had.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from weft.api import Stage
from weft.balancing.drain import CONDITION_SECONDS, END_SECONDS, out_since
from weft.balancing.replicas import Replica
from weft.balancing.state import Finding, PodLoad
from weft.plain import listed

LEFT_SECONDS = 30.0
"""What asks for endpoints now and then (some load balancers: 10 to 30 s) sends nothing more so long after."""
APART_SECONDS = 4.0
"""Between two counts that are compared: an engine's gauges may be seconds behind its counters (SGLang's)."""
REQUESTS_LEAST = 5
"""Fewer may be somebody who asks the engine itself, or a health check that wants an answer."""
REMEMBERED_SECONDS = 600.0
"""Nothing tells of a router that was mended while no replica is out of it: after so long another one may leave."""

_BEFORE = {
    Stage.ENCODE.label: (),
    Stage.PREFILL.label: (Stage.ENCODE.label,),
    Stage.AGGREGATED.label: (Stage.ENCODE.label,),
    Stage.DECODE.label: (Stage.ENCODE.label, Stage.PREFILL.label, Stage.AGGREGATED.label),
}
"""By stage those where a request may still be for which a replica was chosen before it left."""


@dataclass(frozen=True)
class _Watched:
    """What was counted of a replica since it left."""

    ahead: Mapping[str, float]
    """By replica of an earlier stage what it will have ended when nothing is left in it of the time when this one left;
    without those that have."""
    due: float = 0.0
    """Requests that it had or had ended when all those had passed them on."""
    last: PodLoad | None = None
    """At the last count; None: that is still to come."""
    begun: float = 0.0
    """Requests beyond those that were due."""


class SentLate:
    """Of one group, in the leader's memory: a new leader counts from its first look on."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}
        self._seen: dict[str, float] = {}
        """By replica, the boot time when requests were last seen to have begun on it."""

    def of(self, replicas: Sequence[Replica], loads: Mapping[str, PodLoad], boot: float) -> frozenset[str]:
        """The replicas on which requests went on beginning long after they had left, now or in the last minutes."""
        out = {one.pod_uid: one for one in replicas if out_since(one) is not None}
        self._watched = {uid: known for uid, known in self._watched.items() if uid in out}
        for uid, one in out.items():
            known, load = self._watched.get(uid), loads.get(one.name)
            now = _counted(one, load, replicas, loads, known)
            if now is None:
                continue
            self._watched[uid] = now
            if now.begun >= REQUESTS_LEAST and known is not None and now.begun > known.begun:
                self._seen[one.name] = boot
        self._seen = {name: at for name, at in self._seen.items() if boot - at < REMEMBERED_SECONDS}
        return frozenset(self._seen)


def _counted(
    one: Replica,
    load: PodLoad | None,
    replicas: Sequence[Replica],
    loads: Mapping[str, PodLoad],
    known: _Watched | None,
) -> _Watched | None:
    """What is known of a replica by its load; None: no more than before."""
    since = out_since(one)
    if load is None or load.ended is None or since is None or one.stage not in _BEFORE:
        return None
    left = since + timedelta(seconds=CONDITION_SECONDS)
    running = {other.pod_uid: loads.get(other.name) for other in replicas if other.pod_running}
    if known is None:
        before = [
            other.pod_uid for other in replicas if other.pod_running and other.stage in _BEFORE[one.stage]
        ]
        ahead: dict[str, float] = {}
        for uid in before:
            told = running[uid]
            # It may hold no request that the router sent meanwhile.
            if told is None or told.sampled_at < left + timedelta(seconds=END_SECONDS):
                return None
            ahead[uid] = _counts(told)
        return _Watched(ahead)
    if known.last is None:
        ahead = {
            uid: due for uid, due in known.ahead.items() if uid in running and not _passed(running[uid], due)
        }
        if ahead or load.sampled_at < left + timedelta(seconds=LEFT_SECONDS):
            return _Watched(ahead)
        return _Watched({}, _counts(load), load)
    counted = known.last.ended or 0.0
    if load.ended < counted:  # its engine began anew
        return _Watched({}, _counts(load), load)
    if load.sampled_at - known.last.sampled_at < timedelta(seconds=APART_SECONDS):
        return None
    begun = counted + load.running + load.waiting - known.due
    return replace(known, last=load, begun=max(begun, known.begun))


def _counts(load: PodLoad) -> float:
    """Requests that have ended there or are there; without end where the engine does not count them."""
    return math.inf if load.ended is None else load.ended + load.running + load.waiting


def _passed(load: PodLoad | None, due: float) -> bool:
    """Whether a replica has nothing any more that it had when so many were to end."""
    return load is not None and (load.running + load.waiting == 0 or (load.ended or 0.0) >= due)


def words(names: Collection[str]) -> str:
    """On which replicas requests begin although they left, and what to do about it."""
    return (
        f"requests went on beginning on {listed(sorted(names))} more than {LEFT_SECONDS:.0f} s after the router"
        " was to stop: what sends them does not follow the condition Ready of pods. Use a router that does (vLLM's from"
        ' 0.1.17 on, smg instead of sglang-router; docs/engines.md, "How soon a router stops")'
    )


def router_keeps_sending(names: Collection[str]) -> Finding | None:
    """Said while, and some time after, requests began on replicas that had left; None where they do not."""
    if not names:
        return None
    text = (
        f"{words(names)}. Requests would be cut: nothing is moved, rolled or made smaller until none has begun so for"
        f" {REMEMBERED_SECONDS / 60:.0f} minutes"
    )
    return Finding(False, "RouterKeepsSending", text)
