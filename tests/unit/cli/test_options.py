"""docs/options.md: what every command takes."""

from __future__ import annotations

import pytest

from support.options import PAGE, page, parsers
from weft.cli.look.commands import VERBS


def test_the_page_of_options_is_what_the_commands_take() -> None:
    assert PAGE.read_text() == page(), "run `make generate`, or: PYTHONPATH=tests python -m support.options"


def test_every_verb_is_on_it_and_each_of_its_options_has_words() -> None:
    found = dict(parsers())
    assert {
        *VERBS,
        "run",
        "crds",
        "check installed",
        "check removable",
        "fabric probe",
        "emulator",
        "rehearse",
    } == set(found)
    unsaid = [
        (verb, each.option_strings)
        for verb, parser in found.items()
        for each in parser._actions
        if each.option_strings and not each.help and not each.choices
    ]
    assert unsaid == []


@pytest.mark.parametrize("verb", VERBS)
def test_the_commands_that_ask_a_cluster_take_a_kubeconfig_and_a_context(verb: str) -> None:
    names = {name for each in dict(parsers())[verb]._actions for name in each.option_strings}
    assert {"--kubeconfig", "--context", "--namespace"} <= names
