"""The base of Weft's images: the official Python image where it can be had, else one made of Debian packages."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weft_dev import ROOT
from weft_dev.containers import ERROR_CHARACTERS, ContainerError, docker
from weft_dev.images.engine import INPUTS, inspect, label, pull, size_bytes
from weft_offline.node_image import in_own_mounts

DEBIAN_BASE = "weft-base:debian"
DEFAULT_SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-venv", "usr-is-merged")
# Bookworm's usrmerge brings all of Perl, 47 MB, and has done its work; usr-is-merged stands in for it.
NOT_NEEDED = "usrmerge perl perl-modules-* libperl5* lib*-perl"
EXCLUDED = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")


@dataclass(frozen=True)
class Base:
    """An image to build on, and a name that changes when it would be made in another way."""

    image: str
    identity: str


def official_name(dockerfile: str) -> str:
    """The default of the build argument BASE."""
    found = re.search(r"^ARG BASE=(\S+)$", dockerfile, re.MULTILINE)
    if found is None:
        raise ValueError("the Dockerfile has no line ARG BASE=...")
    return found[1]


def candidates() -> tuple[Base, Base]:
    """The bases in order of preference; nothing is asked or made."""
    official = official_name((ROOT / "Dockerfile").read_text())
    recipe = hashlib.sha256(json.dumps(_command()).encode()).hexdigest()
    return Base(official, official), Base(DEBIAN_BASE, recipe)


def provide(say: Callable[[str], None]) -> Base:
    """A base that the engine has, after pulling or making it when it has neither. Raises ContainerError."""
    official, debian = candidates()
    if inspect(official.image) is not None:
        return official
    if label(debian.image, INPUTS) == debian.identity:
        return debian
    if pull(official.image):
        return official
    say(
        f"{official.image} cannot be pulled: making {debian.image} from Debian packages, usually within a minute"
    )
    _make(debian)
    return debian


def over_base_bytes(image: str) -> int:
    """What an image adds to the base that it was built on; all of it when it has none of ours."""
    layers = _layers(image)
    for candidate in candidates():
        below = _layers(candidate.image)
        if below and layers[: len(below)] == below:
            return size_bytes(image) - size_bytes(candidate.image)
    return size_bytes(image)


def _layers(image: str) -> list[str]:
    found = inspect(image)
    return list(found["RootFS"]["Layers"]) if found else []


def suite(os_release: str) -> str:
    """The Debian release that this machine runs, from the text of its os-release file; else one that is known."""
    values = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    if values.get("ID") != "debian":
        return DEFAULT_SUITE
    return values.get("VERSION_CODENAME", "").strip('"') or DEFAULT_SUITE


def _command() -> list[str]:
    release = Path("/etc/os-release")
    # The tar archive has nothing of this machine: no package sources, resolver or host name.
    forget = (
        'cd "$1" && rm -rf etc/apt/sources.list* etc/resolv.conf etc/hostname var/lib/apt/lists/* var/log/*'
    )
    purge = f'dpkg-query -Wf "\\${{Package}} " {NOT_NEEDED} 2>/dev/null | xargs -r dpkg --purge >/dev/null'
    return [
        "mmdebstrap",
        "--quiet",
        "--variant=essential",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        f"--customize-hook=chroot \"$1\" sh -c '{purge}'",
        f"--customize-hook={forget}",
        suite(release.read_text() if release.exists() else ""),
        "-",
    ]


def _make(base: Base) -> None:
    if shutil.which("mmdebstrap") is None:
        raise ContainerError("neither an image registry nor mmdebstrap is here: apt-get install mmdebstrap")
    with tempfile.TemporaryFile() as archive:
        done = subprocess.run(
            [*in_own_mounts(), *_command()], stdin=subprocess.DEVNULL, stdout=archive, stderr=subprocess.PIPE
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-ERROR_CHARACTERS:]
            raise ContainerError(f"mmdebstrap cannot make {base.image}: {said}")
        archive.seek(0)
        docker("import", f"--change=LABEL {INPUTS}={base.identity}", "-", base.image, stdin=archive)
