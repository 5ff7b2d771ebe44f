"""kill -9 of the leader at each write and call of a bind and of a release, before it and after it took effect.

Whatever the moment, the next leader ends in the right state: every device attached once, to the host that the
object names; after a release, nothing attached, claimed or tainted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from support.killing_proxy import KillingProxy, Trap
from support.world import World, condition, eventually
from weft.api.resources import LEASES, NODES
from weft_dev.controlplane import ControlPlane, write_kubeconfig

STANDBYS = 2
MOST_MESSAGES = 40


class Replicas:
    """Several replicas of the operator behind the proxy; a killed one is replaced while another takes over."""

    def __init__(self, world: World, kubeconfig_url: str) -> None:
        self.world = world
        self.kubeconfig = world.directory / "proxy.kubeconfig"
        write_kubeconfig(self.kubeconfig, kubeconfig_url, world.plane.token, world.plane.ca_file)
        self.names: list[str] = []
        self._lock = threading.Lock()

    def fill_up(self) -> None:
        with self._lock:
            self._fill_up()

    def _fill_up(self) -> None:
        self.names = [name for name in self.names if self.world.processes.exit_code(name) is None]
        while len(self.names) < STANDBYS:
            settings = {"lease_seconds": 1, "inventory_seconds": 0.3}
            self.names.append(self.world.start_operator(kubeconfig=self.kubeconfig, **settings))

    def kill_leader(self) -> None:
        lease = self.world.kube.get(LEASES, "weft-operator", self.world.namespace)
        assert lease is not None
        leader = lease["spec"]["holderIdentity"]
        with self._lock:
            # It may have ended by itself in this moment.
            if leader in self.names:
                self.names.remove(leader)
                self.world.kill_operator(leader)


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=2, gpus=3, memories=2)
    try:
        world.start_emulator("--permissive")
        yield world
    finally:
        world.close()


def is_clean(world: World) -> bool:
    nodes = [world.kube.get(NODES, f"{world.name}-{host}") for host in world.hosts]
    tainted = any(
        "weft" in taint["key"] for node in nodes if node for taint in node["spec"].get("taints", [])
    )
    return world.get("trainer") is None and not world.claims() and not world.attached() and not tainted


def is_bound_as_it_says(world: World) -> bool:
    node = world.get("trainer")
    if node is None or condition(node, "Bound") != "True":
        return False
    host, devices = node["status"]["host"], {item["device"] for item in node["status"]["devices"]}
    assert world.attached() == {(device, host) for device in devices}
    return {claim["spec"]["device"] for claim in world.claims()} == devices


@pytest.mark.parametrize("after_effect", [False, True], ids=["before-it", "after-its-effect"])
def test_a_leader_killed_at_any_message_leaves_the_right_state_to_the_next(
    world: World, after_effect: bool
) -> None:
    replicas: Replicas | None = None

    def kill() -> None:
        assert replicas is not None
        replicas.kill_leader()

    proxy = KillingProxy(world.plane.url, world.plane.ca_file, world.emulator_url, kill)
    replicas = Replicas(world, proxy.urls["api"])

    def go(act: Callable[[], object], arrived: Callable[[], bool], at: int) -> Trap:
        """Do `act`, strike at the given message, and wait until the rest was done in spite of it."""
        replicas.fill_up()
        trap = proxy.arm(at, after_effect=after_effect)
        act()

        def look() -> bool:
            # On a busy machine a leader may lose so short a lease, and ends.
            replicas.fill_up()
            return arrived()

        what = f"arrived, struck at message {at}: {trap.struck or 'none'} of {trap.seen}"
        eventually(look, 60, what=what)
        return trap

    try:
        world.create(endpoint=proxy.urls["fabric"])
        bound = released = 0
        for at in range(1, MOST_MESSAGES):
            bind = go(lambda: world.logical_node("trainer", gpus=1), lambda: is_bound_as_it_says(world), at)
            release = go(lambda: world.delete("trainer"), lambda: is_clean(world), at)
            bound += bool(bind.struck)
            released += bool(release.struck)
            if not bind.struck and not release.struck:
                break
        # The sweep went through all messages: the last round was not struck, the ones before it were.
        assert not bind.struck
        assert not release.struck
        assert bound >= 10
        assert released >= 10
    finally:
        proxy.close()
