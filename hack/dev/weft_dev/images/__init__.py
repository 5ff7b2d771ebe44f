"""The images that run in the cluster: the operator's, the demo's and Prometheus', built only when they changed."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from dataclasses import dataclass

from weft_dev import containers
from weft_dev.images import prometheus, weft
from weft_dev.tools.cache import cache_directory

__all__ = ["Images", "build"]


@dataclass(frozen=True)
class Images:
    """Names of images that the container engine has."""

    operator: str
    demo: str
    prometheus: str


def build(say: Callable[[str], None]) -> Images:
    """Make the images that are missing or out of date; `say` gets a line for each thing that takes long.

    Starts a container engine when none runs. Raises ContainerError, and ToolError when Prometheus can neither be
    pulled nor built.
    """
    containers.engine()
    folder = cache_directory() / "engine"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "images.lock").open("a") as lock:
        # A second build of the same images waits for the first, and then has nothing to do.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that builds the images")
            fcntl.flock(lock, fcntl.LOCK_EX)
        made = weft.build(say)
        return Images(made["operator"], made["demo"], prometheus.build(say))
