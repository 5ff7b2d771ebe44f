from __future__ import annotations

import pytest

from weft.binding.hosts import Matched, match
from weft.cluster import Object
from weft.fabric.driver import Host

ONE, TWO = "38947555-7742-3448-3784-823347823834", "11111111-7742-3448-3784-823347823834"


def host(name: str, uuid: str = "") -> Host:
    return Host(name, {}, True, uuid)


def node(name: str, uuid: str = "") -> Object:
    return {"metadata": {"name": name}, "status": {"nodeInfo": {"systemUUID": uuid}}}


def by_list(*pairs: tuple[str, str]) -> Matched:
    hosts = [{"host": one, "nodeName": other} for one, other in pairs]
    return match({"spec": {"hosts": hosts}}, [], [])


def by_uuid(hosts: list[Host], nodes: list[Object]) -> Matched:
    return match({"spec": {"hostMatching": "SystemUUID"}}, hosts, nodes)


def test_the_list_says_which_node_runs_on_which_host() -> None:
    assert by_list(("h0", "n0"), ("h1", "n1")).nodes == {"h0": "n0", "h1": "n1"}


def test_a_node_that_stands_at_two_hosts_is_used_at_neither_and_named() -> None:
    matched = by_list(("h0", "n0"), ("h1", "n0"), ("h2", "n2"))

    assert matched.nodes == {"h2": "n2"}
    assert matched.problems == ("Node n0 stands at several hosts",)


def test_machines_find_each_other_by_their_uuid_however_it_is_written() -> None:
    matched = by_uuid([host("h0", ONE.upper()), host("h1", TWO)], [node("n0", ONE), node("n1", TWO)])

    assert matched == Matched({"h0": "n0", "h1": "n1"})


def test_two_nodes_that_claim_one_machine_get_none_of_its_devices() -> None:
    matched = by_uuid([host("h0", ONE)], [node("honest", ONE), node("forger", ONE.upper())])

    assert matched.nodes == {}
    assert matched.problems == (f"Nodes forger and honest have the same machine UUID {ONE}",)


def test_two_hosts_with_one_uuid_are_not_told_apart() -> None:
    assert by_uuid([host("h0", ONE), host("h1", ONE)], [node("n0", ONE)]).nodes == {}


@pytest.mark.parametrize("uuid", ["", " ", "00000000-0000-0000-0000-000000000000", "F" * 8 + "-ffff"])
def test_a_uuid_that_says_nothing_matches_nothing(uuid: str) -> None:
    assert by_uuid([host("h0", uuid)], [node("n0", uuid)]) == Matched()


def test_a_machine_uuid_does_not_count_where_the_list_decides() -> None:
    assert match({"spec": {"hosts": []}}, [host("h0", ONE)], [node("n0", ONE)]).nodes == {}
