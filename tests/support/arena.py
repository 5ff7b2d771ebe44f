"""Several seeds of the fault suite at once: lanes that share a control plane, a wire and two operators."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.lane import URGENT, Lane
from support.replicas import Replicas
from support.schedule import TENANTS, Act, Schedule, scopes_of
from support.wire import PASS, Message, Treatment, WatchWay, Way, Wire
from support.witness import Ledger
from support.world import World, eventually
from weft.api.resources import NAMESPACES, PRIORITY_CLASSES, ResourceType
from weft_dev.controlplane import ControlPlane, write_kubeconfig

LEASE_SECONDS = 2
LIMIT_SECONDS = 60.0
"""To converge in after the faults. Two leases, two settlings, and the watches' growing pauses between tries are 23; on
a machine that is busy with other things all take longer."""
SETTINGS: dict[str, Any] = {"lease_seconds": LEASE_SECONDS, "inventory_seconds": 0.4, "relist_seconds": 2.0}
SERVICE_ACCOUNTS = ResourceType("", "v1", "serviceaccounts", "ServiceAccount", True)
COMMON = ("watch", "lease", "api read")
"""Scopes of messages that are nobody's own: whoever has trouble with them has it for all lanes."""


OPERATOR = ("-m", "weft.cli.main")


@dataclass(frozen=True)
class Verdict:
    """How a schedule went."""

    name: str
    violations: tuple[str, ...]
    attaches: int
    converged_seconds: float


class Arena:
    """`run` carries seeds out together; operators live on from one call to the next, as their schedules let them."""

    def __init__(self, plane: ControlPlane, namespace: str, program: Sequence[str | Path] = OPERATOR) -> None:
        self.plane = plane
        self.ledger = Ledger()
        self.wire = Wire(plane.ca_file)
        self.home = World(plane, namespace, hosts=0, gpus=0, memories=0)
        kind = {"apiVersion": PRIORITY_CLASSES.api_version, "kind": PRIORITY_CLASSES.kind}
        self.home.kube.apply(PRIORITY_CLASSES, {**kind, "metadata": {"name": URGENT}, "value": 10})
        kubeconfigs: dict[str, Path] = {}
        for side in ("api-1", "api-2"):
            kubeconfigs[side] = self.home.directory / f"{side}.kubeconfig"
            write_kubeconfig(kubeconfigs[side], self.wire.add(side, plane.url), plane.token, plane.ca_file)
        self._cut: dict[str, float] = {}
        """Until when nothing passes on a side."""
        self.wire.heard = lambda message, status, body: self.ledger.heard(message, status, body, time.time())
        self.wire.treat, self.wire.treat_line = self._treat, self._treat_line
        self._lanes: list[Lane] = []
        self._runs = 0
        self._replicas = Replicas(self.home, kubeconfigs, {**SETTINGS, "program": program})

    def close(self) -> None:
        self._replicas.close()
        self.home.close()
        self.wire.close()

    def run(self, schedules: Sequence[Schedule], limit_seconds: float = LIMIT_SECONDS) -> list[Verdict]:
        """Carry these out at the same time and judge each."""
        self._runs += 1
        with ThreadPoolExecutor(len(schedules)) as pool:
            self._lanes = list(pool.map(self._open, schedules))
            try:
                list(pool.map(Lane.await_operator, self._lanes))
                for lane in self._lanes:
                    lane.start()
                list(pool.map(Lane.run, self._lanes))
                list(
                    pool.map(lambda lane: lane.finish(lambda: self.ledger.claims, limit_seconds), self._lanes)
                )
                return [self._verdict(lane) for lane in self._lanes]
            finally:
                lanes, self._lanes = self._lanes, []
                list(pool.map(Lane.close, lanes))

    @staticmethod
    def _verdict(lane: Lane) -> Verdict:
        return Verdict(lane.schedule.name, tuple(lane.violations), lane.attaches, lane.converged_seconds)

    def _open(self, schedule: Schedule) -> Lane:
        prefix = f"{self.home.namespace}-{self._runs}-{schedule.name}"
        namespaces = {tenant: f"{prefix}-{tenant}" for tenant in TENANTS}
        kube = self.home.kube
        for name in namespaces.values():
            kube.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        lane = Lane(self.plane, self.wire, namespaces, schedule, self._operator_act)
        for name in namespaces.values():
            # Pods can be created only then.
            eventually(lambda name=name: kube.get(SERVICE_ACCOUNTS, "default", name))
        return lane

    # The wire

    def _treat(self, message: Message) -> Treatment:
        if self._is_cut(message):
            return Treatment(Way.DROP)
        common = message.is_api and scopes_of(message)[0] in COMMON
        for lane in self._lanes:
            trouble = lane.trouble
            if trouble is not None and (common or lane.owns(message)):
                treatment = trouble.treatment(message)
                if treatment != PASS:
                    return treatment
        return PASS

    def _is_cut(self, message: Message) -> bool:
        return time.monotonic() < self._cut.get(message.side, 0.0)

    def _treat_line(self, message: Message) -> WatchWay:
        if self._is_cut(message):
            return WatchWay.HOLD
        for lane in self._lanes:
            if (trouble := lane.trouble) is not None and (way := trouble.line(message)) is not WatchWay.PASS:
                return way
        return WatchWay.PASS

    # The operators

    def _operator_act(self, act: Act) -> None:
        if act.verb == "kill-operator":
            self._replicas.kill_leader()
            return
        if act.verb == "cut-operator":
            self._cut[self._replicas.leader_side()] = time.monotonic() + LEASE_SECONDS + act.seconds
            return
        pid = self._replicas.leader_pid()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if act.verb == "term-operator":
                os.kill(pid, signal.SIGTERM)
                return
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(LEASE_SECONDS + act.seconds, _go_on, (pid,)).start()


def _go_on(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
