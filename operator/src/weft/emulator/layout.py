"""What the inventory means as a tree: where each device is, and who meets whom in which fabric. Computed once."""

from __future__ import annotations

from weft.emulator.inventory import ATTACH_FABRIC, Device, Host, World
from weft.emulator.redfish import BLOCKS, CHASSIS, PART, fabrics_of, host_block


class Layout:
    """Paths and memberships that do not change while the emulator runs."""

    def __init__(self, world: World, composes: bool) -> None:
        """`composes`: whether devices are in resource blocks, or else in the chassis of their group."""
        self._world = world
        self._composes = composes
        self.own_blocks = {host_block(host): host for host in world.hosts}
        """Id of a host's own block, and of its endpoints -> host."""
        self.groups: dict[str, list[Device]] = {}
        self.zones: dict[str, dict[str, tuple[list[str], list[str]]]] = {name: {} for name in world.fabrics}
        """Fabric -> interconnect domain -> its hosts, its devices."""
        self.endpoints: dict[str, dict[str, str]] = {name: {} for name in world.fabrics}
        """Fabric -> endpoint id -> id of the host or device."""
        attach = [name for name in world.fabrics if name in ATTACH_FABRIC.values()]
        for host in world.hosts.values():
            for fabric in fabrics_of(host, attach):
                self.endpoints[fabric][host_block(host.id)] = host.id
            for fabric, zone in host.domains.items():
                self.zones[fabric].setdefault(zone, ([], []))[0].append(host.id)
        for device in world.devices.values():
            self.groups.setdefault(device.group, []).append(device)
            for fabric in fabrics_of(device):
                self.endpoints[fabric][device.id] = device.id
            for fabric, zone in device.domains.items():
                self.zones[fabric].setdefault(zone, ([], []))[1].append(device.id)

    def device_path(self, device: Device) -> str:
        """Path of the Processor, Memory or Drive."""
        base = f"{BLOCKS}/{device.id}" if self._composes else f"{CHASSIS}/{device.group}"
        return f"{base}/{PART[device.type]}/{device.id}"

    def owner(self, fabric: str, endpoint: str) -> Host | Device:
        """The host or device that an endpoint is of."""
        name = self.endpoints[fabric][endpoint]
        return self._world.hosts[name] if endpoint in self.own_blocks else self._world.devices[name]
