"""`weft run | crds | check | fabric probe | emulator | rehearse`, and what is asked of a cluster: look/commands.py."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from weft import __version__
from weft.cli.look.commands import VERBS as ASKED


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `weft` command; returns the exit status."""
    as_plugin = Path(sys.argv[0]).name.startswith("kubectl-")
    parser = argparse.ArgumentParser(
        prog="kubectl weft" if as_plugin else "weft",
        description="Compose pooled hardware, balance prefill and decode.",
    )
    parser.add_argument("--version", action="version", version=f"weft {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    run = verbs.add_parser(
        "run", help="run the operator against the cluster of the service account or KUBECONFIG"
    )
    run.add_argument(
        "--config", type=Path, metavar="FILE", help="settings as YAML; WEFT_... variables win over it"
    )

    crds = verbs.add_parser("crds", help="write the custom resource definitions")
    crds.add_argument("--output", type=Path, metavar="DIR", help="folder to write to (default: print them)")

    check = verbs.add_parser("check", help="answer a question about an installation; status 1 for no")
    questions = check.add_subparsers(dest="question", required=True, metavar="QUESTION")
    installed = questions.add_parser("installed", help="does the operator of this namespace do its work?")
    installed.add_argument(
        "--url", required=True, help="the operator's Service, for example http://weft:8080"
    )
    installed.add_argument("--namespace", required=True, help="where the operator runs")
    installed.add_argument("--timeout", type=float, default=90.0, metavar="SECONDS", help="default: 90")
    removable = questions.add_parser("removable", help="can the definitions of Weft's objects be deleted?")
    removable.add_argument("--undo", default="", metavar="COMMAND", help="named as the way to stay installed")

    # These have options of their own, and import nothing of the operator.
    verbs.add_parser("fabric", help="look at a fabric manager: weft fabric probe URL", add_help=False)
    verbs.add_parser(
        "emulator", help="a fabric manager in software, to try Weft without hardware", add_help=False
    )

    verbs.add_parser(
        "rehearse", help="replay recorded traffic: what would each policy have given?", add_help=False
    )

    for verb, help_text in ASKED.items():
        verbs.add_parser(verb, help=help_text, add_help=False)

    arguments, rest = parser.parse_known_args(argv)
    if arguments.verb in ASKED:
        from weft.cli.look.commands import main as asked_main

        return asked_main(arguments.verb, rest)
    if arguments.verb == "emulator":
        _end_at_sigterm()
        from weft.emulator.main import main as emulator_main

        return emulator_main(rest)
    if arguments.verb == "fabric":
        from weft.cli.probe import main as fabric_main

        return fabric_main(rest)
    if arguments.verb == "rehearse":
        from weft.cli.rehearse import main as rehearse_main

        return rehearse_main(rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.verb == "crds":
        return _crds(arguments.output)
    if arguments.verb == "check":
        return _check(arguments)
    return _run(arguments.config)


def _crds(output: Path | None) -> int:
    from weft.api import crd

    if output is not None:
        try:
            crd.write(output)
        except OSError as error:
            print(f"weft crds: {output} cannot be written: {error.strerror}", file=sys.stderr)
            return 1
        return 0
    sys.stdout.write("---\n".join(text for _, text in sorted(crd.manifests().items())))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from weft.cluster import ClusterError
    from weft.runtime import checks
    from weft.runtime.client import StartError

    try:
        if arguments.question == "removable":
            problem = asyncio.run(checks.removable(arguments.undo))
        else:
            problem = asyncio.run(checks.installed(arguments.url, arguments.namespace, arguments.timeout))
    except (StartError, ClusterError) as error:
        problem = f"not answered: {error}"
        if arguments.question == "removable":
            problem += (
                "\nNothing is uninstalled yet. Try again, or `helm uninstall --no-hooks` skips this check."
            )
            if arguments.undo:
                problem += f" Or stay installed:\n  {arguments.undo}"
    if problem:
        print(f"weft check {arguments.question}: {problem}", file=sys.stderr)
        return 1
    print(f"weft check {arguments.question}: yes")
    return 0


def _end_at_sigterm() -> None:
    """End at SIGTERM until there is an event loop that handles it.

    The kernel ignores a signal that the first process of a container has no handler for: a pod that is stopped
    during the imports would otherwise stay until it is killed.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _run(config: Path | None) -> int:
    _end_at_sigterm()
    import uvloop

    from weft.runtime.client import StartError
    from weft.runtime.logs import configure
    from weft.runtime.memory import collect_everything_rarely, give_freed_memory_back
    from weft.runtime.nesting import read_deep_json
    from weft.runtime.operator import run
    from weft.runtime.settings import load
    from weft.runtime.threads import let_the_event_loop_in

    try:
        settings = load(config)
    except (OSError, ValueError) as error:
        print(f"weft run: settings not usable: {error}", file=sys.stderr)
        return 2
    configure(settings.log_format, settings.log_level)
    collect_everything_rarely()
    give_freed_memory_back()
    read_deep_json()
    let_the_event_loop_in()
    try:
        return uvloop.run(run(settings))
    except StartError as error:
        print(f"weft run: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
