"""Who wants a place is kept from snapshot to snapshot: it is what a reader says that sees the last one alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from weft.binding.asked import Waiting
from weft.binding.inventory import Picture
from weft.binding.offers import Reader, Snapshot
from weft.binding.plan import Assignment
from weft.binding.stock import HostOffer
from weft.cluster import Object
from weft.fabric.driver import Inventory

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = tuple((namespace, name) for namespace in "ab" for name in ("x", "y"))
RESIZED = {
    "type": "Resized",
    "status": "False",
    "reason": "r",
    "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}
BOUND = {
    "type": "Bound",
    "status": "True",
    "reason": "r",
    "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}

events = st.lists(
    st.tuples(
        st.sampled_from(
            (
                *(
                    "made",
                    "made",
                    "edited",
                    "gone",
                    "made again",
                    "unreadable",
                    "deleting",
                    "lives for a while",
                ),
                *(
                    "claimed",
                    "claimed",
                    "released",
                    "wants more",
                    "assigned",
                    "avoids",
                    "label",
                    "class",
                    "quota",
                ),
                *("moved to the front", "time", "time", "assigned", "lives for a while"),
            )
        ),
        st.integers(0, len(NAMES) - 1),
        st.integers(1, 3),
    ),
    min_size=20,
    max_size=40,
)


class Cluster:
    """Objects as the cache has them: one that changes is another object."""

    def __init__(self) -> None:
        self.nodes: dict[tuple[str, str], dict[str, Any]] = {}
        self.claims: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.labels = {"a": "1", "b": "1"}
        self.classes: dict[str, int] = {}
        self.quotas: dict[str, dict[str, Any]] = {}
        self.assigned: dict[str, tuple[str, str]] = {}
        self.avoided: dict[str, frozenset[str]] = {}
        self.now = BEGIN
        self._made = 0
        self._namespaces: dict[tuple[str, str], Object] = {}
        pools = (self._pool("one", {"matchLabels": {"team": "1"}}), self._pool("all", {}))
        self._pools: tuple[Object, ...] = pools

    def _meta(self, name: str, **more: Any) -> dict[str, Any]:
        self._made += 1
        stamp = {"generation": self._made, "creationTimestamp": "2026-01-01T00:00:00Z"}
        return {"name": name, "uid": f"u{self._made}", "resourceVersion": str(self._made), **stamp, **more}

    def _pool(self, name: str, allowed: object) -> Object:
        spec = {"fabricRef": {"name": "rack"}, "allowedNamespaces": allowed}
        return {"kind": "GPUPool", "metadata": self._meta(name), "spec": spec}

    def _edit(self, key: tuple[str, str], **parts: Any) -> None:
        if key in self.nodes:
            self.nodes[key] = {**self.nodes[key], **parts}

    def happen(self, what: str, which: int, count: int) -> None:
        key = namespace, name = NAMES[which]
        raw = self.nodes.get(key)
        accelerators = {"accelerators": [{"name": "main", "count": count}]}
        match what:
            case "made again" | "made" if raw is None or what == "made again":
                meta = self._meta(name, namespace=namespace)
                spec = {**accelerators, **({"priorityClassName": "high"} if count == 2 else {})}
                self.nodes[key] = {"kind": "LogicalNode", "metadata": meta, "spec": spec, "status": {}}
            case "gone":
                self.nodes.pop(key, None)
            case "moved to the front" if raw is not None:
                self.nodes = {key: raw, **self.nodes}
            case "edited" if raw is not None:
                self._edit(key, spec={**raw["spec"], **accelerators})
            case "unreadable":
                self._edit(key, spec={"accelerators": "many"})
            case "deleting" if raw is not None:
                self._edit(key, metadata={**raw["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"})
            case "lives for a while" if raw is not None:
                self._edit(
                    key,
                    spec={**raw["spec"], "ttlSecondsAfterBound": 60 * count},
                    status={"conditions": [BOUND]},
                )
            case "wants more":
                self._edit(key, status={"conditions": [BOUND, RESIZED]})
            case "claimed" if raw is not None:
                self._claim(key, raw, count)
            case "released":
                self.claims.pop(key, None)
            case "assigned" if raw is not None:
                self.assigned = {} if self.assigned else {raw["metadata"]["uid"]: key}
            case "avoids" if raw is not None:
                self.avoided = {} if self.avoided else {raw["metadata"]["uid"]: frozenset({f"h{count}"})}
            case "label":
                self.labels[namespace] = str(count)
            case "class":
                self.classes["high"] = count
            case "quota":
                spec = {"limits": [], "priorityClasses": ["high"] if count == 1 else []}
                self.quotas[namespace] = {
                    "kind": "DeviceQuota",
                    "metadata": self._meta("q", namespace=namespace),
                    "spec": spec,
                }
            case "time":
                self.now += timedelta(seconds=100)

    def _claim(self, key: tuple[str, str], raw: dict[str, Any], count: int) -> None:
        number, uid = len(self.claims.get(key, ())), raw["metadata"]["uid"]
        ref = {"namespace": key[0], "name": key[1], "uid": uid}
        spec = {
            **{
                "fabric": "rack",
                "device": f"{key[0]}{key[1]}{number}",
                "host": "h",
                "nodeName": "n",
                "request": "main",
            },
            **{
                "poolRef": {"kind": "GPUPool", "name": "all"},
                "operation": uid,
                "claimSize": count,
                "claimRef": ref,
            },
        }
        meta = self._meta(f"rack.{spec['device']}", finalizers=["weft.dev/fabric"])
        self.claims.setdefault(key, []).append({"kind": "DeviceAttachment", "metadata": meta, "spec": spec})

    def snapshot(self, assigned: Sequence[Waiting]) -> Snapshot:
        at = HostOffer("rack", "h", "n", {}, Decimal(1), 1)
        for label in self.labels.items():
            if label not in self._namespaces:
                meta = {**self._meta(label[0]), "labels": {"team": label[1]}}
                self._namespaces[label] = {"metadata": meta}
        classes = [
            {"metadata": {"name": name, "uid": name}, "value": value} for name, value in self.classes.items()
        ]
        return Snapshot(
            logical_nodes=tuple(self.nodes.values()),
            claims=tuple(claim for claims in self.claims.values() for claim in claims),
            gpu_pools=self._pools,
            memory_pools=(),
            storage_pools=(),
            quotas=tuple(self.quotas.values()),
            fabrics=(),
            namespaces=tuple(self._namespaces[label] for label in self.labels.items()),
            nodes=(),
            pictures={"rack": Picture(Inventory((), (), (), True))},
            priority_classes=tuple(classes),
            outcomes=tuple(Assignment(each, at, ()) for each in assigned),
            avoided=self.avoided,
        )


@settings(max_examples=60, deadline=None)
@given(events, st.sampled_from((1, 1, 3)))
def test_what_waits_is_what_a_reader_says_that_saw_nothing_before(
    happening: Sequence[tuple[str, int, int]], at_once: int
) -> None:
    cluster, reader = Cluster(), Reader()
    for number, event in enumerate(happening):
        cluster.happen(*event)
        if number % at_once:
            continue
        assigned = [
            replace(each, name=cluster.assigned[each.uid][1])
            for each in Reader().waiting(cluster.snapshot(()), cluster.now)
            if each.uid in cluster.assigned
        ]
        snapshot = cluster.snapshot(assigned)
        fresh = Reader()
        expected = {each.uid: each for each in fresh.waiting(snapshot, cluster.now)}
        found = reader.waiting(snapshot, cluster.now)
        assert {each.uid: each for each in found} == expected
        assert len(found) == len(expected)
        assert reader.stock(snapshot).next_release == fresh.stock(snapshot).next_release
