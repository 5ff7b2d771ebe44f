"""The measured profile of a role."""

from __future__ import annotations

import pytest

from support.inference import LLAMA_70B
from weft.balancing.profile import Profile, ProfileError, from_config_map, parse

TEXT = """
prefill: [{promptTokens: 512, milliseconds: 197}, {promptTokens: 1024, milliseconds: 377}]
decode: [{batch: 1, milliseconds: 55}, {batch: 16, milliseconds: 65.5}]
kvCapacityTokens: 40000
maxBatch: 32
"""


def test_times_lie_on_straight_lines_between_the_measured_points() -> None:
    profile = parse(TEXT)
    assert profile.prefill_seconds(1024) == pytest.approx(0.377)
    assert profile.prefill_seconds(768) == pytest.approx(0.287)  # half way from 197 to 377 ms
    assert profile.inter_token_seconds(8.5) == pytest.approx(0.06025)  # half way from 55 to 65.5 ms


def test_a_prompt_longer_than_measured_continues_the_last_line_and_a_shorter_one_costs_as_the_first() -> None:
    profile = parse(TEXT)
    assert profile.prefill_seconds(1536) == pytest.approx(0.557)  # 377 + (377 - 197)
    assert profile.prefill_seconds(10) == pytest.approx(0.197)


def test_the_largest_batch_is_where_the_curve_meets_the_limit() -> None:
    # Between batch 16 (65.5 ms) and 32 (72.2 ms): 70 ms is 4.5 / 6.7 of the way, 16 + 16 * 0.6716 = 26.7.
    assert LLAMA_70B.largest_batch(0.070) == pytest.approx(26.7, abs=0.1)
    assert LLAMA_70B.largest_batch(1.0) == 32
    assert LLAMA_70B.largest_batch(0.001) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("promptTokens: 512", "promptTokens: 2048"), "promptTokens has to grow"),
        (("milliseconds: 377", "milliseconds: 100"), "measure again"),
        (("milliseconds: 55", "milliseconds: .nan"), "decode.0.milliseconds"),
        (("maxBatch: 32", ""), "maxBatch"),
        (("kvCapacityTokens", "kvTokens"), "kv"),
        (("prefill:", "prefill: ["), "not YAML"),
        ((TEXT, "- 1"), "has to be a mapping"),
        ((TEXT, "[" * 20_000), "not YAML"),
        ((TEXT, "#" * 70_000), "larger than"),
    ],
)
def test_an_unusable_profile_is_refused_with_what_to_change(change: tuple[str, str], says: str) -> None:
    with pytest.raises(ProfileError, match=says):
        parse(TEXT.replace(*change))


def test_a_missing_config_map_or_key_is_named() -> None:
    with pytest.raises(ProfileError, match="no ConfigMap 'speed'"):
        from_config_map(None, "speed")
    with pytest.raises(ProfileError, match=r"'speed' has no key 'profile\.yaml'"):
        from_config_map({"data": {"other": ""}}, "speed")
    assert isinstance(from_config_map({"data": {"profile.yaml": TEXT}}, "speed"), Profile)
