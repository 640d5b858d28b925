"""Every setting with its type, default, allowed values and help, read from the models themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from kdengine.config.settings import MANY, Settings

__all__ = ["OTHER", "TRAIN_GROUPS", "Entry", "entries_of", "every_setting", "to_markdown", "values_of"]

WORDS: Mapping[Any, str] = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    dict: "table",
    ByteSize: "number of bytes",
    type(None): "",
}
SIGNS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))

RUN, TEACHER, INPUT, OTHER = "The run", "The teacher's training", "Images that the networks receive", "Further settings"
STORE = "Teacher store"
TRAIN_GROUPS: Mapping[str, tuple[str, ...]] = {
    "Length and batches": ("epochs", "batch_size", "accumulate", "drop_last", "patience", "balanced_sampling"),
    "Optimizer": (
        "optimizer",
        "lr",
        "momentum",
        "weight_decay",
        "nesterov",
        "decay_norms_and_biases",
        "clip_grad",
        "ema",
        "reset_optimizer",
    ),
    "Learning rate over time": ("schedule", "milestones", "decay", "warmup_epochs"),
    "Fine-tuning": ("head_lr", "backbone_lr", "layer_decay", "freeze"),
    "Images": (
        *("augment", "second_view", "augment_operations", "augment_magnitude", "crop_scale", "color_jitter", "erase"),
        *("mixup", "cutmix", "validation"),
    ),
    "Loss of the task": ("label_smoothing", "class_weights"),
    "Device and speed": ("device", "precision", "compile", "fold_teacher", "checkpointing", "channels_last", "workers"),
    "Several processes": ("strategy", "sync_batchnorm"),
    "Saving": ("save_minutes", "keep_every", "log_every"),
}
"""Which settings of ``train`` stand together; what is named nowhere follows under :data:`OTHER`."""


@dataclass(frozen=True)
class Entry:
    """One setting or option.

    Attributes:
        name: as ``-o`` takes it, such as ``train.lr``.
        type: in words, such as ``number``; of a choice, its values.
        default: as plain data; None if there is none.
        required: whether it must be given.
        allowed: the bounds of the value, in words; empty if there are none.
        help: what it does.
        group: under which heading it stands.
    """

    name: str
    type: str
    default: Any
    required: bool
    allowed: str
    help: str
    group: str = OTHER

    @property
    def shown_default(self) -> str:
        """The default as the command line writes it; empty if it is left out."""
        if self.required or self.default is None:
            return "required" if self.required else ""
        return self.default if isinstance(self.default, str) else json.dumps(self.default)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def entries_of(model: type[BaseModel], prefix: str = "", group: str = OTHER) -> Iterator[Entry]:
    """Every field of a model, those of the models inside it under their dotted names.

    Args:
        model: settings or the options of a method.
        prefix: before every name, such as ``train.``.
        group: the heading of all of them.
    """
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from entries_of(inner, f"{prefix}{name}.", group)
        else:
            yield _entry(f"{prefix}{name}", field, group)


def every_setting() -> list[Entry]:
    """All settings of a run, in the order in which they are explained."""
    known = {entry.name: entry for entry in entries_of(Settings)}
    headings = {f"train.{name}": group for group, names in TRAIN_GROUPS.items() for name in names}
    headings |= dict.fromkeys(("teacher_weights", "further_teacher_weights", "teacher_train"), TEACHER)
    headings |= {name: INPUT for name in known if "_input." in name}
    headings |= {name: STORE for name in known if name.startswith("teacher_store.")}
    headings |= {name: RUN for name in known if "." not in name and name not in headings}
    order = [RUN, *TRAIN_GROUPS, OTHER, TEACHER, STORE, INPUT]
    grouped = [Entry(**{**vars(entry), "group": headings.get(entry.name, OTHER)}) for entry in known.values()]
    places = {name: place for place, name in enumerate(headings)}
    return sorted(grouped, key=lambda entry: (order.index(entry.group), entry.group != RUN and places.get(entry.name, 0)))


def to_markdown(entries: list[Entry]) -> str:
    """A heading and a table for each group."""
    parts = []
    for group in dict.fromkeys(entry.group for entry in entries):
        rows = [
            f"| `{entry.name}` | {_code(entry)} | {_cell(values_of(entry))} | {_cell(entry.help)} |"
            for entry in entries
            if entry.group == group
        ]
        parts.append("\n".join([f"## {group}", "", "| setting | default | values | |", "| --- | --- | --- | --- |", *rows]))
    return "\n\n".join(parts) + "\n"


def _entry(name: str, field: FieldInfo, group: str) -> Entry:
    default = None if field.default is PydanticUndefined else field.get_default(call_default_factory=True)
    plain = list(default) if isinstance(default, tuple) else default
    allowed = ", ".join([*_bounds(field.metadata), *_inner_bounds(field.annotation)])
    return Entry(
        name, _words(field.annotation), plain, field.is_required(), allowed, " ".join((field.description or "").split()), group
    )


def _words(annotation: Any) -> str:
    """A type in words: ``list of numbers``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(_words, arguments))))
    if origin is Literal:
        return ", ".join(str(value) for value in arguments if value is not None)
    if origin in (tuple, list) or annotation in (tuple, list):
        return f"list of {_plural(_words(arguments[0]))}" if arguments else "list"
    return WORDS.get(origin or annotation, getattr(annotation, "__name__", str(annotation)))


def _plural(word: str) -> str:
    return {"text": "texts"}.get(word, f"{word}s")


def _bounds(metadata: Any) -> list[str]:
    """``at least 0``, ``below 1``; the limits that only refuse typos are left out."""
    limits = [(words, getattr(item, name)) for item in metadata for name, words in SIGNS if hasattr(item, name)]
    return [f"{words} {limit}" for words, limit in limits if limit is not None and limit != MANY]


def _inner_bounds(annotation: Any) -> list[str]:
    """The bounds of the items of a list, or of one of several types."""
    found: list[str] = []
    for inner in get_args(annotation):
        if get_origin(inner) is Annotated:
            for item in get_args(inner)[1:]:
                found += _bounds(item.metadata if isinstance(item, FieldInfo) else [item])
        found += _inner_bounds(inner) if inner is not ... else []
    return list(dict.fromkeys(found))


def values_of(entry: Entry) -> str:
    """Type and allowed values in one text."""
    return ", ".join(filter(None, (entry.type, entry.allowed)))


def _code(entry: Entry) -> str:
    default = entry.shown_default
    return f"`{default}`" if default and not entry.required else default


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
