"""Chooses the constants of operator/src/weft/rehearse/opponents.py: twelve settings for each policy, on tuning seeds.

`make tune-opponents` prints what each setting met on average over cases and seeds, the best one first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import cases
import constants
from stretches import rehearsed

from weft.rehearse.dynamo import Dynamo
from weft.rehearse.hpa import Hpa
from weft.rehearse.opponents import DynamoSettings, HpaSettings, RatioSettings
from weft.rehearse.play import Case, Policy, play
from weft.rehearse.ratio import Ratio

Setting = HpaSettings | DynamoSettings | RatioSettings
HPA = [
    HpaSettings(prefill, share, stabilization, most)
    for prefill, share, (stabilization, most) in itertools.product(
        (1.5, 3.0), (0.6, 0.9), ((300.0, 0.6), (300.0, 0.75), (60.0, 0.6))
    )
]
DYNAMO = [DynamoSettings(interval, 0.0, 0.8) for interval in (30.0, 60.0, 180.0)] + [
    DynamoSettings(interval, 5.0, sensitivity)
    for interval, sensitivity in itertools.product((30.0, 60.0, 180.0), (0.5, 0.8, 0.95))
]
RATIO = [
    RatioSettings(up, down, bound)
    for up, down, bound in itertools.product((0.75, 0.85, 0.95), (0.5, 0.7), (1.5, 4.0))
]
COLD_STARTS = (2.0, 60.0)


def main() -> None:
    stretches = [
        rehearsed(case, seed, 5.0, cold_start, overlap=False)
        for seed in constants.TUNING[:2]
        for case in cases.all_cases(seed, tuning=True)
        for cold_start in COLD_STARTS
    ]
    for name, settings, make in (("HPA", HPA, Hpa), ("DYNAMO", DYNAMO, Dynamo), ("RATIO", RATIO, Ratio)):
        tried(name, settings, make, stretches)


def tried(
    name: str, settings: Sequence[Setting], make: Callable[[Case, Setting], Policy], stretches: Sequence[Case]
) -> None:
    assert len(settings) == 12
    met = []
    for setting in settings:
        runs = [play(case, make(case, setting)) for case in stretches]
        met.append((sum(run.attainment for run in runs) / len(runs), setting))
    print(name)
    for attained, setting in sorted(met, key=lambda each: -each[0]):
        print(f"  {attained * 100:.1f} %  {setting}", flush=True)


if __name__ == "__main__":
    main()
