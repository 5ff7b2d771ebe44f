"""What every Redfish service has beside what it is for: OData documents, the account, the roles."""

from __future__ import annotations

import re

from weft.emulator import redfish
from weft.emulator.redfish import Document

ACCOUNTS = f"{redfish.ROOT}/AccountService/Accounts"
ROLES = f"{redfish.ROOT}/AccountService/Roles"
_SCHEMAS = "http://redfish.dmtf.org/schemas/v1"
_MEMBERS = frozenset(
    {"ManagerAccount", "Role", "Session", "Task", "ComputerSystem", "Chassis", "Fabric", "Switch"}
) | {
    *("Zone", "Endpoint", "Connection", "ResourceBlock", "Processor", "Memory", "Drive", "MemoryDomain"),
    *("MemoryChunks", "Storage", "Volume", "AggregationSource", "ConnectionMethod"),
}
_TYPES = (
    "AccountService",
    "SessionService",
    "TaskService",
    "CompositionService",
    "AggregationService",
    "ActionInfo",
)
_SERVICES = ("AccountService", "SessionService", "CompositionService")
_PRIVILEGES = {
    "Administrator": ["Login", "ConfigureManager", "ConfigureUsers", "ConfigureComponents", "ConfigureSelf"],
    "Operator": ["Login", "ConfigureComponents", "ConfigureSelf"],
    "ReadOnly": ["Login", "ConfigureSelf"],
}
_TYPE = re.compile(rb'"@odata\.type":"#(\w+)\.(v\w+\.)?\w+"')


def service_document() -> Document:
    """/redfish/v1/odata."""
    names = ("Systems", "Chassis", "Fabrics", "Tasks", *_SERVICES)
    paths = {"Tasks": "TaskService"}
    value = [{"name": n, "kind": "Singleton", "url": f"{redfish.ROOT}/{paths.get(n, n)}"} for n in names]
    return {"@odata.context": f"{redfish.ROOT}/$metadata", "value": value}


def metadata_document() -> bytes:
    """/redfish/v1/$metadata: which schemas the service uses, by reference."""
    references = "".join(
        f'<edmx:Reference Uri="{_SCHEMAS}/{name}_v1.xml"><edmx:Include Namespace="{name}"/></edmx:Reference>'
        for name in sorted((*_MEMBERS, *_TYPES, *(f"{name}Collection" for name in _MEMBERS)))
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<edmx:Edmx xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx" Version="4.0">'
        f'{references}<edmx:Reference Uri="{_SCHEMAS}/ServiceRoot_v1.xml">'
        '<edmx:Include Namespace="ServiceRoot.v1_17_0"/></edmx:Reference>'
        '<edmx:DataServices><Schema xmlns="http://docs.oasis-open.org/odata/ns/edm" Namespace="Service">'
        '<EntityContainer Name="Service" Extends="ServiceRoot.v1_17_0.ServiceContainer"/>'
        "</Schema></edmx:DataServices></edmx:Edmx>"
    ).encode()


def described_by(body: bytes) -> str:
    """The Link header of a resource: where its schema is; empty: it is none."""
    found = _TYPE.search(body, 0, 1000)
    if found is None:
        return ""
    name = found[1].decode() + ("." + found[2].decode().rstrip(".") if found[2] else "")
    return f"<{_SCHEMAS}/{name}.json>; rel=describedby"


def account_service() -> Document:
    return redfish.resource(
        f"{redfish.ROOT}/AccountService",
        "AccountService.v1_15_0",
        "Accounts",
        ServiceEnabled=True,
        Status=redfish.status(),
        Accounts=redfish.link(ACCOUNTS),
        Roles=redfish.link(ROLES),
    )


def account(user: str) -> Document:
    """The one account, which may do everything."""
    return redfish.resource(
        f"{ACCOUNTS}/1",
        "ManagerAccount.v1_12_0",
        "Account",
        UserName=user,
        Password=None,
        RoleId="Administrator",
        AccountTypes=["Redfish"],
        Enabled=True,
        Locked=False,
        Links={"Role": redfish.link(f"{ROLES}/Administrator")},
    )


def roles() -> dict[str, Document]:
    """The roles that Redfish defines, by id."""
    return {
        name: redfish.resource(
            f"{ROLES}/{name}",
            "Role.v1_3_1",
            name,
            RoleId=name,
            IsPredefined=True,
            AssignedPrivileges=privileges,
        )
        for name, privileges in _PRIVILEGES.items()
    }
