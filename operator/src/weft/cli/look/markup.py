"""HTML as values: text is escaped unless it is HTML already."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

NONE = "None to be seen."


class Html(str):
    """HTML, as opposed to text, which has to be escaped."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str) -> Html:
    """An element; what is not Html in it is escaped. Attributes: `_` for `-`, a `_` at the end is dropped."""
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value
    )
    return Html(f"<{name}{named}>{joined(children)}</{name}>")


def joined(children: Iterable[str]) -> Html:
    """One after the other; what is not Html among them is escaped."""
    return Html("".join(each if isinstance(each, Html) else escape(each) for each in children))


def table(
    caption: str, columns: Iterable[str], rows: list[tuple[str, ...]], kind: str = "", empty: str = NONE
) -> Html:
    """Rows of cells; the first is the row's heading. `kind`: classes of the table; `empty`: in place of no rows."""
    if not rows:
        return element("p", empty, class_="soft")
    head = element("tr", *(element("th", column, scope="col") for column in columns))
    body = (
        element(
            "tr",
            element("th", cells[0], scope="row"),
            *(element("td", cell, class_="number" if cell.isdigit() else "") for cell in cells[1:]),
        )
        for cells in rows
    )
    table = element(
        "table", element("caption", caption), element("thead", head), element("tbody", *body), class_=kind
    )
    # What is wider than the window can be reached by keyboard.
    return element("div", table, class_="wide", tabindex="0", role="region", aria_label=caption)
