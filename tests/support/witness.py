"""What must never be seen at a fabric manager, judged from its journal and from what the API server stored. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from support.wire import Message
from weft.api.names import FINALIZER

CLAIMS = "/deviceattachments"


@dataclass(frozen=True)
class Claim:
    """One DeviceAttachment's life; times are seconds since the epoch."""

    name: str
    device: str
    host: str
    owner: str
    """namespace/name of the LogicalNode."""
    created: float
    gone: float | None = None


@dataclass(frozen=True)
class Use:
    """A pod ran on a host for a logical node from `start` to `end`."""

    host: str
    owner: str
    start: float
    end: float | None = None


class Ledger:
    """Claims as the API server stored them: what it answered, noted before the operator heard it."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []

    def heard(self, message: Message, status: int, body: bytes, now: float) -> None:
        """Note one answer of the API server."""
        if CLAIMS not in message.path or message.method == "GET" or status >= 300:
            return
        answer = json.loads(body)
        if message.method == "POST":
            spec, ref = answer["spec"], answer["spec"]["claimRef"]
            owner = f"{ref['namespace']}/{ref['name']}"
            name = answer["metadata"]["name"]
            self.claims.append(Claim(name, spec["device"], spec["host"], owner, now))
            return
        metadata = answer.get("metadata", {})
        deleted_at_once = message.method == "DELETE" and answer.get("kind") == "Status"
        if deleted_at_once or (metadata.get("deletionTimestamp") and not metadata.get("finalizers")):
            name = message.path.split(CLAIMS, 1)[1].strip("/").split("/")[0]
            self.claims = [
                replace(c, gone=now) if c.name == name and c.gone is None else c for c in self.claims
            ]


def violations(acts: Iterable[dict[str, Any]], claims: Sequence[Claim], uses: Sequence[Use]) -> list[str]:
    """Everything in a manager's journal that must not be there.

    `acts` are its lines in order, parsed; `claims` and `uses` those of this manager.
    """
    found: list[str] = []
    hosts: dict[str, dict[str, str]] = {}
    """Device -> host -> owner."""
    for act in acts:
        kind, device, host = act["act"], act["block"], act["host"]
        if kind not in ("attach", "detach") or act["outcome"] != "done":
            continue
        moment = datetime.fromisoformat(act["time"]).timestamp()
        where = f"seq {act['seq']}"
        places = hosts.setdefault(device, {})
        if kind == "detach":
            places.pop(host, None)
            found += [
                f"detached while used: {device} from {host}, where a pod of {use.owner} runs ({where})"
                for use in uses
                if use.host == host and use.start < moment and (use.end is None or moment < use.end)
            ]
            continue
        claim = _claim(claims, device, host, moment)
        owner = claim.owner if claim else ""
        if claim is None:
            found.append(f"attached without a claim: {device} to {host} ({where})")
        places[host] = owner
        if len(places) > 1:
            found.append(f"attached twice: {device} to {' and '.join(sorted(places))} ({where})")
        others = {there[host] for there in hosts.values() if there.get(host)}
        if owner and len(others) > 1:
            found.append(f"crossing: {host} carries devices of {' and '.join(sorted(others))} ({where})")
    return found


def _claim(claims: Sequence[Claim], device: str, host: str, moment: float) -> Claim | None:
    fitting = (
        c
        for c in claims
        if (c.device, c.host) == (device, host)
        and c.created <= moment
        and (c.gone is None or moment <= c.gone)
    )
    return next(fitting, None)


def attached(acts: Iterable[dict[str, Any]]) -> set[tuple[str, str]]:
    """(device, host) pairs at the end of a journal."""
    pairs: set[tuple[str, str]] = set()
    for act in acts:
        if act["outcome"] == "done" and act["act"] in ("attach", "detach"):
            (pairs.add if act["act"] == "attach" else pairs.discard)((act["block"], act["host"]))
    return pairs


def condition(obj: Mapping[str, Any], kind: str) -> str:
    """`True`, `False`, `Unknown`, or empty when there is no such condition."""
    conditions = obj.get("status", {}).get("conditions", [])
    return next((item["status"] for item in conditions if item["type"] == kind), "")


def unsettled(
    nodes: Iterable[dict[str, Any]],
    claims: Sequence[dict[str, Any]],
    pairs: set[tuple[str, str]],
    used: set[str],
    gpus: int,
    memories: int,
    hosts: int,
    *,
    may_be_lost: bool = False,
    pinned: Collection[str] = (),
) -> str:
    """What is not yet as the objects say, or nothing.

    `pairs` are attached; `used` are the logical nodes on which pods run; a rack has `gpus`, `memories` and `hosts`.
    `may_be_lost`: the manager may take a device away that was seen attached; the logical node has to say so.
    `pinned`: logical nodes that want certain devices, and wait though there are others.
    """
    by_owner = {f"{n['metadata']['namespace']}/{n['metadata']['name']}": n for n in nodes}
    claimed = {(c["spec"]["device"], c["spec"]["host"]) for c in claims}
    if leaked := sorted(pairs - claimed):
        return f"attached and not claimed: {leaked}"
    kept = [c for c in claims if condition(c, "Quarantined") == "True"]
    for claim in claims:
        spec, ref = claim["spec"], claim["spec"]["claimRef"]
        owner = f"{ref['namespace']}/{ref['name']}"
        there = (spec["device"], spec["host"]) in pairs
        if claim in kept or owner in used or (may_be_lost and _says_that_it_lost(by_owner.get(owner))):
            continue
        if owner not in by_owner or by_owner[owner]["metadata"]["uid"] != ref["uid"]:
            return f"{spec['device']} is claimed for {owner}, which is gone"
        if not there or condition(by_owner[owner], "Bound") != "True":
            return (
                f"{spec['device']} is claimed for {owner}: attached {there}, {by_owner[owner].get('status')}"
            )
    gpus -= sum(c["spec"]["device"].startswith("gpu") for c in claims)
    memories -= sum(c["spec"]["device"].startswith("cxl") for c in claims)
    hosts -= len({c["spec"]["host"] for c in claims if c not in kept})
    places = {node.get("status", {}).get("queuePlace") for node in nodes}
    for owner, node in by_owner.items():
        if owner in used and node["metadata"].get("deletionTimestamp"):
            continue
        if node["metadata"].get("deletionTimestamp"):
            return f"{owner} is still being deleted: {node.get('status', {}).get('conditions')}"
        if condition(node, "Bound") == "True":
            if node["spec"].get("ttlSecondsAfterBound") and owner not in used:
                return f"{owner} is bound although its time is soon up"
            wanted = {(d["device"], node["status"]["host"]) for d in node["status"]["devices"]}
            if not wanted <= pairs and not (may_be_lost and _says_that_it_lost(node)):
                return f"lost: {owner} is Bound to {sorted(wanted)}, attached is {sorted(pairs)}"
            if owner not in used and (problem := _missized(node, gpus, places)):
                return f"{owner} {problem}: {node['status']}"
            continue
        fits = node["spec"]["accelerators"][0]["count"] <= gpus and hosts > 0
        # By hand an administrator may have deleted a claim that is in use: it is held for as long.
        fits = fits and owner not in used and (not node["spec"].get("memory") or memories > 0)
        # What is kept for the head of the queue is not for those behind it; whether the head fits is asked of the head.
        place = node.get("status", {}).get("queuePlace", "1")
        fits = fits and (place == "1" or "1" not in places)
        if fits and owner not in pinned and condition(node, "Expired") != "True":
            return f"{owner} is not bound though it would fit: {node.get('status', {}).get('conditions')}"
    return ""


def _missized(node: Mapping[str, Any], free: int, places: set[str | None]) -> str:
    """What a bound logical node has too much, or could have more, of what it asks for now."""
    has = sum(each["device"].startswith("gpu") for each in node["status"]["devices"])
    lacks = node["spec"]["accelerators"][0]["count"] - has
    if lacks < 0:
        return "has more than it asks for"
    # As for those that have nothing: what is kept for the head is for the head alone.
    is_its_turn = node["status"].get("queuePlace", "1") == "1" or "1" not in places
    return "could have what it asks for" if 0 < lacks <= free and is_its_turn else ""


def _says_that_it_lost(node: Mapping[str, Any] | None) -> bool:
    return node is not None and condition(node, "Bound") == "True" and condition(node, "Ready") == "False"


def left_over(
    nodes: Iterable[dict[str, Any]],
    claims: Sequence[dict[str, Any]],
    pairs: set[tuple[str, str]],
    tainted: Sequence[str],
    free: Mapping[str, tuple[int, int]],
) -> str:
    """What is left after everything was deleted, or nothing.

    `tainted` are Nodes with Weft's taint; `free` says by pool how many devices it calls free, and how many there are.
    """
    if left := [n for n in nodes if FINALIZER in n["metadata"].get("finalizers", [])]:
        return f"logical nodes are left: {[(n['metadata']['name'], n.get('status')) for n in left]}"
    if claims:
        return f"claims are left: {[(c['metadata']['name'], c.get('status')) for c in claims]}"
    if pairs:
        return f"leaked: {sorted(pairs)} attached, and nothing claims them"
    if tainted:
        return f"still tainted: {', '.join(tainted)}"
    for pool, (says, has) in free.items():
        if says != has:
            return f"lost: {pool} says that {says} of {has} are free"
    return ""
