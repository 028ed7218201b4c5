"""TriPy's runner on the stand-in, in a process where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from lenet.backends.base import BatchRange, BuildSpec
from lenet.backends.tripy import TriPyRunner, compile_executable
from lenet.vocabulary import InputType, Precision

if TYPE_CHECKING:
    import nvtripy as tp

__all__ = ["StandinRunner", "build", "device_tensor"]


def device_tensor(tensor: torch.Tensor) -> tp.Tensor:
    """nvtripy's view of a CPU tensor, whose memory the stand-in takes for a device's."""
    import nvtripy as tp
    from mlir_tensorrt.runtime.api import device_memory

    with device_memory(tensor):
        return tp.Tensor(tensor)


class StandinRunner(TriPyRunner):
    """The runner of `lenet.backends.tripy` with CPU buffers that pass for a device's."""

    def _view(self, images: torch.Tensor) -> tp.Tensor:
        from mlir_tensorrt.runtime.api import device_memory

        with device_memory(images):
            return super()._view(images)


def build(
    arrays: Mapping[str, np.ndarray],
    precision: Precision,
    batches: BatchRange,
    input_type: InputType = InputType.FLOAT32,
) -> StandinRunner:
    """What `TriPy.build` would build on a GPU, interpreted on the CPU."""
    spec = BuildSpec(torch.device("cpu"), precision, batches, input_type)
    return StandinRunner(compile_executable(arrays, precision, batches, input_type), spec, stream=None)
