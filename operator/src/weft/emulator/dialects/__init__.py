"""The ways in which fabric managers let a client compose; one module each."""

from weft.emulator.dialects.add_resource_block import AddResourceBlock
from weft.emulator.dialects.base import Dialect
from weft.emulator.dialects.compose_by_patch import ComposeByPatch
from weft.emulator.dialects.compose_by_post import ComposeByPost
from weft.emulator.dialects.connections import Connections
from weft.emulator.dialects.sunfish import Sunfish
from weft.emulator.dialects.zone_endpoints import ZoneEndpoints

DIALECTS: dict[str, type[Dialect]] = {
    "compose-by-patch": ComposeByPatch,
    "add-resource-block": AddResourceBlock,
    "compose-by-post": ComposeByPost,
    "zone-endpoints": ZoneEndpoints,
    "connections": Connections,
    "sunfish": Sunfish,
}
"""By the name that `--dialect` takes."""
