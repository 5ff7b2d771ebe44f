"""Which tools there are, which versions will do, and what each takes to build.

The versions themselves are those of the go.mod files in hack/tools: one place to raise them.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

MODULES = Path(__file__).resolve().parents[2] / "tools"
"""hack/tools: one Go module per group of tools."""

Version = tuple[int, ...]
NO_LIMIT: Version = (1 << 30,)


@dataclass(frozen=True)
class Tool:
    """One program."""

    name: str
    module: str
    """Folder in hack/tools whose go.mod pins it."""
    package: str
    """The Go package of its `main`."""
    build_seconds: int
    """Usual time of a build on two busy cores, once the modules are downloaded and what it shares is built."""
    oldest: Version
    """A tool that is installed already will do when `oldest <= version < below`."""
    below: Version
    version_flags: tuple[str, ...] = ("--version",)
    program: str = ""
    """What `go build` calls it, where that is not its name."""

    @property
    def version(self) -> str:
        """The version that is fetched or built, without a leading v."""
        return pinned_version(self.module)

    def accepts(self, version: Version) -> bool:
        """Whether an installed tool of that version will do."""
        return self.oldest <= version < self.below


def _kubernetes(name: str, build_seconds: int) -> Tool:
    return Tool(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", build_seconds, (1, 37), (1, 38))


TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("etcd", "etcd", "go.etcd.io/etcd/server/v3", 35, (3, 6), (4,), program="server"),
        _kubernetes("kube-apiserver", 420),
        _kubernetes("kube-controller-manager", 132),
        _kubernetes("kube-scheduler", 15),
        # An official kubectl works with servers one minor version older and newer.
        Tool(
            "kubectl",
            "kubernetes",
            "k8s.io/kubernetes/cmd/kubectl",
            25,
            (1, 36),
            (1, 39),
            version_flags=("version", "--client"),
        ),
        # Older ones lack what the queries and the configuration use.
        Tool(
            "prometheus",
            "prometheus",
            "github.com/prometheus/prometheus/cmd/prometheus",
            240,
            (2, 42),
            NO_LIMIT,
        ),
    )
}
"""All tools by name, in the order in which they are built: what a control plane needs comes first."""

DEMO_TOOLS = tuple(name for name in TOOLS if name != "kubectl")
"""What the demo cannot start without."""

MODULE_DOWNLOAD_SECONDS = 45
"""595 MB of Go modules."""
MODULE_OF_VERSION = {
    "kubernetes": "k8s.io/kubernetes",
    "etcd": "go.etcd.io/etcd/server/v3",
    "prometheus": "github.com/prometheus/prometheus",
}


@functools.cache
def pinned_version(module: str) -> str:
    """The version in the module's go.mod; Prometheus numbers its Go module 0.315 where it means 3.15."""
    path = MODULE_OF_VERSION[module]
    text = (MODULES / module / "go.mod").read_text()
    found = re.search(rf"^\s*{re.escape(path)} v(\S+)", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"hack/tools/{module}/go.mod does not require {path}")
    version = found[1]
    if module == "prometheus":
        _, minor, patch = version.split(".")
        version = f"{minor[0]}.{int(minor[1:])}.{patch}"
    return version
