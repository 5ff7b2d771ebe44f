"""What all kinds share: the model base, metadata, references and label selectors."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from weft.api.cel import Rule
from weft.api.values import DnsSubdomain, LabelKey, LabelValue, Timestamp


class Model(BaseModel):
    """A part of an object: snake_case in Python, camelCase in the API. Unknown fields are ignored.

    What is not there is None, "", (), {} or an empty model, and is left out again when the model is written, so
    that an object read and written back is the object that is stored.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    cel: ClassVar[tuple[Rule, ...]] = ()
    """Rules over several fields of this model."""

    omit: ClassVar[tuple[Any, ...]] = (None, "", (), {})
    """Values that stand for "not there": left out of the dump where they are also the field's default."""

    _left_out: ClassVar[tuple[tuple[str, str, Any], ...]] = ()
    """Name, alias and default of each field whose default stands for "not there"."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls._left_out = tuple(
            (name, field.alias or name, field.default)
            for name, field in cls.model_fields.items()
            if cls._is_absent(name, field.default)
        )

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_there(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        for name, alias, default in self._left_out:
            value = getattr(self, name)
            if value is default or value == default:
                written.pop(alias, None)
                written.pop(name, None)
        return written

    @classmethod
    def _is_absent(cls, name: str, default: Any) -> bool:
        """Whether this default of this field stands for "not there"."""
        if isinstance(default, Model):
            return not default.dump()
        return any(type(default) is type(nothing) and default == nothing for nothing in cls.omit)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The JSON schema with the rules of `cel`."""
        schema = handler(core_schema)
        if cls.cel:
            handler.resolve_ref_schema(schema)["x-kubernetes-validations"] = [
                rule.schema() for rule in cls.cel
            ]
        return schema

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Itself: nothing of it changes. Pydantic copies defaults each time that an object is read."""
        return self

    def dump(self) -> dict[str, Any]:
        """This part as the API's JSON."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")

    def with_changes(self, **changes: Any) -> Self:
        """A copy with these fields (Python names) replaced; values are taken as they are."""
        return self.model_copy(update=changes)


class OwnerReference(Model):
    """The object that this one is deleted with."""

    api_version: str = Field(description="API version of the owner.")
    kind: str = Field(description="Kind of the owner.")
    name: str = Field(description="Name of the owner.")
    uid: str = Field(description="UID of the owner.")
    controller: bool | None = Field(default=None, description="Whether the owner manages this object.")
    block_owner_deletion: bool | None = Field(
        default=None, description="Whether a foreground deletion of the owner waits for this object."
    )


class ObjectMeta(Model):
    """The part of an object's metadata that Weft reads or writes; the API server has its own schema."""

    omit: ClassVar[tuple[Any, ...]] = (None, "", (), {}, 0)

    name: str = Field(default="", description="Name.")
    namespace: str = Field(default="", description="Namespace; empty for cluster-scoped objects.")
    uid: str = Field(default="", description="Identity of this object, not shared with a later namesake.")
    generation: int = Field(default=0, description="Counts the changes of the spec.")
    resource_version: str = Field(default="", description="Changes with every write; guards the next one.")
    labels: Mapping[str, str] = Field(default={}, description="Labels.")
    annotations: Mapping[str, str] = Field(default={}, description="Annotations.")
    finalizers: tuple[str, ...] = Field(default=(), description="Who has work left before the object may go.")
    deletion_timestamp: Timestamp | None = Field(default=None, description="When its deletion was asked for.")
    deletion_grace_period_seconds: int | None = Field(
        default=None, description="Grace given to that deletion."
    )
    creation_timestamp: Timestamp | None = Field(default=None, description="When it was created.")
    owner_references: tuple[OwnerReference, ...] = Field(default=(), description="The objects it goes with.")


class NameRef(Model):
    """A reference by name; the field says to what."""

    name: DnsSubdomain = Field(description="Name of the object referred to.")


class LabelOperator(enum.StrEnum):
    """How a label requirement compares."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelRequirement(Model):
    """One requirement on one label."""

    cel: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0"
            " : !has(self.values) || size(self.values) == 0",
            "operator In and NotIn need values; Exists and DoesNotExist take none",
            ".values",
        ),
    )

    key: LabelKey = Field(description="Label that the requirement is about.")
    operator: LabelOperator = Field(description="In, NotIn, Exists or DoesNotExist.")
    values: Annotated[tuple[LabelValue, ...], Field(max_length=32)] = Field(
        default=(), description="Values to compare with; for In and NotIn only."
    )

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels meet the requirement. NotIn also holds where the label is missing."""
        if self.operator is LabelOperator.IN:
            return self.key in labels and labels[self.key] in self.values
        if self.operator is LabelOperator.NOT_IN:
            return labels.get(self.key) not in self.values
        return (self.key in labels) is (self.operator is LabelOperator.EXISTS)


class LabelSelector(Model):
    """Kubernetes' label selector. Empty, it selects everything."""

    match_labels: Annotated[Mapping[str, LabelValue], Field(max_length=16)] = Field(
        default={}, description="Labels that must be there with these values."
    )
    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=16)] = Field(
        default=(),
        description="Requirements that must all hold.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.matches(labels) for requirement in self.match_expressions
        )


class Resource(Model):
    """One object. Subclasses add `api_version`, `kind`, `spec`, `status`. A default status is left out."""

    metadata: ObjectMeta = Field(description="Standard object metadata.")

    @classmethod
    def _is_absent(cls, name: str, default: Any) -> bool:
        return name == "status" or super()._is_absent(name, default)
