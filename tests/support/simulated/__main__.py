"""`python -m support.simulated --seeds N --start K`: plays seeds in virtual time, and prints those that go wrong.

`--seeds 1 --start K --log` repeats one with its schedule, and what its operators, the API server and the fabric manager
did, each line with its moment. A seed is the same in every process with PYTHONHASHSEED=0, which this sees to.
"""

from __future__ import annotations

import argparse
import collections
import functools
import gc
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from support.simulated.run import Run, play

SEEDS_AT_ONCE = 25


@dataclass
class Tally:
    """What some seeds gave."""

    attaches: int = 0
    struck: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    """A line for each seed that went wrong."""
    seconds: float = 0.0
    """Processor time."""


def play_all(seeds: Sequence[int], leaders: bool, groups: bool, log: bool = False) -> Tally:
    """Play some seeds one after the other."""
    # Each seed leaves its tasks and their frames in cycles, and nothing else of any size.
    gc.disable()
    gc.collect()
    began, tally = time.process_time(), Tally()
    for seed in seeds:
        run = Run(seed, leaders=leaders, groups=groups)
        if log:
            print(run)
        verdict = play(run, print if log else None)
        tally.attaches += verdict.attaches
        tally.struck.update(verdict.struck)
        if verdict.violations:
            tally.wrong.append(f"seed {seed}: {'; '.join(verdict.violations)}")
    tally.seconds = time.process_time() - began
    return tally


def main(argv: Sequence[str] | None = None) -> int:
    """1: something was found."""
    parser = argparse.ArgumentParser(prog="python -m support.simulated", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--log", action="store_true", help="say everything that happens")
    parser.add_argument("--until-found", action="store_true", help="end soon after a seed that goes wrong")
    parser.add_argument("--leaders", action="store_true", help="stop leaders, and cut them off, more often")
    parser.add_argument("--groups", action="store_true", help="with inference groups that are composed anew")
    options = parser.parse_args(argv)
    began, total, played = time.monotonic(), Tally(), 0
    seeds = range(options.start, options.start + options.seeds)
    # What is still being played when one was found is played for nothing.
    at_once = 3 if options.until_found else SEEDS_AT_ONCE
    some = [seeds[at : at + at_once] for at in range(0, len(seeds), at_once)]
    play_some = functools.partial(play_all, leaders=options.leaders, groups=options.groups, log=options.log)
    if options.log:
        logging.basicConfig(level=logging.DEBUG, format="%(message)s")
    with multiprocessing.Pool(1 if options.log else None) as pool:
        for part, tally in zip(some, pool.imap(play_some, some), strict=True):
            played += len(part)
            total.attaches += tally.attaches
            total.struck.update(tally.struck)
            total.wrong += tally.wrong
            total.seconds += tally.seconds
            for line in tally.wrong:
                print(line, flush=True)
            if total.wrong and options.until_found:
                break
    print(
        f"{len(total.wrong)} of {played} seeds went wrong; {total.attaches} attaches;"
        f" {time.monotonic() - began:.0f} s, {total.seconds:.0f} s of processor time"
    )
    print(", ".join(f"{what} {count}" for what, count in sorted(total.struck.items())))
    return 1 if total.wrong else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order in which sets are gone through is a part of what happens.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "support.simulated", *sys.argv[1:]])
    sys.exit(main())
