"""Teachers: given, read from a file, or trained once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import nn

from kdengine._version import __version__
from kdengine.cache import cache_folder
from kdengine.config.settings import NEUTRAL, Settings
from kdengine.data.dataset import Data
from kdengine.errors import StorageError
from kdengine.networks.inputs import Preprocess
from kdengine.networks.weights import load_weights
from kdengine.storage.runfolder import RunFolder

__all__ = ["CachedTeacher"]

log = logging.getLogger(__name__)
OTHERWISE = {name.removeprefix("train.") for name in NEUTRAL} | {"precision"}
"""Train settings that make no other teacher; what the precision came to is a part of the key of its own."""


@dataclass(frozen=True)
class CachedTeacher:
    """The place in the cache of a teacher that kdengine trains itself.

    Attributes:
        settings: the settings of its own training, a run without a teacher.
        data: what it is trained on.
        precision: of its training.
        preprocess: what is done to the images before it receives them.
    """

    settings: Settings
    data: Data
    precision: str
    preprocess: Preprocess

    @property
    def folder(self) -> RunFolder:
        """Keyed by data, network, its input, settings and version: another key is another folder."""
        key = {
            "version": __version__,
            "data": self.data.fingerprint,
            "network": self.settings.student,
            "seed": self.settings.seed,
            "precision": self.precision,
            "train": self.settings.train.model_dump(mode="json", exclude=OTHERWISE),
            **({"input": self.preprocess.wanted.describe()} if self.preprocess.changes else {}),
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
        place = self.folder
        cached = place.result() is not None or not self._train(train)
        load_weights(model, place.path / "student.safetensors", self.settings.student)
        result = place.result()
        assert result is not None
        return {**result["student"], "cached": cached, "folder": str(place.path)}

    def _train(self, train: Callable[[Path], Any]) -> bool:
        """Train under a temporary name, so that the cache only ever holds finished teachers; one process at a time.

        Returns:
            Whether it was trained here, and not by another process that was waited for.
        """
        final = self.folder.path
        working = final.with_name(f".{final.name}")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"The cache for teachers '{final.parent}' cannot be made: {error.strerror}. Set KDENGINE_CACHE to another."
            ) from error
        with _alone(final.with_name(f".{final.name}.lock"), self.settings.student):
            if self.folder.result() is not None:
                return False
            train(working)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(working, final)
        return True


@contextmanager
def _alone(path: Path, name: str) -> Iterator[None]:
    """Hold a lock file; it is free again when this process ends, however it ends."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("Waiting for another process that trains the teacher %s", name)
        lock.acquire()
    except OSError as error:
        raise StorageError(f"'{path}' cannot be written: {error.strerror}. Set KDENGINE_CACHE to another folder.") from error
    try:
        yield
    finally:
        lock.release()
