"""Prometheus' image: the official one where it can be had, else one with the binary that the tools provide."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from weft_dev import tools
from weft_dev.containers import ContainerError, docker
from weft_dev.images import engine
from weft_dev.images.inputs import input_hash
from weft_dev.tools.catalog import TOOLS

IMAGE = "weft-prometheus:dev"
DOCKERFILE = Path(__file__).with_name("prometheus.Dockerfile")


def official_name() -> str:
    """The image of the version that hack/offline/modules pins."""
    return f"prom/prometheus:v{TOOLS['prometheus'].version}"


def build(say: Callable[[str], None]) -> str:
    """IMAGE, which the engine has after pulling or building it. Raises ContainerError, ToolError."""
    official = official_name()
    if engine.inspect(official) is not None or (
        not engine.label(IMAGE, engine.INPUTS) and engine.pull(official)
    ):
        # What runs it (docs/examples/kind) knows it by one name, wherever it came from.
        docker("tag", official, IMAGE)
        return IMAGE
    contents = {"Dockerfile": DOCKERFILE, "prometheus": tools.provide(["prometheus"])["prometheus"]}
    inputs = input_hash(contents)
    if engine.label(IMAGE, engine.INPUTS) != inputs:
        say(f"{official} cannot be pulled: building {IMAGE} from {contents['prometheus']}")
        with tempfile.NamedTemporaryFile() as empty:
            # A builder of scratch images cannot make a folder; it can copy one file into it.
            context = {**contents, "data/.keep": Path(empty.name)}
            engine.build(IMAGE, context, labels={engine.INPUTS: inputs}, executable=True)
        _check()
        engine.prune()
    return IMAGE


def _check() -> None:
    """A binary that wants libraries does not start in an image that has nothing else."""
    try:
        docker("run", "--rm", "--network=none", IMAGE, "--version")
    except ContainerError as error:
        docker("image", "rm", "--force", IMAGE)
        raise ContainerError(f"Prometheus does not start in an image of its own: {error}") from error
