"""Which tools there are, which versions will do, and what each takes to build.

The versions themselves are those of the files in hack/offline/modules: one place to raise them.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass

from weft_dev import ROOT

MODULES = ROOT / "hack" / "offline" / "modules"
"""hack/offline/modules: a folder per group of tools, each a Go module but helm's."""

Version = tuple[int, ...]
NO_LIMIT: Version = (1 << 30,)


@dataclass(frozen=True)
class Tool:
    """One program."""

    name: str
    module: str
    """Folder in hack/offline/modules that pins it."""
    package: str
    """The Go package of its `main`; empty where it is not built here."""
    build_seconds: int
    """Usual time of a build on two busy cores, once the modules are downloaded and what it shares is built."""
    oldest: Version = ()
    """A tool that is installed already will do when `oldest <= version < below`. Empty: only the pinned one will,
    because it goes into an image."""
    below: Version = NO_LIMIT
    version_flags: tuple[str, ...] = ("--version",)
    """What makes it print its version; empty where nothing does."""
    program: str = ""
    """What `go build` calls it, where that is not its name."""
    contains: bytes = b""
    """What is found in the program file when it was built with all that is needed here."""
    wheel_member: str = ""
    """Where it is in the wheel of hack/offline/modules/helm."""

    @property
    def version(self) -> str:
        """The version that is fetched or built, without a leading v."""
        return pinned_version(self.module)

    def accepts(self, version: Version) -> bool:
        """Whether a tool of that version will do."""
        return self.oldest <= version < self.below


def _kubernetes(name: str, build_seconds: int) -> Tool:
    return Tool(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", build_seconds, (1, 37), (1, 38))


def _on_node(name: str, build_seconds: int) -> Tool:
    flags = ("version", "--output=short") if name == "kubeadm" else ("--version",)
    return Tool(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", build_seconds, version_flags=flags)


def _containerd(name: str, build_seconds: int) -> Tool:
    return Tool(name, "containerd", f"github.com/containerd/containerd/v2/cmd/{name}", build_seconds)


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
            wheel_member="kubectl/kubectl",
        ),
        # Older ones lack what the queries and the configuration use. Debian's is built without Kubernetes discovery.
        Tool(
            "prometheus",
            "prometheus",
            "github.com/prometheus/prometheus/cmd/prometheus",
            240,
            (2, 42),
            contains=b"prometheus/discovery/kubernetes",
        ),
        # Shares all but 20 s of its build with Prometheus.
        Tool("promtool", "prometheus", "github.com/prometheus/prometheus/cmd/promtool", 20, (2, 42)),
        Tool(
            "helm", "helm", "", 0, (4,), (5,), version_flags=("version", "--short"), wheel_member="helm/helm"
        ),
        Tool("kind", "kind", "sigs.k8s.io/kind", 17, (0, 33), (0, 34)),
        _on_node("kubelet", 27),
        _on_node("kubeadm", 27),
        _on_node("kube-proxy", 19),
        _containerd("containerd", 60),
        _containerd("containerd-shim-runc-v2", 12),
        _containerd("ctr", 12),
        Tool("coredns", "node", "./coredns", 40, version_flags=("-version",)),
        Tool("pause", "node", "./pause", 1, version_flags=()),
        Tool("podnet", "node", "./podnet", 5, version_flags=()),
    )
}
"""All tools by name, in the order in which they are built: what a control plane needs comes first."""

DEMO_TOOLS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "prometheus")
"""What the demo cannot start without."""
TEST_TOOLS = (*DEMO_TOOLS, "promtool", "kubectl", "helm")
"""What the tests and the local cluster take."""
NODE_TOOLS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    *(tool.name for tool in TOOLS.values() if not tool.oldest),
)
"""What a node image is made of."""
KIND_TOOLS = ("kind", "helm", "prometheus", *NODE_TOOLS)
"""What a kind cluster and the tests on it take, where no image can be pulled."""

MODULE_DOWNLOAD_SECONDS = 45
"""595 MB of Go modules."""
PINS = {
    "kubernetes": ("go.mod", r"k8s\.io/kubernetes v"),
    "etcd": ("go.mod", r"go\.etcd\.io/etcd/server/v3 v"),
    "prometheus": ("go.mod", r"github\.com/prometheus/prometheus v"),
    "kind": ("go.mod", r"sigs\.k8s\.io/kind v"),
    "containerd": ("go.mod", r"github\.com/containerd/containerd/v2 v"),
    "node": ("go.mod", r"github\.com/coredns/coredns v"),
    "helm": ("requirements.txt", "# helm "),
}
"""Which file of each module has the version, and what stands before it."""


@functools.cache
def pinned_version(module: str) -> str:
    """The version that hack/offline/modules has for a module.

    Prometheus numbers its Go module 0.315 where it means 3.15. The programs that are our own have a digest of their
    sources added, so that a change of those is another version.
    """
    file, before = PINS[module]
    text = (MODULES / module / file).read_text()
    found = re.search(rf"^(?:\s*|require )({before})(\S+)", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"hack/offline/modules/{module}/{file} does not have {before}")
    version = found[2]
    if module == "prometheus":
        _, minor, patch = version.split(".")
        version = f"{minor[0]}.{int(minor[1:])}.{patch}"
    if module == "node":
        sources = sorted(path for path in (MODULES / module).rglob("*") if path.is_file())
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
        version += "-" + digest.hexdigest()[:8]
    return version
