"""What is put into a kind cluster beside the chart."""

from __future__ import annotations

from weft_dev.kind_site import router_objects


def test_a_router_follows_the_group_of_its_own_namespace() -> None:
    objects = router_objects("team", "llama")
    assert {each["metadata"]["namespace"] for each in objects} == {"team"}
    (binding,) = (each for each in objects if each["kind"] == "RoleBinding")
    assert [subject["namespace"] for subject in binding["subjects"]] == ["team"]
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert "team/llama=8000" in container["args"]
    assert not any("demo/" in argument for argument in container["args"])
