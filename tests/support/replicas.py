"""Replicas of the operator as a Deployment keeps them: what ended is started anew; the leader can be killed."""

from __future__ import annotations

import contextlib
import threading
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.world import World
from weft.api.resources import LEASES
from weft.cluster import ClusterError


class Replicas:
    """Operators of a world, kept up by a thread until `close`."""

    def __init__(self, world: World, kubeconfigs: Mapping[str, Path], settings: dict[str, Any]) -> None:
        """As many replicas as there are `kubeconfigs`, by the side of the wire that each leads to."""
        self._world = world
        self._kubeconfigs = kubeconfigs
        self._settings = settings
        self._sides: dict[str, str] = {}
        """By the name of a replica."""
        self.ended = 0
        """How many ended of themselves: on a machine that is busy with other things a lease may be lost."""
        self._names: list[str] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep_up, name="replicas", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        self._ended.set()
        self._keeper.join(10)

    def _keep_up(self) -> None:
        while not self._ended.wait(0.1):
            with self._lock:
                alive = [n for n in self._names if self._world.processes.exit_code(n) is None]
                self.ended += len(self._names) - len(alive)
                for side in self._kubeconfigs.keys() - {self._sides[name] for name in alive}:
                    config = self._kubeconfigs[side]
                    alive.append(self._world.start_operator(kubeconfig=config, **self._settings))
                    self._sides[alive[-1]] = side
                self._names = alive

    def is_complete(self) -> bool:
        """Whether all replicas know all objects and one of them leads."""
        with self._lock:
            names = list(self._names)
        return (
            len(names) == len(self._kubeconfigs)
            and self.leader() in names
            and all(map(self._is_ready, names))
        )

    def _is_ready(self, name: str) -> bool:
        url = f"http://127.0.0.1:{self._world.ports[name]}/readyz"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def lapses(self) -> int:
        """How often a replica was held up for so long that its lease ran out: by a busy machine, as with `ended`."""
        logs = (self._world.processes.log(name) for name in self._sides)
        return sum(log.read_text().count("the lease ran out") for log in logs if log.exists())

    def leader(self) -> str:
        """Name of the replica that holds the Lease, or nothing."""
        with contextlib.suppress(ClusterError, OSError):
            lease = self._world.kube.get(LEASES, "weft-operator", self._world.namespace)
            return str(((lease or {}).get("spec") or {}).get("holderIdentity") or "")
        return ""

    def leader_pid(self) -> int | None:
        """Process id of the leader, unless it has ended."""
        leader = self.leader()
        with self._lock:
            return self._world.pids[leader] if leader in self._names else None

    def leader_side(self) -> str:
        """The leader's side of the wire, or nothing."""
        return self._sides.get(self.leader(), "")

    def kill_leader(self) -> None:
        """kill -9 of the leader, unless it ended by itself in this moment."""
        leader = self.leader()
        with self._lock:
            if leader in self._names:
                self._names.remove(leader)
                self._world.kill_operator(leader)
