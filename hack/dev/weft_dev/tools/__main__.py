"""`python -m weft_dev.tools [NAME...]`: provide the tools (by default those of the tests) and print where they are."""

from __future__ import annotations

import argparse
import signal
import sys

from weft_dev import containers
from weft_dev.tools.cache import cache_directory
from weft_dev.tools.catalog import TEST_TOOLS, TOOLS
from weft_dev.tools.progress import say
from weft_dev.tools.provide import ToolError, clean, provide


def main() -> int:
    parser = argparse.ArgumentParser(prog="weft_dev.tools", description="Find, fetch or build the tools.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {' '.join(TOOLS)}; default: {' '.join(TEST_TOOLS)}"
    )
    parser.add_argument("--clean", action="store_true", help="remove the cache and say what that frees")
    options = parser.parse_args()
    if options.clean:
        if containers.started_here() is not None:
            say("the container engine that Weft started runs from the cache: make kind-down ends it")
            return 1
        print(f"removed {cache_directory()}: {clean() / 1e6:.0f} MB freed")
        return 0
    unknown = set(options.names) - set(TOOLS)
    if unknown:
        parser.error(f"no such tool: {', '.join(sorted(unknown))}")
    # As Ctrl-C: the blocks that clean up behind them are left in order. A shell starts what it puts in the
    # background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        paths = provide(options.names or TEST_TOOLS)
    except ToolError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted: what was built so far is kept, and the next run goes on from there")
        return 130
    for name, path in paths.items():
        print(f"{name} {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
