"""`python -m support.simulated --seeds N --start K`: plays seeds in virtual time, and prints those that go wrong.

`--seeds 1 --start K --log` repeats one with its schedule, and what its operators, the API server and the fabric manager
did, each line with its moment. A seed is the same in every process with PYTHONHASHSEED=0, which this sees to.
"""

from __future__ import annotations

import argparse
import collections
import gc
import logging
import os
import sys
import time
from collections.abc import Sequence

from support.simulated.run import Run, play

SEEDS_BETWEEN_COLLECTIONS = 25


def main(argv: Sequence[str] | None = None) -> int:
    """1: something was found."""
    parser = argparse.ArgumentParser(prog="python -m support.simulated", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--log", action="store_true", help="say everything that happens")
    parser.add_argument("--until-found", action="store_true", help="end at the first seed that goes wrong")
    parser.add_argument("--leaders", action="store_true", help="stop leaders, and cut them off, more often")
    options = parser.parse_args(argv)
    began, bad, attaches = time.process_time(), 0, 0
    struck: collections.Counter[str] = collections.Counter()
    # Each seed leaves its tasks and their frames in cycles, and nothing else of any size.
    gc.disable()
    for seed in range(options.start, options.start + options.seeds):
        if seed % SEEDS_BETWEEN_COLLECTIONS == 0:
            gc.collect()
        run = Run(seed, leaders=options.leaders)
        if options.log:
            logging.basicConfig(level=logging.DEBUG, format="%(message)s")
            print(run)
        verdict = play(run, print if options.log else None)
        attaches += verdict.attaches
        struck.update(verdict.struck)
        if verdict.violations:
            bad += 1
            print(f"seed {seed}: {'; '.join(verdict.violations)}", flush=True)
            if options.until_found:
                break
    spent = time.process_time() - began
    print(f"{bad} of {options.seeds} seeds went wrong; {attaches} attaches; {spent:.1f} s of processor time")
    print(", ".join(f"{what} {count}" for what, count in sorted(struck.items())))
    return 1 if bad else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order in which sets are gone through is a part of what happens.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "support.simulated", *sys.argv[1:]])
    sys.exit(main())
