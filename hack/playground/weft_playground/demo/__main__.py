"""`make demo`: Weft's whole job on this machine, on a real API server, a real Prometheus and a fabric manager.

With --kind, `make demo-kind`: the same in a kind cluster, installed by the chart.

Exit status: 0 all well; 1 what must not happen did, or what should happen did not; 2 wrong arguments; 3 this machine
was too slow to tell.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from weft.cluster import ClusterError
from weft_dev import tools
from weft_dev.commands import CommandError
from weft_dev.containers import ContainerError
from weft_dev.processes import ProcessError
from weft_dev.tools import ToolError
from weft_playground.case import ENGINES, PAUSED, SEEDS, Case, Split
from weft_playground.demo.comparison import Comparison
from weft_playground.demo.dynamo_world import DynamoWorld
from weft_playground.demo.kind_world import KindWorld
from weft_playground.demo.narrator import Narrator
from weft_playground.demo.report import EXIT_FAILED, EXIT_OK, EXIT_TOO_SLOW
from weft_playground.demo.story import Story, StoryError
from weft_playground.demo.vllm_world import VLLMWorld
from weft_playground.demo.world import LoopbackWorld
from weft_playground.installation import InstallError

INTERRUPTED = 130
WORDS = {EXIT_OK: "OK: the demo did all that it said", EXIT_FAILED: "FAILED", EXIT_TOO_SLOW: "NO VERDICT"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--offset", type=float, default=0.0, metavar="MINUTES", help="moves both stretches of the trace"
    )
    parser.add_argument("--seed", type=int, help="of the engines' true speeds")
    parser.add_argument(
        "--split", metavar="P:D", help="the split to start with (default: the best for the first stretch)"
    )
    parser.add_argument("--kind", action="store_true", help="in a kind cluster, in pods")
    parser.add_argument(
        "--engines",
        choices=ENGINES,
        default=ENGINES[0],
        help="vllm: six real ones, 5.9 GB once; dynamo: NVIDIA Dynamo with its engine simulator, 0.7 GB once",
    )
    parser.add_argument(
        "--compare", action="store_true", help="hold the engine model to these engines on a split that stays"
    )
    parser.add_argument("--keep", action="store_true", help="stay up at the end")
    parser.add_argument("--ui", action="store_true", help="serve the page of `weft ui` while it runs")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="copy all logs there at the end")
    arguments = parser.parse_args()
    try:
        split = Split.parse(arguments.split) if arguments.split else None
    except ValueError as error:
        parser.error(str(error))
    if arguments.kind and arguments.engines != ENGINES[0]:
        parser.error("--engines is for loopback: there is no image of these")
    seed = SEEDS[arguments.engines] if arguments.seed is None else arguments.seed
    case = Case(arguments.offset, seed, split, arguments.engines)
    world = KindWorld(case, arguments.logs) if arguments.kind else _loopback(case, arguments.logs)
    kind = Story
    if arguments.compare:
        kind, world.namespaces = Comparison, (PAUSED,)
    try:
        return asyncio.run(_run(kind(case, world, Narrator(), keep=arguments.keep, ui=arguments.ui), world))
    except asyncio.CancelledError:
        print(f"\nstopped: {world.stopped_text}", file=sys.stderr)
        return INTERRUPTED


def _loopback(case: Case, logs: Path | None) -> LoopbackWorld:
    real = {"vllm": VLLMWorld, "dynamo": DynamoWorld}.get(case.engines)
    if real is not None:
        return real(case, tools.provide((*tools.DEMO_TOOLS, "kubectl")), logs)
    return LoopbackWorld(case, tools.provide(tools.DEMO_TOOLS), logs)


async def _run(story: Story, world: LoopbackWorld | KindWorld) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        # Also where a shell has SIGINT ignored, as it does for what it starts in the background.
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    narrator = story.narrator
    with world:
        try:
            verdict = await story.run()
        # OSError and the API's errors: a server that stopped answering, in a cluster that nothing here watches.
        except (
            *(StoryError, ProcessError, CommandError, ContainerError, ToolError, InstallError),
            *(ClusterError, OSError),
        ) as error:
            narrator.show(f"\nFAILED: {error}")
            narrator.show(f"\nThe end of Weft's log:\n{world.operator_log()}")
            return EXIT_FAILED
        if verdict.status == EXIT_FAILED:
            narrator.show(f"\nThe end of Weft's log:\n{world.operator_log()}\n")
    narrator.show("\n".join((WORDS[verdict.status], *(f"  {reason}" for reason in verdict.reasons))))
    return verdict.status


if __name__ == "__main__":
    sys.exit(main())
