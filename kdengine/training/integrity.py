"""Detect in-place writes to what lanes share: the batch, the teachers' traces, and the teachers themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from kdengine.data.batches import Batch
from kdengine.errors import TrainingError
from kdengine.taps import Trace
from kdengine.taps.tensors import times_written
from kdengine.training.chain import TeacherQuery
from kdengine.training.lane import Lane

__all__ = ["Watch", "check_teachers"]

SHARED = "All lanes and methods read the same tensors: modify a copy instead, tensor.clone()."


class Watch:
    """Watches one batch from the teachers' forwards to the last lane's step; costs microseconds per lane.

    Args:
        batch: the images, targets and indices that all lanes receive.
    """

    def __init__(self, batch: Batch) -> None:
        self._tensors = [tensor for tensor in (batch.x, batch.y, batch.index, *batch.views) if isinstance(tensor, Tensor)]
        self._counts_before = self._write_counts()
        self._traces: Mapping[TeacherQuery, Trace] = {}
        self._versions: dict[TeacherQuery, dict[str, int]] = {}

    def teachers(self, traces: Mapping[TeacherQuery, Trace]) -> Mapping[TeacherQuery, Trace]:
        """Check the teachers' forwards, and watch their traces from now on.

        Raises:
            TrainingError: a teacher modified its images in place.
        """
        if self._write_counts() != self._counts_before:
            raise TrainingError(f"The teacher modifies its input images in place. {SHARED}")
        self._traces = traces
        self._versions = {query: trace.versions() for query, trace in traces.items()}
        return traces

    @contextmanager
    def lane(self, lane: Lane) -> Iterator[None]:
        """Check the step that a lane takes inside the context.

        Raises:
            TrainingError: the step modified the batch, a teacher's trace, or a teacher.
        """
        asked = lane.teacher_queries
        yield
        for query in asked[0] if asked else ():
            query.teacher.check_untouched(lane.name)
        if self._write_counts() != self._counts_before:
            raise TrainingError(f"{lane.name}: a step modified the images or targets in place. {SHARED}")
        for query, versions in self._versions.items():
            if not versions.items() <= self._traces[query].versions().items():
                raise TrainingError(f"{lane.name}: a step modified the teacher's trace in place. {SHARED}")

    def _write_counts(self) -> list[int]:
        """How often each tensor of the batch has been written to."""
        return [times_written(tensor) for tensor in self._tensors]


def check_teachers(lanes: Iterable[Lane]) -> None:
    """Verify that the lanes' teachers are bit-identical to what they were at their first forward.

    Raises:
        TrainingError: a teacher's weights or buffers have changed.
    """
    for teacher in {query.teacher for lane in lanes for view in lane.teacher_queries for query in view}:
        teacher.check_unchanged()
