"""Replicas of the operator that take over from each other, and one that outlives its API server."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing

import pytest

from support.world import World, eventually
from weft.api.resources import FABRICS
from weft_dev.controlplane import ControlPlane


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str) -> Iterator[World]:
    with closing(World(control_plane, namespace, hosts=4, gpus=8, memories=4)) as world:
        world.start_emulator("--permissive")
        yield world


def test_two_replicas_do_not_both_work_and_the_second_takes_over_when_the_first_is_killed(
    world: World,
) -> None:
    world.create()
    first = world.start_operator(lease_seconds=2)
    world.logical_node("one")
    eventually(lambda: world.is_bound("one"), what="one is Bound")
    world.start_operator(lease_seconds=2)
    world.kill_operator(first)
    world.logical_node("two")
    eventually(lambda: world.is_bound("two"), what="two is Bound by the other replica")
    epoch = (world.kube.get(FABRICS, world.name) or {})["status"]["epoch"]
    assert epoch == 2
    assert len(world.attached()) == 6


def test_a_leader_that_was_frozen_beyond_its_lease_does_nothing_more_and_ends(world: World) -> None:
    world.create()
    first = world.start_operator(lease_seconds=2)
    world.logical_node("one")
    eventually(lambda: world.is_bound("one"), what="one is Bound")
    world.start_operator(lease_seconds=2)
    pid = world.pids[first]
    os.kill(pid, signal.SIGSTOP)
    try:
        world.logical_node("two")
        eventually(lambda: world.is_bound("two"), what="two is Bound by the other replica")
        acts = len(world.acts())
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: world.processes.exit_code(first) == 1, what="the old leader ends")
    assert len(world.acts()) == acts
    assert len(world.attached()) == 6


def test_an_api_server_that_restarts_delays_a_bind_and_loses_nothing(world: World) -> None:
    world.create()
    # Longer than the outage, so that it is survived rather than handed over.
    name = world.start_operator(lease_seconds=30)
    world.logical_node("one")
    eventually(lambda: world.is_bound("one"), what="one is Bound")
    world.plane.restart_apiserver()
    world.logical_node("two")
    world.delete("one")
    eventually(lambda: world.is_bound("two") and world.get("one") is None, 60, what="two Bound, one gone")
    assert len(world.attached()) == 3
    assert world.processes.exit_code(name) is None
