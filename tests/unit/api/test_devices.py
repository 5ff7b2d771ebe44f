from __future__ import annotations

import pytest

from weft.api import AcceleratorSelector, ByteDeviceSelector

H200 = {"type": "GPU", "vendor": "NVIDIA", "model": "H200", "nvlinkDomain": "nvl-0"}
MEMORY = 141 * 2**30


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({}, True),
        ({"matchAttributes": {"model": "H200"}}, True),
        ({"matchAttributes": {"model": "H100"}}, False),
        ({"matchExpressions": [{"key": "model", "operator": "In", "values": ["H100", "H200"]}]}, True),
        ({"matchExpressions": [{"key": "model", "operator": "NotIn", "values": ["H200"]}]}, False),
        ({"matchExpressions": [{"key": "rdmaDomain", "operator": "NotIn", "values": ["x"]}]}, True),
        ({"matchExpressions": [{"key": "nvlinkDomain", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "nvlinkDomain", "operator": "DoesNotExist"}]}, False),
        ({"minimum": {"memory": "141Gi"}}, True),
        ({"minimum": {"memory": MEMORY}}, True),
        ({"minimum": {"memory": "142Gi"}}, False),
        ({"minimum": {"memory": "1Gi"}, "matchAttributes": {"model": "H100"}}, False),
    ],
)
def test_a_selector_means_the_devices_that_meet_all_it_says(
    selector: dict[str, object], selected: bool
) -> None:
    assert AcceleratorSelector.model_validate(selector).matches(H200, MEMORY) is selected


def test_the_smallest_capacity_of_a_byte_device_is_that_of_one_device() -> None:
    selector = ByteDeviceSelector.model_validate({"minimum": {"capacity": "512Gi"}})

    assert selector.matches({}, 512 * 2**30)
    assert not selector.matches({}, 511 * 2**30)
