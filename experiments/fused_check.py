"""Check and time every variant of the fused kernel on a GPU; prints Markdown.

``python experiments/fused_check.py > docs/results/fused-h100.md``

A variant that fails is named, the others still run, and the exit status is 1. ``--few`` runs each variant at three
small batches and times nothing, for ``compute-sanitizer``. ``--zero-copy`` is for ``ncu``.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise, product
from statistics import median
from typing import Self

import torch

from common import head
from lenet import backends, devices, parity, weights
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.backends.fused import Kernel, images_a_block, largest_split, load_kernel, shared_memory
from lenet.data.augmentation import normalize
from lenet.kernels import IMAGES_A_BLOCK, PRECISIONS, SPLIT, Variant, largest_that_fits
from lenet.kernels.compiler import cuda_core, nvrtc_version
from lenet.provenance import source_commit
from lenet.quantization import FORMATS
from lenet.vocabulary import InputType, Precision

MOST, IMAGES = 8, 2000  # images a block at most, and different images: larger batches repeat them
EVERY = (*range(1, 301), 1000, 1057, 2113, 10_000)
FEW = (1, 9, 17)
SOME = (1, 2, 7, 9, 131, 133, 299, 1000)
MARKS, MARK_BYTES, TURNS = 20, 256, 5
FAULTS: list[str] = []  # names of what was wrong or failed


class Marked(Variant):
    """A variant that records when thread 0 of its first blocks, as many as share an image, passes a barrier.

    Behind the logits it writes `MARKS` clock cycles for each block. It leaves `MARK_BYTES` of the shared memory.
    """

    @classmethod
    def of(cls, variant: Variant) -> Self:
        """The variant with the marks."""
        same = {field.name: getattr(variant, field.name) for field in fields(variant)}
        return cls(**same | {"shared_bytes": variant.shared_bytes - MARK_BYTES})

    @property
    def source(self) -> str:
        """The source with the marks."""
        mark = f"if (threadIdx.x == 0 && marked < {MARKS + 1}) marks[marked++] = unsigned(clock64());"
        source = Variant.source.fget(self)  # type: ignore[attr-defined]
        source = source.replace("__syncthreads();", f"__syncthreads(); {mark}")
        begin = f"if (threadIdx.x == 0) marked = 0; {mark} float* behind = logits + batch * CLASSES; SHARED_MEMORY("
        head, kernel = source.split('extern "C" __global__')
        kernel = kernel.replace("SHARED_MEMORY(", begin, 1)
        end = f"""
            if (threadIdx.x == 0 && blockIdx.x < {self.blocks_an_image})
                for (int i = 1; i < marked; ++i) behind[{MARKS} * blockIdx.x + i - 1] = float(marks[i] - marks[0]);
        }}"""
        declared = f"__shared__ unsigned marks[{MARKS + 1}], marked;"
        return f'{declared}{head}extern "C" __global__{kernel[: kernel.rindex("}")]}{end}'


class Check:
    """Images, their reference, and the device."""

    def __init__(self) -> None:
        self.device = devices.resolve("cuda")
        self.arrays = weights.load().arrays
        self.shared_bytes = shared_memory(self.device)
        self.multiprocessors = torch.cuda.get_device_properties(self.device).multi_processor_count
        self.most_split = largest_split(self.split(bytes_in=False), self.multiprocessors)
        self.stream = torch.cuda.Stream(self.device)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
        # Half are noise, half are soft shapes: shifted copies of a few smooth images.
        smooth = torch.nn.functional.interpolate(pixels[IMAGES // 2 :, :, :4, :4].float(), 32, mode="bicubic")
        self.pixels = torch.cat([pixels[: IMAGES // 2], smooth.clamp(0, 255).to(torch.uint8)])
        images = normalize(self.pixels)
        found, of_bytes = (parity.Reference(self.arrays, of) for of in (images, self.pixels))
        self.wanted: dict[tuple[str, bool], torch.Tensor] = {}
        self.allowed: dict[tuple[str, bool], torch.Tensor] = {}
        for precision, bytes_in in product(PRECISIONS, (False, True)):
            reference = of_bytes if bytes_in and precision in FORMATS else found  # others are the same but for rounding
            self.wanted[precision, bytes_in] = reference.wanted(precision).to(self.device)
            self.allowed[precision, bytes_in] = reference.tolerance(precision).to(self.device)
        # NaN images (255 as bytes) follow a batch, so a kernel that reads too far shows it.
        self.images = {False: images.to(self.device), True: self.pixels.to(self.device)}

    def split(self, *, bytes_in: bool) -> Variant:
        """The variant with several blocks for an image."""
        return Variant("fp32", 1, bytes_in, self.shared_bytes, SPLIT)

    def kernels(self, variants: Sequence[Variant]) -> dict[Variant, Future[Kernel]]:
        """Variants, compiled and loaded side by side."""
        with ThreadPoolExecutor() as pool:
            load = partial(load_kernel, self.arrays, device=self.device, largest_batch=EVERY[-1])
            return {variant: pool.submit(load, variant) for variant in variants}

    def batch(self, count: int, *, bytes_in: bool) -> torch.Tensor:
        """A copy of so many images, repeated where there are fewer."""
        return self.images[bytes_in].repeat(-(-count // IMAGES), 1, 1, 1)[:count].clone()

    def run(self, kernel: Kernel, batch: int) -> tuple[float, float]:
        """The largest error of a batch's logits: absolute, and as a share of the tolerance.

        The kernel runs twice. Logits, workspace (except its counters) and the memory behind them are NaN before.
        """
        images = self.batch(batch + 8, bytes_in=kernel.variant.bytes_in)
        images[batch:] = 255 if kernel.variant.bytes_in else torch.nan
        logits = torch.empty(batch + 16, 10, device=self.device)
        workspace = torch.full((batch + 1, kernel.variant.workspace), torch.nan, device=self.device)
        workspace[:batch, -4:] = 0
        launch = replace(kernel, workspace=workspace[:batch]).bind(self.stream, images[:batch], logits[:batch])
        runs = []
        for _ in range(2):
            logits.fill_(torch.nan)
            torch.cuda.synchronize()
            launch()
            self.stream.synchronize()
            runs.append(logits.view(torch.int32).clone())
        if not logits[batch:].isnan().all() or not workspace[batch:].isnan().all():
            raise AssertionError(f"batch {batch}: it wrote behind the logits or the workspace")
        if workspace.view(torch.int32)[:batch, -4:].any():
            raise AssertionError(f"batch {batch}: a counter is not 0 again")
        if not torch.equal(*runs):
            raise AssertionError(f"batch {batch}: the logits' bits differ from one launch to the next")
        return self.errors(logits[:batch], kernel.variant.precision, bytes_in=kernel.variant.bytes_in)

    def errors(self, logits: torch.Tensor, precision: str, *, bytes_in: bool) -> tuple[float, float]:
        """The largest error of logits: absolute, and as a share of the tolerance."""
        of, index = (precision, bytes_in), torch.arange(len(logits), device=self.device) % IMAGES
        delta = (logits.double() - self.wanted[of][index]).abs().nan_to_num(nan=torch.inf)
        return delta.max().item(), (delta / self.allowed[of][index]).max().item()

    def chosen(self, precision: str, *, bytes_in: bool) -> Callable[[int], Variant]:
        """The variant that the backend chooses for a batch on the device."""
        most = largest_that_fits(precision, self.shared_bytes)

        def choose(batch: int) -> Variant:
            if precision == "fp32" and batch <= self.most_split:
                return self.split(bytes_in=bytes_in)
            images = images_a_block(batch, multiprocessors=self.multiprocessors, most=most)
            return Variant(precision, images, bytes_in, self.shared_bytes)

        return choose

    def check(self, kernel_of: Callable[[int], Kernel], sizes: Sequence[int]) -> str:
        """Run each batch with its kernel, and say whether the logits are right."""
        errors = {batch: self.run(kernel_of(batch), batch) for batch in sizes}
        worst = max(share for _, share in errors.values())
        wrong = [batch for batch, (_, share) in errors.items() if not share <= 1]
        verdict = f"WRONG at {len(wrong)} batches: {wrong[:10]}" if wrong else f"{len(sizes)} batches right"
        return f"{verdict}, error {max(e for e, _ in errors.values()):.1e} ({worst:.2f} of the tolerance)"

    def replay(self, kernel: Kernel, batch: int) -> Callable[[], object]:
        """A launch as the backend makes it, which is a CUDA graph's."""
        images, logits = self.batch(batch, bytes_in=kernel.variant.bytes_in), torch.empty(batch, 10, device=self.device)
        torch.cuda.synchronize()
        return kernel.bind(self.stream, images, logits, as_graph=True)

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

    def spans(self, loaded: Future[Kernel], batch: int) -> str:
        """Cycles between barriers in the first block, or in the last of the blocks that share the first image."""
        kernel = loaded.result()
        logits = torch.zeros(batch * 10 + MARKS * kernel.variant.blocks_an_image, device=self.device)
        images = self.images[kernel.variant.bytes_in][:batch]
        launch = kernel.bind(self.stream, images, logits[: batch * 10].view(-1, 10))
        for _ in range(20):  # the marks are the last launch's
            logits.zero_()
            torch.cuda.synchronize()
            launch()
        self.stream.synchronize()
        blocks = [[int(c) for c in block if c > 0] for block in logits[batch * 10 :].view(-1, MARKS).tolist()]
        at = [0, *max(blocks, key=len)]
        return " ".join(str(b - a) for a, b in pairwise(at)) + f" = {at[-1]}"


def guarded(what: str, work: Callable[[], object]) -> None:
    """Print what the work returns, or how it failed, and note a fault."""
    try:
        found = work()
        if "WRONG" in str(found):
            FAULTS.append(what)
        print(f"| {what} | {found} |", flush=True)
    except Exception as error:  # noqa: BLE001 - the rest is to go on
        FAULTS.append(what)
        print(f"| {what} | FAILED: {type(error).__name__}: {str(error)[:1500]} |", flush=True)
        traceback.print_exc(file=sys.stderr)


def variants(check: Check) -> Iterator[tuple[Variant, tuple[int, ...]]]:
    """All variants that the backend uses, and the batches at which to check them."""
    for precision, bytes_in, images in product(PRECISIONS, (False, True), reversed(IMAGES_A_BLOCK)):
        if images <= largest_that_fits(precision, check.shared_bytes):
            yield Variant(precision, images, bytes_in, check.shared_bytes), EVERY if images == MOST else SOME
    if check.most_split:
        for bytes_in in (False, True):
            yield check.split(bytes_in=bytes_in), (*range(1, check.most_split + 1), 299, 1000)


def title(variant: Variant) -> str:
    kind = "uint8" if variant.bytes_in else "float32"
    images = f"{variant.images} images" if variant.blocks_an_image == 1 else f"1 image over {SPLIT} blocks"
    return f"{variant.precision} {kind}, {images} x {variant.threads // 32} warps"


def wall(call: Callable[[], object], wait: Callable[[], None], rounds: int = 100) -> float:
    """Median microseconds from a call to its synchronised result."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        wait()
        times.append(1e6 * (time.perf_counter() - began))
    return median(times)


def build(check: Check, name: str, precision: Precision, batch: int, kind: InputType = InputType.FLOAT32) -> Runner:
    spec = BuildSpec(check.device, precision, BatchRange.exactly(batch), kind)
    return backends.load(name).build(check.arrays, spec)


def backend_row(check: Check, name: str, precision: Precision, batch: int) -> str:
    """A backend's `Runner.forward`: events around one call, wall time to the synchronised result, error."""
    images = check.batch(batch, bytes_in=False)
    torch.cuda.synchronize()
    with build(check, name, precision, batch) as runner, runner.on_stream(), torch.inference_mode():
        logits = runner.forward(images)
        runner.synchronize()
        share = check.errors(logits, precision, bytes_in=False)[1]
        around = check.events(lambda: runner.forward(images), stream=runner.stream)
        to_end = wall(lambda: runner.forward(images), runner.synchronize)
    return f"{around:.1f} | {to_end:.1f} | {share:.2f}"


def transfer_row(check: Check, precision: Precision, kind: InputType) -> str:
    """End to end from pinned memory at batch 1000: the copy alone, copy and kernel, zero-copy, error."""
    host = (check.pixels if kind is InputType.UINT8 else normalize(check.pixels))[:1000].pin_memory()
    there = torch.empty_like(host, device=check.device)
    torch.cuda.synchronize()
    with build(check, "fused", precision, 1000, kind) as runner, runner.on_stream(), torch.inference_mode():
        alone = wall(lambda: there.copy_(host, non_blocking=True), runner.synchronize)
        both = wall(lambda: runner.forward(there.copy_(host, non_blocking=True)), runner.synchronize)
        logits = runner.forward(host)
        runner.synchronize()
        zero = wall(lambda: runner.forward(host), runner.synchronize)
        share = check.errors(logits, precision, bytes_in=kind is InputType.UINT8)[1]
    return f"{alone:.1f} | {both:.1f} | {zero:.1f} | {share:.2f}"


def time_from_host(check: Check, kernels: dict[Variant, Kernel], precision: str, *, bytes_in: bool) -> None:
    """Compare images a block at batch 1000 from the host's memory: wall microseconds of the launch, in turns."""
    host = (check.pixels if bytes_in else check.images[False].cpu())[:1000].pin_memory()
    there, logits = torch.empty_like(host, device=check.device), torch.empty(1000, 10, device=check.device)
    calls: dict[str, Callable[[], object]] = {"copy alone": lambda: there.copy_(host, non_blocking=True)}
    for variant, kernel in kernels.items():
        if (variant.precision, variant.bytes_in, variant.blocks_an_image) == (precision, bytes_in, 1):
            calls[title(variant)] = kernel.bind(check.stream, host, logits)
    times: dict[str, list[float]] = {what: [] for what in calls}
    with torch.cuda.stream(check.stream):
        for _, (what, call) in product(range(TURNS), calls.items()):
            times[what].append(wall(call, check.stream.synchronize))
    head("from pinned memory, batch 1000", "wall", "of the copy")
    alone = median(times["copy alone"])
    for what, found in times.items():
        print(f"| {what} | {median(found):.1f} | {median(found) / alone:.3f} |", flush=True)


def zero_copy(check: Check) -> None:
    """Launch twenty times, reading bytes from the host's memory, fp16 at batch 1000; wait after each."""
    host = check.pixels[:1000].pin_memory()
    built = build(check, "fused", Precision.FP16, 1000, InputType.UINT8)
    with built as runner, runner.on_stream(), torch.inference_mode():
        for _ in range(20):
            runner.forward(host)
            runner.synchronize()


def examine_all(check: Check, *, few: bool) -> dict[Variant, Kernel]:
    """Compile and check every variant; return those that could be loaded, right or wrong."""
    head("variant", "correctness")
    loaded = check.kernels([variant for variant, _ in variants(check)])

    def examine(variant: Variant, sizes: tuple[int, ...]) -> str:
        return check.check(lambda _: loaded[variant].result(), sizes)

    for variant, sizes in variants(check):
        guarded(title(variant), partial(examine, variant, FEW if few else sizes))
    return {variant: kernel.result() for variant, kernel in loaded.items() if not kernel.exception()}


def examine_chosen(check: Check, kernels: dict[Variant, Kernel]) -> None:
    """Check every batch from 1 to 300 with the kernel that the backend chooses for it."""
    head("as the backend chooses, batches 1 to 300", "correctness")
    for precision, bytes_in in product(PRECISIONS, (False, True)):
        choose = check.chosen(precision, bytes_in=bytes_in)
        of_batch = partial(lambda choose, batch: kernels[choose(batch)], choose)
        guarded(f"{precision} {'uint8' if bytes_in else 'float32'}", partial(check.check, of_batch, range(1, 301)))


def time_all(check: Check, kernels: dict[Variant, Kernel]) -> None:
    """Time graph replays, single and back to back, then print where a block's time goes."""
    sizes = sorted({10_000, 1000, 100, check.most_split or 1, 1}, reverse=True)
    head("variant", *(f"{size} replay, back to back" for size in sizes))

    def times(kernel: Kernel) -> str:
        cells = []
        for batch in sizes:
            replay = check.replay(kernel, batch)
            cells.append(f"{check.events(replay):.1f}, {check.events(replay, calls=20, rounds=10):.1f}")
        return " | ".join(cells)

    for variant, kernel in kernels.items():
        guarded(title(variant), partial(times, kernel))
    head("variant", "batch", "cycles between barriers, first block; of several an image, the last")
    batches: dict[Variant, int] = {
        Marked.of(one): 1 if one.images == 1 else 1000 for one in kernels if one.images in (1, MOST)
    }
    for variant, marked in check.kernels(list(batches)).items():
        guarded(f"{title(variant)} | {batches[variant]}", partial(check.spans, marked, batches[variant]))


def print_backends(check: Check) -> None:
    """Print the backends' times: forward passes, and passes from the host's memory."""
    head("backend", "events around a call", "wall", "error, of the tolerance")
    for precision in (Precision.FP32, Precision.FP16):
        for batch in (1, 1000, 10_000):
            for name in ("pytorch", "pytorch-cudagraph", "fused"):
                guarded(f"{name} {precision} {batch}", partial(backend_row, check, name, precision, batch))
    head("pinned, batch 1000", "copy alone", "copy, kernel", "zero-copy", "error, of the tolerance")
    for precision in (Precision.FP32, Precision.FP16, Precision.FP16X2, Precision.INT8):
        for kind in InputType:
            guarded(f"{precision} {kind}", partial(transfer_row, check, precision, kind))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--few", action="store_true", help="three small batches a variant, and no times")
    parser.add_argument("--zero-copy", action="store_true", help="twenty launches that read the host's memory alone")
    option = parser.parse_args(arguments)
    check = Check()
    if option.zero_copy:
        zero_copy(check)
        return 0
    print(f"# The fused kernel on {devices.describe(check.device)}\n")
    print(f"torch {torch.__version__}, cuda.core {cuda_core().__version__}, NVRTC {nvrtc_version()}, {source_commit()}")
    print(f"\nShared memory a block: {check.shared_bytes} bytes. Times in microseconds, medians.")
    kernels = examine_all(check, few=option.few)
    if option.few:
        return bool(FAULTS)
    examine_chosen(check, kernels)
    warm = torch.randn(4096, 4096, device=check.device)
    for _ in range(200):
        warm = (warm @ warm).clamp(-1, 1)
    torch.cuda.synchronize()
    time_all(check, kernels)
    print_backends(check)
    for precision, bytes_in in product(("fp32", "fp16", "fp16x2", "int8"), (True, False)):
        time_from_host(check, kernels, precision, bytes_in=bytes_in)
    batches = (1, 10, 100, 500, 1000, 10_000)
    chosen = {n: images_a_block(n, multiprocessors=check.multiprocessors, most=8) for n in batches}
    print(f"\nImages a block that are chosen, by batch: {chosen}")
    print(f"In fp32 an image on the device has {SPLIT} blocks up to batch {check.most_split}.")
    return bool(FAULTS)


if __name__ == "__main__":
    sys.exit(main())
