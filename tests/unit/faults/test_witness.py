"""The checker of the fault suite counts: journals with one thing wrong each."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from support.wire import Message
from support.witness import Claim, Ledger, Use, attached, violations

OWN = Claim("rack.gpu-0", "gpu-0", "sled-0", "a/one", created=10.0, gone=30.0)
OTHER = Claim("rack.gpu-1", "gpu-1", "sled-1", "b/one", created=10.0)


def act(seq: int, kind: str, device: str, host: str, at: float, outcome: str = "done") -> dict[str, Any]:
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
    return {"seq": seq, "time": moment, "act": kind, "block": device, "host": host, "outcome": outcome}


def test_a_life_by_the_book_has_no_violation() -> None:
    journal = [act(1, "attach", "gpu-0", "sled-0", 11), act(2, "detach", "gpu-0", "sled-0", 20)]
    assert violations(journal, [OWN, OTHER], [Use("sled-0", "a/one", 12, 19)]) == []
    assert attached(journal) == set()


def test_a_device_at_two_hosts_counts() -> None:
    moved = Claim("rack.gpu-0", "gpu-0", "sled-1", "b/one", created=10.0)
    journal = [act(1, "attach", "gpu-0", "sled-0", 11), act(2, "attach", "gpu-0", "sled-1", 12)]
    assert violations(journal, [OWN, moved], []) == ["attached twice: gpu-0 to sled-0 and sled-1 (seq 2)"]


def test_an_attach_before_its_claim_and_one_after_it_count() -> None:
    journal = [act(1, "attach", "gpu-0", "sled-0", 9), act(2, "detach", "gpu-0", "sled-0", 9.5)]
    assert violations(journal, [OWN], []) == ["attached without a claim: gpu-0 to sled-0 (seq 1)"]
    journal = [act(1, "attach", "gpu-0", "sled-0", 31)]
    assert violations(journal, [OWN], []) == ["attached without a claim: gpu-0 to sled-0 (seq 1)"]
    assert attached(journal) == {("gpu-0", "sled-0")}


def test_devices_of_two_tenants_on_one_host_count() -> None:
    here = Claim("rack.gpu-1", "gpu-1", "sled-0", "b/one", created=10.0)
    journal = [act(1, "attach", "gpu-0", "sled-0", 11), act(2, "attach", "gpu-1", "sled-0", 12)]
    assert violations(journal, [OWN, here], []) == [
        "crossing: sled-0 carries devices of a/one and b/one (seq 2)"
    ]


def test_a_detach_under_a_running_pod_counts() -> None:
    journal = [act(1, "attach", "gpu-0", "sled-0", 11), act(2, "detach", "gpu-0", "sled-0", 20)]
    found = violations(journal, [OWN], [Use("sled-0", "a/one", 12)])
    assert found == ["detached while used: gpu-0 from sled-0, where a pod of a/one runs (seq 2)"]


def test_what_was_refused_did_not_happen() -> None:
    assert violations([act(1, "attach", "gpu-0", "sled-0", 1, outcome="in-use")], [], []) == []


def test_the_ledger_follows_a_claim_from_its_creation_to_the_loss_of_its_last_finalizer() -> None:
    ledger = Ledger()
    path = "/apis/weft.dev/v1alpha2/deviceattachments"
    spec = {"device": "gpu-0", "host": "sled-0", "claimRef": {"namespace": "a", "name": "one"}}
    stored = {"metadata": {"name": "rack.gpu-0", "finalizers": ["weft.dev/fabric"]}, "spec": spec}

    def say(method: str, where: str, answer: dict[str, Any], at: float, status: int = 200) -> None:
        ledger.heard(Message("api", method, where, "", b""), status, json.dumps(answer).encode(), at)

    say("POST", path, {"kind": "Status"}, 5, status=409)
    say("POST", path, stored, 10, status=201)
    marked = {**stored, "metadata": {**stored["metadata"], "deletionTimestamp": "now"}}
    say("DELETE", f"{path}/rack.gpu-0", marked, 20)
    assert ledger.claims == [Claim("rack.gpu-0", "gpu-0", "sled-0", "a/one", 10)]
    say("PATCH", f"{path}/rack.gpu-0", {"metadata": {**marked["metadata"], "finalizers": []}}, 30)
    assert ledger.claims == [Claim("rack.gpu-0", "gpu-0", "sled-0", "a/one", 10, gone=30)]
