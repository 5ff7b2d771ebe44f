"""The demo on NVIDIA Dynamo: what a worker is started with, whom its frontend sends requests to, what is counted."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from weft.api import EngineProfile
from weft.api.names import LABEL_GROUP
from weft.balancing.profile import Profile
from weft.rehearse.engine import Speeds
from weft.rehearse.play import Case, play
from weft.rehearse.static import Static
from weft.rehearse.trace import Trace
from weft.rehearse.weft_policy import Weft
from weft.rehearse.world import Objectives
from weft_playground.case import AUTO, PAUSED, SEEDS, Split
from weft_playground.case import Case as Demo
from weft_playground.demo.dynamo_engines import DISCOVERED, MODE, worker_command, worker_environment
from weft_playground.demo.dynamo_world import requests_text
from weft_playground.demo.endpoints import endpoint_slice
from weft_playground.demo.manifests import all_groups, only, with_logical_nodes
from weft_playground.demo.report import EXIT_FAILED, WORTH_A_MOVE, verdict
from weft_playground.dynamo_profile import write_profile
from weft_playground.profile import SpeedError, read_profile

from .test_report import evidence


def worker(stage: str, *, ready: bool = True, ends: bool = False) -> dict[str, Any]:
    metadata = {"name": "llama-70b-3", "namespace": AUTO, "uid": "u-3", "labels": {LABEL_GROUP: "g"}}
    return {
        "metadata": {**metadata, **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if ends else {})},
        "spec": {"containers": [{"args": ["--model=llama", f"{MODE}={stage}"]}]},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def test_a_worker_serves_the_stage_of_its_pods_arguments_at_its_pods_address_and_as_its_pod() -> None:
    command = worker_command(worker("decode"), Path("/p.npz"))
    assert {"--disaggregation-mode=decode", "--model-name=llama", "--max-num-seqs=32"} <= set(command)
    assert "--max-num-seqs=1" in worker_command(worker("prefill"), Path("/p.npz"))
    told = worker_environment({}, worker("decode")["metadata"], "127.64.0.5")
    assert (told["DYN_SYSTEM_HOST"], told["DYN_TCP_RPC_HOST"]) == ("127.64.0.5", "127.64.0.5")
    assert (told["POD_NAME"], told["POD_NAMESPACE"], told["POD_UID"]) == ("llama-70b-3", AUTO, "u-3")


def test_each_role_has_a_template_that_names_its_stage_and_the_group_flips_by_restart() -> None:
    objects = all_groups(with_logical_nodes().with_preset("dynamo").with_restarts(MODE), Split(3, 3))
    groups = [each["spec"] for each in objects if each["kind"] == "InferenceGroup"]
    assert [(each["rebalance"]["flip"], "template" in each) for each in groups] == [("Restart", False)] * 2
    for role in (each["spec"] for each in objects if each["kind"] == "InferenceRole"):
        assert f"{MODE}={role['stage'].lower()}" in role["template"]["spec"]["containers"][0]["args"]


def test_a_frontend_hears_of_a_pod_only_while_it_is_ready_and_stays() -> None:
    def ready(pod: dict[str, Any]) -> bool:
        (endpoint,) = endpoint_slice(AUTO, DISCOVERED, [pod])["endpoints"]
        assert endpoint["targetRef"]["name"] == "llama-70b-3"
        return bool(endpoint["conditions"]["ready"])

    assert ready(worker("decode"))
    assert not ready(worker("decode", ready=False))
    assert not ready(worker("decode", ends=True))
    assert endpoint_slice(PAUSED, DISCOVERED, [])["metadata"]["labels"] == DISCOVERED


def test_a_request_that_dynamo_counts_as_failed_fails_the_demo() -> None:
    told, wrong = requests_text(1397.0, 1.0, 3e5)
    assert verdict(replace(evidence(), counted=told, wrong=wrong)).status == EXIT_FAILED
    assert requests_text(1398.0, 0.0, 3e5)[1] == []
    assert requests_text(0.0, 0.0, 0.0)[1] != [], "nothing counted is nothing known"


def test_a_worker_is_as_slow_as_its_replicas_number_makes_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_profile(tmp_path, SpeedError(prefill=1.2, decode=0.9))) as archive:
        content = archive.read("prefill_ttft_ms.npy")
    header = content[10 : 10 + struct.unpack("<H", content[8:10])[0]].decode()
    values = struct.unpack("<7d", content[10 + len(header) :])
    assert json.dumps(values) == json.dumps([1200 * y for y in read_profile().prefill.ys])


def test_wefts_policy_serves_the_demos_load_better_than_the_first_split_kept_also_by_restarts() -> None:
    demo, examples = Demo(seed=SEEDS["dynamo"], engines="dynamo"), with_logical_nodes()
    profile = Profile.of(EngineProfile.model_validate(only(examples.group, "EngineProfile")))
    goal = examples.objectives
    case = Case(
        trace=Trace.of((each.at_seconds, each.prompt_tokens, each.answer_tokens) for each in demo.requests()),
        speeds=Speeds(profile),
        planned=profile,
        objectives=Objectives(goal.time_to_first_token, goal.inter_token_latency, goal.attainment),
        most_replicas=6,
        least_replicas=6,
        first={"prefill": 3, "decode": 3},
        scrape_seconds=1.0,
        flip_seconds=5.0,
        seed=demo.seed,
        stage_error=0.3,
        replica_error=0.2,
    )
    balanced = play(case, Weft(case))
    assert [each.counts for each in balanced.decisions] == [{"prefill": 4, "decode": 2}]
    assert balanced.attainment > play(case, Static(case)).attainment + WORTH_A_MOVE
