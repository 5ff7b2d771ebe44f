"""The operator as Kubernetes runs it: probes, metrics, SIGTERM, the Lease."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from support.world import World, eventually
from weft.api.resources import LEASES
from weft_dev.controlplane import ControlPlane


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=1, gpus=1, memories=1)
    try:
        yield world
    finally:
        world.close()


def answer(port: int, path: str) -> tuple[int, str]:
    """Status and body, or (0, "") while nothing listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def test_probes_and_metrics_tell_a_leader_from_a_replica_that_waits(world: World) -> None:
    first = world.start_operator()
    eventually(lambda: "weft_leader 1.0" in answer(world.ports[first], "/metrics")[1], what="leads")
    second = world.start_operator()
    eventually(lambda: answer(world.ports[second], "/readyz")[0] == 200, what="second is ready")
    assert answer(world.ports[first], "/livez")[0] == 200
    assert answer(world.ports[first], "/readyz")[0] == 200
    assert "weft_leader 0.0" in answer(world.ports[second], "/metrics")[1]


def test_sigterm_ends_it_with_status_0_and_hands_the_lease_over(world: World) -> None:
    first = world.start_operator(lease_seconds=60)
    eventually(lambda: "weft_leader 1.0" in answer(world.ports[first], "/metrics")[1], what="leads")
    second = world.start_operator(lease_seconds=60)
    eventually(lambda: answer(world.ports[second], "/readyz")[0] == 200, what="second is ready")
    os.kill(world.pids[first], signal.SIGTERM)
    eventually(lambda: world.processes.exit_code(first) == 0, what="first ends with 0")
    # Long before the lease would have run out.
    eventually(
        lambda: (
            (world.kube.get(LEASES, "weft-operator", world.namespace) or {})["spec"]["holderIdentity"]
            == second
        ),
        20,
        what="second leads",
    )
