"""The cache of teachers that kdengine trains itself."""

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
IRRELEVANT = {name.removeprefix("train.") for name in NEUTRAL if name.startswith("train.")} | {"precision"}
"""Train settings that do not change the teacher; the resolved precision is a separate part of the key."""


@dataclass(frozen=True)
class CachedTeacher:
    """The cache entry of a teacher that kdengine trains itself.

    Attributes:
        settings: settings of its own training, which is a run without a teacher.
        data: the data it is trained on.
        precision: the precision it is trained in.
        preprocess: turns images of the data into its input.
    """

    settings: Settings
    data: Data
    precision: str
    preprocess: Preprocess

    @property
    def folder(self) -> RunFolder:
        """Its folder, keyed by data, task, network, input, settings and version."""
        key = {
            "version": __version__,
            "data": self.data.fingerprint,
            "network": self.settings.student,
            "seed": self.settings.seed,
            "precision": self.precision,
            "train": self.settings.train.model_dump(mode="json", exclude=IRRELEVANT),
            **({} if self.settings.task in (None, self.data.task) else {"task": self.settings.task}),
            **({"input": self.preprocess.wanted.describe()} if self.preprocess.changes else {}),
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        name = "".join(char if char.isalnum() or char in "._-" else "-" for char in self.settings.student)
        return RunFolder(cache_folder("teachers", f"{name}-{digest}"))

    def fetch(self, model: nn.Module, train: Callable[[Path], Any]) -> Mapping[str, Any]:
        """Load the teacher's weights into ``model``, training it first if it is not cached.

        Args:
            model: receives the weights.
            train: trains the teacher into the given run folder.

        Returns:
            The teacher's ``result.json``, with ``cached`` added.
        """
        folder = self.folder
        cached = folder.result() is not None or not self._train(train)
        load_weights(model, folder.path / "student.safetensors", self.settings.student)
        result = folder.result()
        assert result is not None
        return {**result["student"], "cached": cached, "folder": str(folder.path)}

    def _train(self, train: Callable[[Path], Any]) -> bool:
        """Train under a temporary name, so that the cache holds only finished teachers; one process at a time.

        Returns:
            Whether this process trained it, rather than waiting for another that did.
        """
        final = self.folder.path
        working = final.with_name(f".{final.name}")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"Cannot create the teacher cache '{final.parent}': {error.strerror}. Set KDENGINE_CACHE to another folder."
            ) from error
        with _alone(final.with_name(f".{final.name}.lock"), self.settings.student):
            if self.folder.result() is not None:
                return False
            if RunFolder(working).result() is None:  # else it only could not be put in its place before
                train(working)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(working, final)
        return True


@contextmanager
def _alone(path: Path, name: str) -> Iterator[None]:
    """Hold a lock file; the lock is released when this process ends, even if it is killed."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("Waiting for another process to train the teacher %s", name)
        lock.acquire()
    except OSError as error:
        raise StorageError(f"Cannot write '{path}': {error.strerror}. Set KDENGINE_CACHE to another folder.") from error
    try:
        yield
    finally:
        lock.release()
