"""The formats of exported files: how each is written, and read back to be checked."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from kdengine.errors import ModelError, SettingsError, cause
from kdengine.seeds import undisturbed
from kdengine.shipping.exportable import Exportable
from kdengine.storage.writing import save_tensors

__all__ = ["FORMATS", "Format", "Onnx", "Safetensors", "TorchExport"]

INPUT, OUTPUT, BATCH = "images", "logits", "batch"
NOTES = "kdengine.json"
"""The extra file of a ``torch.export`` archive that holds the notes."""


class Format(ABC):
    """A format of exported files.

    Args:
        module: what to export.
        batch: number of images in every batch; None for any.
        notes: what the file says about itself.
    """

    suffix: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()

    def __init__(self, module: Exportable, batch: int | None, notes: Mapping[str, str]) -> None:
        self.module, self.batch, self.notes = module, batch, notes

    @classmethod
    def check(cls) -> None:
        """Refuse the format if packages that it needs are missing.

        Raises:
            SettingsError: names the packages, and how to install them.
        """
        missing = [name for name in cls.packages if find_spec(name) is None]
        if missing:
            raise SettingsError(f"This format needs {' and '.join(missing)}: pip install 'kdengine[onnx]'.")

    @abstractmethod
    def write(self, file: Path) -> None:
        """Write the file.

        Raises:
            ModelError: the network cannot be expressed in the format.
        """

    @abstractmethod
    def read(self, file: Path) -> Callable[[Tensor], Tensor]:
        """The function that the file holds: images [B, C, H, W] -> logits [B, K], on the CPU."""


class _Graph(Format):
    """Formats that hold the operations of the network too, and so need no code to run it."""

    def traced(self) -> torch.export.ExportedProgram:
        """The module as a graph.

        Raises:
            ModelError: torch cannot trace it.
        """
        example = torch.zeros(self.batch or 2, *self.module.input_size)
        shapes = None if self.batch else ({0: torch.export.Dim(BATCH, min=1)},)
        try:
            with torch.no_grad(), _quiet():
                return torch.export.export(self.module, (example,), dynamic_shapes=shapes, strict=False)
        except Exception as error:  # what a network does may be refused in any way
            raise self.refusal(error) from error

    def refusal(self, error: Exception) -> ModelError:
        """The error of a network that cannot be expressed."""
        other = " The network may fix the size of its batches: try --batch 1." if self.batch is None else ""
        return ModelError(f"The network cannot be exported: {cause(error)[:300].rstrip('.')}.{other}")


class Onnx(_Graph):
    """ONNX; the notes are its ``metadata_props``."""

    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, file: Path) -> None:
        """Convert the graph to ONNX, with all weights in one file."""
        traced = self.traced()
        try:
            with torch.no_grad(), _quiet():
                program = torch.onnx.export(
                    traced, (), dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False, external_data=False
                )
            assert program is not None
            self._name_batch(program)
            program.model.metadata_props.update(self.notes)
        except Exception as error:  # operators may be missing, or refused in any way
            raise self.refusal(error) from error
        program.save(str(file), external_data=False)

    def _name_batch(self, program: torch.onnx.ONNXProgram) -> None:
        """Call the free dimension ``batch``; torch numbers it."""
        if self.batch is None:
            for value in (*program.model.graph.inputs, *program.model.graph.outputs):
                assert value.shape is not None
                value.shape[0] = BATCH

    def read(self, file: Path) -> Callable[[Tensor], Tensor]:
        """Run the file in ONNX Runtime on the CPU."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> Tensor:
            (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
            return torch.from_numpy(logits)

        return run


class TorchExport(_Graph):
    """An archive of ``torch.export``; the notes are an extra file, ``kdengine.json``."""

    suffix = ".pt2"

    def write(self, file: Path) -> None:
        """Save the graph with its weights."""
        with file.open("wb") as opened, _quiet():
            torch.export.save(self.traced(), opened, extra_files={NOTES: json.dumps(dict(self.notes))})

    def read(self, file: Path) -> Callable[[Tensor], Tensor]:
        """Load the graph again."""
        with file.open("rb") as opened, _quiet():
            module = torch.export.load(opened).module()

        def run(images: Tensor) -> Tensor:
            logits: Tensor = module(images)
            return logits

        return run


class Safetensors(Format):
    """The weights alone, to be loaded into the same network; the notes are the metadata of the file."""

    suffix = ".safetensors"

    def write(self, file: Path) -> None:
        """Save the state dict of the network."""
        save_tensors(file, self.module.network.state_dict(), self.notes)

    def read(self, file: Path) -> Callable[[Tensor], Tensor]:
        """Load the weights into a copy of the network that has lost its own."""
        twin = copy.deepcopy(self.module)
        with torch.no_grad():
            for tensor in twin.network.state_dict().values():
                tensor.zero_()
        twin.network.load_state_dict(load_file(file))
        return twin


FORMATS: Mapping[str, type[Format]] = {"onnx": Onnx, "torch-export": TorchExport, "safetensors": Safetensors}


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, exporters neither warn nor log: the file that they make is checked instead."""
    with undisturbed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
