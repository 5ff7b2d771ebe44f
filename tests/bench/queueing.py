"""The queue over time: `make bench-queue`. Prints goals as met or missed, writes build/bench/queue.json, exits with 0.

`python tests/bench/queueing.py [CSV ...]`: generated arrivals, and whatever traces are given with the columns
create_time, delete_time, accelerators, memory, storage. Everything is decided by the operator's own search, with the
head of the queue, fair shares and all; waiting times are drawn in build/bench/queue.html.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from counted import Row, at_least, at_most, noted, percentile, write

from support import arrivals as traces
from support.arrivals import GIB, Arrival, TraceError
from support.queueing import Rack, Replay, Size, replay, utilisation, with_hindsight

ROOT = Path(__file__).resolve().parents[2]
RESULT, PAGE = (ROOT / "build" / "bench" / f"queue.{kind}" for kind in ("json", "html"))
SIZE = Size()
WAITING, EVENTS = 1000, 400
DECISION_MS = 20.0
SEEDS = (1, 2, 3)
COUNT, LOAD = 4000, 0.95
STREAM = 10_000
WARM_UP = 0.3
"""Part of the time until the last arrival that is left out: the rack begins empty."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", nargs="*", type=Path, help="CSV files to replay")
    parser.add_argument("--count", type=int, default=COUNT, help="generated arrivals of each seed")
    parser.add_argument("--only-traces", action="store_true", help="leave out what is generated")
    options = parser.parse_args()
    rows: list[Row] = []
    drawings: list[str] = []
    if not options.only_traces:
        for found in (decisions(), generated(options.count, drawings), stream(drawings), shares()):
            for row in found:
                print(row.line(), flush=True)
                rows.append(row)
    for path in options.traces:
        try:
            known, notes = traces.read(path)
        except TraceError as error:
            print(f"not replayed: {error}", file=sys.stderr)
            rows.append(Row(f"{path.name}: replayed", 0, "", "readable", False))
            continue
        for note in notes:
            print(f"{path.name}: {note}", file=sys.stderr)
        for row in trace(path.name, known, drawings):
            print(row.line(), flush=True)
            rows.append(row)
    write(rows, RESULT)
    PAGE.write_text(page(drawings))
    print(f"written to {RESULT.relative_to(ROOT)} and {PAGE.relative_to(ROOT)}")
    return 0


# --- what is measured ---


def decisions() -> Iterator[Row]:
    """Passes over a full rack while 1,000 wait, in CPU time: one thing happens before each."""
    any_of = random.Random(7)
    rack, running = Rack(SIZE), []
    crowd = [_some(any_of, number) for number in range(6000)]
    while rack.waiting < WAITING:
        rack.ask(crowd.pop())
        if rack.waiting % 50 == 0 or rack.waiting >= WAITING:
            running += [each.waiting.uid for each in rack.decide().assignments]
    rack.decide()
    rack.seconds.clear()
    # As the operator does after its start: what stays is not looked at by the garbage collection again.
    gc.collect()
    gc.freeze()
    least = most = rack.waiting
    for _ in range(EVENTS):
        if rack.waiting < WAITING:
            rack.ask(crowd.pop())
        else:
            rack.release(running.pop(any_of.randrange(len(running))))
        running += [each.waiting.uid for each in rack.decide().assignments]
        least, most = min(least, rack.waiting), max(most, rack.waiting)
    gc.unfreeze()
    milliseconds = [1000 * each for each in rack.seconds]
    name = f"decision, {WAITING:,} waiting over {SIZE.accelerators:,} accelerators"
    yield at_most(f"{name}, p99 of CPU", percentile(milliseconds, 0.99), "ms", DECISION_MS)
    yield noted(f"{name}, median", percentile(milliseconds, 0.5), "ms")
    yield noted(f"{name}, longest", max(milliseconds), "ms")
    yield noted("waiting, at least", least, "requests")


def _some(any_of: random.Random, number: int) -> Arrival:
    """One of many tenants' requests: of all sizes, some in one domain, some with memory and storage."""
    size = any_of.choice((1, 1, 2, 2, 4, 4, 8, 8, 16, 32, 64))
    memory, storage = any_of.choice((0, 0, 512, 1024)) * GIB, any_of.choice((0, 0, 0, 2048)) * GIB
    tied = 1 < size <= 8 and any_of.random() < 0.5
    return Arrival(number, float(number), math.inf, f"team-{number % 20}", size, memory, storage, tied)


def generated(count: int, drawings: list[str]) -> Iterator[Row]:
    """At 95 percent load, through a CSV file, against first fit decreasing that knows the future."""
    for seed in SEEDS:
        made = traces.generated(seed, count, LOAD, SIZE.accelerators)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "generated.csv"
            traces.write(path, made)
            known, _ = traces.read(path)
        name = f"seed {seed}, {count:,} arrivals, {100 * LOAD:.0f} % load"
        yield from _against_hindsight(name, known, drawings if seed == SEEDS[0] else [], goal=True)
    tied = traces.generated(SEEDS[0], count, LOAD, SIZE.accelerators, tied=0.5)
    yield from _against_hindsight(
        "the same, half of those of 2 to 8 in one domain", tied, drawings, goal=False
    )


def _against_hindsight(name: str, known: list[Arrival], drawings: list[str], *, goal: bool) -> Iterator[Row]:
    came = replay(known, SIZE)
    end = known[-1].created
    begin = WARM_UP * end
    ours = utilisation(known, came.started, SIZE.accelerators, begin, end)
    hindsight = utilisation(known, with_hindsight(known, SIZE), SIZE.accelerators, begin, end)
    share = 100 * ours / hindsight
    title = f"{name}: utilisation of that with hindsight"
    yield at_least(title, share, "%", 99) if goal else noted(title, share, "%")
    yield noted(f"{name}: utilisation", 100 * ours, "%")
    yield from _waits(name, known, came)
    drawings.append(draw(name, known, came))


def _waits(name: str, known: list[Arrival], came: Replay) -> Iterator[Row]:
    waits = [came.started[each.number] - each.created for each in known if each.number in came.started]
    yield noted(f"{name}: waited, mean", sum(waits) / max(1, len(waits)), "s")
    yield noted(f"{name}: waited, longest", max(waits, default=0), "s")
    yield noted(f"{name}: most that waited at once", came.most_waiting, "requests")
    milliseconds = [1000 * each for each in came.seconds]
    yield noted(f"{name}: decision, p99 of CPU", percentile(milliseconds, 0.99), "ms")


def stream(drawings: list[str]) -> Iterator[Row]:
    """10,000 small requests that ask for more than there is, and now and then a large one beside them."""
    sizes = ((1, 60), (2, 40))
    small = Size(accelerators=64, hosts=64, memories=1, storages=1)
    made = traces.generated(11, STREAM, 1.05, small.accelerators, ("one",), sizes, bytes_too=False)
    made = [
        Arrival(
            each.number,
            each.created,
            each.lives,
            "one",
            48 if each.number % 500 == 250 else each.accelerators,
        )
        for each in made
    ]
    large = {each.number for each in made if each.accelerators == 48}
    came = replay(made, small)
    waits = {each.number: came.started.get(each.number, math.inf) - each.created for each in made}
    longest = max(each.lives for each in made)
    name = f"{STREAM:,} small requests at 105 % load, {len(large)} of 48 of 64 beside them"
    yield at_least(
        f"{name}: large ones started", sum(each in came.started for each in large), "requests", len(large)
    )
    before = sorted(made, key=lambda each: each.created)
    head: list[float] = []
    for number in large:
        at = next(index for index, each in enumerate(before) if each.number == number)
        older = max((came.started.get(each.number, math.inf) for each in before[:at]), default=0.0)
        head.append(came.started[number] - max(older, before[at].created))
    yield at_most(
        f"{name}: longest a large one waited after all older ones had started", max(head), "s", longest
    )
    yield noted(f"{name}: longest lifetime", longest, "s")
    yield noted(f"{name}: a small one waited, longest", max(waits[n] for n in waits if n not in large), "s")
    drawings.append(draw(name, made, came))


def shares() -> Iterator[Row]:
    """Three namespaces that always want more, with the weights 1, 2 and 4."""
    weights = {"one": 1, "two": 2, "four": 4}
    small = Size(accelerators=140, hosts=140, memories=1, storages=1)
    made = traces.generated(
        5, 1200, 2.6, small.accelerators, tuple(weights), ((1, 50), (2, 30), (4, 20)), bytes_too=False
    )
    came = replay(made, small, weights)
    end = made[-1].created
    held = {
        namespace: utilisation(
            [each for each in made if each.namespace == namespace],
            came.started,
            small.accelerators,
            0.3 * end,
            0.9 * end,
        )
        for namespace in weights
    }
    for namespace, weight in weights.items():
        share, due = 100 * held[namespace] / sum(held.values()), 100 * weight / sum(weights.values())
        name = f"share of the namespace of weight {weight} in what is held, {due:.1f} % due"
        yield at_most(f"{name}: off by", abs(share - due), "points", 2.0)


def trace(name: str, known: list[Arrival], drawings: list[str]) -> Iterator[Row]:
    """A recorded trace."""
    finite = [each for each in known if math.isfinite(each.lives)]
    end = max(known[-1].created, 1.0)
    load = sum(each.accelerators * each.lives for each in finite) / (end * SIZE.accelerators)
    yield noted(f"{name}: requests", len(known), "requests")
    yield noted(f"{name}: load of those that end", 100 * load, "%")
    came = replay(known, SIZE)
    yield noted(f"{name}: never possible, more than the rack has", len(came.never), "requests")
    yield noted(f"{name}: started", len(came.started), "requests")
    if 0 < load <= 1 and len(finite) == len(known):
        hindsight = utilisation(known, with_hindsight(known, SIZE), SIZE.accelerators, 0.0, end)
        if hindsight:
            ours = utilisation(known, came.started, SIZE.accelerators, 0.0, end)
            yield at_least(f"{name}: utilisation of that with hindsight", 100 * ours / hindsight, "%", 99)
    milliseconds = [1000 * each for each in came.seconds]
    yield at_most(f"{name}: decision, p99 of CPU", percentile(milliseconds, 0.99), "ms", DECISION_MS)
    yield from _waits(name, known, came)
    drawings.append(draw(name, known, came))


# --- the drawing ---

WIDTH, LEFT, LINE = 900, 190, 24


def draw(name: str, known: Sequence[Arrival], came: Replay) -> str:
    """Waiting times by size and by namespace."""
    waited = [
        (each, came.started[each.number] - each.created) for each in known if each.number in came.started
    ]
    by_size = _grouped(waited, lambda each: each.accelerators)
    by_namespace = _grouped(waited, lambda each: each.namespace)
    return f"<h2>{escape(name)}</h2>" + _lines("accelerators", by_size) + _lines("namespace", by_namespace)


def _grouped(
    waited: Sequence[tuple[Arrival, float]], key: Callable[[Arrival], object]
) -> Mapping[object, list[float]]:
    groups: dict[object, list[float]] = {}
    for each, seconds in waited:
        groups.setdefault(key(each), []).append(seconds)
    ordered = sorted(groups, key=lambda each: (isinstance(each, str), each))  # type: ignore[arg-type, return-value]
    shown = ordered if len(ordered) <= 40 else sorted(ordered, key=lambda each: -len(groups[each]))[:40]
    return {each: groups[each] for each in shown}


def _lines(title: str, groups: Mapping[object, list[float]]) -> str:
    """For each group median, 90 and 99 percent, and the longest, on a scale of seconds that grows by tens."""
    most = max((max(values) for values in groups.values()), default=1.0)
    top = math.log10(1 + max(most, 1.0))

    def x(seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - 60) * math.log10(1 + max(0.0, seconds)) / top

    height = LINE * (len(groups) + 2)
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img"><title>waiting time by {title}</title>']
    for power in range(int(top) + 1):
        at = x(10.0**power)
        parts.append(f'<path d="M{at:.0f} {LINE}V{height - LINE}" class="grid"/>')
        parts.append(f'<text x="{at:.0f}" y="{height - 6}">{10**power:g} s</text>')
    parts.append(f'<text x="0" y="14">{title} (requests)</text>')
    for row, (group, values) in enumerate(groups.items()):
        y = LINE * (row + 1) + LINE / 2
        said = [percentile(values, share) for share in (0.5, 0.9, 0.99)] + [max(values)]
        parts.append(f'<text x="0" y="{y + 4:.0f}">{escape(str(group))} ({len(values)})</text>')
        parts.append(f'<path d="M{x(said[0]):.1f} {y}H{x(said[3]):.1f}" class="range"/>')
        for value, kind in zip(said, ("p50", "p90", "p99", "most"), strict=True):
            words = f"{escape(str(group))}: {kind} {value:.1f} s"
            parts.append(
                f'<circle cx="{x(value):.1f}" cy="{y}" r="5" class="{kind}"><title>{words}</title></circle>'
            )
    return "".join([*parts, "</svg>"])


def page(drawings: Sequence[str]) -> str:
    style = (
        "body{font:14px/1.5 system-ui;max-width:940px;margin:2em auto;color:#222}svg{width:100%;margin:.5em 0}"
        ".grid{stroke:#ddd}.range{stroke:#999;stroke-width:2}text{font-size:12px;fill:#444}"
        ".p50{fill:#1b7837}.p90{fill:#5ab4ac}.p99{fill:#d8b365}.most{fill:#b2182b}"
    )
    legend = (
        '<p><span style="color:#1b7837">&#9679;</span> median <span style="color:#5ab4ac">&#9679;</span> 90 %'
        ' <span style="color:#d8b365">&#9679;</span> 99 % <span style="color:#b2182b">&#9679;</span> longest</p>'
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Waiting times</title><style>{style}</style>'
        f"<h1>How long requests waited</h1>{legend}{''.join(drawings)}</html>\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
