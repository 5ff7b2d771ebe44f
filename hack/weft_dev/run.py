"""`make run`: the operator against the current kubeconfig, after saying which cluster that is.

The one program here that reads KUBECONFIG.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from kubernetes.config import ConfigException
from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION, KubeConfigMerger

DEFAULTS = {"WEFT_HEALTH_HOST": "127.0.0.1", "WEFT_LOG_FORMAT": "text"}
"""What suits a developer's machine; the environment wins over it."""


@dataclass(frozen=True)
class Target:
    """The cluster that the current context names."""

    context: str
    server: str


def current_target(paths: str) -> Target:
    """Read the current context from kubeconfig files (separated as in KUBECONFIG). Raises ConfigException.

    Reads only: plugins that fetch credentials are not run before the question is answered.
    """
    merged = KubeConfigMerger(paths).config  # type: ignore[no-untyped-call]  # the official client has no types
    config = merged.value if merged is not None else {}
    name = config.get("current-context", "")
    contexts = {each["name"]: each["context"] for each in config.get("contexts") or ()}
    clusters = {each["name"]: each["cluster"] for each in config.get("clusters") or ()}
    try:
        return Target(name, clusters[contexts[name]["cluster"]]["server"])
    except KeyError:
        raise ConfigException(f"no current context in {paths}") from None


def agreed() -> bool:
    """Ask on the terminal, unless YES=1."""
    if os.environ.get("YES") == "1":
        return True
    if not sys.stdin.isatty():
        print("There is no terminal to ask on; YES=1 answers yes.", file=sys.stderr)
        return False
    try:
        return input("Run the operator against it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def main() -> int:
    try:
        target = current_target(KUBE_CONFIG_DEFAULT_LOCATION)
    except ConfigException as error:
        print(f"{error}; `make cluster` starts a local one and prints how to use it", file=sys.stderr)
        return 1
    print(f"context: {target.context}\nserver:  {target.server}", flush=True)
    try:
        if not agreed():
            return 1
    except KeyboardInterrupt:
        return 130
    return become_operator()


def become_operator() -> int:
    """Replace this process by the operator, so that signals reach it. Returns only by an OSError."""
    weft = str(Path(sys.executable).with_name("weft"))
    os.execve(weft, [weft, "run", *sys.argv[1:]], {**DEFAULTS, **os.environ})


if __name__ == "__main__":
    sys.exit(main())
