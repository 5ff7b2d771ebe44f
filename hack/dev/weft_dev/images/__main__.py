"""`python -m weft_dev.images`: build the images and print their sizes, and how much of that is not their base's."""

from __future__ import annotations

import sys
from dataclasses import astuple

from weft_dev.containers import ContainerError
from weft_dev.images import build, engine
from weft_dev.tools import ToolError
from weft_offline import base_image

MEGABYTE = 1_000_000


def main() -> int:
    try:
        images = build(lambda line: print(line, file=sys.stderr, flush=True))
    except (ContainerError, ToolError) as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: make image goes on from what there is", file=sys.stderr)
        return 130
    print(f"{'image':<32}{'MB':>6}{'over base':>12}")
    for image in astuple(images):
        size, over = engine.size_bytes(image) / MEGABYTE, base_image.over_base_bytes(image) / MEGABYTE
        print(f"{image:<32}{size:>6.0f}{over:>12.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
