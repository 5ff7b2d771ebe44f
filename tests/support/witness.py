"""What must never be seen at a fabric manager, judged from its journal and from what the API server stored. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from support.wire import Message

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
