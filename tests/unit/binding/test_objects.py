from __future__ import annotations

from weft.binding import objects
from weft.binding.objects import Recent
from weft.cluster import Object


def obj(name: str, version: int) -> Object:
    return {"metadata": {"uid": name, "resourceVersion": str(version)}}


def test_an_object_is_parsed_once_for_each_of_its_states_and_few_are_kept() -> None:
    parsed: list[Object] = []

    def parse(raw: Object) -> str:
        parsed.append(raw)
        return str(raw["metadata"]["resourceVersion"])

    recent, first, second = Recent(parse), obj("a", 1), obj("a", 2)
    assert [recent(first), recent(first), recent(second), recent(second)] == ["1", "1", "2", "2"]
    assert parsed == [first, second]
    # Another server's object of the same uid and version is another one.
    assert recent(obj("a", 2)) == "2"
    assert len(parsed) == 3
    for number in range(2 * objects.KEPT):
        recent(obj(f"b{number}", 1))
    assert len(recent._known) == objects.KEPT
