"""The image of the nodes: kind's own where it can be pulled, else one made from Debian packages and Go modules."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from weft_dev import tools
from weft_dev.containers import DEBIAN_PACKAGES, ContainerError, docker
from weft_dev.kind import configuration, nodes
from weft_dev.tools.cache import cache_directory, platform_name
from weft_dev.tools.progress import progress
from weft_offline import archive

FILES = Path(__file__).resolve().parents[1] / "node"
SUITE = "bookworm"
PACKAGES = (
    *("systemd", "systemd-sysv", "runc", "containernetworking-plugins", "iptables", "nftables", "conntrack"),
    *("iproute2", "ethtool", "kmod", "mount", "procps", "ca-certificates"),
)
LAYOUT = 1
"""To be raised when the code below makes another image of the same inputs: there are no others that it knows of."""
OS_IMAGE = "weft-node-os"
NODE_IMAGE = "weft-node"
INPUTS_LABEL = "dev.weft.inputs"
PART_LABEL = "dev.weft.part=node"
PODNET_IMAGE = "weft.local/podnet:dev"
"""As in hack/offline/node/default-cni.yaml."""

NODE_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "kubeadm", "kubectl", "kubelet")
REGISTRY_SECONDS = 8.0
"""How long the registry has to show that it can be reached."""
PULL_SECONDS = 900.0
OS_SECONDS = 900.0

Say = Callable[[str], None]


def ensure(say: Say) -> str:
    """Return the name of a node image that is here, after pulling or building it. Raises ContainerError, ToolError."""
    if (found := present()) is not None:
        return found
    if can_pull() and _pull(say):
        return configuration.OFFICIAL_IMAGE
    name, wanted = own_name(), inputs_hash()
    os_image = _ensure_os()
    binaries = tools.provide(tools.NODE_TOOLS, installed=False)
    with _build_folder() as folder, progress("building the node image", 50):
        _build(name, wanted, os_image, binaries, folder)
    prune()
    say(f"built {name}")
    return name


def own_name() -> str:
    """The name of the image that is built here."""
    return f"{NODE_IMAGE}:v{tools.TOOLS['kubelet'].version}"


def present() -> str | None:
    """The node image that is here and up to date, or None."""
    if image_label(configuration.OFFICIAL_IMAGE, "") is not None:
        return configuration.OFFICIAL_IMAGE
    return own_name() if image_label(own_name(), INPUTS_LABEL) == inputs_hash() else None


def can_pull(timeout_seconds: float = REGISTRY_SECONDS) -> bool:
    """Whether the registry of the official image answers: its manifest takes no time."""
    try:
        docker("manifest", "inspect", configuration.OFFICIAL_IMAGE, timeout_seconds=timeout_seconds)
    except ContainerError:
        return False
    return True


def obstacle() -> str:
    """What it lacks for a node image to be built here; empty when nothing."""
    if image_label(f"{OS_IMAGE}:{SUITE}", INPUTS_LABEL) == _os_inputs() or shutil.which("mmdebstrap"):
        return ""
    return (
        "kind's node image cannot be pulled, and making one from Debian packages takes mmdebstrap: "
        f"apt-get install {DEBIAN_PACKAGES}"
    )


def prune() -> None:
    """Remove what builds left without a name; what a node container was made from stays until that is gone."""
    docker("image", "prune", "--force", "--filter", f"label={PART_LABEL}")


def image_label(image: str, label: str) -> str | None:
    """A label of an image, empty when it has none of that name; None when the image is not here."""
    template = f'{{{{index .Config.Labels "{label}"}}}}' if label else "{{.Id}}"
    try:
        return docker("image", "inspect", "--format", template, image).strip()
    except ContainerError:
        return None


def inputs_hash() -> str:
    """A digest of all that the node image and the cluster's configuration are made from."""
    files = sorted([*FILES.iterdir(), nodes.GUARD])
    versions = [f"{name} {tools.TOOLS[name].version}" for name in tools.NODE_TOOLS]
    return digest_of(
        [(path.name, path.read_bytes()) for path in files],
        [str(LAYOUT), configuration.configuration(NODE_IMAGE), SUITE, *PACKAGES, *versions],
    )


def digest_of(files: Iterable[tuple[str, bytes]], words: Iterable[str]) -> str:
    """A digest of named contents and of words, whose borders count."""
    digest = hashlib.sha256()
    parts = [part for name, content in files for part in (name.encode(), content)]
    for part in [*parts, *(word.encode() for word in words)]:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def image_names(required: Iterable[str]) -> dict[str, str]:
    """Which program each image that kubeadm requires runs: `registry/.../name:tag` by the name of the program."""
    return {image.rpartition(":")[0].rpartition("/")[2]: image for image in required}


def _pull(say: Say) -> bool:
    try:
        with progress(f"pulling {configuration.OFFICIAL_IMAGE.partition('@')[0]}", 60):
            docker("pull", "--quiet", configuration.OFFICIAL_IMAGE, timeout_seconds=PULL_SECONDS)
    except ContainerError as error:
        say(f"cannot pull the official node image, so one is built here: {error}")
        return False
    return True


def _os_inputs() -> str:
    return digest_of([], [SUITE, *PACKAGES])


def _ensure_os() -> str:
    name, wanted = f"{OS_IMAGE}:{SUITE}", _os_inputs()
    if image_label(name, INPUTS_LABEL) == wanted:
        return name
    if reason := obstacle():
        raise ContainerError(reason)
    with _build_folder() as folder, progress(f"making a Debian {SUITE} file system for the nodes", 60):
        tree, included = folder / "os.tar", [f"--include={','.join(PACKAGES)}"]
        done = subprocess.run(
            [*in_own_mounts(), "mmdebstrap", "--quiet", "--variant=minbase", *included, SUITE, str(tree)],
            # Where it unpacks: what a killed run leaves is removed by the next one.
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=OS_SECONDS,
        )
        if done.returncode != 0:
            raise ContainerError(f"mmdebstrap: {done.stdout.decode(errors='replace').strip()[-1000:]}")
        labels = [f"--change=LABEL {INPUTS_LABEL}={wanted}", f"--change=LABEL {PART_LABEL}"]
        docker("import", *labels, str(tree), name)
    return name


def in_own_mounts() -> list[str]:
    """A prefix with which mmdebstrap's mounts are gone when it is, also when it is killed."""
    # Who is not root gets a namespace from mmdebstrap itself.
    return ["unshare", "--mount"] if os.geteuid() == 0 else []


def _build(name: str, inputs: str, os_image: str, binaries: dict[str, Path], folder: Path) -> None:
    version = f"v{tools.TOOLS['kubelet'].version}"
    required = image_names(required_images(binaries["kubeadm"], version))
    images = folder / "images"
    images.mkdir()
    programs = [
        archive.ProgramImage(image, binaries[program])
        for program, image in required.items()
        if program != "kube-proxy"
    ]
    programs.append(archive.ProgramImage(PODNET_IMAGE, binaries["podnet"]))
    archive.write_archive(images / "programs.tar", programs, platform_name()[1])
    _save_kube_proxy(required["kube-proxy"], os_image, binaries["kube-proxy"], folder)
    shutil.copytree(FILES, folder, dirs_exist_ok=True)
    shutil.copy(nodes.GUARD, folder)
    toml = folder / "containerd.toml"
    toml.write_text(toml.read_text().replace("@PAUSE@", required["pause"]))
    (folder / "bin").mkdir()
    for program in NODE_PROGRAMS:
        os.link(binaries[program], folder / "bin" / program)
    docker(
        *("build", "--quiet", "--tag", name, "--label", f"{INPUTS_LABEL}={inputs}", "--label", PART_LABEL),
        *("--build-arg", f"OS={os_image}", "--build-arg", f"KUBERNETES_VERSION={version}", str(folder)),
    )


def required_images(kubeadm: Path, version: str) -> list[str]:
    """The images that kubeadm asks for."""
    command = [str(kubeadm), "config", "images", "list", f"--kubernetes-version={version}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()


def _save_kube_proxy(image: str, os_image: str, binary: Path, folder: Path) -> None:
    context = folder / "kube-proxy"
    context.mkdir()
    os.link(binary, context / "kube-proxy")
    shutil.copy(FILES / "kube-proxy.Dockerfile", context / "Dockerfile")
    docker("build", "--quiet", "--tag", image, "--build-arg", f"OS={os_image}", str(context))
    docker("save", "--output", str(folder / "images" / "kube-proxy.tar"), image)
    # It is in the archive now.
    docker("rmi", image)
    shutil.rmtree(context)


@contextmanager
def _build_folder() -> Iterator[Path]:
    """A folder on the file system of the tools, which are linked into it. The caller holds the cluster's lock."""
    parent = cache_directory() / "kind"
    for left in parent.glob(".build-*"):
        _remove(left)
    folder = Path(tempfile.mkdtemp(prefix=".build-", dir=parent))
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    # Whatever mounted something there: what is mounted is not ours to remove.
    if not any(str(folder) in line for line in Path("/proc/self/mounts").read_text().splitlines()):
        shutil.rmtree(folder, ignore_errors=True)
