"""Build engines by the real Torch-TensorRT and the real TensorRT for RTX, on a machine that needs no GPU.

A program of its own: ``torch_tensorrt`` puts a proxy in the place of ``tensorrt``, and PyTorch has to answer for a GPU
that is not there. What is replaced:

- a handful of PyTorch's questions to the driver;
- the target: the builder is told compute capability 8.9, as it would otherwise ask for the GPU at hand;
- the deserialised engine, which only a GPU can load. Torch-TensorRT would serialise it again, unchanged.

Lowering, conversion and building are the libraries' own. An engine is then given to Torch-TensorRT's runtime, which
asks the driver for the GPU, and fails. It prints a line of JSON for each case.
"""

from __future__ import annotations

import hashlib
import sys
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import nn

from lenet import parity, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends import torch_tensorrt
from lenet.backends.base import BatchRange, BuildSpec
from lenet.backends.exported import export
from lenet.backends.precision import DTYPES
from lenet.documents import to_json
from lenet.errors import BackendError
from lenet.models.pytorch_lenet import network
from lenet.vocabulary import InputType, Precision

CUDA: Final = torch.device("cuda", 0)
SPECS: Final = {
    "fp32": BuildSpec(CUDA, Precision.FP32, BatchRange.exactly(8)),
    "tf32 range": BuildSpec(CUDA, Precision.TF32, BatchRange(1, 8, 100)),
    "fp16 bytes": BuildSpec(CUDA, Precision.FP16, BatchRange.exactly(8), InputType.UINT8),
    "bf16": BuildSpec(CUDA, Precision.BF16, BatchRange.exactly(1)),
}


class Inverse(nn.Module):
    """A layer of LeNet, and an operator that TensorRT has not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inverse: torch.Tensor = torch.linalg.inv(self.conv1(images))
        return inverse


def pretend_a_gpu() -> None:
    """Answer what Torch-TensorRT asks PyTorch of the GPU."""
    cuda: Any = torch.cuda
    cuda.current_device = lambda: 0
    cuda.get_device_capability = lambda *_: (8, 9)
    cuda.get_device_properties = lambda *_: SimpleNamespace(major=8, minor=9, name="NVIDIA GeForce RTX 4060 Ti")
    cuda.mem_get_info = lambda *_: (2**33, 2**33)
    cuda.empty_cache = cuda.synchronize = lambda *_: None


def keep_networks() -> list[dict[str, Any]]:
    """Have the builder build for compute capability 8.9; what it is asked to build is noted from here on."""
    found: list[dict[str, Any]] = []
    trt = sys.modules["tensorrt"]
    interpreter: Any = sys.modules["torch_tensorrt.dynamo.conversion._TRTInterpreter"]
    populate = interpreter.TRTInterpreter._populate_trt_builder_config

    def configure(self: Any, *arguments: Any) -> Any:
        config, net = populate(self, *arguments), self.ctx.net
        config.num_compute_capabilities = 1
        assert config.set_compute_capability(trt.ComputeCapability.SM89, 0)
        layers = [net.get_layer(index) for index in range(net.num_layers)]
        found.append(
            {
                "tf32": config.get_flag(trt.BuilderFlag.TF32),
                "level": config.builder_optimization_level,
                "layers": [[one.type.name, one.get_output(0).dtype.name] for one in layers],
                "bindings": [
                    [one.name, one.dtype.name, list(one.shape)] for one in (net.get_input(0), net.get_output(0))
                ],
                "lowered": self.module,
            }
        )
        return config

    class Engine(SimpleNamespace):
        def get_aliased_input_tensor(self, _: str) -> None:
            """LeNet's outputs are memory of their own."""

        def serialize(self) -> bytes:
            return bytes(self.plan)

    class Library:
        Runtime = staticmethod(lambda _: SimpleNamespace(deserialize_cuda_engine=lambda plan: Engine(plan=plan)))

        def __getattr__(self, name: str) -> Any:
            return getattr(trt, name)

    interpreter.TRTInterpreter._populate_trt_builder_config = configure
    interpreter.trt = Library()
    return found


def main() -> None:
    pretend_a_gpu()
    library = torch_tensorrt._library()
    networks = keep_networks()
    arrays = weights.load().arrays
    generator = torch.Generator().manual_seed(0)
    plan = b""
    for name, spec in [*SPECS.items(), ("fp32 again", SPECS["fp32"])]:
        lenet = network(arrays, DTYPES[spec.precision], spec.image_dtype)
        plan = torch_tensorrt.convert(library, export(lenet, spec), spec)
        asked = networks.pop()
        shape = spec.batches.optimum, *INPUT_SHAPE
        images = torch.randn(shape, generator=generator)
        if spec.input is InputType.UINT8:
            images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        with torch.no_grad():  # on a CPU its products are float32's, whatever TensorRT may round
            logits = asked.pop("lowered")(images)
        allowed = parity.tolerance(arrays, images, spec.precision)
        asked["right"] = bool(parity.compare(logits, parity.reference(arrays, images), allowed).right)
        asked["plan"] = [len(plan), hashlib.sha256(plan).hexdigest()]
        print(to_json({name: asked}))  # noqa: T201 - for the test that runs this
    load = torch_tensorrt._Loader(library, CUDA, torch_tensorrt.TorchTensorRTRTX())
    assert load(plan) is None
    print(to_json({"runtime": load.problem}))  # noqa: T201
    inverse = torch.export.export(Inverse().eval(), (torch.zeros(8, *INPUT_SHAPE),))
    try:
        torch_tensorrt.convert(library, inverse, SPECS["fp32"])
    except BackendError as error:
        print(to_json({"refused": str(error)}))  # noqa: T201


if __name__ == "__main__":
    main()
