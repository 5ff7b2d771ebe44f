"""The operator's image and the demo's, from the Dockerfile at the top of the repository."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from weft_dev import ROOT
from weft_dev.containers import ContainerError, docker
from weft_dev.images import engine, wheels
from weft_dev.images.inputs import WHEELS, files, input_hash
from weft_offline import base_image

IMAGES = {"operator": "weft:dev", "demo": "weft-demo:dev"}
"""Image by target of the Dockerfile."""

BUILD_STAGES = {"package": "weft-build:operator", "demo-package": "weft-build:demo"}
"""Names for the stages that install, so that the builder's cache of them is kept, and replaced, like an image."""

DEMO_ONLY = "hack/"


def build(say: Callable[[str], None]) -> dict[str, str]:
    """Build what changed and return the images by target. Raises ContainerError."""
    contents = {target: inputs_of(target) for target in IMAGES}
    if not all(_is_current(target, contents[target], base_image.candidates()) for target in IMAGES):
        below = base_image.provide(say)
        stale = [target for target in IMAGES if not _is_current(target, contents[target], (below,))]
        say(f"building {' and '.join(IMAGES[target] for target in stale)} on {below.image}")
        wheel_files = {f"{WHEELS}/{name}": path for name, path in _wheels(below).items()}
        for target in stale:
            _build(target, contents[target], wheel_files, below)
        engine.prune()
    return dict(IMAGES)


def inputs_of(target: str) -> dict[str, Path]:
    """The files that a target is made from; the operator has none of the demo's."""
    return {
        name: path for name, path in files().items() if target == "demo" or not name.startswith(DEMO_ONLY)
    }


def oci_arguments(names: Mapping[str, Path]) -> dict[str, str]:
    """Build arguments for the labels: the version, and the last commit that touched the inputs with its date."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    arguments = {"VERSION": version}
    commit, _, date = _git("log", "-1", "--format=%H %cI", "--", *names).partition(" ")
    if commit:
        changed = _git("status", "--porcelain", "--", *names)
        arguments |= {"REVISION": f"{commit}-dirty" if changed else commit, "CREATED": date}
    return arguments


def _is_current(target: str, contents: Mapping[str, Path], bases: tuple[base_image.Base, ...]) -> bool:
    found = engine.label(IMAGES[target], engine.INPUTS)
    return found in {input_hash(contents, base=each.identity) for each in bases}


def _build(
    target: str, contents: Mapping[str, Path], wheel_files: Mapping[str, Path], below: base_image.Base
) -> None:
    labels = {engine.INPUTS: input_hash(contents, base=below.identity)}
    # The classic builder also makes the stages above the wanted one: the demo's files have to be there.
    context = {**files(), **wheel_files}
    arguments = {"BASE": below.image}
    for stage, image in BUILD_STAGES.items():
        engine.build(image, context, target=stage, arguments=arguments, labels={engine.INPUTS: "stage"})
    engine.build(
        IMAGES[target],
        context,
        target=target,
        arguments={**arguments, **oci_arguments(contents)},
        labels=labels,
    )


def _wheels(below: base_image.Base) -> dict[str, Path]:
    ask = "import sys, platform; print('%d.%d' % sys.version_info[:2], platform.machine())"
    # The machine is that of the engine, which may be another's.
    printed = docker("run", "--rm", "--network=none", "--entrypoint=python3", below.image, "-c", ask)
    try:
        python, machine = printed.split()
    except ValueError:
        raise ContainerError(f"{below.image} does not say which Python it has: {printed!r}") from None
    return wheels.wheelhouse(python, machine)


def _git(*arguments: str) -> str:
    """What git prints; nothing where there is no git or this is no clone."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
