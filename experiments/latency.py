"""Measure one image's latency on a GPU, from pinned host memory to logits on the host; prints Markdown.

``python experiments/latency.py > docs/results/latency-h200.md``

Each way takes its turns beside the others. Another image lies in the pinned memory at each round, and its logits are
compared with the float64 reference. A way that fails is named, and the others go on. The exit status is 1 if one
failed, if any logits are wrong, or if a time-out does not end as it must. ``--rounds`` says how many rounds a turn has.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from types import SimpleNamespace
from typing import TypeAlias

import numpy as np
import torch

from common import failures, heading, row, told
from lenet import backends, devices, parity, weights
from lenet.architecture import CLASSES, INPUT_SHAPE
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.backends.fused import Kernel, load_kernel, shared_memory
from lenet.data.augmentation import normalize
from lenet.errors import BackendError
from lenet.kernels import SPLIT, Variant
from lenet.provenance import source_commit
from lenet.vocabulary import InputType, Precision
from persistent import PATIENCE, WORDS, Ask, Mailbox, Server, Told, pinned

IMAGES = 64
"""Different images, in turn."""
TURNS = 5
FLOOR = "an answer at once:"
"""What the names of floors begin with."""
KERNELS: tuple[dict[str, bool], ...] = (
    {},
    {"flag": False},
    {"serve": True},
    {"serve": True, "flag": False},
    {"network": False},
    {"serve": True, "network": False},
)
"""Variants that answer in a mailbox."""
SHORT = 0.2
"""Seconds of patience where it is to run out."""

Way: TypeAlias = Callable[[], AbstractContextManager[tuple[Ask, np.ndarray]]]
"""Opens a way: a call that ends when the logits are on the host, and where they are then, (10,) float32."""


@dataclass(frozen=True)
class Times:
    """The rounds of a way.

    Attributes:
        microseconds: Of each round.
        share: The largest error of a logit, of its tolerance.
    """

    microseconds: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)


class Bench:
    """One precision and input type: images and their reference, the pinned image, and what ran on it.

    Args:
        precision: Of the network.
        kind: Of the images.
        device: The GPU.
        arrays: The weights.
        stack: Closes what is opened.
    """

    def __init__(
        self,
        precision: Precision,
        kind: InputType,
        device: torch.device,
        arrays: dict[str, np.ndarray],
        stack: ExitStack,
    ) -> None:
        self.precision, self.kind, self.device, self.arrays, self.stack = precision, kind, device, arrays, stack
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (IMAGES, *INPUT_SHAPE), dtype=torch.uint8, generator=generator)
        found = parity.Reference(arrays, normalize(pixels))
        self.wanted, self.allowed = found.logits.numpy(), found.tolerance(precision).numpy()
        images = pixels if kind is InputType.UINT8 else normalize(pixels)
        self.images = images.numpy()
        self.host = pinned(images[:1].pin_memory())
        self.image = self.host.numpy()[0]
        self.stream = torch.cuda.Stream(device)
        self.driver = ctypes.CDLL("libcuda.so.1")

    def whole(self) -> Kernel:
        """The kernel that the backend runs on an image in pinned memory: one block has all of it."""
        bytes_in = self.kind is InputType.UINT8
        return load_kernel(
            self.arrays, Variant(self.precision, 1, bytes_in, shared_memory(self.device)), self.device, 1
        )

    def kernel(self, *, serve: bool = False, network: bool = True, flag: bool = True) -> Kernel:
        """The kernel that answers in a mailbox.

        Raises:
            BackendError: A block of this GPU has too little shared memory, or the kernel cannot be compiled.
        """
        blocks = SPLIT if self.precision is Precision.FP32 else 1
        shared, bytes_in = shared_memory(self.device), self.kind is InputType.UINT8
        variant = Told(self.precision, 1, bytes_in, shared, blocks, serve, network, flag)
        if variant.needed_bytes > shared:
            raise BackendError(
                f"one image in {self.precision} does not fit this GPU",
                found=f"{shared:,} bytes of shared memory a block",
                wanted=f"{variant.needed_bytes:,}",
                hint="use a GPU of compute capability 8.0 or newer",
            )
        return load_kernel(self.arrays, variant, self.device, 1)

    def measure(self, ask: Ask, logits: np.ndarray, rounds: int, times: Times) -> None:
        """Time rounds. Before each another image is in the pinned memory, and the logits are NaN."""
        for i in range(rounds):
            self.image[...] = self.images[i % IMAGES]
            logits.fill(np.nan)
            began = time.perf_counter_ns()
            ask()
            times.microseconds.append(1e-3 * (time.perf_counter_ns() - began))
            delta = np.nan_to_num(np.abs(logits - self.wanted[i % IMAGES]), nan=np.inf)
            times.share.append(float((delta / self.allowed[i % IMAGES]).max()))

    def through(self, name: str, *, zero_copy: bool = False) -> Way:
        """A backend's runner, with copies to and from the device, or reading the pinned image."""
        spec = BuildSpec(self.device, self.precision, BatchRange.exactly(1), self.kind)
        runner: Runner = self.stack.enter_context(backends.load(name).build(self.arrays, spec))
        images, out = torch.empty_like(self.host, device=self.device), torch.empty(1, CLASSES).pin_memory()

        def ask() -> None:
            logits = runner.forward(self.host if zero_copy else images.copy_(self.host, non_blocking=True))
            out.copy_(logits, non_blocking=True)
            runner.synchronize()

        @contextmanager
        def way() -> Iterator[tuple[Ask, np.ndarray]]:
            with runner.on_stream(), torch.inference_mode():
                yield ask, out.numpy()[0]

        return way

    def mailbox(self) -> Mailbox:
        """A new mailbox."""
        return Mailbox(pinned(torch.zeros(WORDS).pin_memory()))

    def bind(self, kernel: Kernel, mailbox: Mailbox) -> Ask:
        """The launch of a kernel that answers in a mailbox."""
        return kernel.bind(self.stream, self.host, mailbox.memory[:CLASSES].view(1, -1))

    def launched(self, kernel: Kernel, *, poll: bool, graph: bool = False) -> Way:
        """A launch for each image, by the driver's call or in a graph; then a poll, or a wait for the stream."""
        mailbox = self.mailbox()
        launch = self.bind(kernel, mailbox)
        if graph:
            launch = self.one_node(launch)

        def launched() -> str:
            return "the kernel was launched for it"

        def ask() -> None:
            mailbox.response.value = 0
            launch()
            if poll:
                mailbox.wait(1, PATIENCE, launched)
            else:
                self.stream.synchronize()

        def ask_for_logits() -> None:
            mailbox.clear()
            launch()
            mailbox.wait_for_logits(PATIENCE, launched)

        flag = not isinstance(kernel.variant, Told) or kernel.variant.flag

        @contextmanager
        def way() -> Iterator[tuple[Ask, np.ndarray]]:
            yield ask if flag else ask_for_logits, mailbox.logits
            self.stream.synchronize()

        return way

    def as_function(self, kernel: Kernel) -> Kernel:
        """The kernel by its handle in this context, where a launch need not look for it."""
        function = ctypes.c_void_p()
        handle = ctypes.c_void_p(int(kernel.code.value.handle))
        if status := self.driver.cuKernelGetFunction(ctypes.byref(function), handle):
            raise _refused("has no function for the kernel", status)
        value = SimpleNamespace(handle=function.value, keep=kernel.code.value)
        return replace(kernel, code=replace(kernel.code, value=value))

    def one_node(self, launch: Ask) -> Ask:
        """A captured launch, replayed by one call of the driver."""
        launch()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with devices.capturing(graph, self.stream):
            launch()
        arguments = ctypes.c_void_p(graph.raw_cuda_graph_exec()), ctypes.c_void_p(self.stream.cuda_stream)
        replay = self.driver.cuGraphLaunch

        def call(_keep: object = (graph, launch)) -> None:
            if status := replay(*arguments):
                raise _refused("refuses to launch the graph", status)

        return call

    def server(self, kernel: Kernel, mailbox: Mailbox, patience: float = PATIENCE) -> Server:
        """The persistent kernel, not yet started."""
        launch = self.bind(kernel, mailbox)

        def start() -> None:
            with torch.cuda.stream(self.stream):
                kernel.workspace.zero_()  # the first block's last word to the others
            launch()

        assert isinstance(kernel.variant, Told)
        return Server(mailbox, start, self.stream.query, patience, flag=kernel.variant.flag)

    def served(self, kernel: Kernel) -> Way:
        """A request to a persistent kernel for each image."""
        mailbox = self.mailbox()

        @contextmanager
        def way() -> Iterator[tuple[Ask, np.ndarray]]:
            with self.server(kernel, mailbox) as server:
                yield server.ask, mailbox.logits

        return way

    def ways(self) -> dict[str, Way]:
        """All that are compared; the floors have no network, read no image and write no logits."""
        fused = self.through("fused")  # first: it says what this machine lacks
        with ThreadPoolExecutor() as pool:
            once, bare, serve, bare_serve, floor, serve_floor = pool.map(lambda told: self.kernel(**told), KERNELS)
        function = self.as_function(once)
        found = {
            "`pytorch-cudagraph`: copy in, replay, copy out, synchronise": self.through("pytorch-cudagraph"),
            "`fused`: copy in, launch, copy out, synchronise": fused,
            "`fused`: launch on the pinned image, copy out, synchronise": self.through("fused", zero_copy=True),
            "one kernel from pinned to pinned: launch, synchronise": self.launched(once, poll=False),
            "one kernel from pinned to pinned: graph of one node, synchronise": self.launched(
                once, poll=False, graph=True
            ),
            "one kernel from pinned to pinned: launch, poll": self.launched(once, poll=True),
            "one kernel from pinned to pinned: launch of its function, poll": self.launched(function, poll=True),
            "one kernel from pinned to pinned: graph of one node, poll": self.launched(once, poll=True, graph=True),
            "one kernel from pinned to pinned: launch, poll the logits": self.launched(bare, poll=True),
            "persistent kernel": self.served(serve),
            "persistent kernel, poll the logits": self.served(bare_serve),
            f"{FLOOR} launch, poll": self.launched(floor, poll=True),
            f"{FLOOR} persistent kernel": self.served(serve_floor),
        }
        if self.precision is Precision.FP32:
            whole = self.launched(self.whole(), poll=False)
            found["one kernel from pinned to pinned, in one block: launch, synchronise"] = whole
        return found


def _refused(what: str, status: int) -> BackendError:
    return BackendError(
        f"the driver {what}",
        found=f"error {status}",
        wanted="success",
        hint="an earlier error of this process's CUDA work shows here as well",
    )


def compare(bench: Bench, rounds: int) -> bool:
    """Print the ways' times, and say whether all logits were right."""
    ways = bench.ways()
    times = {name: Times() for name in ways}
    for _ in range(TURNS):
        for name, way in list(ways.items()):
            with told(name), devices.no_garbage_collection(), way() as (ask, logits):
                bench.measure(ask, logits, rounds // 10, Times())  # warm-up
                bench.measure(ask, logits, rounds, times[name])
            if failures[-1:] == [name]:
                del ways[name]
    heading(f"{bench.precision}, {bench.kind} images", "way", "median", "p99", "least", "error, of the tolerance")
    for name, found in ((name, times[name]) for name in ways):
        ordered = sorted(found.microseconds)
        cells = (f"{value:.2f}" for value in (median(ordered), ordered[int(0.99 * len(ordered))], ordered[0]))
        row(name, *cells, "-" if name.startswith(FLOOR) else f"{max(found.share):.2f}")
    return all(max(times[name].share) <= 1 for name in ways if not name.startswith(FLOOR))


def usable(bench: Bench) -> bool:
    """Whether the GPU still gives right logits, through a new launch and a wait for the whole device."""
    found = Times()
    with bench.launched(bench.kernel(), poll=True)() as (ask, logits):
        bench.measure(ask, logits, IMAGES, found)
    torch.cuda.synchronize()
    return max(found.share) <= 1


def refused(work: Ask) -> str:
    """What an error says of something that must not work."""
    try:
        work()
    except BackendError as error:
        return f"{error.summary}: {error.found}"
    return "NO ERROR"


def time_outs(bench: Bench) -> bool:
    """Print what becomes of kernels that wait in vain and of hosts that do, and whether the GPU is usable after."""
    kernel, mailbox = bench.kernel(serve=True), bench.mailbox()
    heading("Time-outs", "what", "found", "the GPU gives right logits after")
    right = True

    def silent_host() -> None:
        with bench.server(kernel, mailbox, SHORT) as server:
            server.ask()
            time.sleep(2 * SHORT)
            server.ask()

    def silent_kernel() -> None:
        with bench.server(kernel, mailbox, SHORT) as server:
            server.ask()
            server.skip()
            server.ask()

    cases: dict[str, Ask] = {
        "the host asks when the kernel's patience is over": silent_host,
        "the host asks for a number that the kernel does not await": silent_kernel,
        "the image is not pinned": lambda: pinned(torch.zeros(1, *INPUT_SHAPE)),
    }
    for what, work in cases.items():
        found, well = refused(work), usable(bench)
        row(what, found, "yes" if well else "NO")
        right &= well and found != "NO ERROR"
    return right


def tare(rounds: int) -> float:
    """Median microseconds of a round whose answer is there already."""
    mailbox, times = Mailbox(torch.zeros(WORDS)), []
    for _ in range(rounds):
        began = time.perf_counter_ns()
        mailbox.request.value = 0
        mailbox.wait(0, PATIENCE, str)
        times.append(1e-3 * (time.perf_counter_ns() - began))
    return median(times)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000, help="rounds of a turn (%(default)s)")
    option = parser.parse_args(arguments)
    if option.rounds < 1:
        parser.error(f"at least one round a turn: {option.rounds}")
    device = devices.resolve("cuda")
    arrays = weights.load().arrays
    print(f"# One image's latency on {devices.describe(device)}\n")
    print(f"torch {torch.__version__}, {source_commit()}")
    print(f"\nMicroseconds of wall time. Each way has {TURNS * option.rounds} rounds, in {TURNS} turns.")
    print(f"\nA round whose answer is there already takes {tare(option.rounds):.2f} us: Python's part of a poll.")
    warm = torch.randn(4096, 4096, device=device)
    for _ in range(200):
        warm = (warm @ warm).clamp(-1, 1)
    right = True
    for precision in (Precision.FP32, Precision.FP16):
        for kind in InputType:
            with told(f"{precision}, {kind}"), ExitStack() as stack:
                bench = Bench(precision, kind, device, arrays, stack)
                right &= compare(bench, option.rounds)
                if precision is Precision.FP32 and kind is InputType.UINT8:
                    right &= time_outs(bench)
    print(f"\n{'SOMETHING WAS WRONG.' if failures or not right else 'Every round gave right logits.'}")
    return not right or bool(failures)


if __name__ == "__main__":
    sys.exit(main())
