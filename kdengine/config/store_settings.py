"""The settings of a teacher store: a folder with what the teachers showed in every batch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, model_validator
from pydantic_core import PydanticCustomError

from kdengine.config.strict import Names, Strict
from kdengine.config.validation import COMPLETE

__all__ = ["StoreSettings", "TeacherStoreSetting", "kept_of"]

TOP = re.compile(r"top-([1-9]\d{0,4})")


def kept_of(lossy: str | None) -> int | None:
    """How many logits of each image a store keeps, if not all: 16 of ``top-16``."""
    matched = TOP.fullmatch(lossy or "")
    return int(matched[1]) if matched else None


def _lossy(text: str | None) -> str | None:
    if text in (None, "half") or kept_of(text):
        return text
    raise ValueError("it must be none, half, or top-K with a number of classes K, such as top-16")


class StoreSettings(Strict):
    """Where what the teachers show is kept, and how."""

    folder: Annotated[str | None, Field(min_length=1)] = None
    """Folder in which to keep what each teacher shows in each batch, so that no later run on the same batches has to run it."""
    taps: Names = ()
    """Taps of the teachers to keep beside logits and embedding, such as stage3 or stages."""
    budget: ByteSize | None = None
    """Largest size of the folder, such as 20GB; a run that would need more is refused."""
    lossy: Annotated[str | None, BeforeValidator(lambda value: None if value == "none" else value), AfterValidator(_lossy)] = (
        None
    )
    """Save space at the price of other numbers: 'half' keeps 16 bits of each value; 'top-16' keeps the 16 largest logits of
    each image, and nothing but logits."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        given = [name for name in ("taps", "budget", "lossy") if getattr(self, name)]
        text = ""
        if given and self.folder is None:
            text = f"teacher_store.{given[0]} is set, but there is no teacher store. Name its folder with --teacher-store."
        elif self.taps and kept_of(self.lossy):
            text = f"teacher_store.lossy = {self.lossy} keeps nothing but logits: leave teacher_store.taps out, or lossy."
        if text:
            raise PydanticCustomError(COMPLETE, "{text}", {"text": text})
        return self


def _named(value: Any) -> Any:
    """A path stands for the folder alone."""
    return value if value is None or isinstance(value, Mapping | StoreSettings) else {"folder": str(value)}


TeacherStoreSetting = Annotated[StoreSettings, BeforeValidator(_named)]
"""Type of the setting ``teacher_store``: a folder, or a table of :class:`StoreSettings`."""
