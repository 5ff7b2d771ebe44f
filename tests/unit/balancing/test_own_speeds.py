"""Which of a role's replicas changes its role, where some are slower than others."""

from __future__ import annotations

from support.fleet import GROUP, Fleet
from support.inference import ANSWER_HEAVY, LLAMA_70B
from weft.api import Stage
from weft.api.names import LABEL_ROLE
from weft.api.resources import INFERENCE_ROLES
from weft.balancing.own_speeds import OwnSpeeds, turn, writing_speed
from weft.balancing.state import Engine, EngineLoad


def writes(seconds: float, steady: bool = True) -> Engine:
    """An engine that had 16 answers at a time, so many seconds from token to token; the profile says 65.5 ms."""
    return Engine("decode", EngineLoad(16, 0, inter_token_seconds=seconds, mean_running=16), steady)


def test_the_slowest_goes_to_prefill_and_the_fastest_comes_back() -> None:
    speeds = {"slow": 0.8, "fast": 1.2, "usual": 1.0}
    known = [*speeds, "new"]

    def order(giver: Stage, taker: Stage) -> list[str]:
        return sorted(known, key=lambda name: turn(name, giver, taker, speeds))

    assert order(Stage.DECODE, Stage.PREFILL) == ["slow", "usual", "new", "fast"]
    assert order(Stage.PREFILL, Stage.DECODE) == ["fast", "usual", "new", "slow"]
    assert order(Stage.DECODE, Stage.AGGREGATED) == known  # both write answers


def test_speeds_that_differ_by_chance_are_alike() -> None:
    speeds = {"one": 0.99, "other": 1.01}
    assert len({turn(name, Stage.DECODE, Stage.PREFILL, speeds) for name in speeds}) == 1


def test_a_speed_is_measured_at_the_batch_that_the_engine_had() -> None:
    assert writing_speed(writes(0.0655), Stage.DECODE, LLAMA_70B) == 1.0
    assert writing_speed(writes(0.131), Stage.DECODE, LLAMA_70B) == 0.5
    # It had another role in the window, or no profile says how fast it should be.
    assert writing_speed(writes(0.131, steady=False), Stage.DECODE, LLAMA_70B) is None
    assert writing_speed(writes(0.131), Stage.DECODE, None) is None


def test_the_speed_of_a_replica_is_kept_while_it_reads_prompts_until_it_is_gone() -> None:
    speeds = OwnSpeeds()
    speeds.with_seen({"a": 0.8, "b": 1.1}, ["a", "b"])
    assert speeds.with_seen({"b": 1.0}, ["a", "b"]) == {"a": 0.8, "b": 1.0}
    assert speeds.with_seen({}, ["b"]) == {"b": 1.0}


async def test_the_replica_that_was_seen_to_write_slowly_goes_to_prefill_and_stays_there() -> None:
    fleet = Fleet(mode="Paused")
    fleet.traffic = ANSWER_HEAVY
    await fleet.run(10)
    decode = [
        pod["metadata"]["name"] for pod in fleet.pods() if pod["metadata"]["labels"][LABEL_ROLE] == "decode"
    ]
    slow = decode[3]
    for name in decode:
        fleet.changed_values[("engine:itl_count_per_second", name)] = 100.0
        fleet.changed_values[("engine:itl_seconds_per_second", name)] = 9.0 if name == slow else 6.5
        fleet.changed_values[("engine:mean_running", name)] = 16.0
    await fleet.run(60)

    async def prefill_with(replicas: int) -> set[str]:
        fleet.edit(INFERENCE_ROLES, "prefill", lambda spec: spec.update(replicas=replicas))
        fleet.edit(INFERENCE_ROLES, "decode", lambda spec: spec.update(replicas=9 - replicas))
        await fleet.run(20)
        return {
            p["metadata"]["name"] for p in fleet.pods() if p["metadata"]["labels"][LABEL_ROLE] == "prefill"
        }

    first = {f"{GROUP}-{number}" for number in range(9)} - set(decode)
    assert await prefill_with(4) == {*first, slow}
    assert slow in await prefill_with(2)
