"""Nobody writes into what all lanes share: the batch, what the teachers showed, and the teachers themselves."""

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

SHARED = "All lanes and methods read the same tensors: write into a copy, tensor.clone(), instead."


class Watch:
    """Watches one batch from the teachers' forwards to the last lane's step; costs microseconds a lane.

    Args:
        batch: the images, targets and positions that all lanes receive.
    """

    def __init__(self, batch: Batch) -> None:
        self._tensors = [tensor for tensor in (batch.x, batch.y, batch.index) if isinstance(tensor, Tensor)]
        self._before = self._written()
        self._traces: Mapping[TeacherQuery, Trace] = {}
        self._versions: dict[TeacherQuery, dict[str, int]] = {}

    def teachers(self, traces: Mapping[TeacherQuery, Trace]) -> Mapping[TeacherQuery, Trace]:
        """Check the teachers' forwards, and from now on what they recorded.

        Raises:
            TrainingError: a teacher wrote into its images.
        """
        if self._written() != self._before:
            raise TrainingError(f"The teacher writes into its images. {SHARED}")
        self._traces = traces
        self._versions = {query: trace.versions() for query, trace in traces.items()}
        return traces

    @contextmanager
    def lane(self, lane: Lane) -> Iterator[None]:
        """Check the step that a lane takes inside.

        Raises:
            TrainingError: it wrote into the batch, into what a teacher showed, or into a teacher.
        """
        query = lane.teacher_query
        yield
        if query is not None:
            query.teacher.check_untouched(lane.name)
        if self._written() != self._before:
            raise TrainingError(f"{lane.name}: a step wrote into the images or labels. {SHARED}")
        for shown, versions in self._versions.items():
            if not versions.items() <= self._traces[shown].versions().items():
                raise TrainingError(f"{lane.name}: a step wrote into what the teacher showed. {SHARED}")

    def _written(self) -> list[int]:
        """How often each tensor of the batch has been written to."""
        return [times_written(tensor) for tensor in self._tensors]


def check_teachers(lanes: Iterable[Lane]) -> None:
    """Compare every bit of the lanes' teachers with what they were at their first forward.

    Raises:
        TrainingError: a teacher's weights or buffers changed.
    """
    for teacher in {lane.teacher_query.teacher for lane in lanes if lane.teacher_query is not None}:
        teacher.check_unchanged()
