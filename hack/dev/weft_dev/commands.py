"""kubectl and helm against one cluster, as a user types them. Standard library only: `make kind-down` uses it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weft_dev import ROOT

if TYPE_CHECKING:
    from weft.cluster import Object

CHART = ROOT / "charts" / "weft"
WAIT_SECONDS = 180


class CommandError(Exception):
    """A command ended with another status than 0; the message is what it said."""


@dataclass(frozen=True)
class Kubectl:
    """`kubectl("get", "nodes")` returns what it printed. Raises CommandError."""

    binary: Path
    kubeconfig: Path

    def __call__(self, *arguments: str, stdin: str = "", timeout_seconds: float = WAIT_SECONDS) -> str:
        return _run([str(self.binary), *arguments], self.kubeconfig, stdin, timeout_seconds)

    def apply(self, objects: Iterable[Object]) -> str:
        """As `kubectl apply --server-side`, in this order."""
        body = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        return self("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(body))


@dataclass(frozen=True)
class Release:
    """The chart of this clone as a release of helm's. Every method raises CommandError."""

    helm: Path
    kubeconfig: Path
    name: str = "weft"
    namespace: str = "weft-system"

    def install(self, *options: str) -> str:
        """Install or upgrade, and wait until what it made is ready; returns the notes."""
        create = ("--create-namespace", "--wait", f"--timeout={WAIT_SECONDS}s")
        return self._helm("upgrade", "--install", self.name, str(CHART), *create, *options)

    def test(self) -> str:
        return self._helm("test", self.name, "--logs")

    def uninstall(self, *options: str) -> str:
        """Does nothing where it is not installed."""
        return self._helm("uninstall", self.name, "--wait", "--ignore-not-found", *options)

    def _helm(self, *arguments: str) -> str:
        command = [str(self.helm), *arguments, "--namespace", self.namespace]
        return _run(command, self.kubeconfig, "", WAIT_SECONDS + 60)


def _run(command: list[str], kubeconfig: Path, stdin: str, timeout_seconds: float) -> str:
    name = f"{Path(command[0]).name} {' '.join(command[1:4])}"
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            env=environment(kubeconfig),
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{name} has not ended within {timeout_seconds:.0f} s") from error
    if done.returncode != 0:
        raise CommandError(
            f"{name} ended with status {done.returncode}: {(done.stderr + done.stdout).strip()}"
        )
    return done.stdout


def environment(kubeconfig: Path) -> dict[str, str]:
    """This process's, in which kubectl and helm know this cluster alone and keep what they cache beside its file."""
    # HELM_KUBEAPISERVER and its like come before the kubeconfig, and would send helm to a cluster of the user's.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HELM_")}
    # A kubectl that asks before it deletes, as ~/.kube/kuberc can have it, deletes nothing here and calls that success.
    cluster = {"KUBECONFIG": str(kubeconfig), "KUBERC": "off"}
    return {**kept, **cluster, "KUBECACHEDIR": str(kubeconfig.parent / "kubectl-cache")}
