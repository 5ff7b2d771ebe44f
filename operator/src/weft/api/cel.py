"""Validation rules that the API server evaluates (CEL), as models declare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Rule:
    """One `x-kubernetes-validations` entry. The message tells the writer of the object what to change."""

    rule: str
    message: str
    field_path: str = ""
    """The field that the error is reported at, relative to where the rule is declared: `.minReplicas`."""
    reason: Literal["", "FieldValueForbidden"] = ""
    """How the API server classes the error; empty: an invalid value, which is then quoted."""

    def schema(self) -> dict[str, str]:
        """The entry as it stands in the CRD."""
        entry = {"rule": self.rule, "message": self.message}
        if self.field_path:
            entry["fieldPath"] = self.field_path
        if self.reason:
            entry["reason"] = self.reason
        return entry


def rules(*declared: Rule) -> dict[str, Any]:
    """For `Field(json_schema_extra=rules(...))`: rules about one field's value (`self`)."""
    return {"x-kubernetes-validations": [rule.schema() for rule in declared]}


def immutable(what: str) -> dict[str, Any]:
    """For a required field that cannot change once the object exists; `what` says what to do instead."""
    return rules(Rule("self == oldSelf", f"cannot be changed: {what}", reason="FieldValueForbidden"))


def immutable_optional(field: str, what: str) -> Rule:
    """A rule on the holder of an optional `field`, which can be neither changed, added nor removed."""
    return Rule(
        f"has(self.{field}) == has(oldSelf.{field})"
        f" && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        f"{field} cannot be changed: {what}",
        f".{field}",
        "FieldValueForbidden",
    )
