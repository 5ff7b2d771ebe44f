"""Sessions with fabric managers: which of them are trusted, and that none holds up another."""

from __future__ import annotations

import pytest

from support.rack import MemoryDriver, Rack, condition, secret
from weft.api.resources import DEVICE_ATTACHMENTS, FABRICS, LOGICAL_NODES, NODES
from weft.binding.keys import FabricKey
from weft.cluster import ClusterError
from weft.fabric.driver import Unused, UnusedReason, Write
from weft.fabric.errors import Transient


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


async def test_a_secret_that_is_not_text_concerns_its_own_fabric_alone(rack: Rack) -> None:
    await rack.build()
    rack.secrets["login"] = secret(username=b"\xff\xfe", password=b"x")
    await rack.add_fabric("other", endpoint="https://other", credentialsSecretRef={"name": "login"})
    await rack.poll("other")
    assert condition(rack.cluster.get(FABRICS, "other") or {}, "Connected") == ("False", "SecretMissing")
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_a_secret_that_the_api_server_refuses_does_not_stop_placement_elsewhere(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rack.build()
    await rack.add_fabric("other", endpoint="https://other", credentialsSecretRef={"name": "login"})

    async def refuse(*_: object) -> None:
        raise ClusterError(403, "Forbidden", "secrets")

    monkeypatch.setattr(rack.fabrics, "_read", refuse)
    with pytest.raises(ClusterError):
        await rack.reconcile(FabricKey("other"))
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"


@pytest.mark.shows("Fabric.spec.endpoint")
async def test_a_fabric_at_another_address_is_read_and_fenced_anew(rack: Rack) -> None:
    await rack.build()
    epoch = (rack.cluster.get(FABRICS, "rack") or {})["status"]["epoch"]
    other = rack.drivers["https://other"] = MemoryDriver(4, rack.hosts)
    await rack.edit_fabric(endpoint="https://other")
    assert rack.driver.closed
    assert other.calls[0] == "inventory"
    assert (rack.cluster.get(FABRICS, "rack") or {})["status"]["epoch"] == epoch + 1


async def test_a_fabric_made_anew_under_its_old_name_is_not_taken_for_the_old_one(rack: Rack) -> None:
    await rack.build(mode="Observe")
    other = rack.drivers["https://other"] = MemoryDriver(1, rack.hosts)
    await rack.cluster.delete(FABRICS, "rack")
    await rack.add_fabric("rack", endpoint="https://other", mode="Observe")
    await rack.poll()
    assert other.calls == ["inventory"]
    assert (rack.cluster.get(FABRICS, "rack") or {})["status"]["devices"] == 1


async def test_a_manager_that_cannot_be_read_is_not_called_for_every_node(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")

    async def fail() -> None:
        raise Transient("no answer")

    rack.driver.before_inventory = fail
    await rack.poll()
    rack.driver.calls.clear()
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert rack.driver.calls == []
    assert condition(rack.node("n"), "Bound") == ("False", "Releasing")
    rack.driver.before_inventory = _nothing
    await rack.poll()
    assert rack.cluster.get(LOGICAL_NODES, "n", "a") is None
    assert rack.driver.pairs == set()


@pytest.mark.shows("Fabric.spec.mode")
async def test_a_fabric_set_to_observe_is_not_written_to_though_its_session_is_older(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    await rack.cluster.patch(FABRICS, "rack", "", {"spec": {"mode": "Observe"}})
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert len(rack.driver.pairs) == 2


async def test_an_attachment_that_another_finalizer_keeps_does_not_hold_the_node(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")
    name = rack.claims()[0]["metadata"]["name"]
    await rack.cluster.patch(
        DEVICE_ATTACHMENTS, name, "", {"metadata": {"finalizers": ["weft.dev/fabric", "example.org/audit"]}}
    )
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert rack.cluster.get(LOGICAL_NODES, "n", "a") is None
    assert [claim["metadata"]["name"] for claim in rack.claims()] == [name]


async def _nothing() -> None:
    return None


async def test_nothing_is_placed_at_a_fabric_whose_manager_does_not_answer(rack: Rack) -> None:
    await rack.build()

    async def fail() -> None:
        raise Transient("no answer")

    rack.driver.before_inventory = fail
    await rack.poll()
    await rack.ask("n")
    assert rack.claims() == []
    rack.driver.before_inventory = _nothing
    await rack.poll()
    assert condition(rack.node("n"), "Bound")[0] == "True"


async def test_what_is_not_used_of_a_fabric_stands_in_its_status_until_it_is_gone(rack: Rack) -> None:
    rack.driver.unused = (
        Unused("block", UnusedReason.OF_HOST, 10),
        Unused("block", UnusedReason.NETWORK, 2),
    )
    await rack.build()
    fabric = rack.cluster.get(FABRICS, "rack")
    assert fabric is not None
    sentence = "12 blocks not used: 10 are of hosts, 2 hold network cards only"
    assert fabric["status"]["notUsed"] == sentence
    rack.driver.unused = ()
    await rack.poll()
    fabric = rack.cluster.get(FABRICS, "rack")
    assert fabric is not None
    assert "notUsed" not in fabric["status"]


async def test_nothing_is_placed_at_a_manager_that_offers_no_way_to_attach_and_its_fabric_says_why(
    rack: Rack,
) -> None:
    why = "the manager offers no way to attach devices: its systems take GET only"
    rack.driver.writes = (Write("None", why),)
    rack.driver.not_writable = dict.fromkeys(rack.hosts, why)
    await rack.build()
    fabric = rack.cluster.get(FABRICS, "rack")
    assert fabric is not None
    assert condition(fabric, "Writable") == ("False", "WritesNotOffered")
    assert fabric["status"]["writes"] == ["None"]
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound") == ("False", "NoHost")
    (said,) = (c["message"] for c in rack.node("n")["status"]["conditions"] if c["type"] == "Bound")
    assert "the condition Writable of its Fabric says why" in said
    assert (rack.claims(), "attach" in rack.driver.calls) == ([], False)
    rack.driver.writes, rack.driver.not_writable = (Write("ComposeByPatch", "it takes PATCH"),), {}
    await rack.poll()
    await rack.work("n")
    assert condition(rack.node("n"), "Bound") == ("True", "Bound")


async def test_a_host_that_the_manager_refuses_to_change_is_passed_over_and_named(rack: Rack) -> None:
    rack.driver.writes = (Write("ComposeByPatch", "it takes PATCH"),)
    rack.driver.not_writable = {"sled-0": "the manager refuses ComposeByPatch: not on this chassis"}
    await rack.build()
    await rack.ask("n")
    assert rack.node("n")["status"]["host"] == "sled-1"
    fabric = rack.cluster.get(FABRICS, "rack")
    assert fabric is not None
    (said,) = (c["message"] for c in fabric["status"]["conditions"] if c["type"] == "Writable")
    assert "nothing can be attached to sled-0: the manager refuses" in said


async def test_a_machine_that_is_made_of_its_devices_needs_no_node_before_and_waits_for_it_afterwards(
    rack: Rack,
) -> None:
    rack.driver.made = True
    await rack.build()
    for host in rack.hosts:
        await rack.cluster.delete(NODES, f"node-{host}")
    await rack.ask("n")
    status = rack.node("n")["status"]
    assert (status["host"], status["nodeName"]) == ("sled-0", "node-sled-0")
    assert condition(rack.node("n"), "Bound") == ("True", "Bound")
    assert condition(rack.node("n"), "Ready") == ("False", "WaitingForNode")
    assert len(rack.driver.pairs) == 2
    rack.restart()
    await rack.poll()
    await rack.work("n")
    assert condition(rack.node("n"), "Ready") == ("False", "WaitingForNode")
    assert len(rack.driver.pairs) == 2
    await rack.add_node("node-sled-0")
    await rack.work("n")
    assert condition(rack.node("n"), "Ready") == ("True", "Ready")
    assert rack.tainted() == {"node-sled-0": "a.n"}
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    for _ in range(2):
        # Another process than the one that made the call: two readings have to agree.
        rack.clock.forward(61)
        await rack.poll()
        await rack.work("n")
    assert (rack.driver.pairs, rack.claims(), rack.tainted()) == (set(), [], {})


async def test_a_machine_that_was_taken_apart_is_made_again_though_its_node_is_not_ready(rack: Rack) -> None:
    rack.driver.made = True
    await rack.build()
    for host in rack.hosts:
        await rack.set_ready(f"node-{host}", ready=False)
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound") == ("True", "Bound")
    assert condition(rack.node("n"), "Ready") == ("False", "NodeNotReady")


async def test_where_machines_are_there_anyway_nothing_is_placed_without_a_node(rack: Rack) -> None:
    await rack.build()
    for host in rack.hosts:
        await rack.cluster.delete(NODES, f"node-{host}")
    await rack.ask("n")
    assert condition(rack.node("n"), "Bound") == ("False", "NoHost")


async def test_a_reading_begins_with_the_devices_that_are_claimed(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n", gpus=2)
    await rack.poll()
    assert rack.driver.first == {claim["spec"]["device"] for claim in rack.claims()}
    assert len(rack.driver.first) == 2


@pytest.mark.parametrize(
    ("service", "again"),
    [("uuid-a", "https://alias"), ("", "https://rack/"), ("", "https://RACK:443")],
    ids=["by-its-uuid", "by-its-address", "by-its-address-spelled-otherwise"],
)
async def test_a_second_fabric_that_manages_the_same_manager_is_refused_and_places_nothing(
    rack: Rack, service: str, again: str
) -> None:
    rack.driver.service = service
    await rack.build()
    other = rack.drivers[again] = MemoryDriver(4, rack.hosts)
    # Case does not matter in a UUID (RFC 9562).
    other.service = service.upper()
    await rack.add_fabric("other", endpoint=again)
    await rack.poll("other")
    assert condition(rack.cluster.get(FABRICS, "other") or {}, "Connected") == ("False", "ManagedTwice")
    # Also when the leader changes and happens to read the second one first.
    rack.restart()
    await rack.poll("other")
    await rack.poll()
    assert condition(rack.cluster.get(FABRICS, "other") or {}, "Connected") == ("False", "ManagedTwice")
    assert condition(rack.cluster.get(FABRICS, "rack") or {}, "Connected")[0] == "True"
    await rack.cluster.patch(FABRICS, "rack", "", {"spec": {"mode": "Observe"}})
    await rack.poll("other")
    assert condition(rack.cluster.get(FABRICS, "other") or {}, "Connected")[0] == "True"


async def test_an_endpoint_edited_while_devices_are_claimed_there_is_refused_and_nothing_is_sent_to_the_new_one(
    rack: Rack,
) -> None:
    await rack.build()
    await rack.ask("n")
    other = rack.drivers["https://other"] = MemoryDriver(4, rack.hosts)
    other.pairs = {("gpu-0", "sled-0")}
    await rack.edit_fabric(endpoint="https://other")
    assert condition(rack.cluster.get(FABRICS, "rack") or {}, "Connected") == ("False", "EndpointChanged")
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    rack.restart()
    await rack.poll()
    await rack.work("n")
    assert other.calls == []
    assert len(rack.claims()) == 2
    await rack.edit_fabric(endpoint="https://rack")
    for _ in range(3):
        # The leader is new: nobody knows whether each call of the one before had an answer.
        rack.clock.forward(60)
        await rack.poll()
    await rack.work("n")
    assert (rack.claims(), rack.driver.pairs) == ([], set())


async def test_another_manager_at_the_address_of_a_claimed_one_is_not_worked_with_until_it_is_accepted(
    rack: Rack,
) -> None:
    rack.driver.service = "uuid-1"
    await rack.build()
    await rack.ask("n")
    rack.driver.service = "UUID-1"
    await rack.poll()
    assert condition(rack.cluster.get(FABRICS, "rack") or {}, "Connected")[0] == "True"
    rack.driver.service = "uuid-2"
    await rack.poll()
    assert condition(rack.cluster.get(FABRICS, "rack") or {}, "Connected") == ("False", "ManagerChanged")
    rack.driver.calls.clear()
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert rack.driver.calls == []
    annotations = {"weft.dev/accept-manager": "uuid-2"}
    await rack.cluster.patch(FABRICS, "rack", "", {"metadata": {"annotations": annotations}})
    await rack.poll()
    await rack.work("n")
    assert (rack.claims(), rack.driver.pairs) == ([], set())


async def test_a_manager_that_lost_its_uuid_for_good_is_worked_with_once_an_administrator_says_so(
    rack: Rack,
) -> None:
    rack.driver.service = "uuid-1"
    await rack.build()
    await rack.ask("n")
    rack.driver.service = ""
    await rack.poll()
    fabric = rack.cluster.get(FABRICS, "rack") or {}
    assert condition(fabric, "Connected") == ("False", "ManagerChanged")
    (said,) = (each["message"] for each in fabric["status"]["conditions"] if each["type"] == "Connected")
    assert "until the service uuid-1 answers there again" in said
    # What was said of another one, or without the UUID that is given up, counts for nothing.
    for wrong in ("", "without-", "without-uuid-2", "uuid-1"):
        await rack.cluster.patch(
            FABRICS, "rack", "", {"metadata": {"annotations": {"weft.dev/accept-manager": wrong}}}
        )
        await rack.poll()
        assert condition(rack.cluster.get(FABRICS, "rack") or {}, "Connected") == ("False", "ManagerChanged")
    annotation, value = said.rsplit(" ", 1)[1].split("=")
    await rack.cluster.patch(FABRICS, "rack", "", {"metadata": {"annotations": {annotation: value}}})
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.poll()
    await rack.work("n")
    assert (rack.claims(), rack.driver.pairs) == ([], set())
    assert "ManagerAccepted" in {reason for *_, reason, _ in rack.cluster.events}


async def test_a_fabric_beside_one_whose_endpoint_is_no_address_is_worked_with(rack: Rack) -> None:
    await rack.build()
    rack.drivers["//[odd"] = MemoryDriver(4, rack.hosts)
    await rack.add_fabric("odd", endpoint="//[odd", driver="else")
    await rack.poll("odd")
    await rack.poll()
    for name in ("odd", "rack"):
        assert condition(rack.cluster.get(FABRICS, name) or {}, "Connected")[0] == "True"


async def test_a_rack_of_which_a_part_cannot_be_read_is_counted_and_its_counts_do_not_fall(
    rack: Rack,
) -> None:
    rack.driver.complete = False
    await rack.build()
    fabric = rack.cluster.get(FABRICS, "rack")
    assert fabric is not None
    assert (fabric["status"]["devices"], fabric["status"]["hosts"]) == (4, 2)
    del rack.driver.devices["gpu-0"]
    rack.restart()
    await rack.poll()
    fabric = rack.cluster.get(FABRICS, "rack")
    assert fabric is not None
    assert (fabric["status"]["devices"], fabric["status"]["hosts"]) == (4, 2)


async def test_what_a_manager_says_of_its_failure_stays_with_the_fabric(rack: Rack) -> None:
    await rack.build()
    await rack.ask("n")

    async def fail() -> None:
        raise Transient("10.0.0.7 as admin: connection refused")

    rack.driver.before_inventory = fail
    await rack.poll()
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    said = str(rack.cluster.get(LOGICAL_NODES, "n", "a"))
    assert "fabric rack cannot be worked with (Unreachable): its condition Connected says why" in said
    assert "10.0.0.7" not in said
    assert "10.0.0.7" in str(rack.cluster.get(FABRICS, "rack"))


@pytest.mark.parametrize("secret_ref", [None, {"name": "not-there"}])
async def test_nothing_is_bound_at_the_earlier_manager_once_the_endpoint_was_edited(
    rack: Rack, secret_ref: dict[str, str] | None
) -> None:
    await rack.build()
    other = rack.drivers["https://other"] = MemoryDriver(4, rack.hosts)
    spec = {"endpoint": "https://other", "credentialsSecretRef": secret_ref}
    await rack.cluster.patch(FABRICS, "rack", "", {"spec": spec})
    if secret_ref is not None:
        await rack.poll()
        assert condition(rack.cluster.get(FABRICS, "rack") or {}, "Connected") == ("False", "SecretMissing")
    await rack.ask("n")
    assert rack.driver.pairs == set()
    assert condition(rack.node("n"), "Bound")[0] != "True"
    rack.secrets["not-there"] = secret(username=b"weft", password=b"x")
    await rack.poll()
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert {host for _, host in other.pairs} == {"sled-0"}


async def test_nothing_is_bound_for_a_fabric_that_was_made_anew_and_not_read_yet(rack: Rack) -> None:
    await rack.build()
    hosts = (rack.cluster.get(FABRICS, "rack") or {})["spec"]["hosts"]
    await rack.cluster.patch(FABRICS, "rack", "", {"metadata": {"finalizers": None}})
    await rack.cluster.delete(FABRICS, "rack")
    await rack.add_fabric("rack", endpoint="https://rack", hosts=hosts)
    await rack.ask("n")
    assert rack.driver.pairs == set()
    await rack.poll()
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
