"""`weft rehearse TRACE`: what a fixed split, the usual autoscalers and Weft would each have given for this traffic."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from weft.cli import prometheus
from weft.plain import plain

if TYPE_CHECKING:
    from weft.balancing.profile import Profile
    from weft.rehearse.play import Case, Policy, Run
    from weft.rehearse.trace import Trace

POLICIES = ("weft", "static", "best-static", "hpa", "dynamo", "ratio", "optimum")
DONE, NOT_USABLE, INTERRUPTED = 0, 2, 130
"""Exit statuses."""
LONGEST_SECONDS = 31 * 86400.0
"""Of what is replayed: a longer trace is one whose times are of another kind, and would take days."""


OBJECTIVES = "--ttft, --itl or both (what are requests to meet?)"
LONG_TTFT, LONG_ITL = 60.0, 5.0
"""Seconds above which an objective was most likely meant in milliseconds."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong, and all that is missing, in a line: the usage has seventeen."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required: ") and not self.has_objective:
            message += f", {OBJECTIVES}"
        self.exit(NOT_USABLE, f"{self.prog}: {message}; `{self.prog} --help` says what each option is\n")

    has_objective = False


def _parser() -> _Parser:
    parser = _Parser(
        prog="weft rehearse",
        description="Replay recorded traffic on a model of a group's engines, in virtual time, under several policies:"
        " what share of the requests would have met the objectives, and for how many accelerator-hours."
        " Nothing is sent anywhere.",
    )
    parser.add_argument(
        "trace",
        type=Path,
        nargs="?",
        help="CSV with arrival_seconds, prompt_tokens, answer_tokens; Azure's CSV; or Mooncake's JSON lines; also .gz",
    )
    own = parser.add_argument_group("instead of a file: traffic that your Prometheus saw")
    own.add_argument("--prometheus", metavar="URL", help="for example http://prometheus:9090")
    prometheus.add_options(own)
    own.add_argument("--namespace", default="default", help="of the group (default: default)")
    own.add_argument("--model", action="append", default=[], metavar="NAME", help="as in spec.metrics.models")
    own.add_argument("--hours", type=_seconds, default=6.0, metavar="N", help="until now (default: 6)")
    parser.add_argument(
        "--profile", type=Path, required=True, metavar="FILE", help="an EngineProfile, as YAML"
    )
    parser.add_argument(
        "--policy",
        default="static,best-static,weft",
        metavar="NAMES",
        help=f"of {', '.join(POLICIES)}, with commas between them (default: %(default)s)",
    )
    group = parser.add_argument_group("the group")
    group.add_argument(
        "--replicas",
        type=_range,
        required=True,
        metavar="N or MIN..MAX",
        help="replicas at any time, starting and draining ones included",
    )
    group.add_argument(
        "--split",
        type=_split,
        metavar="P:D or P:A:D",
        help="the first split; with :A:, also 0, Weft may use aggregated replicas (default: half of them each)",
    )
    group.add_argument(
        "--accelerators", type=_positive, default=1, metavar="N", help="per replica (default: 1)"
    )
    group.add_argument(
        "--ttft", type=_seconds, default=math.inf, metavar="SECONDS", help="objective until the first token"
    )
    group.add_argument(
        "--itl",
        type=_seconds,
        default=math.inf,
        metavar="SECONDS",
        help="objective between tokens, mean of an answer",
    )
    group.add_argument(
        "--attainment",
        type=_share,
        default=0.99,
        metavar="SHARE",
        help="that is to meet them (default: 0.99)",
    )
    world = parser.add_argument_group("the world")
    world.add_argument(
        "--scrape", type=_seconds, default=5.0, metavar="SECONDS", help="scrape interval (default: 5)"
    )
    world.add_argument(
        "--cold-start",
        type=_not_negative,
        default=60.0,
        metavar="SECONDS",
        help="of a new replica (default: 60)",
    )
    world.add_argument(
        "--flip",
        choices=("drain", "overlap"),
        default="drain",
        help="a replica finishes its old work before it changes its role, or beside the new (default: drain)",
    )
    world.add_argument(
        "--flip-seconds",
        type=_not_negative,
        default=2.0,
        metavar="SECONDS",
        help="beyond the drain (default: 2)",
    )
    world.add_argument(
        "--aggregated", action="store_true", help="also try fixed splits with aggregated replicas"
    )
    world.add_argument("--seed", type=int, default=1, help="of the engines' errors (default: 1)")
    world.add_argument(
        "--stage-error",
        type=_error,
        default=0.0,
        metavar="SHARE",
        help="the profile is off by up to this per stage",
    )
    world.add_argument(
        "--replica-error", type=_error, default=0.0, metavar="SHARE", help="and by up to this per replica"
    )
    world.add_argument(
        "--kv-bandwidth",
        type=_seconds,
        default=200.0,
        metavar="GBIT/S",
        help="between replicas (default: 200)",
    )
    world.add_argument(
        "--kv-bytes", type=_positive, default=320 * 1024, metavar="BYTES", help="of a token (default: 327680)"
    )
    world.add_argument(
        "--decode-kv-nanoseconds",
        type=_not_negative,
        default=0.0,
        metavar="N",
        help="that a decode step takes more per token in the batch's KV caches (default: 0)",
    )
    world.add_argument(
        "--no-prefix-cache", action="store_true", help="do not use what a trace says of common beginnings"
    )
    world.add_argument(
        "--chunk",
        type=_count,
        default=0,
        metavar="TOKENS",
        help="prompts are read in pieces of this (default: whole)",
    )
    part = parser.add_argument_group("the part of the trace")
    part.add_argument("--start", type=_not_negative, default=0.0, metavar="SECONDS", help="from here on")
    part.add_argument("--seconds", type=_seconds, default=math.inf, metavar="SECONDS", help="only this long")
    part.add_argument(
        "--copies",
        type=_positive,
        default=1,
        metavar="N",
        help="superpose the trace with itself, each shifted",
    )
    part.add_argument(
        "--shift", type=_seconds, default=601.0, metavar="SECONDS", help="by this (default: 601)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="write figures and course as JSON to stdout")
    output.add_argument("--html", type=Path, metavar="FILE", help="write a report that one can look at")
    output.add_argument("--watts", type=_seconds, metavar="W", help="of an accelerator that is held")
    output.add_argument("--price", type=_seconds, metavar="MONEY", help="of an accelerator-hour")
    return parser


def main(argv: Sequence[str]) -> int:
    """Rehearse and print; returns the exit status."""
    parser = _parser()
    parser.has_objective = any(each.startswith(("--ttft", "--itl")) for each in argv)
    arguments = parser.parse_args(argv)
    names = [name.strip() for name in arguments.policy.split(",") if name.strip()]
    for name in names:
        if name not in POLICIES:
            parser.error(f"--policy: {name!r} is none of {', '.join(POLICIES)}")
    if (arguments.trace is None) == (arguments.prometheus is None):
        parser.error("give a trace, or --prometheus and --model")
    if arguments.prometheus is not None and not arguments.model:
        parser.error("--prometheus needs --model, the name that the front end's metrics have")
    if arguments.ttft == math.inf and arguments.itl == math.inf:
        parser.error(f"give {OBJECTIVES}")
    for option, seconds, most in (
        ("--ttft", arguments.ttft, LONG_TTFT),
        ("--itl", arguments.itl, LONG_ITL),
    ):
        if most < seconds < math.inf:
            print(
                f"weft rehearse: {option} is in seconds, and {seconds:g} s are met by almost anything:"
                f" for {seconds:g} ms say {option} {seconds / 1000:g}",
                file=sys.stderr,
            )
    try:
        case = _case(arguments)
    except (OSError, ValueError) as error:
        print(f"weft rehearse: {plain(error)}", file=sys.stderr)
        return NOT_USABLE
    show = _Progress()
    try:
        runs = [_play(name, case, arguments.aggregated, show.of(name, case.trace.seconds)) for name in names]
    except ValueError as error:
        print(f"weft rehearse: {plain(error)}", file=sys.stderr)
        return NOT_USABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        show.end()
    return _show(runs, arguments)


def _case(arguments: argparse.Namespace) -> Case:
    from weft.rehearse.engine import Speeds
    from weft.rehearse.play import Case
    from weft.rehearse.trace import TraceError, read_trace
    from weft.rehearse.world import Objectives

    trace = read_trace(arguments.trace) if arguments.trace is not None else _from_prometheus(arguments)
    if arguments.copies > 1:
        trace = trace.superposed(arguments.copies, arguments.shift)
    trace = trace.cut(arguments.start, arguments.start + arguments.seconds)
    if not trace:
        raise TraceError(f"{_name(arguments)}: no request arrives in this part of it")
    if trace.seconds > LONGEST_SECONDS:
        raise TraceError(
            f"{_name(arguments)}: its last request comes {trace.seconds / 86400:,.0f} days after the start, and 31 are"
            " the most. arrival_seconds are seconds from the start of the trace, not of the epoch and not milliseconds;"
            " --start and --seconds take a part"
        )
    if arguments.no_prefix_cache:
        trace = replace(trace, blocks=())
    profile = _profile(arguments.profile)
    least, most = arguments.replicas
    if most < 2 and not arguments.aggregated:
        raise ValueError("--replicas: one of each stage are two; with --aggregated one can serve both")
    first = arguments.split or {}
    if first and not least <= sum(first.values()) <= most:
        said = str(least) if least == most else f"{least} to {most}"
        raise ValueError(f"--split: it has {sum(first.values())} replicas, --replicas says {said}")
    per_token = arguments.kv_bytes * 8 / (arguments.kv_bandwidth * 1e9)
    return Case(
        trace=trace,
        speeds=Speeds(
            profile,
            transfer_seconds_per_token=per_token,
            decode_seconds_per_kv_token=arguments.decode_kv_nanoseconds * 1e-9,
            chunk_tokens=arguments.chunk,
        ),
        planned=profile,
        objectives=Objectives(arguments.ttft, arguments.itl, arguments.attainment),
        most_replicas=most,
        least_replicas=least,
        first=first,
        accelerators_per_replica=arguments.accelerators,
        scrape_seconds=arguments.scrape,
        cold_start_seconds=arguments.cold_start,
        flip_seconds=arguments.flip_seconds,
        overlap=arguments.flip == "overlap",
        seed=arguments.seed,
        stage_error=arguments.stage_error,
        replica_error=arguments.replica_error,
    )


def _from_prometheus(arguments: argparse.Namespace) -> Trace:
    from weft.rehearse.prometheus import read_traffic

    server = prometheus.settings_of(arguments)
    assert server is not None, "there is no trace to read instead"
    seconds = arguments.hours * 3600
    return asyncio.run(
        read_traffic(
            server,
            arguments.namespace,
            arguments.model,
            time.time() - seconds,
            seconds,
            arguments.scrape,
            arguments.seed,
        )
    )


def _name(arguments: argparse.Namespace) -> str:
    if arguments.trace is not None:
        return str(arguments.trace.name)
    return f"{', '.join(arguments.model)} in {arguments.namespace}, the last {arguments.hours:g} h"


def _profile(path: Path) -> Profile:
    import yaml
    from pydantic import ValidationError

    from weft.api import EngineProfile
    from weft.balancing.profile import Profile

    try:
        documents = [each for each in yaml.safe_load_all(path.read_text()) if isinstance(each, dict)]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    found = [each for each in documents if each.get("kind") == "EngineProfile"]
    if len(found) != 1:
        raise ValueError(f"{path}: has to hold one EngineProfile, and has {len(found)}")
    try:
        return Profile.of(EngineProfile.model_validate(found[0]))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {where}: {first['msg']}") from error


def _play(name: str, case: Case, aggregated: bool, progress: Callable[[float], None]) -> Run:
    from weft.rehearse.dynamo import Dynamo
    from weft.rehearse.hpa import Hpa
    from weft.rehearse.optimum import optimum
    from weft.rehearse.play import play
    from weft.rehearse.ratio import Ratio
    from weft.rehearse.static import Static, best_static
    from weft.rehearse.weft_policy import Weft

    if name == "best-static":
        return best_static(case, aggregated, progress)
    if name == "optimum":
        return optimum(case, aggregated, progress)
    apart = case.first_counts
    if name in ("dynamo", "ratio") and (apart.get("aggregated") or len(apart) < 2):
        raise ValueError(f"--policy {name} knows prefill and decode replicas only: see --split")
    policies: dict[str, Callable[[Case], Policy]] = {
        "weft": Weft,
        "static": Static,
        "hpa": Hpa,
        "dynamo": Dynamo,
        "ratio": Ratio,
    }
    return play(case, policies[name](case), progress=progress)


def _show(runs: Sequence[Run], arguments: argparse.Namespace) -> int:
    from weft.rehearse.page import page
    from weft.rehearse.summary import course, figures, larger_than_kv_cache, table, verdict

    rows = [figures(run, arguments.watts, arguments.price) for run in runs]
    courses = {run.policy: course(run) for run in runs}
    if arguments.html is not None:
        title = f"Rehearsal of {_name(arguments)}"
        try:
            arguments.html.write_text(page(title, runs[0].case, rows, courses))
        except OSError as error:
            print(f"weft rehearse: {plain(error)}", file=sys.stderr)
            return NOT_USABLE
    if arguments.json:
        print(json.dumps({"policies": rows, "courses": courses}, indent=1))
        return DONE
    trace = runs[0].world.trace
    print(
        f"{len(trace):,} requests in {trace.seconds:,.0f} s; mean prompt {_mean(trace.prompt_tokens):,.0f},"
        f" mean answer {_mean(trace.answer_tokens):,.0f} tokens\n"
    )
    if large := larger_than_kv_cache(runs[0].case):
        print(
            f"{large:,} of them are larger than a replica's KV cache"
            f" ({runs[0].case.planned.kv_capacity_tokens:,} tokens): engines refuse them, here they run alone\n"
        )
    print(table(rows))
    if said := verdict(rows):
        print("", *said, sep="\n")
    return DONE


def _mean(values: Sequence[int]) -> float:
    return sum(values) / max(1, len(values))


class _Progress:
    """A line on a terminal that is rewritten; a line for each policy where stderr is none."""

    def __init__(self) -> None:
        self._shows = sys.stderr.isatty()
        self._last = ""

    def of(self, name: str, seconds: float) -> Callable[[float], None]:
        if not self._shows:
            print(f"weft rehearse: {name} ...", file=sys.stderr, flush=True)

        def tell(now: float) -> None:
            if not self._shows:
                return
            done = int(20 * min(1.0, now / max(seconds, 1e-9)))
            line = f"{name:<12} [{'#' * done}{'.' * (20 - done)}]"
            if line != self._last:
                self._last = line
                print(f"\r{line}", end="", file=sys.stderr, flush=True)

        return tell

    def end(self) -> None:
        if self._last:
            print(f"\r{' ' * len(self._last)}\r", end="", file=sys.stderr, flush=True)


def _range(text: str) -> tuple[int, int]:
    least, dots, most = text.partition("..")
    if not least.isdigit() or (dots and not most.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: write 8, or 4..12")
    pair = int(least), int(most if dots else least)
    if not 1 <= pair[0] <= pair[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: the least is at least 1 and no more than the most")
    return pair


def _split(text: str) -> dict[str, int]:
    if not re.fullmatch(r"\d+:\d+(:\d+)?", text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: write prefill:decode or prefill:aggregated:decode, as 3:5"
        )
    parts = [int(each) for each in text.split(":")]
    prefill, both, decode = parts if len(parts) == 3 else (parts[0], 0, parts[1])
    if not both and not (prefill and decode):
        raise argparse.ArgumentTypeError(f"{text!r}: nobody would serve one of the stages")
    if len(parts) == 2:
        return {"prefill": prefill, "decode": decode}
    # A role without replicas is one that may get some.
    return {"prefill": prefill, "aggregated": both, "decode": decode}


def _number(text: str, least: float, most: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r}: {what}")
    return number


def _seconds(text: str) -> float:
    return _number(text, 1e-6, 1e9, "a number above 0")


def _not_negative(text: str) -> float:
    return _number(text, 0.0, 1e12, "a number of 0 or more")


def _share(text: str) -> float:
    return _number(text, 0.001, 0.999, "a share from 0.001 to 0.999")


def _error(text: str) -> float:
    return _number(text, 0.0, 0.9, "a share from 0 to 0.9")


def _count(text: str) -> int:
    return int(_number(text, 0, 1e9, "a whole number of 0 or more"))


def _positive(text: str) -> int:
    return int(_number(text, 1, 1e9, "a whole number of 1 or more"))
