"""The demo on real vLLM engines: what an engine is started with, what is counted, what is judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from weft_playground.case import AUTO, SEEDS, Case, Split
from weft_playground.demo.manifests import all_groups, only, with_logical_nodes
from weft_playground.demo.rehearsal import simulate
from weft_playground.demo.report import EXIT_FAILED, WORTH_A_MOVE, summary, verdict
from weft_playground.demo.vllm_engines import order
from weft_playground.demo.vllm_world import transfers_text
from weft_playground.profile import read_profile, speed_error
from weft_playground.trace import between, prompt_per_answer_token

from .test_report import evidence


def test_an_engine_serves_the_pods_model_at_its_address_and_exchanges_kv_caches_over_nixl() -> None:
    told = order("llama-70b-3", "llama", "127.64.0.5", Path("/logs"), 4)
    assert told["ip"] == "127.64.0.5"
    assert {"--host=127.64.0.5", "--port=8000", "--served-model-name=llama"} <= set(told["arguments"])
    (transfer,) = (each for each in told["arguments"] if each.startswith("--kv-transfer-config="))
    assert json.loads(transfer.partition("=")[2])["kv_connector"] == "NixlConnector"


def test_a_real_engine_is_as_fast_as_the_playgrounds_engine_with_its_number() -> None:
    told = order("llama-70b-3", "llama", "127.64.0.5", Path("/logs"), 4)["environment"]
    assert (told["PACE_SEED"], told["PACE_REPLICA"]) == ("4", "3")


def test_a_run_in_which_no_kv_cache_came_over_nixl_has_failed() -> None:
    told, wrong = transfers_text(0.0, 1000.0)
    found = replace(evidence(), counted=told, wrong=wrong)
    assert verdict(found).status == EXIT_FAILED
    assert any("over NIXL" in reason for reason in verdict(found).reasons)
    assert transfers_text(1000.0, 1000.0)[1] == []


def test_one_group_alone_is_judged_and_shown_with_what_vllm_counted() -> None:
    told, _ = transfers_text(1234.0, 2000.0)
    alone = replace(evidence(), paused=None, counted=told)
    assert "demo-paused" not in summary(alone)
    assert "1,234 prompt tokens" in summary(alone)
    assert verdict(alone).status == verdict(evidence()).status


def test_six_real_engines_get_six_tenths_of_the_requests_with_the_same_shift_of_the_mix() -> None:
    whole, real = Case().requests(), Case(engines="vllm").requests()
    assert len(real) == pytest.approx(0.6 * len(whole), rel=0.05)
    shift = Case().shift_seconds
    mixes = [
        prompt_per_answer_token([each for each in real if (each.at_seconds >= shift) == late])
        for late in (False, True)
    ]
    assert mixes[1] > 2 * mixes[0]


def test_only_the_group_that_is_balanced_is_made_and_its_metrics_are_vllms_routers() -> None:
    objects = all_groups(with_logical_nodes().with_preset("vllm-router"), Split(3, 3), (AUTO,))
    assert {each["metadata"].get("namespace", AUTO) for each in objects} == {AUTO}
    assert only(objects, "InferenceGroup")["spec"]["metrics"]["preset"] == "vllm-router"


@pytest.mark.parametrize("engines", ["vllm", "dynamo"])
def test_after_the_shift_another_split_of_six_engines_is_worth_a_move(engines: str) -> None:
    case = Case(seed=SEEDS[engines], engines=engines)
    requests = case.requests()
    errors = [speed_error(case.seed, number) for number in range(case.replicas)]
    objectives = with_logical_nodes().objectives
    after = between(requests, case.shift_seconds, case.load_seconds)

    def within(prefill: int) -> float:
        outcomes = simulate(
            *(after, read_profile(), prefill, case.replicas - prefill, errors),
            *(case.step_tokens, case.chance()),
        )
        return sum(each.within(objectives) for each in outcomes) / len(outcomes)

    assert within(4) > within(3) + WORTH_A_MOVE
