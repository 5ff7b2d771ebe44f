"""HTML as values: what is text stays text."""

from __future__ import annotations

from weft.cli.look.markup import Html, element, joined, table

EVIL = "</td><script>alert('1')</script>&"
KEPT = "&lt;/td&gt;&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;&amp;"


def test_text_and_attributes_are_escaped_and_html_is_not_twice() -> None:
    inner = element("b", EVIL)
    assert inner == f"<b>{KEPT}</b>"
    assert element("p", inner, EVIL, title=EVIL) == f'<p title="{KEPT}"><b>{KEPT}</b>{KEPT}</p>'
    assert isinstance(joined((inner, EVIL)), Html)


def test_attributes_are_named_as_in_html_and_left_out_where_they_are_empty() -> None:
    assert (
        element("th", "x", class_="wide", aria_label="a b", id="")
        == '<th class="wide" aria-label="a b">x</th>'
    )


def test_a_table_has_a_heading_for_each_row_and_column_and_can_be_reached_by_keyboard() -> None:
    made = table(EVIL, ("Name", "Count"), [("a", "12"), (EVIL, "none")])

    assert made.startswith(f'<div class="wide" tabindex="0" role="region" aria-label="{KEPT}"><table>')
    assert f"<caption>{KEPT}</caption>" in made
    assert '<th scope="col">Name</th><th scope="col">Count</th>' in made
    assert '<tr><th scope="row">a</th><td class="number">12</td></tr>' in made
    assert f'<tr><th scope="row">{KEPT}</th><td>none</td></tr>' in made


def test_a_table_without_rows_says_so() -> None:
    assert table("Pools", ("Name",), []) == '<p class="soft">None to be seen.</p>'
