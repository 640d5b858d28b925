"""What all models of settings and options have in common."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from kdengine.config.validation import faults_in
from kdengine.config.values import split_names
from kdengine.errors import SettingsError

__all__ = ["MANY", "Names", "Strict", "describe_fields"]

MANY = 10_000_000
"""Largest number of epochs or of images in a batch, so that a typo is refused before it overflows a counter of torch."""


class Strict(BaseModel):
    """Base of every settings and options model: frozen, unknown names are refused, the string under a field is its help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _of_plain_numbers(cls, values: Any) -> Any:
        """Numbers of NumPy, as ``np.arange`` and ``np.logspace`` give them, are numbers."""
        return {name: _plain(value) for name, value in values.items()} if isinstance(values, Mapping) else values

    @classmethod
    def checked(cls, values: Mapping[str, Any], owner: str = "") -> Self:
        """Build the model, or report every fault at once.

        Args:
            values: field -> value.
            owner: prefix of the names in errors, such as ``rkd``.

        Raises:
            SettingsError: with one line per unknown name or invalid value.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise SettingsError("\n".join(faults_in(cls, values, error.errors(), owner))) from None


def _plain(value: Any) -> Any:
    """A scalar of NumPy or torch as the Python number that it is; any other value as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def describe_fields(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """For each field of a model its default, its help and the name of its type, as plain data."""
    return {
        name: {
            "default": field.get_default(call_default_factory=True),
            "help": " ".join((field.description or "").split()),
            "type": _type_name(field),
        }
        for name, field in model.model_fields.items()
    }


def _type_name(field: Any) -> str:
    annotation = _bare(field.annotation)
    return annotation.__name__ if type(annotation) is type else str(annotation).replace("typing.", "")


def _bare(annotation: Any) -> Any:
    """A type without its pydantic annotations."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bare(arguments[0])
    if not arguments or origin is Literal:
        return annotation
    bare = tuple(map(_bare, arguments))
    return reduce(or_, bare) if origin in (Union, UnionType) else origin[bare]


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(split_names)]
"""Type of an option that lists names, such as taps or networks; on the command line they are separated by commas."""
