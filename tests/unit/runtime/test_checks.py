from __future__ import annotations

from weft.api.resources import DEVICE_ATTACHMENTS, FABRICS, LOGICAL_NODES
from weft.runtime.checks import SHOWN, refusal


def test_a_refusal_names_what_to_delete_in_its_order_and_how_to_stay() -> None:
    text = refusal(
        {LOGICAL_NODES: ["a/one"], DEVICE_ATTACHMENTS: ["rack.gpu-0"], FABRICS: ["rack"]},
        "helm rollback weft 2 -n weft-system",
    )
    lines = text.splitlines()
    assert "  logicalnodes: a/one" in lines
    assert [line for line in lines if line.startswith("  kubectl")] == [
        "  kubectl delete logicalnodes.weft.dev --all -A",
        "  kubectl delete fabrics.weft.dev --all",
    ]
    assert "  helm rollback weft 2 -n weft-system" in lines


def test_a_refusal_counts_what_it_does_not_name() -> None:
    names = [f"a/{number:02}" for number in range(SHOWN + 3)]
    text = refusal({LOGICAL_NODES: names})
    assert f"{names[SHOWN - 1]}, and 3 more" in text
    assert names[SHOWN] not in text
