"""Run the kernels of a training step on the CPU, with g++ in the place of NVRTC."""

from __future__ import annotations

import ctypes
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lenet.data.augmentation import Crop, scale_and_shift
from lenet.kernels import step
from lenet.training.step_kernels import Kernels, Launch, Memory
from tests.kernels.emulation import COMPILER, HERE, OPTIONS, _compiler, _standard_headers
from tests.kernels.stored import compiled


@cache
def library() -> ctypes.CDLL:
    """The kernels' source behind the emulator's header, compiled."""
    source = f'#include "emulator.h"\n{step.source()}\n#include "step.inc"\n'
    options = [*OPTIONS, "-DEMULATED_BULK=false", *(f"-D{name}={value}" for name, value in step.MACROS.items())]

    def compile_now(directory: Path) -> bytes:
        (directory / "step.cpp").write_text(source, encoding="utf-8")
        precompiled = ("-include", str(Path(_standard_headers().name) / "standard.h"))
        command = [str(COMPILER), *options, *precompiled, f"-I{HERE}", "-o", "step.so", "step.cpp"]
        subprocess.run(command, cwd=directory, check=True)
        return (directory / "step.so").read_bytes()

    included = [(HERE / name).read_text(encoding="utf-8") for name in ("emulator.h", "step.inc")]
    content = compiled(*_compiler(), [source, *included, *options], compile_now)
    with TemporaryDirectory(prefix="lenet-emulator-") as directory:
        file = Path(directory) / "step.so"
        file.write_bytes(content)
        return ctypes.CDLL(str(file))


def _pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())


def _augment(images: torch.Tensor, order: torch.Tensor, crops: Crop, padding: int) -> torch.Tensor:
    made = torch.full((len(order), *images.shape[1:]), torch.nan)
    drawn = map(_pointer, (images, order, crops.top, crops.left, crops.flip))
    out = map(_pointer, (*scale_and_shift(images.device), made))
    library().make_images(*drawn, ctypes.c_int(padding), *out, ctypes.c_int(len(order)))
    return made


def _bind(memory: Memory) -> Launch:
    memory.scratch.fill_(torch.nan)  # until it is written

    def numbers(of: list[int]) -> ctypes.Array[ctypes.c_int]:
        return (ctypes.c_int * len(of))(*of)

    def launch(images: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor) -> None:
        library().step(
            numbers([kernel.blocks(len(labels)) for kernel in step.KERNELS]),
            numbers([kernel.threads for kernel in step.KERNELS]),
            numbers([kernel.shared_bytes for kernel in step.KERNELS]),
            *map(_pointer, (images, labels, memory.weights, memory.momentum, memory.rate)),
            ctypes.c_float(memory.keep),
            ctypes.c_float(memory.decay),
            *map(_pointer, (memory.scratch, logits)),
            ctypes.c_int(len(labels)),
        )

    return launch


KERNELS = Kernels(_augment, _bind)
"""As `lenet.training.step_kernels.load` gives them for a GPU."""
