"""What this package asks of the container engine."""

from __future__ import annotations

import json
import select
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft_dev.containers import ContainerError, docker
from weft_dev.images.inputs import write_context

INPUTS = "weft.dev/inputs"
"""Label of every image made here: the hash of what it was made from."""

ANSWER_SECONDS = 8.0
PULL_SECONDS = 600.0


def inspect(image: str) -> dict[str, Any] | None:
    """What the engine knows of an image; None when it has none of that name."""
    try:
        (found,) = json.loads(docker("image", "inspect", image))
    except ContainerError:
        return None
    return dict(found)


def label(image: str, name: str) -> str:
    """A label of an image, empty when it has none or is not here."""
    labels = ((inspect(image) or {}).get("Config") or {}).get("Labels") or {}
    return str(labels.get(name, ""))


def size_bytes(image: str) -> int:
    """The size of an image with its base, 0 when it is not here."""
    return int((inspect(image) or {}).get("Size", 0))


def pull(image: str) -> bool:
    """Whether the image is here after trying to pull it. A registry that does not answer costs a few seconds."""
    process = subprocess.Popen(
        ["docker", "pull", image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        assert process.stdout is not None
        # The first line comes with the manifest: from then on the registry is known to answer.
        ready, _, _ = select.select([process.stdout], [], [], ANSWER_SECONDS)
        if not ready:
            process.kill()
            return False
        try:
            process.communicate(timeout=PULL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return False
        return process.returncode == 0


def build(
    image: str,
    contents: Mapping[str, Path],
    *,
    target: str = "",
    arguments: Mapping[str, str] | None = None,
    labels: Mapping[str, str],
    executable: bool = False,
) -> None:
    """Build an image from a context of these files, one of which is the Dockerfile. Raises ContainerError."""
    options = [f"--label={name}={value}" for name, value in labels.items()]
    options += [f"--build-arg={name}={value}" for name, value in (arguments or {}).items()]
    if target:
        options.append(f"--target={target}")
    with tempfile.TemporaryFile() as context:
        write_context(contents, context, executable=executable)
        context.seek(0)
        docker("build", "--tag", image, *options, "-", stdin=context)


def prune() -> None:
    """Remove what was made here and has lost its name to a newer one; nothing else."""
    docker("image", "prune", "--force", "--filter", f"label={INPUTS}")
