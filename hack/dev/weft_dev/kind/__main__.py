"""`python -m weft_dev.kind down|status`; `weft_dev.kind_site` is what makes the cluster."""

from __future__ import annotations

import argparse
import signal
import sys

from weft_dev.containers import ContainerError
from weft_dev.kind import cluster
from weft_dev.tools import ToolError
from weft_dev.tools.progress import say


def main() -> int:
    parser = argparse.ArgumentParser(prog="weft_dev.kind", description="A kind cluster for Weft.")
    parser.add_argument("verb", choices=("down", "status"))
    parser.add_argument(
        "--keep-images", action="store_true", help="down: leave the images, so that up is quick"
    )
    parser.add_argument("--keep-engine", action="store_true", help="down: leave the container engine running")
    options = parser.parse_args()
    # As Ctrl-C: what is under way is ended in order.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if options.verb == "down":
            cluster.down(say, keep_images=options.keep_images, keep_engine=options.keep_engine)
            if options.keep_images:
                say("the images are kept; make kind-down removes them too")
            say("left are the tools: make clean-cache")
        else:
            print("\n".join(cluster.status()))
    except (ContainerError, ToolError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted: make kind-down goes on from what there is")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
