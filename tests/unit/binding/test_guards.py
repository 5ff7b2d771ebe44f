"""Promises of binding that are easily lost in a change; `make mutants` breaks each and runs these."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.rack import DONE, FixedLeader, MemoryDriver, Rack, condition
from support.refusals import Write
from weft.api.resources import DEVICE_ATTACHMENTS, LOGICAL_NODES, NODES
from weft.binding.blame import Blame
from weft.binding.evidence import Certainty, Evidence
from weft.binding.session import FabricSession
from weft.cluster import ClusterError, ConflictError, InvalidError
from weft.fabric.errors import Busy, Transient

HOST = "sled-0"
TAINT = "weft.dev/logical-node"


@pytest.fixture
async def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    made = Rack(monkeypatch)
    await made.build()
    return made


def session(**changes: object) -> FabricSession:
    made = FabricSession(
        name="rack",
        uid="u",
        generation=1,
        endpoint="https://rack",
        driver=MemoryDriver(4, [HOST]),
        leader=FixedLeader(),
        request_timeout_seconds=1.0,
        settle_seconds=10.0,
        opened=0.0,
        epoch=1,
        managed=True,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # tests name any field


async def fails() -> None:
    raise Transient("no answer")


async def is_refused(made: FabricSession) -> bool:
    """Whether no call goes out, in either direction."""
    devices = frozenset({"gpu-0"})
    for call in (
        lambda: made.attach("op", HOST, devices, frozenset({"uid"})),
        lambda: made.detach("op", HOST, devices),
    ):
        try:
            await call()
        except Busy:
            continue
        return False
    assert isinstance(made.driver, MemoryDriver)
    return made.driver.pairs == set()


async def test_a_node_that_is_deleted_while_it_is_bound_stays_until_its_devices_are_free(rack: Rack) -> None:
    await rack.ask("n")
    rack.driver.before_attached = fails
    await rack.cluster.delete(LOGICAL_NODES, "n", "a")
    await rack.work("n")
    assert rack.node("n")["metadata"]["deletionTimestamp"]


def kept_at_calls(rack: Rack) -> list[bool]:
    """Whether a finalizer kept the logical node `n` at each call of attach, as they come."""
    kept: list[bool] = []

    async def look() -> None:
        kept.append("weft.dev/fabric" in rack.node("n")["metadata"].get("finalizers", []))

    rack.driver.before_attach = look
    return kept


@pytest.mark.parametrize(
    "refusal",
    [
        ConflictError(409, "Conflict", "the object has been modified"),
        ClusterError(0, "NoAnswer", "timed out"),
        ClusterError(503, "ServiceUnavailable", "no"),
    ],
)
async def test_no_call_goes_out_for_a_logical_node_that_could_go_at_any_moment(
    rack: Rack, refusal: ClusterError
) -> None:
    kept = kept_at_calls(rack)
    refusals = [refusal, refusal]

    def no(write: Write) -> ClusterError | None:
        return refusals.pop() if refusals and (write.verb, write.name) == ("patch", "n") else None

    rack.cluster.rules.append(no)
    with pytest.raises(type(refusal)):
        await rack.ask("n")
    with pytest.raises(type(refusal)):
        await rack.work("n")
    await rack.work("n")
    assert condition(rack.node("n"), "Bound")[0] == "True"
    assert kept == [True]


async def test_a_logical_node_that_may_not_be_kept_keeps_no_devices_from_others(rack: Rack) -> None:
    def never(write: Write) -> ClusterError | None:
        if (write.verb, write.name) != ("patch", "n"):
            return None
        return InvalidError(422, "Invalid", "finalizers are forbidden here")

    rack.cluster.rules.append(never)
    with pytest.raises(InvalidError):
        await rack.ask("n")
    with pytest.raises(InvalidError):
        await rack.work("n")
    assert all("deletionTimestamp" in claim["metadata"] for claim in rack.claims())
    assert "attach" not in rack.driver.calls


async def test_no_call_goes_out_before_the_earlier_leader_is_fenced() -> None:
    assert not await is_refused(session())
    assert await is_refused(session(epoch=0))


async def test_no_call_goes_out_to_a_fabric_that_is_only_observed() -> None:
    assert await is_refused(session(managed=False))


def read(evidence: Evidence, began: int, at: float) -> None:
    """A whole inventory in which nothing is attached."""
    evidence.inventory_read(began, at, frozenset(), lambda device, host: True, 10.0, believed=True)


def test_a_reading_that_began_before_a_call_is_not_the_first_of_two_that_settle_it() -> None:
    evidence = Evidence()
    began = evidence.next()
    evidence.unanswered(evidence.calling(HOST, {"gpu-0"}, {"uid"}))
    read(evidence, began, 100.0)
    read(evidence, evidence.next(), 110.0)
    assert evidence.certainty("uid", "gpu-0", HOST, 10.0) is Certainty.OPEN
    read(evidence, evidence.next(), 120.0)
    assert evidence.certainty("uid", "gpu-0", HOST, 10.0) is Certainty.SETTLED


def test_an_answer_that_never_came_is_waited_for_though_the_device_was_seen() -> None:
    evidence = Evidence()
    evidence.unanswered(evidence.calling(HOST, {"gpu-0"}, {"uid"}))
    evidence.host_read(HOST, {"gpu-0"})
    evidence.detached(evidence.calling(HOST, {"gpu-0"}, ()))
    evidence.host_read(HOST, ())
    assert evidence.certainty("uid", "gpu-0", HOST, 10.0) is Certainty.OPEN


def test_a_device_that_was_at_the_host_when_a_call_for_another_had_no_answer_settles_too() -> None:
    """Some managers take the whole list of a host's devices: written late, it brings back what was in it."""
    evidence = Evidence()
    evidence.host_read(HOST, {"gpu-0", "gpu-1"})
    evidence.unanswered(evidence.calling(HOST, {"gpu-1"}, ()))
    evidence.detached(evidence.calling(HOST, {"gpu-0", "gpu-1"}, ()))
    evidence.host_read(HOST, ())
    assert evidence.certainty("uid", "gpu-0", HOST, 10.0) is Certainty.OPEN
    for at in (100.0, 105.0, 110.0):
        read(evidence, evidence.next(), at)
    assert evidence.certainty("uid", "gpu-0", HOST, 10.0) is Certainty.SETTLED


async def test_a_manager_that_says_detached_and_does_nothing_keeps_its_claims(rack: Rack) -> None:
    await rack.ask("x")
    assert condition(rack.node("x"), "Bound")[0] == "True"

    async def lie(*_: object) -> object:
        return DONE

    rack.driver.detach = lie  # type: ignore[method-assign,assignment]
    await rack.cluster.delete(LOGICAL_NODES, "x", "a")
    await rack.work("x")
    assert len(rack.claims()) == 2
    assert len(rack.driver.pairs) == 2


async def test_a_device_that_its_manager_leaves_out_after_a_detach_is_not_free_before_it_was_seen_free(
    rack: Rack,
) -> None:
    await rack.ask("x")
    attached = set(rack.driver.pairs)
    healthy = dict(rack.driver.devices)

    async def lie_and_hide(*_: object) -> object:
        for device, _host in attached:
            del rack.driver.devices[device]
        rack.driver.pairs = set()
        await rack.poll()
        return DONE

    detach, rack.driver.detach = rack.driver.detach, lie_and_hide  # type: ignore[method-assign,assignment]
    await rack.cluster.delete(LOGICAL_NODES, "x", "a")
    await rack.work("x")
    assert len(rack.claims()) == 2
    # They come back, as attached as they were.
    rack.driver.detach = detach  # type: ignore[method-assign]
    rack.driver.devices, rack.driver.pairs = healthy, attached
    await rack.poll()
    await rack.work("x")
    assert (rack.claims(), rack.driver.pairs) == ([], set())


async def test_a_device_that_is_claimed_is_not_given_to_anybody_else(rack: Rack) -> None:
    spec = {
        "fabric": "rack",
        "device": "gpu-0",
        "poolRef": {"kind": "GPUPool", "name": "gpus"},
        "host": "sled-9",
        "nodeName": "node-sled-9",
        "operation": "op",
        "request": "main",
        "claimSize": 1,
        "claimRef": {"namespace": "b", "name": "other", "uid": "u"},
    }
    await rack.cluster.create(DEVICE_ATTACHMENTS, {"metadata": {"name": "rack.gpu-0"}, "spec": spec})
    await rack.ask("x", gpus=3)
    own = {c["spec"]["device"] for c in rack.claims() if c["spec"]["claimRef"]["name"] == "x"}
    assert own == {"gpu-1", "gpu-2", "gpu-3"}


async def test_a_device_that_the_fabric_shows_attached_is_not_given_to_anybody(rack: Rack) -> None:
    rack.driver.pairs.update({("gpu-0", "elsewhere"), ("gpu-1", "elsewhere")})
    await rack.poll()
    await rack.ask("x")
    assert {claim["spec"]["device"] for claim in rack.claims()} == {"gpu-2", "gpu-3"}


async def test_a_device_that_the_fabric_reports_faulty_is_not_given_to_anybody(rack: Rack) -> None:
    rack.driver.devices["gpu-0"] = rack.driver.devices["gpu-1"] = False
    await rack.poll()
    await rack.ask("x")
    assert {claim["spec"]["device"] for claim in rack.claims()} == {"gpu-2", "gpu-3"}


async def taint(rack: Rack, node: str, value: str) -> None:
    taints = [{"key": TAINT, "value": value, "effect": "NoSchedule"}]
    await rack.cluster.patch(NODES, node, "", {"spec": {"taints": taints}})


async def test_a_node_that_carries_a_logical_node_is_not_given_to_another(rack: Rack) -> None:
    await taint(rack, "node-sled-0", "b.other")
    await rack.ask("x")
    assert {claim["spec"]["host"] for claim in rack.claims()} == {"sled-1"}
    await rack.ask("y")
    assert condition(rack.node("y"), "Reserved")[0] == "False"


async def test_a_node_that_another_took_after_placement_is_given_up_with_its_devices(rack: Rack) -> None:
    create = rack.cluster.create
    taken = False

    async def other_first(resource: object, body: dict[str, object], **options: bool) -> object:
        nonlocal taken
        made = await create(resource, body, **options)  # type: ignore[arg-type]
        if resource is DEVICE_ATTACHMENTS and not taken:
            taken = True
            await taint(rack, f"node-{made['spec']['host']}", "b.other")
        return made

    rack.cluster.create = other_first  # type: ignore[method-assign,assignment]
    await rack.ask("x")
    assert taken
    (host,) = {claim["spec"]["host"] for claim in rack.claims()}
    assert rack.tainted()[f"node-{host}"] == "a.x"
    assert sorted(rack.tainted().values()) == ["a.x", "b.other"]
    assert rack.driver.pairs == {(claim["spec"]["device"], host) for claim in rack.claims()}


async def test_of_two_leaders_that_reserve_one_node_one_loses(rack: Rack) -> None:
    patch = rack.cluster.patch
    asked: list[str] = []

    async def late(
        resource: object, name: str, namespace: str, body: dict[str, object], **more: str
    ) -> object:
        if resource is NODES and not asked:
            asked.append(name)
            await taint(rack, name, "b.other")
        return await patch(resource, name, namespace, body, **more)  # type: ignore[arg-type]

    rack.cluster.patch = late  # type: ignore[method-assign,assignment]
    await rack.ask("x")
    tainted = rack.tainted()
    assert tainted.pop(asked[0]) == "b.other"
    # The other Node it is.
    assert list(tainted.values()) == ["a.x"]
    assert {host for _, host in rack.driver.pairs} == {rack.node("x")["status"]["host"]}


async def test_a_leader_that_took_over_from_a_silent_one_waits_one_request_timeout(rack: Rack) -> None:
    rack.leader.took_over = True
    rack.restart()
    await rack.poll()
    await rack.ask("x")
    assert rack.driver.pairs == set()
    rack.clock.forward(1.1)
    await rack.poll()
    await rack.work("x")
    assert len(rack.driver.pairs) == 2


async def test_a_new_leader_ends_the_sessions_of_the_one_before(rack: Rack) -> None:
    ended: list[int] = []

    async def revoke() -> int:
        ended.append(len(rack.driver.pairs))
        return 1

    rack.driver.revoke_other_sessions = revoke  # type: ignore[method-assign]
    rack.restart()
    await rack.poll()
    assert ended == [0]


def test_a_manager_that_attaches_nothing_is_not_the_fault_of_a_device() -> None:
    blame = Blame()
    for second in range(30):
        blame.failed({"gpu-0"}, float(second))
    assert not blame.is_at_fault("gpu-0", 30.0, 10.0)


async def test_a_bound_node_says_that_a_device_is_gone_and_that_its_node_was_taken(rack: Rack) -> None:
    await rack.ask("x")
    assert condition(rack.node("x"), "Ready") == ("True", "Ready")
    pairs = set(rack.driver.pairs)
    rack.driver.pairs.clear()
    await rack.poll()
    assert condition(rack.node("x"), "Ready") == ("False", "DeviceMissing")
    rack.driver.pairs |= pairs
    await rack.poll()
    assert condition(rack.node("x"), "Ready") == ("True", "Ready")
    (name,) = rack.tainted()
    await taint(rack, name, "b.other")
    await rack.work("x")
    assert condition(rack.node("x"), "Ready") == ("False", "NodeTaken")


async def test_a_manager_that_does_not_answer_offers_nothing(rack: Rack) -> None:
    async def fail() -> None:
        raise Transient("no answer")

    assert set(rack.fabrics.pictures()) == {"rack"}
    rack.driver.before_inventory = fail
    await rack.poll()
    assert rack.fabrics.pictures() == {}


async def test_a_status_that_its_owner_wrote_does_not_make_a_device_attached(rack: Rack) -> None:
    async def refuse() -> None:
        raise Busy("later")

    rack.driver.before_attach = refuse
    await rack.ask("x")
    claims = rack.claims()
    view = [
        {
            "request": "main",
            "poolRef": claim["spec"]["poolRef"],
            "device": claim["spec"]["device"],
            "attachment": claim["metadata"]["name"],
        }
        for claim in claims
    ]
    said = {"type": "Bound", "status": "True", "reason": "Bound", "message": ""}
    bound = {**said, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    made_up = {"devices": view, "deviceCount": 2, "conditions": [bound]}
    await rack.cluster.write_status(LOGICAL_NODES, rack.node("x"), made_up)
    await rack.work("x")
    assert condition(rack.node("x"), "Bound")[0] == "False"
