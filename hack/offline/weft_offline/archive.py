"""Images of one static program each, written as the archive that `docker save` would: no engine is needed for it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = "/usr/local/bin"


@dataclass(frozen=True)
class ProgramImage:
    """An image with one program in FOLDER, which is what it runs."""

    name: str
    """With a tag."""
    program: Path


def write_archive(path: Path, images: Sequence[ProgramImage], architecture: str) -> None:
    """Write the images into one archive. The same programs make the same bytes."""
    manifest = []
    with tarfile.open(path, "w") as archive:
        for number, image in enumerate(images):
            layer = path.with_name(f"{path.name}.layer")
            write_layer(layer, image.program)
            with layer.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            configuration = json.dumps(image_configuration(image, digest, architecture)).encode()
            names = {"Config": f"{number}.json", "Layers": [f"{number}.tar"], "RepoTags": [image.name]}
            archive.add(layer, f"{number}.tar", filter=_anonymous)
            layer.unlink()
            _add(archive, f"{number}.json", configuration)
            manifest.append(names)
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def write_layer(path: Path, program: Path) -> None:
    """Write the file system of an image: the program, and the folders above it."""
    with tarfile.open(path, "w") as layer:
        parts = FOLDER.strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            folder = tarfile.TarInfo("/".join(parts[:depth]))
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(folder)
        layer.add(program, f"{FOLDER.strip('/')}/{program.name}", filter=_anonymous)


def image_configuration(image: ProgramImage, layer_digest: str, architecture: str) -> dict[str, Any]:
    """What the image runs and what it is made of. Static pods name their program without a folder: hence PATH."""
    return {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": [f"{FOLDER}/{image.program.name}"], "Env": [f"PATH={FOLDER}"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
    }


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime, member.mode = 0, 0o755
    return member


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
