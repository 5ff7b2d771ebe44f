"""The actions ComputerSystem.AddResourceBlock and ComputerSystem.RemoveResourceBlock: one block each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from weft.emulator import redfish
from weft.emulator.dialects.base import (
    Dialect,
    Route,
    block_names,
    body_of,
    explained,
    link_at,
    missing,
    refused,
)
from weft.emulator.messages import message, refusal
from weft.emulator.quirks import Quirk
from weft.emulator.redfish import Document
from weft.emulator.state import Reason, RefusedError
from weft.emulator.writes import Plan, RefusedWriteError, Write

if TYPE_CHECKING:
    from weft.emulator.tree import Tree

_ADD, _REMOVE = "AddResourceBlock", "RemoveResourceBlock"
_PARAMETERS = ("ResourceBlock", "ResourceBlockETag", "ComputerSystemETag")


class AddResourceBlock(Dialect):
    """Systems whose list of blocks is changed by actions, and is not written by PATCH."""

    def routes(self) -> tuple[Route, ...]:
        path = f"{redfish.SYSTEMS}/{{host}}/Actions/ComputerSystem."
        return (Route("POST", path + _ADD, self._act), Route("POST", path + _REMOVE, self._act))

    def find(self, parts: list[str], tree: Tree) -> Document | None:
        match parts:
            case ["Systems", host, name] if host in self.world.hosts and name in _infos():
                return _action_info(f"{redfish.SYSTEMS}/{host}/{name}", name)
        return None

    def adjust(self, parts: list[str], document: Document) -> Document:
        document = super().adjust(parts, document)
        if len(parts) == 2 and parts[0] == "Systems":
            path = document["@odata.id"]
            return document | {"Actions": dict(_action(path, name) for name in (_ADD, _REMOVE))}
        return document

    def _act(self, write: Write, named: Mapping[str, str], tree: Tree) -> Plan:
        host = named["host"]
        if host not in self.world.hosts:
            raise missing(write.path)
        data, path = body_of(write), f"{redfish.SYSTEMS}/{host}"
        for name in data:
            if name not in _PARAMETERS and not name.startswith("@"):
                raise refused(400, "ActionParameterUnknown", write.path.rpartition(".")[2], name)
        if "ResourceBlock" not in data:
            raise refused(400, "ActionParameterMissing", write.path.rpartition(".")[2], "ResourceBlock")
        uri = link_at(data["ResourceBlock"], "ResourceBlock")
        block = block_names([uri], tree)[uri]
        if not self.state.permissive:
            _compare(data.get("ComputerSystemETag"), tree.etag(path), host)
            _compare(data.get("ResourceBlockETag"), tree.etag(uri), host)
        now = self.state.blocks_of(host)
        action = write.path.rpartition("/")[2]
        adds = action.endswith(_ADD)
        wanted = [*now, block] if adds else [other for other in now if other != block]

        def explain(error: RefusedError) -> RefusedWriteError:
            return explained(error, host, {block: "#/ResourceBlock"}, "ResourceBlock", action)

        if (block in now) == adds and Quirk.PERMIT_DUPLICATES not in self.quirks:
            known = block in self.world.devices
            again = explain(RefusedError(Reason.IN_USE if known else Reason.UNKNOWN_BLOCK, (block,)))
            again.duplicate = known
            raise again
        change = self.change(host, wanted, explain)
        return Plan(change, path, status=204, copies=(f"{redfish.BLOCKS}/{block}",))


def _compare(given: Any, current: str | None, host: str) -> None:
    """An ETag among the parameters has to be the current one, as ComputerSystem's schema says. Raises
    RefusedWriteError."""
    if given is not None and (given != current or str(given).startswith("W/")):
        raise RefusedWriteError(refusal(428, message("PreconditionRequired")), "stale-etag", host=host)


def _infos() -> dict[str, str]:
    return {f"{name}ActionInfo": name for name in (_ADD, _REMOVE)}


def _action(path: str, name: str) -> tuple[str, Document]:
    target = f"{path}/Actions/ComputerSystem.{name}"
    return f"#ComputerSystem.{name}", {"target": target, "@Redfish.ActionInfo": f"{path}/{name}ActionInfo"}


def _action_info(path: str, name: str) -> Document:
    parameters: list[Document] = [
        {
            "Name": "ResourceBlock",
            "Required": True,
            "DataType": "Object",
            "ObjectDataType": "#ResourceBlock.ResourceBlock",
        },
        {"Name": "ResourceBlockETag", "Required": False, "DataType": "String"},
        {"Name": "ComputerSystemETag", "Required": False, "DataType": "String"},
    ]
    return redfish.resource(path, "ActionInfo.v1_4_2", name, Parameters=parameters)
