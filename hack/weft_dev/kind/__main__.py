"""`python -m weft_dev.kind up|stop|down|status`."""

from __future__ import annotations

import argparse
import signal
import sys

from weft_dev import containers
from weft_dev.containers import ContainerError
from weft_dev.kind import cluster
from weft_dev.tools import ToolError
from weft_dev.tools.progress import say


def main() -> int:
    parser = argparse.ArgumentParser(prog="weft_dev.kind", description="A kind cluster for Weft.")
    parser.add_argument("verb", choices=("up", "stop", "down", "status"))
    parser.add_argument(
        "--keep-images", action="store_true", help="down: leave the images, so that up is quick"
    )
    parser.add_argument("--keep-engine", action="store_true", help="down: leave the container engine running")
    options = parser.parse_args()
    # As Ctrl-C: what is under way is ended in order.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if options.verb == "up":
            found = cluster.up(say)
            for name, address in found.addresses().items():
                print(f"{name} {address}")
            print(f"export KUBECONFIG={found.kubeconfig}")
        elif options.verb == "stop":
            if containers.stop():
                say(
                    "stopped the container engine that Weft had started; make kind-up brings the cluster back"
                )
        elif options.verb == "down":
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
        say("interrupted: make kind-up goes on from what there is, make kind-down removes it")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
