"""`weft fabric probe URL`: what Weft would see at a fabric manager, and could do. It reads, and writes nothing."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from weft.fabric.driver import Capabilities, Connection, Device, Inventory, not_used
from weft.fabric.errors import FabricError
from weft.fabric.redfish import RedfishDriver
from weft.fabric.redfish.recording import Recording
from weft.plain import plain

USEFUL, NOTHING_TO_BIND, NOT_READ = 0, 1, 2
"""Exit statuses."""
MAX_READINGS = 20
MAX_LINES = 10
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"))


@dataclass
class Probe:
    """What came of one look at a manager."""

    recording: Recording = field(default_factory=Recording)
    inventory: Inventory | None = None
    capabilities: Capabilities | None = None
    seconds: float = 0.0
    error: str = ""
    """Why it could not be read."""


def _parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="weft fabric", description="Look at a fabric manager.")
    parser = whole.add_subparsers(dest="look", required=True, metavar="LOOK").add_parser(
        "probe",
        help="what would Weft see at this manager, and could do?",
        description="Read a manager, and say what Weft would see there and could do. Nothing is written there."
        " Status 0: devices can be bound; 1: it answers, and there is nothing to bind; 2: it cannot be read.",
    )
    parser.add_argument("url", help="the manager, for example https://fm.rack-a:8443")
    parser.add_argument("--username", default="", help="who to log in as (default: nobody)")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="file with that user's password")
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="PEM certificates to trust instead of the system's"
    )
    parser.add_argument(
        "--requests-per-second", type=float, default=20.0, metavar="N", help="at most (default: 20)"
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="of a request (default: 30)"
    )
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="write what the manager answered, without secrets, as JSON",
    )
    return whole


def main(argv: Sequence[str]) -> int:
    """Probe and print; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        connection = _connection(arguments)
    except (OSError, ValueError) as error:
        print(f"weft fabric probe: {plain(error)}", file=sys.stderr)
        return NOT_READ
    probe = asyncio.run(look(connection))
    if arguments.record is not None:
        text = json.dumps(probe.recording.bodies, indent=1, sort_keys=True, ensure_ascii=False)
        try:
            arguments.record.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            print(f"weft fabric probe: the recording was not written: {plain(error)}", file=sys.stderr)
            return NOT_READ
    print(report(arguments.url, probe))
    if arguments.record is not None:
        print(f"recorded: {arguments.record} (Ids and names are in it: read it before you give it away)")
    return status(probe)


def _connection(arguments: argparse.Namespace) -> Connection:
    if bool(arguments.username) != (arguments.password_file is not None):
        raise ValueError("--username and --password-file go together")
    if arguments.username and not _is_safe(arguments.url):
        raise ValueError("credentials are sent to https, or to this machine, only")
    if arguments.requests_per_second <= 0 or arguments.timeout <= 0:
        raise ValueError("--requests-per-second and --timeout must be above zero")
    password = arguments.password_file.read_text().rstrip("\r\n") if arguments.password_file else ""
    return Connection(
        endpoint=arguments.url,
        username=arguments.username,
        password=password,
        ca_pem=arguments.ca.read_text() if arguments.ca else "",
        requests_per_second=arguments.requests_per_second,
        request_timeout_seconds=arguments.timeout,
    )


def _is_safe(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return parts.scheme == "https" or local


async def look(connection: Connection) -> Probe:
    """Read the manager until nothing more comes."""
    probe = Probe()
    began = time.monotonic()
    driver = RedfishDriver(connection, probe.recording.heard)
    try:
        for _ in range(MAX_READINGS):
            known = _known(probe.inventory)
            probe.inventory = await driver.inventory()
            if probe.inventory.complete or _known(probe.inventory) == known:
                break
        probe.capabilities = await driver.capabilities()
    except FabricError as error:
        probe.error = str(error)
    finally:
        await driver.close()
    probe.seconds = time.monotonic() - began
    return probe


def _known(inventory: Inventory | None) -> tuple[int, int]:
    return (len(inventory.devices), len(inventory.hosts)) if inventory else (-1, -1)


def status(probe: Probe) -> int:
    """0: a device could be bound to a host; 1: the manager answers, and there is none; 2: it cannot be read."""
    if probe.inventory is None:
        return NOT_READ
    hosts = {host.id for host in probe.inventory.hosts if host.healthy and not host.closed}
    usable = any(
        device.healthy
        and not device.reserved
        and (hosts if device.reachable_hosts is None else hosts & device.reachable_hosts)
        for device in probe.inventory.devices
    )
    return USEFUL if usable else NOTHING_TO_BIND


def report(url: str, probe: Probe) -> str:
    """What there is to say, for people."""
    count = f"{probe.recording.requests} in {probe.seconds:.1f} s, {probe.recording.failed} without success"
    lines = [f"manager: {url}"]
    if probe.inventory is None:
        return "\n".join([*lines, f"not readable: {probe.error}", f"requests: {count}"])
    inventory = probe.inventory
    lines += _section("hosts", [_host(inventory, h.id) for h in inventory.hosts])
    lines += _section("devices", _kinds(inventory.devices), len(inventory.devices))
    lines += _section("domains", _domains(inventory))
    pairs = [f"{device} at {host}" for device, host in inventory.attachments]
    lines += _section("attached now", pairs)
    if inventory.devices:
        lines.append(f"reach: {_reach(inventory)}")
    lines.append(
        f"not used: {not_used(inventory) or 'nothing; all that the manager reports is a device or a host'}"
    )
    unread = inventory.unread
    names = sorted([*(f"device {d}" for d in unread.devices), *(f"host {h}" for h in unread.hosts)])
    lists = {
        "the list of devices": unread.device_list,
        "the list of hosts": unread.host_list,
        "zones and domains": unread.topology,
    }
    lines += _section("not read", [*(name for name, missing in lists.items() if missing), *names])
    lines += _section("notes", list(inventory.problems))
    if probe.capabilities is not None:
        lines += _section("writes", [f"{w.idiom}: {w.evidence}" for w in probe.capabilities.writes])
        lines.append(f"beside that: {_abilities(probe.capabilities)}")
    lines.append(f"requests: {count}")
    verdict = {
        USEFUL: "useful: devices can be bound to hosts, if the manager takes the changes (nothing was written)",
        NOTHING_TO_BIND: "not useful yet: no healthy device reaches a healthy host that can be changed",
    }
    return "\n".join([*lines, f"verdict: {verdict[status(probe)]}"])


def _section(title: str, entries: list[str], count: int | None = None) -> list[str]:
    shown = [f"  {entry}" for entry in entries[:MAX_LINES]]
    more = [f"  and {len(entries) - MAX_LINES} more"] if len(entries) > MAX_LINES else []
    return [f"{title}: {len(entries) if count is None else count}", *shown, *more]


def _host(inventory: Inventory, id: str) -> str:
    host = next(h for h in inventory.hosts if h.id == id)
    what = " ".join(host.attributes[key] for key in ("vendor", "model") if key in host.attributes)
    closed = f": {host.closed}" if host.closed else ""
    return f"{id}{f' ({what})' if what else ''}{'' if host.healthy else ', not healthy'}{closed}"


def _kinds(devices: tuple[Device, ...]) -> list[str]:
    """How many devices there are of each make."""
    makes = Counter(
        (
            d.kind.value,
            " ".join(d.attributes[key] for key in ("type", "vendor", "model") if key in d.attributes),
            d.capacity_bytes,
            d.healthy,
        )
        for d in devices
    )
    lines = []
    for (kind, what, capacity, healthy), count in sorted(makes.items()):
        size = f", {_size(capacity)}" if capacity else ", size unknown"
        lines.append(
            f"{count} {kind}: {what or 'of no known make'}{size}{'' if healthy else ', not healthy'}"
        )
    return lines


def _size(capacity_bytes: int) -> str:
    for unit, name in _UNITS:
        if capacity_bytes >= unit:
            return f"{capacity_bytes / unit:.4g} {name}"
    return f"{capacity_bytes} bytes"


def _domains(inventory: Inventory) -> list[str]:
    attributes = [*(d.attributes for d in inventory.devices), *(h.attributes for h in inventory.hosts)]
    places = Counter(
        (name, value) for one in attributes for name, value in one.items() if name.endswith("Domain")
    )
    return [f"{name} {value}: {count} devices and hosts" for (name, value), count in sorted(places.items())]


def _reach(inventory: Inventory) -> str:
    if all(d.reachable_hosts is None for d in inventory.devices):
        return "no zones say which hosts reach a device: every host reaches every device"
    nowhere = sum(d.reachable_hosts == frozenset() for d in inventory.devices)
    return f"zones say which hosts reach a device; {nowhere} devices reach none"


def _abilities(can: Capabilities) -> str:
    """What else the driver can do there, as far as reading shows it."""
    return ", ".join(
        [
            "follow tasks" if can.asynchronous_tasks else "no tasks",
            "end sessions of an earlier leader" if can.revoke_sessions else "no fencing by sessions",
        ]
    )
