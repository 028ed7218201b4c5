"""The fused kernel on a GPU: right at every batch, and how fast, variant by variant.

``python docs/results/fused_check.py > docs/results/fused-h100.md`` takes about a minute. A variant that fails is named,
and the rest goes on. With ``--few`` each runs at three small batches and nothing is timed, for ``compute-sanitizer``.
"""

from __future__ import annotations

import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from itertools import pairwise, product
from statistics import median

import torch

from lenet import backends, devices, parity, weights
from lenet.backends.base import BatchRange, BuildSpec, InputType, Precision, Runner
from lenet.backends.fused import Kernel, images_a_block, load_kernel, shared_memory
from lenet.data.augmentation import normalize
from lenet.kernels import IMAGES_A_BLOCK, PRECISIONS, Variant
from lenet.kernels.compiler import cuda_core, nvrtc_version
from lenet.provenance import source_commit

MOST = 8
IMAGES = 2000
"""Different images; larger batches repeat them."""
EVERY = (*range(1, 301), 1000, 10_000)
FEW = (1, 9, 17)
SOME = (1, 2, 7, 9, 131, 133, 299, 1000)


class Marked(Variant):
    """A variant whose first block writes, behind the logits, the clock cycles at which it passes each barrier."""

    @property
    def source(self) -> str:
        """With the marks."""
        head, kernel = Variant.source.fget(self).split('extern "C" __global__')  # type: ignore[attr-defined]
        numbers = iter(range(100))
        mark = "__syncthreads(); if (threadIdx.x + blockIdx.x == 0) (first_logits)[{}] = float(clock64() - began);"
        kernel = re.sub(r"__syncthreads\(\);", lambda _: mark.format(next(numbers)), kernel)
        begin = "long long began = clock64(); float* first_logits = logits + batch * CLASSES; SHARED_MEMORY("
        return str(head) + 'extern "C" __global__' + kernel.replace("SHARED_MEMORY(", begin, 1)


class Check:
    """Images, their reference, and where kernels run."""

    def __init__(self) -> None:
        self.device = devices.resolve("cuda")
        self.arrays = weights.load().arrays
        self.shared_bytes = shared_memory(self.device)
        self.stream = torch.cuda.Stream(self.device)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
        # Half are noise, half are soft shapes: shifted copies of a few smooth images.
        smooth = torch.nn.functional.interpolate(pixels[IMAGES // 2 :, :, :4, :4].float(), 32, mode="bicubic")
        self.pixels = torch.cat([pixels[: IMAGES // 2], smooth.clamp(0, 255).to(torch.uint8)])
        images = normalize(self.pixels)
        found = parity.Reference(self.arrays, images)
        self.wanted = found.logits.to(self.device)
        self.allowed = {p: found.tolerance(p).to(self.device) for p in PRECISIONS}
        # Behind the images of a batch lie others of no number: a kernel that reads too far shows it.
        self.images = {False: images.to(self.device), True: self.pixels.to(self.device)}

    def kernel(self, variant: Variant) -> Kernel:
        """Compiled and loaded."""
        return load_kernel(self.arrays, variant, self.device)

    def run(self, kernel: Kernel, batch: int) -> tuple[float, float]:
        """Largest error of a batch's logits, and in shares of the tolerance; poisoned before, and guarded behind."""
        source = self.images[kernel.variant.bytes_in]
        if batch > IMAGES:
            images = source.repeat(batch // IMAGES, 1, 1, 1)
        else:
            images = torch.full_like(source[: batch + 8], 255 if kernel.variant.bytes_in else torch.nan)
            images[:batch] = source[:batch]
        logits = torch.full((batch + 16, 10), torch.nan, device=self.device)
        torch.cuda.synchronize()
        kernel.bind(self.stream, images[:batch], logits[:batch])()
        self.stream.synchronize()
        if not logits[batch:].isnan().all():
            raise AssertionError(f"batch {batch}: it wrote behind the logits")
        index = torch.arange(batch, device=self.device) % IMAGES
        delta = (logits[:batch].double() - self.wanted[index]).abs().nan_to_num(nan=torch.inf)
        return delta.max().item(), (delta / self.allowed[kernel.variant.precision][index]).max().item()

    def check(self, kernel: Kernel, sizes: tuple[int, ...]) -> str:
        """Whether it is right at these batches."""
        errors = {batch: self.run(kernel, batch) for batch in sizes}
        worst = max(share for _, share in errors.values())
        wrong = [batch for batch, (_, share) in errors.items() if not share <= 1]
        verdict = f"WRONG at {len(wrong)} batches: {wrong[:10]}" if wrong else f"{len(sizes)} batches right"
        return f"{verdict}, error {max(e for e, _ in errors.values()):.1e} ({worst:.2f} of the tolerance)"

    def replay(self, kernel: Kernel, batch: int) -> Callable[[], None]:
        """One launch, captured and replayed."""
        images = self.images[kernel.variant.bytes_in].repeat(-(-batch // IMAGES), 1, 1, 1)[:batch].clone()
        logits = torch.empty(batch, 10, device=self.device)
        torch.cuda.synchronize()
        launch = kernel.bind(self.stream, images, logits)
        launch()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            launch()
        self.keep = launch
        return graph.replay

    def events(
        self, call: Callable[[], object], calls: int = 1, rounds: int = 50, stream: torch.cuda.Stream | None = None
    ) -> float:
        """Median microseconds of a call, between events around `calls` of them."""
        times = []
        with torch.cuda.stream(stream or self.stream), torch.inference_mode():
            for _ in range(5):
                call()
            for _ in range(rounds):
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                for _ in range(calls):
                    call()
                end.record()
                end.synchronize()
                times.append(1e3 * begin.elapsed_time(end) / calls)
        return float(median(times))

    def spans(self, variant: Variant) -> str:
        """Cycles from barrier to barrier in the first block, at batch 1000."""
        kernel = self.kernel(Marked(**{field.name: getattr(variant, field.name) for field in fields(variant)}))
        images = self.images[variant.bytes_in][:1000]
        logits = torch.zeros(1100, 10, device=self.device)
        torch.cuda.synchronize()
        launch = kernel.bind(self.stream, images, logits[:1000])
        for _ in range(20):
            launch()
        self.stream.synchronize()
        at = [0, *(int(c) for c in logits[1000:].flatten().tolist() if c > 0)]
        return " ".join(str(b - a) for a, b in pairwise(at)) + f" = {at[-1]}"


def guarded(what: str, work: Callable[[], object]) -> None:
    """Prints what the work returns, or how it failed."""
    try:
        print(f"| {what} | {work()} |", flush=True)
    except Exception as error:  # noqa: BLE001 - the rest is to go on
        print(f"| {what} | FAILED: {type(error).__name__}: {str(error)[:1500]} |", flush=True)
        traceback.print_exc(file=sys.stderr)


def variants(check: Check) -> Iterator[tuple[Variant, tuple[int, ...]]]:
    """All that the backend uses, and the batches at which to check them."""
    for precision, bytes_in, images in product(PRECISIONS, (False, True), reversed(IMAGES_A_BLOCK)):
        yield Variant(precision, images, bytes_in, check.shared_bytes), EVERY if images == MOST else SOME


def title(variant: Variant) -> str:
    kind = "uint8" if variant.bytes_in else "float32"
    return f"{variant.precision} {kind}, {variant.images} images x {variant.threads // 32} warps"


def wall(call: Callable[[], object], wait: Callable[[], None], rounds: int = 300) -> float:
    """Median microseconds from a call to its synchronised result."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        wait()
        times.append(1e6 * (time.perf_counter() - began))
    return median(times)


def build(check: Check, name: str, precision: str, batch: int, kind: InputType = InputType.FLOAT32) -> Runner:
    spec = BuildSpec(check.device, Precision(precision), BatchRange.exactly(batch), kind)
    return backends.load(name).build(check.arrays, spec)


def backend_row(check: Check, name: str, precision: str, batch: int) -> str:
    """Through the protocol: events around one call, and wall clock to the synchronised result."""
    runner = build(check, name, precision, batch)
    images = check.images[False].repeat(-(-batch // IMAGES), 1, 1, 1)[:batch].clone()
    torch.cuda.synchronize()
    with runner.on_stream(), torch.inference_mode():
        logits = runner.forward(images)
        runner.synchronize()
        index = torch.arange(batch, device=check.device) % IMAGES
        share = ((logits - check.wanted[index]).abs() / check.allowed[precision][index]).max().item()
        around = check.events(lambda: runner.forward(images), stream=runner.stream)
        to_end = wall(lambda: runner.forward(images), runner.synchronize)
    return f"{around:.1f} | {to_end:.1f} | {share:.2f}"


def transfer_row(check: Check, precision: str, kind: InputType) -> str:
    """End to end from pinned memory at batch 1000: the copy alone, copy and kernel, zero-copy."""
    runner = build(check, "fused", precision, 1000, kind)
    host = (check.pixels if kind is InputType.UINT8 else normalize(check.pixels))[:1000].pin_memory()
    there = torch.empty_like(host, device=check.device)
    torch.cuda.synchronize()
    with runner.on_stream(), torch.inference_mode():
        alone = wall(lambda: there.copy_(host, non_blocking=True), runner.synchronize)
        both = wall(lambda: runner.forward(there.copy_(host, non_blocking=True)), runner.synchronize)
        runner.forward(host)
        runner.synchronize()
        zero = wall(lambda: runner.forward(host), runner.synchronize)
        logits = runner.forward(host)
        runner.synchronize()
        share = ((logits - check.wanted[:1000]).abs() / check.allowed[precision][:1000]).max().item()
    return f"{alone:.1f} | {both:.1f} | {zero:.1f} | {share:.2f}"


def examine_all(check: Check, *, few: bool) -> dict[Variant, Kernel]:
    """Compile and check every variant; those that could be loaded, right or wrong."""
    print("| variant | correctness |\n|---|---|")
    kernels: dict[Variant, Kernel] = {}

    def examine(variant: Variant, sizes: tuple[int, ...]) -> str:
        kernels[variant] = check.kernel(variant)
        return check.check(kernels[variant], sizes)

    for variant, sizes in variants(check):
        guarded(title(variant), partial(examine, variant, FEW if few else sizes))
    return kernels


def time_all(check: Check, kernels: dict[Variant, Kernel]) -> None:
    """Graph replay and back to back, then where a block's time goes."""
    sizes = (1000, 10_000, 100, 1)
    print("\n| variant | " + " | ".join(f"{s} replay, back to back" for s in sizes) + " |\n|" + "---|" * 5)

    def times(kernel: Kernel) -> str:
        cells = []
        for batch in sizes:
            replay = check.replay(kernel, batch)
            cells.append(f"{check.events(replay):.1f}, {check.events(replay, calls=20, rounds=10):.1f}")
        return " | ".join(cells)

    for variant, kernel in kernels.items():
        guarded(title(variant), partial(times, kernel))
    print("\n| variant | cycles between barriers, first block, batch 1000 |\n|---|---|")
    for variant in kernels:
        if variant.images in (1, MOST):
            guarded(title(variant), partial(check.spans, variant))


def main() -> None:
    check = Check()
    print(f"# The fused kernel on {devices.describe(check.device)}\n")
    print(f"torch {torch.__version__}, cuda.core {cuda_core().__version__}, NVRTC {nvrtc_version()}, {source_commit()}")
    print(f"\nShared memory a block: {check.shared_bytes} bytes. Times in microseconds, medians.\n")
    kernels = examine_all(check, few="--few" in sys.argv)
    if "--few" in sys.argv:
        return
    warm = torch.randn(4096, 4096, device=check.device)
    for _ in range(200):
        warm = (warm @ warm).clamp(-1, 1)
    torch.cuda.synchronize()
    time_all(check, kernels)
    print("\n| backend | events around a call | wall | error, of the tolerance |\n|---|---|---|---|")
    for precision in ("fp32", "fp16"):
        for batch in (1, 1000, 10_000):
            for name in ("pytorch", "pytorch-cudagraph", "fused"):
                guarded(f"{name} {precision} {batch}", partial(backend_row, check, name, precision, batch))
    print(
        "\n| pinned, batch 1000 | copy alone | copy, kernel | zero-copy | error, of the tolerance |\n"
        + "|---" * 5
        + "|"
    )
    for precision in ("fp32", "fp16", "fp16x2"):
        for kind in InputType:
            guarded(f"{precision} {kind}", partial(transfer_row, check, precision, kind))
    multiprocessors = torch.cuda.get_device_properties(check.device).multi_processor_count
    chosen = {n: images_a_block(n, multiprocessors=multiprocessors, most=8) for n in (1, 10, 100, 500, 1000, 10_000)}
    print(f"\nImages a block that are chosen, by batch: {chosen}")


if __name__ == "__main__":
    main()
