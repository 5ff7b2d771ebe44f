"""A bind made by Weft over TLS and with a login, as a third party's Redfish client sees it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import sushy
import yaml
from sushy import auth

from support.sushy_view import agree_on_blocks, agree_on_fabrics, agree_on_zones, make_certificates
from support.world import World, condition, eventually, reason
from weft.api.resources import FABRICS, SECRETS
from weft.emulator.inventory import load
from weft_dev.controlplane import ControlPlane

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "emulator" / "rack-a.yaml"
USER, PASSWORD = "weft", "correct horse"


@pytest.fixture
def world(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[World]:
    world = World(control_plane, namespace, hosts=26, gpus=48, memories=16)
    world.inventory = yaml.safe_load(EXAMPLE.read_text())
    (tmp_path / "password").write_text(PASSWORD)
    make_certificates(tmp_path)
    try:
        flags = ["--user", USER, "--password-file", str(tmp_path / "password")]
        flags += ["--tls-cert", str(tmp_path / "server.pem"), "--tls-key", str(tmp_path / "server.key")]
        world.start_emulator(*flags)
        yield world
    finally:
        world.close()


def put_secret(world: World, name: str, **values: str) -> None:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
    world.kube.apply(SECRETS, body, world.namespace)


def test_sushy_sees_every_device_that_weft_bound_at_the_host_that_the_logical_node_names(
    world: World, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    put_secret(world, "login", username=USER, password=PASSWORD)
    put_secret(world, "ca", **{"ca.crt": ca.read_text()})
    inventory = load(world.directory / "inventory.yaml")
    with auth.SessionAuth(USER, PASSWORD) as login:
        service = sushy.Sushy(world.emulator_url, verify=str(ca), auth=login)
        agree_on_blocks(service, inventory, {})
        agree_on_zones(service, inventory)
        agree_on_fabrics(service, inventory)

        world.create(credentialsSecretRef={"name": "login"}, tls={"caSecretRef": {"name": "ca"}}, timeout=5)
        world.start_operator()
        world.logical_node("trainer", gpus=4, memory="2Ti")
        eventually(lambda: world.is_bound("trainer"), what="trainer is Bound")
        status = (world.get("trainer") or {})["status"]
        attached = {item["device"]: status["host"] for item in status["devices"]}
        assert len(attached) == 8
        agree_on_blocks(service, inventory, attached)
        agree_on_zones(service, inventory)
        agree_on_fabrics(service, inventory)

        world.delete("trainer")
        eventually(lambda: world.get("trainer") is None, what="trainer is gone")
        agree_on_blocks(service, inventory, {})


def test_a_wrong_password_is_a_condition_and_the_right_one_is_picked_up_when_the_secret_is_mended(
    world: World, tmp_path: Path
) -> None:
    put_secret(world, "login", username=USER, password="wrong")
    put_secret(world, "ca", **{"ca.crt": (tmp_path / "ca.pem").read_text()})
    world.create(credentialsSecretRef={"name": "login"}, tls={"caSecretRef": {"name": "ca"}}, timeout=5)
    world.start_operator()
    eventually(
        lambda: reason(world.kube.get(FABRICS, world.name), "Connected") == "AuthFailed", what="AuthFailed"
    )
    put_secret(world, "login", username=USER, password=PASSWORD)
    eventually(
        lambda: condition(world.kube.get(FABRICS, world.name), "Connected") == "True", what="Connected"
    )


def test_a_missing_secret_is_named_in_the_condition(world: World) -> None:
    world.create(credentialsSecretRef={"name": "nowhere"}, timeout=5)
    world.start_operator()
    fabric = eventually(
        lambda: (
            obj
            if reason(obj := world.kube.get(FABRICS, world.name), "Connected") == "SecretMissing"
            else None
        ),
        what="SecretMissing",
    )
    (message,) = [c["message"] for c in fabric["status"]["conditions"] if c["type"] == "Connected"]
    assert message == f"Secret {world.namespace}/nowhere with the key username is needed and not there"
