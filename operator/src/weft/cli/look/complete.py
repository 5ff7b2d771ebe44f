"""`kubectl_complete-weft`: what may stand next on a command line of `kubectl weft`.

kubectl runs a program of this name that it finds beside a plugin, with the words so far and the one that is begun, and
takes a candidate a line and, last, a colon and a number that says how to go on. What has to be set up is the shell's
completion of kubectl itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence

from weft.cli.look.commands import DEVICE, VERBS, parser

FILES, NO_FILES, NO_FILES_AND_NO_SPACE = 0, 4, 6
"""How kubectl's shell goes on: sums of cobra's directives NoSpace (2) and NoFileComp (4)."""
SECONDS = 3.0
"""A shell that waits longer for a cluster is no help."""
TAKES_AN_OBJECT = ("tree", "why", "pause", "resume")

Names = Callable[[str, str], Awaitable[Iterable[str]]]


async def candidates(words: Sequence[str], names: Names) -> tuple[list[str], int]:
    """What may stand for the last word, and how to go on.

    `names`: of the objects of a kind (as a person names it) in a namespace (empty: the context's); of the kind
    `namespace` all namespaces. Raises whatever it likes.
    """
    verb, last = words[0] if words else "", words[-1] if words else ""
    if len(words) < 2:
        return _of(VERBS, last), NO_FILES
    if verb not in VERBS:
        return [], NO_FILES
    options = [each for each in parser(verb)._actions if each.option_strings]
    if last.startswith("-"):
        return _of((name for each in options for name in each.option_strings), last), NO_FILES
    before = next((each for each in options if words[-2] in each.option_strings and each.nargs != 0), None)
    if before is not None:
        if before.dest == "namespace":
            return _of(await names("namespace", ""), last), NO_FILES
        if before.choices is not None:
            return _of(before.choices, last), NO_FILES
        return [], FILES
    if verb not in TAKES_AN_OBJECT:
        return [], FILES if verb == "report" else NO_FILES
    kind, slash, _ = last.partition("/")
    if slash:
        space = next(
            (words[at + 1] for at, word in enumerate(words[:-2]) if word in ("-n", "--namespace")), ""
        )
        return _of((f"{kind}/{name}" for name in await names(kind, space)), last), NO_FILES
    return _of((f"{each}/" for each in _kinds(verb)), last), NO_FILES_AND_NO_SPACE


def _kinds(verb: str) -> Iterable[str]:
    from weft.api.resources import FABRICS, INFERENCE_GROUPS, LOGICAL_NODES
    from weft.cli.look.reading import KINDS

    if verb in ("pause", "resume"):
        return [each.kind.lower() for each in (FABRICS, INFERENCE_GROUPS, LOGICAL_NODES)]
    return [*(each.kind.lower() for each, _ in KINDS), *((DEVICE,) if verb == "why" else ())]


def _of(words: Iterable[str], begun: str) -> list[str]:
    return sorted(word for word in words if word.startswith(begun))


async def _names(kind: str, namespace: str) -> Iterable[str]:
    from weft.api.resources import DEVICE_ATTACHMENTS, NAMESPACES
    from weft.cli.look.reading import ref_of
    from weft.runtime.client import KubeClient, current_namespace, load_configuration

    client = KubeClient(await load_configuration(None, None))
    try:
        if kind == DEVICE:
            return [each["spec"]["device"] for each in (await client.list(DEVICE_ATTACHMENTS))[0]]
        resource = NAMESPACES if kind == "namespace" else ref_of([kind, "x"], "").resource
        space = (namespace or current_namespace(None, None)) if resource.namespaced else ""
        return [each["metadata"]["name"] for each in (await client.list(resource, space))[0]]
    finally:
        await client.close()


def main() -> int:
    """Print what may stand for the last of the words; nothing where the cluster does not say."""
    found: list[str] = []
    how = NO_FILES
    # What libraries have to say would stand in the middle of the command line.
    logging.disable()
    with contextlib.suppress(Exception):
        found, how = asyncio.run(asyncio.wait_for(candidates(sys.argv[1:], _names), SECONDS))
    print(*found, f":{how}", sep="\n")
    return 0
