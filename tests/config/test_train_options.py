"""The typed keywords of ``Engine`` and ``Comparison`` are those that the settings have."""

import inspect
from functools import reduce
from operator import or_
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

from kdengine import Engine
from kdengine.config.settings import TrainSettings
from kdengine.config.train_options import TrainOptions
from kdengine.runs.assignment import RunOptions

OWN = ("epochs", "optimizer")
"""Arguments of their own: how long, and an optimizer by name or by a factory."""


def bare(annotation):
    """A type without the bounds of pydantic."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return bare(arguments[0])
    if not arguments or origin is Literal:
        return annotation
    inner = tuple(argument if argument is ... else bare(argument) for argument in arguments)
    return reduce(or_, inner) if origin in (Union, UnionType) else origin[inner]


def test_every_setting_of_the_training_is_a_typed_keyword():
    wanted = {name: bare(field.annotation) for name, field in TrainSettings.model_fields.items() if name not in OWN}
    assert get_type_hints(TrainOptions) == wanted, "add to TrainOptions what the settings have"


def test_a_comparison_takes_the_keywords_of_an_engine():
    parameters = inspect.signature(Engine).parameters.values()
    own = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"out", "assignment", "start"}
    assert own == set(RunOptions.__annotations__) - set(TrainOptions.__annotations__)
