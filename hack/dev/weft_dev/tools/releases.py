"""Official release binaries, checked against the checksums that their projects publish."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import tarfile
import threading
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft_dev.tools import cache
from weft_dev.tools.catalog import TOOLS, Tool

PROBE_SECONDS = 4.0
"""How long the sites have, together, to show that they can be reached."""
STALL_SECONDS = 15.0
"""A download that brings nothing for so long is given up."""
CHUNK_BYTES = 1 << 20

Hosts = dict[str, str]
OFFICIAL: Hosts = {
    "kubernetes": "https://dl.k8s.io",
    "etcd": "https://github.com",
    "prometheus": "https://github.com",
    "helm": "https://get.helm.sh",
    "kind": "https://github.com",
}
"""Modules that are not here have no release that would do: what goes into an image is built without a C library."""


class DownloadError(Exception):
    """A release could not be fetched, or is not what its checksum says."""


@dataclass(frozen=True)
class Release:
    """Where one tool's release is."""

    url: str
    checksums_url: str
    """A bare SHA-256, or lines of `<sha256>  <file name>`."""
    member: str
    """Path of the program inside the archive; empty when `url` is the program."""


def release_of(tool: Tool, hosts: Hosts = OFFICIAL) -> Release:
    """The release of the pinned version for this machine."""
    system, machine = cache.platform_name()
    host, version = hosts[tool.module], tool.version
    if tool.module == "kubernetes":
        url = f"{host}/release/v{version}/bin/{system}/{machine}/{tool.name}"
        return Release(url, url + ".sha256", "")
    if tool.module == "etcd":
        base, folder = (
            f"{host}/etcd-io/etcd/releases/download/v{version}",
            f"etcd-v{version}-{system}-{machine}",
        )
        return Release(f"{base}/{folder}.tar.gz", f"{base}/SHA256SUMS", f"{folder}/{tool.name}")
    if tool.module == "helm":
        url = f"{host}/helm-v{version}-{system}-{machine}.tar.gz"
        return Release(url, url + ".sha256sum", f"{system}-{machine}/{tool.name}")
    if tool.module == "kind":
        url = f"{host}/kubernetes-sigs/kind/releases/download/v{version}/kind-{system}-{machine}"
        return Release(url, url + ".sha256sum", "")
    base = f"{host}/prometheus/prometheus/releases/download/v{version}"
    folder = f"prometheus-{version}.{system}-{machine}"
    return Release(f"{base}/{folder}.tar.gz", f"{base}/sha256sums.txt", f"{folder}/{tool.name}")


@functools.cache
def reachable_modules() -> frozenset[str]:
    """The modules whose releases can be fetched from here; asked once per run, within PROBE_SECONDS."""
    return probe(sites(TOOLS.values()))


def sites(tools: Iterable[Tool]) -> dict[str, str]:
    """One small file of each module's release, to see whether its site can be reached."""
    return {tool.module: release_of(tool).checksums_url for tool in tools if tool.module in OFFICIAL}


def probe(urls: dict[str, str], timeout_seconds: float = PROBE_SECONDS) -> frozenset[str]:
    """The names whose URL answers in time; all are asked at once."""
    answered: set[str] = set()

    def ask(name: str, url: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            _read(url, timeout_seconds)
            answered.add(name)

    # Daemon threads: the resolver of a cut-off network can take longer than any timeout of ours.
    askers = [threading.Thread(target=ask, args=item, daemon=True) for item in urls.items()]
    finished = threading.Event()

    def wait_for_all() -> None:
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        finished.set()

    threading.Thread(target=wait_for_all, daemon=True).start()
    finished.wait(timeout_seconds)
    return frozenset(answered)


def download(tool: Tool, release: Release, folder: Path) -> Path:
    """Fetch a release into `folder`, check it and return the path of the program. Raises DownloadError."""
    archive = folder / "download"
    try:
        checksums = _read(release.checksums_url, STALL_SECONDS).decode("ascii", errors="replace")
        expected = published_checksum(checksums, release.url.rpartition("/")[2])
        actual = _fetch(release.url, archive)
    except (OSError, ValueError) as error:
        raise DownloadError(f"{release.url}: {error}") from error
    if actual != expected:
        raise DownloadError(f"{release.url}: its SHA-256 is {actual}, the published one {expected}")
    if not release.member:
        return archive
    program = folder / tool.name
    try:
        with tarfile.open(archive) as contents:
            member = contents.extractfile(release.member)
            if member is None:
                raise DownloadError(f"{release.url}: {release.member} is not a file")
            with member, program.open("wb") as out:
                shutil.copyfileobj(member, out)
    except (OSError, KeyError, tarfile.TarError) as error:
        raise DownloadError(f"{release.url}: {error}") from error
    return program


def published_checksum(text: str, file_name: str) -> str:
    """The SHA-256 of a file in a list of checksums, or the only one there is. Raises ValueError."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and len(lines[0]) == 1:
        return lines[0][0].lower()
    for line in lines:
        if len(line) == 2 and line[1].lstrip("*") == file_name:
            return line[0].lower()
    raise ValueError(f"no checksum is published for {file_name}")


def _read(url: str, timeout_seconds: float) -> bytes:
    with _open(url, timeout_seconds) as answer:
        data: bytes = answer.read()
        return data


def _fetch(url: str, target: Path) -> str:
    digest = hashlib.sha256()
    with _open(url, STALL_SECONDS) as answer, target.open("wb") as out:
        read: Callable[[int], bytes] = answer.read
        while chunk := read(CHUNK_BYTES):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


def _open(url: str, timeout_seconds: float) -> contextlib.AbstractContextManager[Any]:
    # urllib follows the proxy settings of the environment.
    return contextlib.closing(urllib.request.urlopen(url, timeout=timeout_seconds))
