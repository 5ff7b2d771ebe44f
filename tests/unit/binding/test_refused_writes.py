"""Writes that the API server refuses: said in its words, tried again, and nobody else is kept from anything."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from support.rack import Rack, condition
from support.refusals import Policy, Write
from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    LOGICAL_NODES,
    NODES,
)
from weft.binding.keys import LogicalNodeKey, PlacementKey
from weft.cluster import ClusterError, InvalidError, Object


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


async def test_one_claim_that_the_api_server_refuses_does_not_stop_the_others(rack: Rack) -> None:
    await rack.build()

    def bad(write: Write) -> str | None:
        return "no" if write.body["spec"]["claimRef"]["name"] == "bad" else None

    rack.cluster.rules.append(Policy(DEVICE_ATTACHMENTS, bad))
    for name in ("bad", "good"):
        spec = {"accelerators": [{"name": "main", "count": 1}]}
        await rack.cluster.create(LOGICAL_NODES, {"metadata": {"name": name, "namespace": "a"}, "spec": spec})
    await rack.reconcile(PlacementKey())
    with pytest.raises(InvalidError):
        await rack.reconcile(LogicalNodeKey("a", "bad"))
    await rack.reconcile(LogicalNodeKey("a", "good"))
    assert condition(rack.node("good"), "Bound")[0] == "True"


async def test_a_node_whose_claim_the_api_server_refuses_says_so_in_its_words_and_binds_when_it_may(
    rack: Rack,
) -> None:
    await rack.build()

    def not_the_last(write: Write) -> str | None:
        last = write.verb == "create" and write.body["spec"]["device"] == "gpu-3"
        return "gpu-3 is reserved" if last else None

    rack.cluster.rules.append(Policy(DEVICE_ATTACHMENTS, not_the_last))
    for _ in range(2):
        rack.clock.forward(60)
        with pytest.raises(InvalidError):
            await rack.ask("n", gpus=4) if not rack.cluster.list(LOGICAL_NODES) else await rack.work("n")
        assert condition(rack.node("n"), "Reserved") == ("False", "ClaimRefused")
        (bound,) = (one for one in rack.node("n")["status"]["conditions"] if one["type"] == "Bound")
        assert "gpu-3 is reserved" in bound["message"]
        assert rack.driver.pairs == set()
    assert {event[1] for event in rack.cluster.events} == {"ClaimRefused"}
    rack.cluster.rules.clear()
    rack.clock.forward(60)
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_a_claim_that_the_api_server_refuses_is_made_again_at_growing_intervals_whoever_asks(
    rack: Rack,
) -> None:
    await rack.build()
    tries: list[str] = []

    def no(write: Write) -> ClusterError | None:
        if write.resource != DEVICE_ATTACHMENTS:
            return None
        tries.append(write.name)
        return ClusterError(500, "InternalError", "failed calling webhook")

    rack.cluster.rules.append(no)
    with pytest.raises(ClusterError):
        await rack.ask("n", gpus=1)
    for _ in range(100):
        # Its Node changes, a place is found: a second passes in which it is asked for again and again.
        rack.clock.forward(0.2)
        with contextlib.suppress(ClusterError):
            await rack.work("n")
    assert 3 <= len(tries) <= 6
    rack.cluster.rules.clear()
    rack.clock.forward(60)
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_a_deleted_node_whose_release_the_api_server_refuses_says_so_in_its_words(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    for verb in ("delete", "patch"):
        words = f"no {verb} today"

        def no(write: Write, verb: str = verb, words: str = words) -> ClusterError | None:
            hit = write.resource == DEVICE_ATTACHMENTS and write.verb == verb
            return ClusterError(500, "InternalError", words) if hit else None

        rack.cluster.rules.append(no)
        with pytest.raises(ClusterError):
            await rack.work("n")
        (bound,) = (one for one in rack.node("n")["status"]["conditions"] if one["type"] == "Bound")
        assert (bound["status"], bound["reason"]) == ("False", "Releasing")
        assert words in bound["message"]
        rack.cluster.rules.clear()
    await rack.work("n")
    assert rack.cluster.list(LOGICAL_NODES) == []


async def test_a_node_whose_machine_may_not_be_tainted_says_so_and_nothing_is_attached(rack: Rack) -> None:
    await rack.build()
    words = 'nodes "node-sled-0" is forbidden: User "weft" cannot patch resource "nodes"'

    def no(write: Write) -> ClusterError | None:
        return ClusterError(403, "Forbidden", words) if write.resource == NODES else None

    rack.cluster.rules.append(no)
    with pytest.raises(ClusterError):
        await rack.ask("n")
    (bound,) = (one for one in rack.node("n")["status"]["conditions"] if one["type"] == "Bound")
    assert (bound["status"], bound["reason"]) == ("False", "ClaimRefused")
    assert words in bound["message"]
    assert any(words in message for _, _, message in rack.cluster.events)
    assert rack.driver.pairs == set()
    rack.cluster.rules.clear()
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    # Bound, it stays so: what is refused then is an event.
    rack.cluster.rules.append(no)
    node = rack.cluster.objects[NODES, "", "node-sled-0"]
    rack.cluster.objects[NODES, "", "node-sled-0"] = {**node, "spec": {}}
    with pytest.raises(ClusterError):
        await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    # So it is said when the taint may not be taken off again.
    rack.cluster.objects[NODES, "", "node-sled-0"] = node
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    with pytest.raises(ClusterError):
        await rack.work("n")
    (bound,) = (one for one in rack.node("n")["status"]["conditions"] if one["type"] == "Bound")
    assert bound["reason"] == "Releasing"
    assert words in bound["message"]
    rack.cluster.rules.clear()
    await rack.work("n")
    assert (rack.cluster.list(LOGICAL_NODES), rack.tainted()) == ([], {})


async def test_a_node_whose_status_cannot_be_written_does_not_keep_others_from_their_answers(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    spec = {"accelerators": [{"name": "main", "count": 16}]}
    for name in ("bad", "good"):
        await rack.cluster.create(LOGICAL_NODES, {"metadata": {"name": name, "namespace": "a"}, "spec": spec})
    write = rack.cluster.write_status

    async def refuse(resource: Any, current: Object, status: Any) -> Object:
        if current["metadata"]["name"] == "bad":
            raise InvalidError(422, "Invalid", "too many conditions")
        return await write(resource, current, status)

    monkeypatch.setattr(rack.cluster, "write_status", refuse)
    await rack.reconcile(PlacementKey())
    with pytest.raises(InvalidError):
        await rack.reconcile(LogicalNodeKey("a", "bad"))
    await rack.reconcile(LogicalNodeKey("a", "good"))
    assert condition(rack.node("good"), "Reserved") == ("False", "NoSuchDevices")
