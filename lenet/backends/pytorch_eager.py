"""PyTorch, one operator after the other: the baseline that every other backend is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from lenet.backends.base import AMPERE, Availability, Backend, BuildSpec, Runner, new_stream
from lenet.backends.precision import DTYPES, allow_tf32, check_override
from lenet.models.pytorch_lenet import Network, network
from lenet.models.quantized_lenet import quantized_network
from lenet.quantization import quantized_precision
from lenet.vocabulary import Precision

__all__ = ["PyTorchBackend", "PyTorchEager", "PyTorchRunner", "build_network"]


def build_network(arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Network:
    """The network that a spec asks for, on its device."""
    return network(arrays, DTYPES[spec.precision], spec.image_dtype).to(spec.device)


class PyTorchBackend(Backend):
    """What the PyTorch backends share: where they run, and in which precisions."""

    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def probe(self, device: torch.device) -> Availability:
        """Available on its devices; on CUDA where PyTorch sees a GPU."""
        return Availability(torch.__version__, self._missing_device(device))

    def executed_precision(self, precision: Precision, device: torch.device) -> str:
        """The precision asked for; TF32 needs a GPU of compute capability 8.0 or newer, and the environment's leave."""
        if precision not in DTYPES:
            raise self._unsupported(precision, device, " or ".join(DTYPES))
        can_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= AMPERE
        if precision is Precision.TF32 and not can_tf32:
            raise self._unsupported(precision, device, "tf32 on an NVIDIA GPU of compute capability 8.0 or newer")
        check_override(precision, device)
        return precision


class PyTorchEager(PyTorchBackend):
    """Eager execution of `lenet.models.pytorch_lenet.LeNet`, or of `lenet.models.quantized_lenet.QuantizedLeNet`."""

    name: ClassVar[str] = "pytorch"

    def executed_precision(self, precision: Precision, device: torch.device) -> str:
        """As the other PyTorch backends, and the quantised precisions by fake quantisation in float32."""
        if quantized_precision(precision) is None:
            return super().executed_precision(precision, device)
        check_override(Precision.FP32, device)
        return precision

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        if quantized_precision(spec.precision) is not None:
            model = quantized_network(arrays, spec.precision, spec.scales).to(spec.device)
            return PyTorchRunner(model, spec)
        return PyTorchRunner(build_network(arrays, spec), spec)


class PyTorchRunner(Runner):
    """Calls a network under the precision's switches, in inference mode, on a stream of its own.

    Args:
        network: Of `build_network`, as it is or compiled.
        spec: What it was made for.
    """

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor], spec: BuildSpec) -> None:
        super().__init__(spec, new_stream(spec.device))
        self._network = network
        self._tf32 = spec.precision is Precision.TF32

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        allow_tf32(self._tf32)
        if torch.is_inference_mode_enabled() and self.is_current():  # as whoever calls it many times has seen to
            return self._network(images)
        with torch.inference_mode(), self.on_stream():
            return self._network(images)

    def _bare(self, images: torch.Tensor) -> Callable[[], object]:
        return partial(self._network, images)
