"""Building tools from the Go modules that hack/offline/modules pins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from weft_dev.processes import ProcessGroup, log_tail
from weft_dev.tools.catalog import MODULES, Tool, Version

OLDEST_GO: Version = (1, 26)
POLL_SECONDS = 0.2
BUILD_TAGS = {
    # All service discovery but the one that is used: half of the build.
    "prometheus": "remove_all_sd,enable_kubernetes_sd",
    # Snapshotters that need file systems which a node does not have.
    "containerd": "no_btrfs,no_devmapper,no_zfs,no_aufs",
}


class BuildError(Exception):
    """`go build` failed; the message has the end of its output."""


def go_version() -> Version | None:
    """The version of the installed Go, or None."""
    go = shutil.which("go")
    if go is None:
        return None
    try:
        # Outside the modules, so that no other toolchain is fetched to answer.
        answer = subprocess.run(
            [go, "version"], cwd="/", capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\bgo(\d+)\.(\d+)", answer)
    return (int(found[1]), int(found[2])) if found else None


def build(tools: Sequence[Tool], folder: Path) -> dict[str, Path]:
    """Build tools of one module into `folder` and return their paths. Raises BuildError.

    One `go build` for all: what they share is compiled once, and one links while another compiles.
    """
    module = tools[0].module
    out, temporary = folder / "bin", folder / "tmp"
    out.mkdir()
    temporary.mkdir()
    command = [
        "go",
        "build",
        "-mod=readonly",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags",
        linker_flags(tools[0]),
    ]
    if module in BUILD_TAGS:
        command += ["-tags", BUILD_TAGS[module]]
    command += ["-o", f"{out}{os.sep}", *(tool.package for tool in tools)]
    # What is a person's own (GOFLAGS, GOPROXY, GOTOOLCHAIN, ...) stays; a workspace would change what is built.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOTMPDIR": str(temporary)}
    with ProcessGroup(folder) as processes:
        processes.start("go-build", command, environment=environment, working_directory=MODULES / module)
        while (code := processes.exit_code("go-build")) is None:
            time.sleep(POLL_SECONDS)
        if code != 0:
            raise BuildError(f"go build ended with status {code}:\n{log_tail(processes.log('go-build'))}")
    return {tool.name: out / (tool.program or tool.name) for tool in tools}


def linker_flags(tool: Tool) -> str:
    """Flags that leave out debug information and stamp the version where the project's own build does."""
    version = tool.version
    flags = ["-s", "-w"]
    if tool.module == "kubernetes":
        major, minor, _ = version.split(".", 2)
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            flags += [
                f"-X {package}.gitVersion=v{version}",
                f"-X {package}.gitMajor={major}",
                f"-X {package}.gitMinor={minor}",
                f"-X {package}.gitTreeState=clean",
            ]
    elif tool.module == "prometheus":
        flags.append(f"-X github.com/prometheus/common/version.Version={version}")
    elif tool.module == "containerd":
        flags.append(f"-X github.com/containerd/containerd/v2/version.Version=v{version}")
    return " ".join(flags)
