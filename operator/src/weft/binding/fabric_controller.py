"""Keeps the session with each fabric manager, the Fabric's status, and those who wait for what it shows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from weft.api import Fabric
from weft.api.conditions import find
from weft.api.names import FINALIZER
from weft.api.resources import DEVICE_ATTACHMENTS, FABRICS, LOGICAL_NODES, NODES
from weft.binding.fabrics import Fabrics, SecretMissing
from weft.binding.hosts import Matched, match, unknown
from weft.binding.identity import ACCEPT_ANNOTATION as ACCEPT_MANAGER
from weft.binding.identity import is_another, manager_of, moved, replaced, second
from weft.binding.inventory import Picture, accept
from weft.binding.keys import FabricKey, LogicalNodeKey, PlacementKey, PoolsKey
from weft.binding.objects import fabric_of
from weft.binding.orphan_policy import Orphans
from weft.binding.parsed import Parsed
from weft.binding.session import FabricSession
from weft.binding.status import Fact, fabric_status, hosts_drained
from weft.binding.words import for_administrators
from weft.cluster import Cluster, Object, add_finalizer, drop_finalizer
from weft.controllers import Enqueue, Now, Watch
from weft.fabric.driver import Capabilities, Inventory, WriteIdiom
from weft.fabric.errors import AuthFailed, FabricError, RateLimited

log = logging.getLogger(__name__)

ACCEPT_ANNOTATION = "weft.dev/accept-inventory"
RETRY_SECONDS = 5.0
DRIVER_SECONDS = 60.0

CONNECTED: Fact = ("Connected", True, "Connected", "the manager answers")
FENCING: Fact = ("Connected", None, "Fencing", "waiting until the earlier leader's calls are over")

QUIET = ("NoneThere", "NoMaintenance", "InUse")
"""Reasons of conditions that are False for nothing that is wrong."""


class FabricController:
    """Works on one Fabric at a time: open, fence, read, say what was found."""

    def __init__(self, cluster: Cluster, fabrics: Fabrics, poll_seconds: float, enqueue: Enqueue) -> None:
        self._cluster = cluster
        self._fabrics = fabrics
        self._poll_seconds = poll_seconds
        self._enqueue = enqueue
        self._orphans = Orphans(cluster)
        self._others = Parsed(Fabric.model_validate)
        self._meanings: dict[str, tuple[Any, ...]] = {}
        self.watches = (Watch(FABRICS, self._changed),)

    def _changed(self, cluster: Cluster, fabric: Object) -> Iterable[FabricKey]:
        """A Fabric that changed otherwise than by our own status: a manager is not read again for that."""
        metadata = fabric["metadata"]
        name = metadata["name"]
        if cluster.get(FABRICS, name) is None:
            self._meanings.pop(name, None)
            return (FabricKey(name),)
        parts = ("uid", "generation", "annotations", "deletionTimestamp")
        meaning = tuple(metadata.get(part) for part in parts)
        before, self._meanings[name] = self._meanings.get(name), meaning
        return (FabricKey(name),) if before != meaning else ()

    async def reconcile(self, key: FabricKey, now: Now) -> float | None:
        """Read a fabric's inventory, then see to what depends on it."""
        known = self._offered(key.name)
        try:
            return await self._reconcile(key.name, now)
        finally:
            # Placement looks at the whole cluster: only what it could decide on anew is worth a pass.
            if self._offered(key.name) != known:
                self._enqueue(PlacementKey(), 0.0)
            self._enqueue(PoolsKey(), 0.0)
            self._wake_claimants(key.name)

    def _offered(self, name: str) -> tuple[bool, bool, Inventory | None]:
        """What placement depends on of a fabric."""
        session = self._fabrics.session(name)
        looked = name in self._fabrics.looked
        if session is None or session.picture is None or session.trouble or session.epoch == 0:
            return looked, session is not None and session.managed, None
        return looked, session.managed, session.picture.inventory

    async def _reconcile(self, name: str, now: Now) -> float | None:
        raw = self._cluster.get(FABRICS, name)
        if raw is None:
            self._fabrics.looked.discard(name)
            await self._fabrics.forget(name)
            return None
        try:
            fabric = Fabric.model_validate(raw)
        except ValueError:
            # Another version stored it: it is not worked with, and the others need not wait for it.
            self._fabrics.looked.add(name)
            raise
        leaving = fabric.metadata.deletion_timestamp is not None
        if leaving and not self._in_use(name):
            # Without a session no more claims are made; one may have been made until now.
            await self._fabrics.forget(name)
            if self._in_use(name):
                return 0.0
            await drop_finalizer(self._cluster, FABRICS, raw)
            return None
        if fabric.spec.mode == "Manage" and FINALIZER not in fabric.metadata.finalizers and not leaving:
            raw = await add_finalizer(self._cluster, FABRICS, raw)
            fabric = Fabric.model_validate(raw)
        try:
            facts, again = await self._look(fabric, now)
        except Exception:
            # Whatever is the matter with this fabric (the API server refuses its Secret, a driver's defect), the
            # others need not wait for it.
            self._fabrics.looked.add(name)
            raise
        if facts[0] != FENCING:
            self._fabrics.looked.add(name)
        if leaving:
            facts.append(
                ("Deletable", False, "InUse", "it goes when the last DeviceAttachment on it is released")
            )
        await self._write(name, raw, facts, now)
        return again

    async def _write(self, name: str, raw: Object, facts: list[Fact], now: Now) -> None:
        session = self._fabrics.session(name)
        # The object may have changed while the manager was read.
        raw = self._cluster.get(FABRICS, name) or raw
        fabric = Fabric.model_validate(raw)
        picture = session.picture if session else None
        hosts = picture.inventory.hosts if picture else ()
        matched = match(raw, hosts, self._cluster.list(NODES))
        # A reading that lacks something may lack the host.
        whole = picture is not None and not picture.problem
        missing = unknown(raw, hosts, self._cluster.list(NODES)) if whole else ()
        facts = [*facts, _hosts_matched(matched, missing)]
        offered = self._unclaimed_offered(fabric, picture)
        facts += [offered] if offered is not None else []
        owners = {
            claim["spec"]["host"]: f"{ref['namespace']}/{ref['name']}"
            for claim in self._claims(name)
            if not _holds(claim, "Quarantined")
            for ref in (claim["spec"]["claimRef"],)
        }
        facts += hosts_drained(fabric, picture, owners)
        status = fabric_status(fabric, picture, matched, session.epoch if session else 0, facts, now.wall)
        if session is not None and session.capabilities is not None:
            status["writes"] = [write.idiom[:63] for write in session.capabilities.writes]
        accepted = ""
        if session is not None and session.service is not None and session.managed and not session.trouble:
            known, manager = fabric.status.manager, manager_of(fabric, session.service)
            status["manager"] = manager.dump()
            if known is not None and is_another(known, manager.service) and self._in_use(name):
                what = f"the service {manager.service}" if manager.service else "a manager without a UUID"
                accepted = (
                    f"{what} at {manager.endpoint} is worked with as the one that was {known.service}:"
                    f" the annotation {ACCEPT_MANAGER} says so"
                )
        await self._cluster.write_status(FABRICS, raw, status)
        if accepted:
            log.warning("fabric %s: %s", name, accepted)
            self._cluster.event(raw, "Warning", "ManagerAccepted", accepted)
        for kind, condition, reason, message in facts:
            before = find(fabric.status.conditions, kind)
            if kind == "UnclaimedOffered" and condition and (before is None or before.message != message):
                log.warning("fabric %s: %s", name, message)
                self._cluster.event(raw, "Warning", reason, message)
            if condition is False and reason not in QUIET and (before is None or before.reason != reason):
                # It names pods, and tenants of the namespace `default` can read the events of a Fabric.
                text = "the condition NoOrphans says what and why" if kind == "NoOrphans" else message
                self._cluster.event(raw, "Warning", reason, text)

    def _unclaimed_offered(self, fabric: Fabric, picture: Picture | None) -> Fact | None:
        """Hosts that are offered with devices that nobody here claims; None where none are, or ever were."""
        allowed = set(fabric.spec.hosts_with_unclaimed_devices)
        known = find(fabric.status.conditions, "UnclaimedOffered")
        if picture is None or (not allowed and known is None):
            return None
        claimed = {
            (claim["spec"]["device"], claim["spec"]["host"]) for claim in self._claims(fabric.metadata.name)
        }
        found = {host for _, host in set(picture.inventory.attachments) - claimed if host in allowed}
        if not found:
            return "UnclaimedOffered", False, "NoneThere", ""
        text = f"spec.hostsWithUnclaimedDevices has {_some(sorted(found))}: offered with the devices that are there"
        return "UnclaimedOffered", True, "OfferedOnPurpose", text

    def _claimed(self, name: str) -> frozenset[str]:
        return frozenset(claim["spec"]["device"] for claim in self._claims(name))

    def _claims(self, name: str) -> list[Object]:
        return self._cluster.select(DEVICE_ATTACHMENTS, fabric_of, name)

    def _in_use(self, name: str) -> bool:
        return bool(self._claims(name))

    async def _look(self, fabric: Fabric, now: Now) -> tuple[list[Fact], float]:
        """One reading of the manager, as conditions."""
        name = fabric.metadata.name
        # The time of a reading is that of the pass: after opening or fencing it would be too early.
        is_prompt = self._fabrics.is_open(fabric)
        if fact := moved(fabric, bool(self._claimed(name))):
            self._note_trouble(name, fact[3])
            return [fact], RETRY_SECONDS
        try:
            session = await self._fabrics.open(fabric, now)
            if fabric.spec.mode == "Manage" and session.epoch == 0:
                wait = await self._fabrics.fence(session, now)
                if wait > 0:
                    return [FENCING], wait
            began = session.evidence.next()
            reading = await session.driver.inventory(self._claimed(name))
            capabilities = await session.driver.capabilities()
        except LookupError as error:
            self._note_trouble(name, str(error))
            return [("Connected", False, "DriverNotFound", str(error))], DRIVER_SECONDS
        except SecretMissing as error:
            # The session is that of before the edit: perhaps with another manager.
            self._note_trouble(name, str(error))
            return [("Connected", False, "SecretMissing", str(error))], RETRY_SECONDS
        except AuthFailed as error:
            # The Secret may have been rotated: the next attempt reads it again.
            words = self._words(name, error)
            await self._fabrics.forget(name, keep_picture=True)
            return [("Connected", False, "AuthFailed", words)], RETRY_SECONDS
        except FabricError as error:
            message = f"{self._words(name, error)}; the last known picture is kept"
            pause = error.retry_after_seconds if isinstance(error, RateLimited) else 0.0
            return [("Connected", False, "Unreachable", message)], max(pause, RETRY_SECONDS)
        if fact := self._not_its_own(fabric, reading.service):
            session.trouble = fact[3]
            return [fact], RETRY_SECONDS
        session.service, session.capabilities = reading.service, capabilities
        at = now.boot if is_prompt else None
        self._take(fabric, session, reading, began, at)
        picture = session.picture
        assert picture is not None
        facts: list[Fact] = [CONNECTED]
        if picture.problem:
            facts.append(("InventoryComplete", False, picture.problem, picture.message))
        else:
            facts.append(
                ("InventoryComplete", True, "Complete", picture.message or "the last reading was whole")
            )
        facts.append(await self._orphans.look(fabric, session, at))
        if (fact := _writable(capabilities, picture.inventory)) is not None:
            facts.append(fact)
        if (fact := session.calls.fact(now.boot)) is not None:
            facts.append(fact)
        return facts, self._poll_seconds

    def _not_its_own(self, fabric: Fabric, service: str) -> Fact | None:
        """Why the manager that answers may not be worked with under this Fabric."""
        others = []
        # One that cannot be read is worked with by nobody: its own pass says so.
        for other in self._others.all(self._cluster.list(FABRICS)):
            session = self._fabrics.session(other.metadata.name)
            if session is not None and session.service is not None:
                # It was read, and its status may not be written yet.
                manager = manager_of(other, session.service)
                other = other.with_changes(status=other.status.with_changes(manager=manager))
            others.append(other)
        is_claimed = bool(self._claimed(fabric.metadata.name))
        return replaced(fabric, is_claimed, service) or second(fabric, service, others)

    def _take(
        self, fabric: Fabric, session: FabricSession, reading: Inventory, began: int, at: float | None
    ) -> None:
        known = session.picture.inventory if session.picture else None
        declared = fabric.metadata.annotations.get(ACCEPT_ANNOTATION, "")
        accepted = int(declared) if declared.isdigit() else None
        picture = accept(known, fabric.status.devices or 0, reading, accepted)
        session.take(picture, reading, began, at)
        session.trouble = ""

    def _words(self, name: str, error: FabricError) -> str:
        """What a manager that cannot be read said, without secrets; kept as the session's trouble."""
        session = self._fabrics.session(name)
        words = for_administrators(error, session.secrets if session else ())
        self._note_trouble(name, words)
        return words

    def _note_trouble(self, name: str, message: str) -> None:
        if session := self._fabrics.session(name):
            session.trouble = message

    def _wake_claimants(self, fabric: str) -> None:
        """Ask for the nodes whose claims the fabric's picture contradicts, or that wait for it to change."""
        session = self._fabrics.session(fabric)
        if session is None or session.picture is None:
            return
        picture = session.picture
        for claim in self._claims(fabric):
            spec, ref = claim["spec"], claim["spec"]["claimRef"]
            device, host = spec["device"], spec["host"]
            is_shown = device in picture.by_host.get(host, frozenset())
            raw = self._cluster.get(LOGICAL_NODES, ref["name"], ref["namespace"]) or {}
            is_bound = _holds(raw, "Bound")
            fine = is_shown is is_bound and "deletionTimestamp" not in claim["metadata"]
            if fine and is_bound:
                healthy = device in picture.healthy and not picture.shared_at(host)
                # How long a fault has lasted, this process may not have begun to count when it was told.
                is_replaced = not healthy and raw["spec"].get("onDeviceFailure") == "Replace"
                fine = _holds(raw, "Ready") is healthy and not is_replaced
            if not fine:
                self._enqueue(LogicalNodeKey(ref["namespace"], ref["name"]), 0.0)


def _holds(obj: Object, kind: str) -> bool:
    conditions = obj.get("status", {}).get("conditions", ())
    return any(item["type"] == kind and item["status"] == "True" for item in conditions)


def _writable(capabilities: Capabilities, inventory: Inventory) -> Fact | None:
    """Whether devices can be attached there; None where the driver does not say."""
    if not capabilities.writes:
        return None
    said = [write.evidence for write in capabilities.writes]
    if capabilities.writes[0].idiom == WriteIdiom.NONE:
        return "Writable", False, "WritesNotOffered", "; ".join(said)
    closed: dict[str, list[str]] = {}
    for host in inventory.hosts:
        if host.closed:
            closed.setdefault(host.closed, []).append(host.id)
    said += [f"nothing can be attached to {_some(hosts)}: {why}" for why, hosts in closed.items()]
    return "Writable", True, "WritesOffered", "; ".join([*said, *capabilities.notes])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")


def _hosts_matched(matched: Matched, missing: tuple[str, ...]) -> Fact:
    if matched.problems:
        shown = "; ".join(matched.problems[:3])
        text = f"{shown}: nothing is placed there until one of them is removed"
        return "HostsMatched", False, "HostsAmbiguous", text
    if missing:
        return "HostsMatched", False, "HostNotFound", f"{'; '.join(missing)}: correct spec.hosts"
    return "HostsMatched", True, "HostsMatched", ""
