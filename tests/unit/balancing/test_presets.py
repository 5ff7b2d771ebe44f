from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from weft.balancing.presets import ENGINE_REQUIRED, FRONT_REQUIRED, VLLM, Preset, Windows, with_configured
from weft.runtime.settings import Settings


def configured(**presets: Mapping[str, Any]) -> Mapping[str, Preset]:
    """What the operator makes of these settings."""
    return with_configured(Settings.model_validate({"presets": presets}).presets)


def test_a_preset_takes_from_the_one_it_inherits_what_it_does_not_set() -> None:
    mine = configured(mine={"inherits": "vllm", "engine": {"waiting": "sum by (namespace, pod) (queue)"}})[
        "mine"
    ]
    assert mine.name == "mine"
    assert mine.engine["waiting"] == "sum by (namespace, pod) (queue)"
    assert {**mine.engine, "waiting": ""} == {**VLLM.engine, "waiting": ""}
    assert mine.front_end == VLLM.front_end
    assert mine.kv_hold_seconds == VLLM.kv_hold_seconds


def test_the_built_in_presets_stay_beside_those_of_the_settings() -> None:
    assert configured(mine={"inherits": "vllm", "kv_hold_seconds": 0})["vllm"] is VLLM
    assert configured(mine={"inherits": "vllm", "kv_hold_seconds": 0})["mine"].kv_hold_seconds == 0


def test_a_preset_may_stand_alone_when_it_has_every_required_signal() -> None:
    engine = dict.fromkeys(ENGINE_REQUIRED, "a[$long]")
    front_end = dict.fromkeys(FRONT_REQUIRED, 'label_replace(b[$short], "x", "$1", "y", "(.*)")')
    mine = configured(mine={"engine": engine, "front_end": front_end, "kv_hold_seconds": 5})["mine"]
    assert mine.query(Windows(15.0)).count("[45000ms]") == len(FRONT_REQUIRED)


def test_a_comment_at_the_end_of_an_expression_hides_nothing_that_follows() -> None:
    engine = {"running": 'up{job="a#b"} # "requests"'}
    mine = configured(mine={"inherits": "vllm", "engine": engine})["mine"]
    lines = mine.query(Windows(15.0)).splitlines()
    commented = [number for number, line in enumerate(lines) if "# " in line]
    assert len(commented) == 1
    assert lines[commented[0] + 1].startswith(', "weft_signal", "engine:running"')


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ({"inherits": "vlm"}, "presets.mine.inherits: no built-in preset 'vlm'; there are vllm, vllm-router"),
        ({"inherits": "vllm", "engine": {"waitng": "x"}}, "presets.mine.engine.waitng: unknown signal"),
        ({"inherits": "vllm", "engine": {"waiting": " "}}, "presets.mine.engine.waiting: is empty"),
        ({"inherits": "vllm", "front_end": {"jobs": "x[$lng]"}}, "front_end.jobs: unknown range $lng"),
        ({"engine": {"running": "x"}, "kv_hold_seconds": 1}, "presets.mine.engine.waiting: is required"),
        ({"engine": {"running": "x"}, "kv_hold_seconds": 1}, "presets.mine.front_end.jobs: is required"),
        ({"engine": {}}, "presets.mine: kv_hold_seconds has to be set, or inherits"),
        ({"inherits": "vllm", "kv_hold": 1}, "presets.mine.kv_hold"),
    ],
)
def test_a_preset_that_cannot_work_is_refused_by_name(preset: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"presets\.mine") as refused:
        configured(mine=preset)
    assert message in str(refused.value)
