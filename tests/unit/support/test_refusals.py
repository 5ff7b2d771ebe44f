from __future__ import annotations

import pytest

from support.memory_cluster import MemoryCluster
from support.refusals import BrokenWebhook, LostAnswers, Policy, Quota, TooManyRequests, pod_security
from weft.api.resources import LOGICAL_NODES, PODS
from weft.cluster import AlreadyExistsError, ClusterError, Object


def pod(name: str, **container: object) -> Object:
    return {
        "metadata": {"name": name, "namespace": "a"},
        "spec": {"containers": [{"name": "engine", "image": "vllm:1", **container}]},
    }


async def test_a_quota_refuses_one_too_many_and_a_dry_run_just_so() -> None:
    cluster = MemoryCluster()
    quota = Quota(cluster.list, PODS, 1)
    cluster.rules.append(quota)
    await cluster.create(PODS, pod("one"))
    for dry_run in (True, False):
        with pytest.raises(ClusterError, match=r"403 Forbidden.*exceeded quota.*used: pods=1") as caught:
            await cluster.create(PODS, pod("two"), dry_run=dry_run)
        assert caught.value.status == 403
    await cluster.delete(PODS, "one", "a", grace_seconds=0)
    await cluster.create(PODS, pod("two"))


async def test_pod_security_names_the_container_that_it_does_not_like() -> None:
    cluster = MemoryCluster()
    cluster.rules.append(pod_security)
    with pytest.raises(ClusterError, match=r'403.*PodSecurity.*"engine"'):
        await cluster.create(PODS, pod("one"))
    await cluster.create(PODS, pod("one", securityContext={"allowPrivilegeEscalation": False}))


async def test_what_a_policy_refused_succeeds_unchanged_when_the_policy_is_gone() -> None:
    cluster = MemoryCluster()
    policy = Policy(PODS, lambda write: "no tag 1" if "vllm:1" in str(write.body) else None)
    cluster.rules.append(policy)
    with pytest.raises(ClusterError, match=r"422 Invalid.*denied request: no tag 1"):
        await cluster.create(PODS, pod("one"))
    cluster.rules.remove(policy)
    await cluster.create(PODS, pod("one"))


async def test_a_broken_webhook_and_a_busy_server_leave_no_trace_of_the_write() -> None:
    cluster = MemoryCluster()
    cluster.rules += [BrokenWebhook(PODS), TooManyRequests(1, 7.0)]
    with pytest.raises(ClusterError, match="500 InternalError"):
        await cluster.create(PODS, pod("one"))
    cluster.rules.pop(0)
    with pytest.raises(ClusterError, match="429") as caught:
        await cluster.create(PODS, pod("one"))
    assert caught.value.retry_after_seconds == 7.0
    assert (cluster.list(PODS), cluster.writes) == ([], [])
    await cluster.create(PODS, pod("one"))


async def test_a_write_whose_answer_is_lost_has_happened() -> None:
    cluster = MemoryCluster()
    lost = LostAnswers(3, lambda write: write.resource == PODS)
    cluster.rules.append(lost)
    await cluster.create(LOGICAL_NODES, {"metadata": {"name": "n", "namespace": "a"}, "spec": {}})
    with pytest.raises(ClusterError) as caught:
        await cluster.create(PODS, pod("one"))
    assert caught.value.status == 0
    with pytest.raises(ClusterError):
        await cluster.patch(PODS, "one", "a", {"metadata": {"labels": {"a": "b"}}})
    (seen,) = cluster.list(PODS)
    assert seen["metadata"]["labels"] == {"a": "b"}
    lost.times = 0
    with pytest.raises(AlreadyExistsError):
        await cluster.create(PODS, pod("one"))
