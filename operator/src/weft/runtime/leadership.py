"""One leader at a time, by a Lease.

Every renewal is a write guarded by resourceVersion, so two replicas cannot both hold it. Local time is
CLOCK_BOOTTIME, which neither jumps with the wall clock nor stops while the machine sleeps; what other
replicas wrote is judged by how long it has stood unchanged here, never by their clocks.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from weft.api.resources import LEASES
from weft.cluster import AlreadyExistsError, ClusterError, ConflictError, NotFoundError, Object
from weft.runtime.client import KubeClient
from weft.runtime.clock import boottime
from weft.runtime.history import History

log = logging.getLogger(__name__)

NAME = "weft-operator"


class Leadership:
    """This replica's part in the election."""

    def __init__(
        self, client: KubeClient, namespace: str, identity: str, lease_seconds: float, history: History
    ) -> None:
        self._client = client
        self._history = history
        self._namespace = namespace
        self._identity = identity
        self.lease_seconds = lease_seconds
        self._expires = 0.0
        self._lease: Object | None = None
        self.took_over = False
        """True when the previous holder did not give the lease up: it may still be running."""

    def remaining_seconds(self) -> float:
        """How long this replica is certainly still the leader; 0 when it is not."""
        return max(0.0, self._expires - boottime())

    def leads(self) -> bool:
        """Whether this replica is certainly still the leader."""
        return self.remaining_seconds() > 0

    async def acquire(self) -> None:
        """Wait until this replica is the leader."""
        seen, since = "", boottime()
        while True:
            try:
                lease = await self._read()
            except ClusterError as error:
                log.warning("lease not readable: %s", error)
                await asyncio.sleep(min(2.0, self.lease_seconds / 3))
                continue
            holder = (lease or {}).get("spec", {}).get("holderIdentity") or ""
            state = (lease or {}).get("metadata", {}).get("resourceVersion", "")
            if state != seen:
                seen, since = state, boottime()
            duration = float((lease or {}).get("spec", {}).get("leaseDurationSeconds") or self.lease_seconds)
            free = not holder or boottime() - since >= duration
            try:
                taken = free and await self._take(lease, transitions=1)
            except ClusterError as error:
                # It may have been stored all the same; the next read shows it, and it then has to run out.
                log.warning("lease not taken: %s", error)
                taken = False
            if taken:
                self.took_over = bool(holder)
                log.info("became leader", extra={"identity": self._identity, "took_over_from": holder})
                return
            await asyncio.sleep(min(2.0, self.lease_seconds / 5))

    async def keep(self) -> None:
        """Renew until the lease is lost; returns then. A leader that cannot renew in time has to stop working."""
        pause = self.lease_seconds / 4
        while self.leads():
            await asyncio.sleep(pause)
            pause = self.lease_seconds / 4
            try:
                # One request that hangs must leave time for another before the lease is over.
                async with asyncio.timeout(self.lease_seconds / 2):
                    renewed = await self._take(self._lease, transitions=0)
                    if not renewed:
                        lease = await self._read()
                        holder = (lease or {}).get("spec", {}).get("holderIdentity")
                        if holder not in ("", None, self._identity):
                            log.error("another replica holds the lease")
                            self._expires = 0.0
                            return
                        self._lease = lease
            except (ClusterError, TimeoutError) as error:
                log.warning("lease not renewed: %s", error or "no answer in time")
                pause = self.lease_seconds / 20

    async def release(self) -> None:
        """Give the lease up, so that the next leader need not wait."""
        if self._lease is None or self.remaining_seconds() == 0:
            return
        self._expires = 0.0
        try:
            try:
                await self._give_up(self._lease)
            except ConflictError:
                # A renewal that was cancelled on its way may have been stored all the same.
                lease = await self._read()
                if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                    await self._give_up(lease)
        except ClusterError as error:
            log.warning("lease not released: %s", error)

    async def _give_up(self, lease: Object) -> None:
        spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        await self._client.replace(LEASES, {**lease, "spec": spec})

    async def _read(self) -> Object | None:
        try:
            lease = await self._client.get(LEASES, NAME, self._namespace)
        except NotFoundError:
            return None
        # Read every few seconds: nothing else shows so soon that the cluster was set back.
        self._history.note("the Lease", int(lease["metadata"]["resourceVersion"]))
        return lease

    async def _take(self, lease: Object | None, transitions: int) -> bool:
        asked = boottime()
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec = dict((lease or {}).get("spec", {}))
        spec["holderIdentity"] = self._identity
        # The API wants whole seconds; others must not think the lease shorter than we do.
        spec["leaseDurationSeconds"] = int(-(-self.lease_seconds // 1))
        spec["renewTime"] = now
        if transitions:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions", 0)) + transitions
        try:
            if lease is None:
                metadata = {"name": NAME, "namespace": self._namespace}
                body = {
                    "apiVersion": LEASES.api_version,
                    "kind": LEASES.kind,
                    "metadata": metadata,
                    "spec": spec,
                }
                self._lease = await self._client.create(LEASES, body)
            else:
                self._lease = await self._client.replace(LEASES, {**lease, "spec": spec})
        except (ConflictError, AlreadyExistsError):
            return False
        self._history.note("the Lease", int(self._lease["metadata"]["resourceVersion"]))
        # Counted from before the request: the API server may have stored it at any moment since.
        self._expires = asked + self.lease_seconds
        return True
