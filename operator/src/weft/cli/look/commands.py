"""The options of `weft status | tree | why | plan | pause | resume | report | ui`, and what is done for each."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.cli import prometheus

if TYPE_CHECKING:
    from rich.console import Console

    from weft.cli.look.reading import Asker, Ref
    from weft.runtime.client import KubeClient

# What is imported here is imported by `--help`.

VERBS = {
    "status": "what there is, what is well, and what waits",
    "tree": "what an object consists of, down to devices and their fabric",
    "why": "what an object waits for, why it is as it is, and what to do about it",
    "plan": "what would happen if a file were applied; nothing is written",
    "pause": "keep an InferenceGroup's replicas, or a Fabric's devices, where they are",
    "resume": "take a pause back",
    "report": "one redacted archive for a bug report",
    "ui": "a status page on this machine, for your browser alone",
}
EVERYWHERE = ("status", "report", "ui")
"""These take all namespaces, where the user's rights reach that far and none is named."""
ANSWERED, NOT_ANSWERED, WOULD_BE_REFUSED = 0, 1, 3
"""Exit statuses; wrong usage is 2."""
DEVICE = "device"
"""What `why` is asked about in place of a kind: a device has no object."""
TRIES = 5
"""To change an object that somebody else writes at the same time."""
TEXTS = ("text", "wide")
REFRESH_SECONDS = 2.0
MOST_MINUTES = 7 * 24 * 60
WIDE = 400
"""Columns where nobody looks: lines in a file are not wrapped."""


def parser(verb: str) -> argparse.ArgumentParser:
    """The options of one verb."""
    made = argparse.ArgumentParser(
        prog=f"weft {verb}",
        description=f"Say {VERBS[verb]}."
        if verb in ("status", "tree", "why", "plan")
        else VERBS[verb].capitalize() + ".",
        epilog="Status 0: answered. 1: there is no such object, no right to see it, or no answer. 2: wrong usage."
        + (" 3: something of the file would be refused." if verb == "plan" else ""),
    )
    if verb in ("tree", "why", "pause", "resume"):
        made.add_argument(
            "object",
            nargs="*" if verb in ("pause", "resume") else "+",
            metavar="KIND/NAME",
            help="for example lnode/trainer or infg/llama-70b"
            + ("; device/gpu-17 for who holds a device, and held it" if verb == "why" else ""),
        )
    if verb == "pause":
        made.add_argument(
            "--taking",
            action="store_true",
            help="only let it take nothing new: no devices, no moves; what is given back goes on",
        )
    if verb in ("pause", "resume"):
        made.add_argument(
            "--all",
            action="store_true",
            help="every Fabric and InferenceGroup that you may change (with -n: the namespace's groups alone)",
        )
    if verb == "report":
        made.add_argument(
            "file", nargs="?", type=Path, help="default: weft-report-<time>.tar.gz; - for stdout"
        )
    if verb == "ui":
        made.add_argument(
            "--once",
            type=Path,
            metavar="FILE",
            help="write the page and end, instead of serving it; - for stdout",
        )
        made.add_argument(
            "--prometheus",
            type=_url,
            metavar="URL",
            help="one that scrapes the operator: draws what groups were asked for and needed, for example"
            " http://127.0.0.1:9090",
        )
        prometheus.add_options(made)
        made.add_argument(
            "--minutes", type=_minutes, default=60.0, metavar="N", help="of that, until now (default: 60)"
        )
    if verb == "plan":
        made.add_argument(
            "-f",
            "--filename",
            type=Path,
            action="append",
            required=True,
            metavar="FILE",
            help="YAML or JSON, or a folder of such files; - for stdin; may be given several times",
        )
        made.add_argument("--operator-namespace", default="weft-system", help="default: weft-system")
        made.add_argument(
            "--service", default="weft:http", metavar="NAME:PORT", help="the operator's (default: weft:http)"
        )
        made.add_argument(
            "--operator",
            type=_url,
            default="",
            metavar="URL",
            help="ask the operator there, not through the API server",
        )
    made.add_argument("-n", "--namespace", type=_namespace, default="", help="default: the current context's")
    if verb in EVERYWHERE:
        made.add_argument(
            "-A", "--all-namespaces", action="store_true", help="the default, where your rights allow it"
        )
    if verb in ("status", "tree", "why", "plan"):
        wide = ("wide",) if verb == "status" else ()
        made.add_argument("-o", "--output", choices=("text", *wide, "json", "yaml"), default="text")
    if verb == "status":
        made.add_argument(
            "-w", "--watch", action="store_true", help="show it anew every two seconds, until Ctrl-C"
        )
    made.add_argument("--context", default=None, help="context of the kubeconfig (default: the current one)")
    made.add_argument(
        "--kubeconfig", default=None, metavar="FILE", help="default: $KUBECONFIG, ~/.kube/config"
    )
    return made


def main(verb: str, argv: Sequence[str]) -> int:
    """Ask and print; returns the exit status."""
    options = parser(verb).parse_args(argv)
    if verb in ("pause", "resume") and bool(options.object) == options.all:
        parser(verb).error("name an object, or --all")
    if verb == "ui":
        try:
            options.prometheus = prometheus.settings_of(options)
        except ValueError as error:
            parser(verb).error(str(error))
    if getattr(options, "watch", False) and options.output not in TEXTS:
        parser(verb).error("--watch goes with text only")
    from weft.cli.look.reading import AskError
    from weft.cluster import ClusterError
    from weft.runtime.client import StartError

    try:
        return asyncio.run(_ask(verb, options))
    except (AskError, StartError) as error:
        print(f"weft {verb}: {error}", file=sys.stderr)
    except ClusterError as error:
        from weft.cli.look.words import refusal

        print(f"weft {verb}: {refusal(error)}", file=sys.stderr)
    except (KeyboardInterrupt, BrokenPipeError):
        return ANSWERED
    return NOT_ANSWERED


def _namespace(text: str) -> str:
    if not set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-"):
        raise argparse.ArgumentTypeError("has to be the name of a namespace: small letters, digits and -")
    return text


def _url(text: str) -> str:
    if text and not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError("has to begin with http:// or https://")
    return text


def _minutes(text: str) -> float:
    value = float(text)
    if not 1 <= value <= MOST_MINUTES:
        raise argparse.ArgumentTypeError(f"has to be 1 to {MOST_MINUTES}")
    return value


async def _ask(verb: str, options: argparse.Namespace) -> int:
    from weft.cli.look.reading import Asker, AskError, ref_of
    from weft.runtime.client import KubeClient, current_namespace, load_configuration

    configuration = await load_configuration(options.kubeconfig, options.context)
    client = KubeClient(configuration)
    try:
        namespace = options.namespace or current_namespace(options.kubeconfig, options.context)
        everywhere = verb in EVERYWHERE and not options.namespace
        asker = Asker(client, namespace, everywhere)
        if (
            options.namespace
            and verb not in ("pause", "resume", "plan")
            and (none := await asker.no_namespace())
        ):
            raise AskError(none)
        if verb == "status":
            return await _status(asker, options)
        if verb == "plan":
            return await _plan(client, namespace, options)
        if verb == "report":
            return await _report(asker, options.file)
        if verb == "ui":
            return await _ui(lambda: Asker(client, namespace, everywhere), options)
        if verb in ("pause", "resume"):
            taking = verb == "pause" and options.taking
            if options.all:
                return await _change_all(
                    verb, Asker(client, namespace, not options.namespace), taking, options.namespace
                )
            status = await _change(verb, asker, ref_of(options.object, namespace), taking)
            _note_that(verb, await asker.nobody_leads(datetime.now(UTC)))
            return status
        kind, _, name = "/".join(options.object).partition("/")
        if verb == "why" and kind == DEVICE and name:
            return await _about_device(Asker(client, namespace, not options.namespace), name, options.output)
        return await _about(verb, asker, ref_of(options.object, namespace), options.output)
    finally:
        await client.close()


async def _status(asker: Asker, options: argparse.Namespace) -> int:
    from rich.live import Live

    from weft.cli.look.status import shown, status_of

    console, wide = _console(), options.output == "wide"
    if not options.watch:
        status = status_of(await asker.read())
        _say(options.output, status, lambda: console.print(shown(status, wide=wide)))
        return ANSWERED
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            live.update(shown(status_of(await asker.read()), wide=wide), refresh=True)
            await asyncio.sleep(REFRESH_SECONDS)


async def _about(verb: str, asker: Asker, ref: Ref, output: str) -> int:
    from weft.cli.look import tree, why
    from weft.cli.look.reading import AskError

    reading = await asker.read(pods=True)
    if reading.find(ref) is None:
        raise AskError(await asker.missing(ref))
    console = _console()
    if verb == "tree":
        branch = tree.tree_of(reading, ref)
        _say(output, branch, lambda: console.print(tree.shown(branch)))
    else:
        answer = why.why_of(reading, ref, await asker.events(ref))
        _say(output, answer, lambda: console.print(why.shown(answer, reading.now)))
    return ANSWERED


async def _about_device(asker: Asker, name: str, output: str) -> int:
    from weft.cli.look import device

    events = await asker.device_events()
    reading = await asker.read()
    answer = device.device_of(reading, name, events)
    _say(output, answer, lambda: _console().print(device.shown(answer, reading)))
    return ANSWERED


async def _plan(client: KubeClient, namespace: str, options: argparse.Namespace) -> int:
    from weft.cli.look import plan

    objects = plan.objects_in(options.filename, namespace)
    at = options.operator_namespace, options.service, options.operator
    answer = await plan.plan(client, objects, *at)
    _say(options.output, answer, lambda: _console().print(plan.shown(answer)))
    return WOULD_BE_REFUSED if answer.refused else ANSWERED


async def _change_all(verb: str, asker: Asker, taking: bool, namespace: str) -> int:
    """Whatever can be changed is, and what cannot is named."""
    from weft.api.resources import FABRICS, INFERENCE_GROUPS
    from weft.cli.look.pause import PausedInSpecError
    from weft.cli.look.reading import AskError, Ref
    from weft.cli.look.words import refusal
    from weft.cluster import ClusterError

    reading = await asker.read([INFERENCE_GROUPS] if namespace else [FABRICS, INFERENCE_GROUPS])
    status = NOT_ANSWERED if reading.denied else ANSWERED
    for resource, objects in reading.objects.items():
        for each in objects:
            ref = Ref(resource, each["metadata"]["name"], each["metadata"].get("namespace", ""))
            try:
                await _change(verb, asker, ref, taking)
            except PausedInSpecError as left:
                # What somebody else paused is not what is to be taken back.
                print(left)
            except (AskError, ClusterError) as error:
                status = NOT_ANSWERED
                why = refusal(error) if isinstance(error, ClusterError) else error
                print(f"weft {verb}: {ref}: {why}", file=sys.stderr)
    _note_that(verb, reading.nobody_leads)
    if reading.narrowed:
        print(f"weft {verb}: {reading.narrowed}", file=sys.stderr)
    for plural in reading.denied:
        print(f"weft {verb}: no right to list {plural}: left as they are", file=sys.stderr)
    return status


def _note_that(verb: str, nobody_leads: str) -> None:
    """A pause is written, and nobody may be there to carry it out."""
    if nobody_leads:
        print(f"weft {verb}: {nobody_leads}", file=sys.stderr)


async def _change(verb: str, asker: Asker, ref: Ref, taking: bool) -> int:
    from weft.cli.look.pause import pausing, resuming
    from weft.cli.look.reading import AskError
    from weft.cluster import ConflictError, NotFoundError

    for left in range(TRIES)[::-1]:
        try:
            found = await asker.client.get(ref.resource, ref.name, ref.namespace)
        except NotFoundError as error:
            raise AskError(await asker.missing(ref)) from error
        change = pausing(ref, found, taking=taking) if verb == "pause" else resuming(ref, found)
        try:
            if change.patch is not None:
                await asker.client.patch(ref.resource, ref.name, ref.namespace, change.patch)
            break
        except ConflictError:
            # The operator wrote a status in between, most often.
            if not left:
                raise
    print(change.said)
    return ANSWERED


async def _report(asker: Asker, file: Path | None) -> int:
    from io import StringIO

    from rich.console import Console

    from weft.cli.look.report import archive, file_name
    from weft.cli.look.status import shown, status_of

    reading = await asker.read(pods=True)
    text = StringIO()
    Console(file=text, width=WIDE).print(shown(status_of(reading)))
    data = archive(reading, await asker.all_events(), text.getvalue())
    return _write("report", data, file or Path(file_name(reading.now)))


async def _ui(asker: Callable[[], Asker], options: argparse.Namespace) -> int:
    import secrets

    from weft.cli.look.board import Board, board_of
    from weft.cli.look.history import History
    from weft.cli.look.page import page
    from weft.cli.look.recorded import NOT_ASKED, read_records
    from weft.cli.look.ui import serve

    history = History()

    async def read() -> Board:
        # One for each reading: rights may change while the page is looked at.
        reading = await asker().read()
        records = NOT_ASKED
        if options.prometheus is not None:
            records = await read_records(options.prometheus, reading.now.timestamp(), 60 * options.minutes)
        return board_of(reading, history.add(reading), records)

    if options.once is not None:
        text = page(await read(), secrets.token_urlsafe(16), live=False)
        return _write("page", text.encode(), options.once)
    await serve(
        read, lambda url: print(f"{url}\nOpen it in a browser of this machine; Ctrl-C ends it.", flush=True)
    )
    return ANSWERED


def _write(what: str, data: bytes, path: Path) -> int:
    """Into a file, or to stdout for `-`."""
    from weft.cli.look.reading import AskError

    if str(path) == "-":
        sys.stdout.buffer.write(data)
        return ANSWERED
    try:
        path.write_bytes(data)
    except OSError as error:
        raise AskError(f"the {what} was not written: {error}") from error
    print(f"{path}: names of objects, Nodes, hosts and models are in it: read it before you give it away")
    return ANSWERED


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    # Where nobody looks, lines are not wrapped: they are searched.
    return console if console.is_terminal else Console(highlight=False, markup=False, width=WIDE)


def _say(output: str, value: Any, print_text: Any) -> None:
    """As text, or the same as data for programs."""
    if output in TEXTS:
        print_text()
        return
    import json
    from dataclasses import asdict

    plain = [asdict(one) for one in value] if isinstance(value, list) else asdict(value)
    data = json.loads(json.dumps(plain, default=str))
    if output == "json":
        print(json.dumps(data, indent=1, ensure_ascii=False))
        return
    import yaml

    print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), end="")
