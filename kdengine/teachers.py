"""Teachers: given, read from a file, or trained once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kdengine import __version__
from kdengine.cache import cache_folder
from kdengine.data import Data
from kdengine.models import load_weights
from kdengine.runfolder import RunFolder
from kdengine.settings import Settings

__all__ = ["CachedTeacher"]


@dataclass(frozen=True)
class CachedTeacher:
    """The place in the cache of a teacher that kdengine trains itself.

    Attributes:
        settings: the settings of its own training, a run without a teacher.
        data: what it is trained on.
        precision: of its training.
    """

    settings: Settings
    data: Data
    precision: str

    @property
    def folder(self) -> RunFolder:
        """Keyed by data, network, settings and version: another key is another folder."""
        key = {
            "version": __version__,
            "data": self.data.fingerprint,
            "network": self.settings.student,
            "seed": self.settings.seed,
            "precision": self.precision,
            "train": self.settings.train.model_dump(mode="json", exclude={"device", "workers", "precision"}),
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        name = "".join(char if char.isalnum() or char in "._-" else "-" for char in self.settings.student)
        return RunFolder(cache_folder("teachers", f"{name}-{digest}"))

    def fetch(self, model: nn.Module, train: Callable[[Path], Any]) -> Mapping[str, Any]:
        """Load the teacher's weights into ``model``, training it first when the cache has none.

        Args:
            model: receives the weights.
            train: trains the teacher into the run folder it is given.

        Returns:
            The teacher's ``result.json``, with ``cached`` added.
        """
        cached = self.folder.result()
        if cached is None:
            self._train(train)
        load_weights(model, self.folder.path / "student.safetensors", self.settings.student)
        result = cached or self.folder.result() or {}
        return {**result["student"], "cached": cached is not None, "folder": str(self.folder.path)}

    def _train(self, train: Callable[[Path], Any]) -> None:
        """Train under a temporary name, so that the cache only ever holds finished teachers."""
        final = self.folder.path
        working = final.with_name(f".{final.name}")
        train(working)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(working, final)
