"""The page of `weft ui` as HTML that refers to nothing outside itself. All text from the cluster is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from weft.api.resources import (
    DEVICE_ATTACHMENTS,
    FABRICS,
    GPU_POOLS,
    INFERENCE_GROUPS,
    LOGICAL_NODES,
    MEMORY_POOLS,
    STORAGE_POOLS,
    ResourceType,
)
from weft.cli.look.board import Board, FabricBoard, GroupBoard, Held, PoolBoard, WaitBoard
from weft.cli.look.history_chart import drawn
from weft.cli.look.markup import NONE, Html, element, joined, table
from weft.cli.look.recorded_chart import cards
from weft.cli.look.status import MARKS, mode_of
from weft.cli.look.style import GROUPS, HOSTS, POOLS, STATES, STYLE, WAITS
from weft.cli.look.why import Chosen, Said
from weft.cli.look.words import UNREADABLE, age

REFRESH_SECONDS = 5
PLACES = {
    "groups": "Inference groups",
    "traffic": "Traffic and need over time",
    "waits": "Logical nodes that wait",
    "pools": "Pools",
    "fabrics": "Fabrics",
}
"""The parts of the page by their ids."""
WELL, LOOK = "✓", "!"
"""Stand before what is as hoped, and before what is not: colour alone says nothing."""

SCRIPT = """
setInterval(async () => {
  if (document.hidden) return;
  const problem = document.getElementById('problem');
  try {
    const answer = await fetch(location.href, {cache: 'no-store'});
    const text = await answer.text();
    if (!answer.ok) throw new Error(text);
    const old = document.querySelector('main');
    const main = text.match(/<main>[^]*<\\/main>/)[0];
    const page = new DOMParser().parseFromString(main, 'text/html').querySelector('main');
    const focused = document.activeElement.id;
    for (const each of old.querySelectorAll('details'))
      page.querySelector('#' + CSS.escape(each.id))?.toggleAttribute('open', each.open);
    old.replaceWith(page);
    if (focused) document.getElementById(focused)?.focus({preventScroll: true});
    problem.textContent = '';
  } catch (error) {
    problem.textContent = 'Not read anew; below is what was last known. ' + error.message;
  }
}, SECONDS * 1000);
""".replace("SECONDS", str(REFRESH_SECONDS))


def policy(nonce: str) -> str:
    """The Content-Security-Policy of the page: nothing but its own style and script, and no place but its own."""
    return (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'"
    )


def page(board: Board, nonce: str, *, live: bool) -> str:
    """The whole document. Pure. `live`: it asks for itself again; else it stays as it is."""
    again = f", and every {REFRESH_SECONDS} seconds again" if live else ""
    # An element of its own that no answer replaces: what a screen reader is told is not lost with the rest.
    problem = element("div", id="problem", role="alert")
    script = Html(f'<script nonce="{escape(nonce)}">{SCRIPT}</script>') if live else Html()
    reload = Html(f'<noscript><meta http-equiv="refresh" content="{REFRESH_SECONDS}"></noscript>')
    return joined(
        (
            Html('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{escape(policy(nonce))}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            reload if live else "",
            element("title", "Weft"),
            Html(f'<style nonce="{escape(nonce)}">{STYLE}</style></head><body>\n'),
            element(
                "header",
                element("h1", "Weft"),
                element("p", f"Read with your own rights{again}. Nothing is changed here.", class_="soft"),
            ),
            problem,
            element("main", *_sections(board)),
            script,
            Html("</body></html>\n"),
        )
    )


def _sections(board: Board) -> Iterable[Html]:
    moment = board.now.strftime("%Y-%m-%d %H:%M:%S UTC")
    yield element("p", ", ".join((f"As of {moment}", *_counts(board))) + ".")
    if board.nobody_leads:
        yield element("p", _mark(board.nobody_leads, False))
    if board.narrowed:
        yield element("p", f"Shown {board.narrowed}.", class_="soft")
    if board.denied:
        what = ", ".join(board.denied)
        yield element("p", f"{LOOK} Not shown, for want of the right to list them: {what}.", class_="look")
    if board.unreadable:
        lines = (element("li", one) for one in board.unreadable)
        yield element("div", element("p", f"{LOOK} {UNREADABLE}:"), element("ul", *lines), class_="look")
    yield element(
        "nav",
        *(
            element("a", words, href=f"#{place}", id=f"to-{place}")
            for place, words in PLACES.items()
            if place != "traffic" or board.groups
        ),
        aria_label="Parts of the page",
    )
    yield _heading("groups")
    yield table(
        "What each serves, as of its last decision",
        GROUPS,
        [_group(group, board) for group in board.groups],
        "stacked groups",
        _empty(board, INFERENCE_GROUPS),
    )
    if board.groups:
        yield _heading("traffic")
        yield from _recorded(board)
    yield _heading("waits")
    yield table(
        "The oldest first",
        WAITS,
        [_waits(one) for one in board.waiting],
        "stacked waits",
        _empty(board, LOGICAL_NODES),
    )
    yield _heading("pools")
    yield table(
        "Devices by what is done with them; what is kept or stranded is among the free",
        (*POOLS[:4], *_keys(), *POOLS[4 + len(STATES) :]),
        [_pool(pool) for pool in board.pools],
        "stacked pools",
        _empty(board, GPU_POOLS, MEMORY_POOLS, STORAGE_POOLS),
    )
    yield _heading("fabrics")
    if not board.fabrics:
        yield element("p", _empty(board, FABRICS), class_="soft")
    for fabric in board.fabrics:
        yield from _fabric(fabric, DEVICE_ATTACHMENTS.plural not in board.denied)


def _counts(board: Board) -> Iterable[str]:
    """How many there are of what may be listed."""
    if board.nodes is not None:
        yield f"{board.nodes - len(board.waiting)} of {board.nodes} logical nodes bound and ready"
    if INFERENCE_GROUPS.plural not in board.denied:
        groups = len(board.groups)
        yield f"{groups} group{'' if groups == 1 else 's'}"


def _empty(board: Board, *kinds: ResourceType) -> str:
    """In place of a table without rows, which does not say that there are none where they may not be listed."""
    return "Not known: you may not list them." if any(kind.plural in board.denied for kind in kinds) else NONE


def _heading(place: str) -> Html:
    return element("h2", PLACES[place], id=place)


def _keys() -> Iterable[Html]:
    for state in STATES:
        rect = f'<rect class="{state}" width="1" height="1"/>'
        svg = f'<svg class="key" viewBox="0 0 1 1" aria-hidden="true">{rect}</svg>'
        yield joined((Html(svg), state.capitalize()))


def _mark(text: str, well: bool) -> Html:
    # No line ends between them.
    return element(
        "span", f"{WELL if well else LOOK}\N{NO-BREAK SPACE}{text}", class_="well" if well else "look"
    )


def _worded(text: str) -> Html:
    """What `docs/reasons.md` sets between backticks is a word of the API, or a command."""
    parts = text.split("`")
    return joined(element("code", part) if n % 2 else part for n, part in enumerate(parts))


def _said(said: tuple[Said, ...] | None) -> Html:
    if said is None:
        return _mark("no condition yet: does the operator run?", False)
    lines = [
        element(
            "li",
            _mark(f"{one.type}={one.status} {one.reason}", False),
            f": {one.message}" if one.message else "",
            " (said before the last change of the spec)" if one.outdated else "",
            joined((Html("<br>"), element("span", "Do: ", _worded(one.do), class_="soft"))) if one.do else "",
            title=one.means,
        )
        for one in said
    ]
    return element("ul", *lines) if lines else _mark("nothing", True)


def _group(group: GroupBoard, board: Board) -> tuple[str, ...]:
    line = group.line
    name = f"{line.namespace}/{line.name}"
    met = (
        _mark(line.objectives, line.objectives == "met")
        if line.objectives in ("met", "missed")
        else element("span", line.objectives)
    )
    return (
        name,
        _mark(mode_of(line), False) if line.suspended else line.mode,
        joined(
            (
                line.split,
                *(element("p", f"moving {move}", class_="soft") for move in group.moves),
                drawn(group.history, name),
            )
        ),
        f"{line.serving} of {line.desired}",
        joined((met, element("p", group.objectives, class_="soft"))),
        joined(_decision(one, name, board) for one in group.decisions) or "none yet",
        _said(group.said),
    )


def _recorded(board: Board) -> Iterable[Html]:
    if board.records.missing:
        yield element("p", board.records.missing, class_="soft")
        return
    told = {}
    for group in board.groups:
        last = next((one for one in group.decisions if not one.recommended), None)
        told[group.line.namespace, group.line.name] = (
            (last.at.timestamp(), "; ".join(last.because)) if last is not None else (0.0, "")
        )
    yield element(
        "details",
        element("summary", f"charts of {len(told)} groups", id="recorded-more"),
        element(
            "p",
            "From your Prometheus. Filled: replicas that serve, and what arrives. Line: replicas that this load needs"
            " by the engines' profiles. Upright: a decision. Objectives: the higher part is missed.",
            class_="soft",
        ),
        cards(board.records, told),
        id="recorded",
        open="open",
    )


def _decision(one: Chosen, group: str, board: Board) -> Html:
    word = "recommended" if one.recommended else "decided"
    way = f"from {one.before} to {one.after}" if one.before else one.after
    first, *rest = (*one.because, *(f"instead of {each}" for each in one.instead))
    # The summary has an id so that it keeps the focus when the page is read anew, the details so that they stay open.
    key = f"{word}-{group}"
    more = element(
        "details",
        element("summary", "more", id=f"{key}-more", aria_label=f"more about what was {word} for {group}"),
        element("ul", *(element("li", each) for each in rest)),
        id=key,
    )
    return joined(
        (
            element("p", f"{word} {age(one.at, board.now)} ago: {way}", title="; ".join(one.because)),
            element("p", f"because {first}", class_="soft"),
            more if rest else "",
        )
    )


def _waits(one: WaitBoard) -> tuple[str, ...]:
    line = one.line
    place = line.place or element("span", "none", class_="soft")
    return (
        f"{line.namespace}/{line.name}",
        element("span", line.age, class_="whole"),
        place,
        _mark(line.reason, False),
        line.message,
        _worded(one.do),
    )


def _pool(pool: PoolBoard) -> tuple[str, ...]:
    line = pool.line
    name = f"{line.kind} {line.name}"
    if not line.counts:
        return (
            name,
            line.fabric,
            "not read yet",
            *("" for _ in (*STATES, "total", "stranded")),
            _said(pool.said),
        )
    counts = {state: str(line.counts[state]) for state in ("total", *MARKS)} | {"kept": str(line.kept)}
    stranded = ", ".join(f"{count} {reason}" for reason, count in line.stranded.items())
    return (
        name,
        line.fabric,
        _bar(line.counts, line.kept),
        counts["total"],
        *(counts[state] for state in STATES),
        stranded or "0",
        _said(pool.said),
    )


def _bar(counts: dict[str, int], kept: int) -> Html:
    """The columns beside it say the same in numbers, so that nobody has to be read it."""
    shares = {**counts, "kept": kept, "free": max(0, counts["free"] - kept)}
    at, parts = 0, []
    for state in STATES:
        parts.append(f'<rect class="{state}" x="{at}" width="{shares[state]}" height="1"/>')
        at += shares[state]
    box = f'viewBox="0 0 {max(1, at)} 1" preserveAspectRatio="none" aria-hidden="true"'
    return Html(f'<svg class="bar" {box}>{"".join(parts)}</svg>')


def _fabric(fabric: FabricBoard, all_claims: bool) -> Iterable[Html]:
    line = fabric.line
    yield element("h3", f"Fabric {fabric.name}")
    if line is None:
        yield element("p", "It is known here from logical nodes, or claims, alone.", class_="soft")
    else:
        counted = f"{line.devices} devices, {line.hosts} hosts, {line.nodes} with a known Node"
        yield element("p", f"{mode_of(line)}, {line.state}: {counted}")
        if fabric.said != ():
            yield _said(fabric.said)
    yield table(
        f"Hosts of {fabric.name}",
        HOSTS,
        [_host(one) for one in fabric.held],
        "stacked hosts",
    )
    listed = len({one.host for one in fabric.held})
    if line is not None and line.hosts > listed:
        what = "have no devices of Weft's" if all_claims else "are not shown"
        yield element("p", f"{line.hosts - listed} more hosts {what}.", class_="soft")


def _host(one: Held) -> tuple[str, ...]:
    host = one.host or "not known"
    if not one.owner:
        return (
            host,
            one.node,
            element("span", "none", class_="soft"),
            "",
            element("span", "none", class_="soft"),
        )
    devices = (element("p", f"{len(names)} of {pool}: {', '.join(names)}") for pool, names in one.devices)
    state = _mark(one.state, False) if one.state else _mark("bound and ready", True)
    return host, one.node, one.owner, state, joined(devices)
