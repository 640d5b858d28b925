"""Which columns of a table hold images and labels or masks, and the classes that the labels make."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kdengine.data.targets import class_indices, label_marks
from kdengine.errors import DataError, did_you_mean

__all__ = ["Columns"]

LABELS = ("label", "labels")
"""Names of columns that hold labels without being asked for."""
MASKS = ("mask", "label", "annotation", "segmentation")
"""Names of columns of images that hold masks without being asked for, if there is another column of images."""
IMAGES = ("binary", "large_binary", "string")
"""Types of columns that hold images, or paths of images, if the user says so."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table of Hugging Face ``datasets`` to learn from.

    Attributes:
        data: what messages call the data.
        image: the column of the images.
        target: the column of the labels: class indices, other integers, or text, or lists of these; or of the masks.
        names: the class names, if the column has some.
        task: what the column makes the data for: ``"classification"``, ``"multilabel"`` or ``"segmentation"``.
    """

    data: str
    image: str
    target: str
    names: tuple[str, ...] | None
    task: str = "classification"

    @classmethod
    def of(cls, data: str, features: Mapping[str, Any], image: str, label: str, datasets: Any, mask: str = "") -> Columns:
        """Choose the columns.

        Args:
            data: what messages call the data.
            features: column -> kind.
            image: the column that the user wants, or empty.
            label: likewise.
            datasets: the library.
            mask: the column of masks that the user wants, or empty.

        Raises:
            DataError: there is no such column, or it is unclear which one it is; lists the columns with their kinds.
        """
        images = {column for column, kind in features.items() if isinstance(kind, datasets.Image)}
        have = f"It has {', '.join(f'{column} ({_kind(kind)})' for column, kind in features.items())}."
        _check_image(data, image, images, features, have)
        if mask and (label or not (mask in images or _may_hold_images(features.get(mask)))):
            problem = "takes @mask or @label, not both" if label else f"has no column '{mask}' of masks"
            raise DataError(f"'{data}' {problem}. Choose one with @mask=COLUMN. {have}")
        masks = mask or ("" if label else _masks(images, image))
        image = image or next((column for column in features if column in images and column != masks), masks)
        if masks:
            if masks == image:
                raise DataError(f"'{data}' has no images beside the masks '{masks}'. Choose them with @image=COLUMN. {have}")
            return cls(data, image, masks, None, "segmentation")
        able = {column for column, kind in features.items() if _makes_classes(_single(kind), datasets)}
        target = label or _target(features, able - {image}, datasets)
        if target not in able:
            choice = f"Choose one of {', '.join(sorted(able))} with @label=COLUMN." if able else ""
            problem = (
                f"no column '{label}' of labels" if label else "no column that must be the labels" if able else "no labels"
            )
            raise DataError(f"'{data}' has {problem}. {choice} {have}".replace("  ", " "))
        kind = _single(features[target])
        names = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None
        task = "classification" if kind is features[target] else "multilabel"
        return cls(data, image, target, names, task)

    def labelled(self, rows: Any) -> bool:
        """Whether any image of a split has a label; the test images of competitions come with -1 throughout."""
        if self.target not in rows.features:
            return False
        if self.task == "segmentation":  # not looked at one by one, for that would decode them
            return bool(rows.data.column(self.target).null_count < len(rows))
        values = rows[self.target]
        return any(value is not None and not (isinstance(value, int) and value < 0) for value in values)

    def classes_of(self, splits: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
        """The class names, and the targets of each split: int64 [N], or float32 [N, K] of lists of labels.

        Integers are classes in their order, text in that of the alphabet; the classes are those of all splits together.

        Raises:
            DataError: an image has no label.
        """
        columns = {part: list(rows[self.target]) for part, rows in splits.items()}
        for part, values in columns.items():
            missing = sum(value is None for value in values)
            if missing:
                raise DataError(
                    f"'{self.data}': {missing} of {len(values)} rows of '{part}' have no '{self.target}'. Remove them."
                )
        return (class_indices if self.task == "classification" else label_marks)(columns, self.names)


def _check_image(data: str, image: str, images: Collection[str], features: Mapping[str, Any], have: str) -> None:
    """Refuse a column of images that there is not, and a table without any."""
    if image and image not in images and not _may_hold_images(features.get(image)):
        near = did_you_mean(image, images)
        raise DataError(f"'{data}' has no column '{image}' of images. {near or 'Choose with @image=COLUMN.'} {have}")
    if not image and not images:
        raise DataError(f"'{data}' has no column of images. Choose one with @image=COLUMN. {have}")


def _target(features: Mapping[str, Any], able: set[str], datasets: Any) -> str:
    """The column of labels when none is asked for; empty if it is unclear which one it is. Lists come after single labels."""
    usual = [column for column in LABELS if column in able]
    single = [column for column in features if column in able and _single(features[column]) is features[column]]
    columns = single or [column for column in features if column in able]
    named = [column for column in columns if isinstance(_single(features[column]), datasets.ClassLabel)]
    return next(iter([*usual, *named, *(columns if len(columns) == 1 else [])]), "")


def _masks(images: Collection[str], image: str) -> str:
    """The column of images that holds masks by its name; empty if there is none, or no other one of images."""
    return next((column for column in MASKS if column in images and column != image and len(images) > 1), "")


def _single(kind: Any) -> Any:
    """The kind of one label of a column, which may hold lists of them."""
    inner = getattr(kind, "feature", None)
    return kind if inner is None or isinstance(inner, Mapping) else inner


def _makes_classes(kind: Any, datasets: Any) -> bool:
    """Whether values can be classes: integers, truth values or text."""
    if isinstance(kind, datasets.ClassLabel):
        return True
    return str(getattr(kind, "dtype", "")).startswith(("int", "uint", "bool", "string", "large_string"))


def _may_hold_images(kind: Any) -> bool:
    return getattr(kind, "dtype", None) in IMAGES or (isinstance(kind, Mapping) and "bytes" in kind)


def _kind(kind: Any) -> str:
    """``Image``, ``ClassLabel``, ``int64``, ``string``, ``list of string``."""
    if _single(kind) is not kind:
        return f"list of {_kind(_single(kind))}"
    name = type(kind).__name__
    return str(kind.dtype) if name == "Value" else name
