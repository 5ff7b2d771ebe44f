"""Carries out what a Fabric's orphanPolicy says, after each reading."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from weft.api import Fabric
from weft.api.attachment import attachment_name
from weft.api.fabric import OrphanPolicy
from weft.api.resources import DEVICE_ATTACHMENTS, FABRICS, NODES, PODS
from weft.binding.audit import Cause, reference
from weft.binding.evidence import Pair
from weft.binding.hosts import match
from weft.binding.objects import fabric_of
from weft.binding.orphans import Verdict, judge, orphans, orphans_fact
from weft.binding.release import operation_key
from weft.binding.session import FabricSession
from weft.binding.status import Fact
from weft.cluster import Cluster
from weft.fabric.errors import FabricError, OutcomeUnknown

log = logging.getLogger(__name__)

DEFAULT_SECONDS = 3600
"""What an absent limits.orphanSeconds means."""


class Orphans:
    """Looks at the attachments of a fabric that no DeviceAttachment stands for."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def look(self, fabric: Fabric, session: FabricSession, at: float | None) -> Fact:
        """Detach what may be detached; the condition NoOrphans as it is then. Raises ClusterError.

        `at` is when the session's last reading began; None: not known well enough to measure by.
        """
        assert session.picture is not None, "it was read just now"
        kept = await self._detach_due(fabric, session, at)
        inventory = session.picture.inventory
        found = orphans(inventory, self._claimed(fabric))
        return orphans_fact(found, fabric.spec.orphan_policy, kept, whole=not inventory.unread)

    def _claimed(self, fabric: Fabric) -> frozenset[Pair]:
        claims = self._cluster.select(DEVICE_ATTACHMENTS, fabric_of, fabric.metadata.name)
        return frozenset((claim["spec"]["device"], claim["spec"]["host"]) for claim in claims)

    async def _detach_due(self, fabric: Fabric, session: FabricSession, at: float | None) -> tuple[str, ...]:
        """Detach what was an orphan for long enough, where the Fabric says so; why others stay."""
        picture, name = session.picture, fabric.metadata.name
        # Of a reading that is not whole, or not of this moment, nothing is concluded.
        if at is None or picture is None or picture.problem or picture.inventory.unread:
            return ()
        found = orphans(picture.inventory, self._claimed(fabric))
        session.orphans.seen(found, at)
        if fabric.spec.orphan_policy is not OrphanPolicy.DETACH or not session.managed:
            return ()
        wait = fabric.spec.limits.orphan_seconds or DEFAULT_SECONDS
        # What an administrator says may be there is no leftover.
        spared = fabric.spec.hosts_with_unclaimed_devices
        found = tuple(pair for pair in found if pair[1] not in spared)
        due = [pair for pair in found if at - session.orphans.since[pair] >= wait]
        verdict = self._judge(fabric, session, due)
        nodes = self._nodes(fabric, session)
        for host, devices in verdict.detach.items():
            # A watch may be silent: the API server is asked for the pods and the claims that would forbid it.
            await self._cluster.refresh(PODS, "", field="spec.nodeName", value=nodes[host])
            for device in devices:
                claim = attachment_name(name, device)
                await self._cluster.refresh(DEVICE_ATTACHMENTS, "", field="metadata.name", value=claim)
            try:
                if still := self._judge(fabric, session, due).detach.get(host):
                    await self._detach(fabric, session, host, still)
            except FabricError as error:
                log.warning("fabric %s: orphans at %s could not be detached: %s", name, host, error)
        return self._judge(fabric, session, due).kept

    def _judge(self, fabric: Fabric, session: FabricSession, due: Iterable[Pair]) -> Verdict:
        claimed = self._claimed(fabric)
        left = [pair for pair in due if pair not in claimed]
        if not left:
            return Verdict()
        devices = frozenset(device for device, _ in claimed)
        assert session.picture is not None
        others = session.picture.inventory.other_owners
        return judge(left, others, devices, self._nodes(fabric, session), self._cluster.list(PODS))

    def _nodes(self, fabric: Fabric, session: FabricSession) -> Mapping[str, str]:
        """The Node of each host that has one."""
        raw = self._cluster.get(FABRICS, fabric.metadata.name)
        if raw is None or session.picture is None:
            return {}
        return match(raw, session.picture.inventory.hosts, self._cluster.list(NODES)).nodes

    async def _detach(
        self, fabric: Fabric, session: FabricSession, host: str, devices: frozenset[str]
    ) -> None:
        """Detach orphans of one host, see that they are gone, and leave a record of it."""
        names = ", ".join(sorted(devices))
        log.warning("fabric %s: detaching %s from %s: no DeviceAttachment", fabric.metadata.name, names, host)
        about = reference(FABRICS, {"name": fabric.metadata.name, "uid": fabric.metadata.uid})
        cause = Cause(about, "OrphansDetached")
        await session.detach(operation_key("orphans", devices, 0), host, devices, cause)
        if left := devices & await session.attached(host):
            raise OutcomeUnknown(f"the manager still shows {', '.join(sorted(left))}")
        text = f"{names}: detached from {host} (orphanPolicy Detach): no DeviceAttachment for limits.orphanSeconds"
        log.warning("fabric %s: %s", fabric.metadata.name, text)
        if (raw := self._cluster.get(FABRICS, fabric.metadata.name)) is not None:
            self._cluster.event(raw, "Warning", "OrphansDetached", text)
