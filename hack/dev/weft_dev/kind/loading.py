"""Bringing images from the engine into the nodes: one export, read by all nodes that lack any of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from weft_dev.containers import ContainerError, docker

CHUNK_BYTES = 1 << 20
CTR = ("ctr", "--namespace", "k8s.io", "images")


def load(images: Sequence[str], nodes: Sequence[str]) -> list[str]:
    """Load the images into the nodes that do not have them; returns the images that were lacking somewhere.

    Raises ContainerError, also for an image that the engine does not have.
    """
    ids = {image: docker("image", "inspect", "--format", "{{.Id}}", image).strip() for image in images}
    with ThreadPoolExecutor(len(nodes)) as pool:
        listings = dict(
            zip(nodes, pool.map(lambda node: docker("exec", node, *CTR, "list"), nodes), strict=True)
        )
    lacking = {
        node: [image for image in images if not has(listings[node], image, ids[image])] for node in nodes
    }
    wanted = [image for image in images if any(image in each for each in lacking.values())]
    if wanted:
        without = [node for node, images in lacking.items() if images]
        try:
            _stream(wanted, without, "--all-platforms")
        except ContainerError as error:
            if "not found" not in str(error):
                raise
            # An engine that keeps images as containerd does exports the list of all platforms with one's content.
            _stream(wanted, without)
    return wanted


def has(listing: str, image: str, image_id: str) -> bool:
    """Whether containerd's list of images has `image` as the engine has it.

    The kubelet's plugin names each image by its configuration's digest as well, and that is the engine's id of it.
    """
    rows = (line.split() for line in listing.splitlines()[1:])
    targets = {name: target for name, _, target, *_ in rows}
    found = targets.get(full_name(image))
    return found is not None and found in (targets.get(image_id), image_id)


def full_name(image: str) -> str:
    """The name with its registry and tag, as containerd has it: `weft:dev` is `docker.io/library/weft:dev`."""
    first, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif first != "localhost" and not set(".:") & set(first):
        image = f"docker.io/{image}"
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


def _stream(images: Sequence[str], nodes: Sequence[str], *options: str) -> None:
    # Blobs only: a node unpacks an image when it first runs it, and most nodes never run most images.
    # ctr itself reads the stream (--local): through containerd's transfer service it takes twice as long.
    importing = [*CTR, "import", "--local", *options, "--no-unpack", "-"]
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for node in nodes:
            # One by one: those that were started before one that cannot be are ended below.
            processes.append(  # noqa: PERF401
                subprocess.Popen(
                    ["docker", "exec", "--interactive", node, *importing],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=environment,
                )
            )
        saving = subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE, env=environment)
        processes.append(saving)
        assert saving.stdout is not None
        try:
            while chunk := saving.stdout.read(CHUNK_BYTES):
                for each in processes[:-1]:
                    assert each.stdin is not None
                    each.stdin.write(chunk)
        except BrokenPipeError:
            pass  # That node says below what was wrong.
        said = [each.communicate()[0].decode(errors="replace") for each in processes[:-1]]
        saving.stdout.close()
        for node, each, text in zip(nodes, processes, said, strict=False):
            if each.returncode != 0:
                raise ContainerError(f"loading {' '.join(images)} into {node}: {text.strip()[-500:]}")
        if saving.wait() != 0:
            raise ContainerError(f"docker save {' '.join(images)} ended with status {saving.returncode}")
    finally:
        for each in processes:
            if each.poll() is None:
                each.kill()
                each.wait()
