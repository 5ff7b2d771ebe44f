"""A field exists when it has an effect: every field of every spec has a test in which it makes a difference."""

from __future__ import annotations

from support.fields import TABLE, fields, is_meant, marks, shown, table


def test_every_field_has_a_test_in_which_it_makes_a_difference() -> None:
    without = [field for field, tests in shown().items() if not tests]

    assert without == [], "give it a test with @pytest.mark.shows, or take it out of the API"


def test_no_mark_is_about_a_field_that_does_not_exist() -> None:
    known = fields()

    assert {mark: tests for mark, tests in marks().items() if not any(is_meant(mark, f) for f in known)} == {}


def test_the_page_is_current() -> None:
    assert TABLE.read_text() == table(), "run `make generate`, or: PYTHONPATH=tests python -m support.fields"
