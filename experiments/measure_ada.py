"""Check and time what compute capability 8.9 gets on the GPU of this machine; prints the record of `predict_ada.py`.

``python experiments/measure_ada.py > docs/results/ada.json``

The variants are compiled for compute capability 8.9, with its 99 KB of shared memory and without bulk copies, as PTX.
The driver translates that for the GPU that is there, of compute capability 8.9 or newer.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from statistics import median

import torch

from lenet import devices, parity, weights
from lenet.architecture import CLASSES, INPUT_SHAPE
from lenet.backends.engine_cache import Cached
from lenet.backends.fused import Kernel
from lenet.data.augmentation import normalize
from lenet.documents import to_json
from lenet.errors import BackendError
from lenet.kernels import ENTRY, Variant, pack
from lenet.kernels.compiler import OPTIONS, compile_variant, cuda_core, nvrtc_version
from lenet.provenance import source_commit
from predict_ada import BATCHES, H200, Measured, batches, measured_variants


class Bench:
    """The GPU of this machine, with images and their reference logits."""

    def __init__(self) -> None:
        self.device = devices.resolve("cuda")
        self.arrays = weights.load().arrays
        self.stream = torch.cuda.Stream(self.device)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (1000, *INPUT_SHAPE), dtype=torch.uint8, generator=generator)
        found = parity.Reference(self.arrays, normalize(pixels))
        self.wanted, self.tolerance = found.logits.to(self.device), found.tolerance
        self.images = {False: normalize(pixels).to(self.device), True: pixels.to(self.device)}
        self.multiprocessors = torch.cuda.get_device_properties(self.device).multi_processor_count

    def load(self, variant: Variant) -> Kernel:
        """The variant's code for compute capability 8.9 as PTX, translated by the driver.

        Raises:
            BackendError: NVRTC or the driver refuses it.
        """
        core, driver = cuda_core(), importlib.import_module("cuda.bindings.driver")
        options = core.ProgramOptions(arch="compute_89", define_macro=list(variant.macros.items()), **OPTIONS)
        core.Device(self.device.index).set_current()
        code = core.Program(variant.source, "c++", options).compile("ptx")
        kernel = code.get_kernel(ENTRY)
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        handle, ordinal = driver.CUkernel(int(kernel.handle)), driver.CUdevice(self.device.index)
        (status,) = driver.cuKernelSetAttribute(attribute, variant.shared_bytes, handle, ordinal)
        if int(status):
            raise BackendError(
                "the driver refuses the kernel",
                found=f"{variant.shared_bytes:,} bytes of shared memory: {status}",
                wanted="a GPU whose blocks can have as much",
                hint="use a GPU of compute capability 8.9 or newer",
            )
        parameters = torch.from_numpy(pack(self.arrays, variant)).to(self.device)
        workspace = torch.zeros(BATCHES[-1] + 1000, variant.workspace).to(self.device)
        return Kernel(variant, Cached(kernel, "", from_cache=False), parameters, workspace)

    def share(self, kernel: Kernel, batch: int) -> float:
        """The largest error of a batch's logits, of its tolerance."""
        variant = kernel.variant
        logits = torch.full((batch, CLASSES), torch.nan, device=self.device)
        torch.cuda.synchronize()
        kernel.bind(self.stream, self.images[variant.bytes_in][:batch], logits)()
        self.stream.synchronize()
        delta = (logits.double() - self.wanted[:batch]).abs().nan_to_num(nan=torch.inf)
        return float((delta / self.tolerance(variant.precision)[:batch].to(self.device)).max())

    def time(self, kernel: Kernel, batch: int, launches: int = 20, rounds: int = 15) -> float:
        """Median microseconds of a launch behind another, replayed in a graph."""
        variant = kernel.variant
        images = self.images[variant.bytes_in].repeat(-(-batch // 1000), 1, 1, 1)[:batch].clone()
        launch = kernel.bind(self.stream, images, torch.empty(batch, CLASSES, device=self.device))
        launch()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with devices.capturing(graph, self.stream):
            for _ in range(launches):
                launch()
        times = []
        with torch.cuda.stream(self.stream):
            for _ in range(rounds):
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                graph.replay()
                end.record()
                end.synchronize()
                times.append(1e3 * begin.elapsed_time(end) / launches)
        return float(median(times))

    def measured(self, kernel: Kernel, registers: int) -> Measured:
        """A variant's errors and times."""
        variant, card = kernel.variant, replace(H200, multiprocessors=self.multiprocessors)
        split = variant.blocks_an_image > 1
        share = max(self.share(kernel, batch) for batch in ((1, 6) if split else (1, 7, 135, 1000)))
        times = {batch: self.time(kernel, batch) for batch in batches(card, variant)}
        what = variant.precision, variant.images, variant.bytes_in, variant.blocks_an_image
        return Measured(*what, registers, share, times)

    def clock(self) -> float:
        """Hz of the multiprocessors while they work."""
        a = torch.randn(4096, 4096, device=self.device)
        for _ in range(200):
            a = (a @ a).clamp(-1, 1)
        found = torch.cuda.clock_rate(self.device)
        torch.cuda.synchronize()
        return 1e6 * found


def registers_of(variant: Variant) -> int:
    """Registers a thread, of the machine code for compute capability 8.9."""
    (found,) = re.findall(r"Used (\d+) registers", compile_variant(variant, "sm_89").log)
    return int(found)


def main(arguments: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args(arguments)
    bench, found = Bench(), list(measured_variants())
    registers_of(found[0])  # imports what threads cannot import side by side
    with ThreadPoolExecutor() as pool:
        registers, kernels = list(pool.map(registers_of, found)), list(pool.map(bench.load, found))
    clock = bench.clock()
    variants = [bench.measured(*both) for both in zip(kernels, registers, strict=True)]
    record = {
        "card": devices.describe(bench.device),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(bench.device))),
        "multiprocessors": bench.multiprocessors,
        "clock": clock,
        "made_by": f"torch {torch.__version__}, NVRTC {nvrtc_version()}, {source_commit()}",
        "variants": [asdict(one) for one in variants],
    }
    print(to_json(record))
    return any(one.share > 1 for one in variants)


if __name__ == "__main__":
    sys.exit(main())
