"""`make run`: the operator against the current kubeconfig, after saying which cluster that is.

The one program here that reads KUBECONFIG.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from kubernetes.config import ConfigException
from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION, KubeConfigMerger

DEFAULTS = {"WEFT_HEALTH_HOST": "127.0.0.1", "WEFT_HEALTH_PORT": "8080", "WEFT_LOG_FORMAT": "text"}
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
    missing = [each for each in paths.split(os.pathsep) if each and not Path(each).expanduser().exists()]
    merged = KubeConfigMerger(paths).config  # type: ignore[no-untyped-call]  # the official client has no types
    config = merged.value if merged is not None else {}
    name = config.get("current-context", "")
    contexts = {each["name"]: each["context"] for each in config.get("contexts") or ()}
    clusters = {each["name"]: each["cluster"] for each in config.get("clusters") or ()}
    try:
        return Target(name, clusters[contexts[name]["cluster"]]["server"])
    except KeyError:
        reason = f" ({', '.join(missing)}: no such file)" if missing else ""
        raise ConfigException(
            f"no current context in {paths or 'KUBECONFIG, which is empty'}{reason}"
        ) from None


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


def port_in_use(host: str, port: str) -> bool:
    """Whether something listens already where the operator is to serve health and metrics."""
    with socket.socket() as probe:
        # As the operator's own server does, so that a port that was just given up counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
        except (ValueError, OverflowError):
            return False  # no port at all: the operator says so
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
    host, port = ({**DEFAULTS, **os.environ}[name] for name in ("WEFT_HEALTH_HOST", "WEFT_HEALTH_PORT"))
    if port_in_use(host, port):
        print(
            f"{host}:{port}, for health and metrics, is in use (by another operator?); "
            "WEFT_HEALTH_PORT chooses another",
            file=sys.stderr,
        )
        return 1
    return become_operator()


def become_operator() -> int:
    """Replace this process by the operator, so that signals reach it. Returns only by an OSError."""
    weft = str(Path(sys.executable).with_name("weft"))
    os.execve(weft, [weft, "run", *sys.argv[1:]], {**DEFAULTS, **os.environ})


if __name__ == "__main__":
    sys.exit(main())
