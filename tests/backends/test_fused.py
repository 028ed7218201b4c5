"""The fused backend without a GPU: its driver is a fake that runs the kernel's source in the host emulator."""

from __future__ import annotations

import ctypes
import itertools
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lenet import parity, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends import fused
from lenet.backends.base import BatchRange, BuildSpec, Runner
from lenet.backends.fused import LARGEST_BATCH, Fused, images_a_block, largest_split
from lenet.data.augmentation import normalize
from lenet.errors import BackendError
from lenet.kernels import ENTRY, IMAGES_A_BLOCK, PRECISIONS, SPLIT, Variant, driver, pack
from lenet.kernels.compiler import OPTIONS, Compiled
from lenet.quantization import calibrate
from lenet.vocabulary import InputType, Precision
from tests.backends.holding import held, without_collector
from tests.kernels.emulation import COMPILER, library

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

SHARED_BYTES = 232_448
VARIANTS = [
    *(Variant(*one, SHARED_BYTES) for one in itertools.product(PRECISIONS, IMAGES_A_BLOCK, (False, True))),
    *(Variant(Precision.FP32, 1, bytes_in, SHARED_BYTES, SPLIT) for bytes_in in (False, True)),
]

emulated = pytest.mark.skipif(COMPILER is None, reason="the emulator is compiled by g++, which is not installed")


class Gpu:
    """What the backend asks of CUDA, of an H100 that is not there.

    Attributes:
        compiled: The variants that NVRTC was asked for.
        launched: Images a block, blocks and threads of each launch.
        contexts: Those of the calling thread.
        graphs: What was asked of each graph.
        destroyed: Numbers of graphs that are no more; negative ones are templates.
        status: What the driver answers to a launch.
        unloadable: How many cubins the driver refuses.
    """

    def __init__(self) -> None:
        self.compiled: list[Variant] = []
        self.launched: list[tuple[int, int, int]] = []
        self.contexts: list[int] = []
        self.graphs: list[Any] = []
        self.destroyed: list[int] = []
        self.status = self.unloadable = 0

    def compile(self, _source: str, macros: dict[str, str], architecture: str) -> Compiled:
        assert architecture == "sm_90"
        variant = next(variant for variant in VARIANTS if variant.macros == macros)
        self.compiled.append(variant)
        return Compiled(str(len(self.compiled) - 1).encode(), "")

    def load(self, _kernels: dict[str, int], _device: torch.device, refusals: list[str], cubin: bytes) -> Any:
        if self.unloadable:
            self.unloadable -= 1
            refusals.append("error 209: no kernel image")
            return None
        return {ENTRY: SimpleNamespace(handle=int(cubin))}

    cuLaunchKernelEx = None  # noqa: N815

    def cuStreamGetCtx(self, stream: Any, context: Any) -> int:  # noqa: N802
        assert stream.value == 7
        context._obj.value = 5
        return self.status

    def cuCtxPushCurrent_v2(self, context: Any) -> int:  # noqa: N802
        self.contexts.append(context.value)
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:  # noqa: N802
        context._obj.value = self.contexts.pop()
        return 0

    def cuGraphCreate(self, graph: Any, flags: int) -> int:  # noqa: N802 - the driver's
        assert flags == 0
        assert self.contexts == [5], "the stream's"
        self.graphs.append({})
        graph._obj.value = len(self.graphs)
        return 0

    def cuGraphAddKernelNode_v2(self, _node: Any, graph: Any, _after: None, after: Any, parameters: Any) -> int:  # noqa: N802
        """Copies the arguments, as the driver does."""
        grid = parameters._obj
        addresses = [address or 0 for address in (ctypes.c_void_p * 5).from_address(grid.arguments)]
        pointers = [ctypes.c_void_p.from_address(addresses[i]).value for i in (0, 1, 2, 4)]
        batch = ctypes.c_int.from_address(addresses[3]).value
        variant = self.compiled[grid.kernel or 0]
        assert (after.value, grid.function, grid.extra, grid.context) == (0, None, None, None)
        assert grid.shared_bytes == variant.shared_bytes
        assert [*grid.blocks[1:], *grid.threads[1:]] == [1, 1, 1, 1]
        self.graphs[graph.value - 1] = (variant, grid.blocks[0], grid.threads[0], pointers, batch)
        return 0

    def cuGraphInstantiateWithFlags(self, handle: Any, graph: Any, flags: Any) -> int:  # noqa: N802
        assert flags.value == 0
        handle._obj.value = graph.value
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:  # noqa: N802
        self.destroyed.append(-graph.value)
        return 0

    def cuGraphExecDestroy(self, graph: Any) -> int:  # noqa: N802
        self.destroyed.append(graph.value)
        return 0

    def cuGraphLaunch(self, graph: Any, stream: Any) -> int:  # noqa: N802
        if self.status:
            return self.status
        assert stream.value == 7
        variant, blocks, threads, pointers, batch = self.graphs[graph.value - 1]
        images, parameters, logits, workspace = map(ctypes.c_void_p, pointers)
        self.launched.append((variant.images, blocks, threads))
        size = batch * 3072 * (1 if variant.bytes_in else 4)
        library(variant).emulate(
            *(images, ctypes.c_size_t(size)),
            *(parameters, ctypes.c_size_t(len(pack(weights.load().arrays, variant)))),
            *(logits, ctypes.c_int(batch), ctypes.c_int(blocks)),
            *(workspace, ctypes.c_size_t(4 * batch * variant.workspace)),
        )
        return 0


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gpu:
    fake = Gpu()
    properties = SimpleNamespace(shared_memory_per_block_optin=SHARED_BYTES, multi_processor_count=132)
    stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
    for name, value in {
        "is_available": lambda: True,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *_: properties,
        "current_stream": lambda *_: None,
        "device": lambda *_: nullcontext(),
        "stream": lambda *_: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for name, value in {
        "cuda_core": lambda: None,
        "nvrtc_version": lambda: "13.0",
        "new_stream": lambda _: stream,
    }.items():
        monkeypatch.setattr(fused, name, value)
    for name, value in {
        "nvrtc_version": lambda: "13.0",
        "compile_source": fake.compile,
        "_load": fake.load,
        "library": lambda: fake,
    }.items():
        monkeypatch.setattr(driver, name, value)
    monkeypatch.setenv("LENET_CACHE", str(tmp_path / "cache"))
    return fake


def build(batches: BatchRange, precision: Precision = Precision.FP32, kind: InputType = InputType.FLOAT32) -> Runner:
    """A runner whose device is the CPU, where the fake's memory is."""
    return Fused()._build(weights.load().arrays, BuildSpec(CPU, precision, batches, kind))


def pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, *INPUT_SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.programs
@emulated
def test_batches_of_a_range_are_launched_as_they_need(gpu: Gpu) -> None:
    runner = build(BatchRange(1, 3, 300), kind=InputType.UINT8)
    images = pixels(3)
    for part in (images, images[:1].clone(), images):
        logits = runner.forward(part)
        allowed = parity.tolerance(weights.load().arrays, part, "fp32")
        assert parity.compare(logits, parity.reference(weights.load().arrays, part), allowed).right
    assert gpu.launched == [(1, 15, 640), (1, 5, 640), (1, 15, 640)]
    assert [(variant.images, variant.blocks_an_image) for variant in gpu.compiled] == [
        (1, 1),
        (2, 1),
        (4, 1),
        (1, SPLIT),
    ]
    assert (runner.facts()["images_a_block"], runner.facts()["blocks_an_image"]) == ("1", "5")


@emulated
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("end", ["close", "del"])
def test_kernels_and_their_memory_are_gone_without_the_collector(end: str) -> None:
    with without_collector():
        runner = build(BatchRange(1, 2, 2), kind=InputType.UINT8)
        for count in (1, 2, 1):
            runner.forward(pixels(count))
        references = held(runner)
        assert len(references) >= 7, "of two kernels, two buffers and the logits"
        if end == "close":
            runner.close()
        else:
            del runner
        assert [reference() for reference in references if reference() is not None] == []


@pytest.mark.programs
@emulated
def test_an_image_is_spread_over_blocks_where_each_has_a_multiprocessor(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = build(BatchRange(26, 27, 28))
    for variant in gpu.compiled:
        monkeypatch.setattr(library(variant), "emulate", lambda *_: None, raising=False)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda _: True)
    for batch in (26, 27):
        runner.forward(torch.zeros(batch, *INPUT_SHAPE))
    monkeypatch.setattr(runner, "_device", torch.device("meta"))  # so that the CPU is the host
    runner.forward(torch.zeros(26, *INPUT_SHAPE))
    assert gpu.launched == [(1, 130, 640), (1, 27, 640), (1, 26, 640)]
    assert runner.facts()["blocks_an_image"] == "1"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("precision", "images"), [(Precision.FP16, "1"), (Precision.FP16X2, "2")])
def test_a_zero_copy_row_tells_the_kernel_that_reads_the_host_s_memory(precision: Precision, images: str) -> None:
    runner = build(BatchRange.exactly(1000), precision)
    assert (runner.facts()["images_a_block"], runner.facts(zero_copy=True)["images_a_block"]) == ("8", images)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("optimum", "blocks"), [(1, "5"), (2, "1")])
def test_a_lone_image_in_the_host_s_memory_is_spread_over_blocks(optimum: int, blocks: str) -> None:
    runner = build(BatchRange(1, optimum, 2))
    assert runner.facts(zero_copy=True)["blocks_an_image"] == blocks


def test_blocks_that_share_an_image_are_compiled_only_where_they_can_be_chosen(gpu: Gpu) -> None:
    build(BatchRange(27, 27, 28))
    build(BatchRange.exactly(1), Precision.FP16)
    assert [variant.blocks_an_image for variant in gpu.compiled] == [1, 1]


@emulated
def test_images_in_the_host_s_memory_go_to_small_blocks(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = build(BatchRange.exactly(999))
    assert [variant.images for variant in gpu.compiled] == [2, 8]
    monkeypatch.setattr(library(gpu.compiled[0]), "emulate", lambda *_: None, raising=False)
    monkeypatch.setattr(runner, "_device", torch.device("meta"))  # so that the CPU is the host
    images = torch.zeros(999, *INPUT_SHAPE)
    with pytest.raises(BackendError, match="on cpu, not pinned"):
        runner.forward(images)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda _: True)
    runner.forward(images)
    assert gpu.launched == [(2, 500, 640)]


@pytest.mark.parametrize(
    ("batch", "most", "images"),
    [(1, 8, 1), (132, 8, 1), (133, 8, 2), (528, 8, 4), (529, 8, 8), (10_000, 8, 8), (529, 4, 4), (300, 2, 2)],
)
def test_blocks_are_as_small_as_lets_them_all_run_at_once(batch: int, most: int, images: int) -> None:
    assert images_a_block(batch, multiprocessors=132, most=most) == images


@pytest.mark.parametrize(
    ("precision", "kibibytes", "multiprocessors", "batch"),
    [("fp32", 227, 132, 26), ("fp32", 99, 34, 6), ("fp32", 64, 40, 0), ("fp32", 227, 4, 0), ("fp16", 227, 132, 0)],
    ids=["H100", "RTX 4060 Ti", "T4", "a part of a GPU", "tensor cores"],
)
def test_images_are_spread_where_there_is_room(
    precision: str, kibibytes: int, multiprocessors: int, batch: int
) -> None:
    variant = Variant(precision, 1, bytes_in=False, shared_bytes=1024 * kibibytes, blocks_an_image=SPLIT)
    assert largest_split(variant, multiprocessors) == batch


def test_a_kernel_is_compiled_once_until_its_source_or_an_option_changes(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    for spec in (Precision.FP32, Precision.FP32, Precision.FP16):
        build(BatchRange.exactly(1), spec)
    build(BatchRange.exactly(1), kind=InputType.UINT8)
    assert [(variant.precision, variant.bytes_in, variant.blocks_an_image) for variant in gpu.compiled] == [
        *(("fp32", False, 1), ("fp32", False, SPLIT)),
        ("fp16", False, 1),
        *(("fp32", True, 1), ("fp32", True, SPLIT)),
    ]
    monkeypatch.setattr(Variant, "source", "another")
    build(BatchRange.exactly(1))
    assert len(gpu.compiled) == 7
    monkeypatch.setitem(OPTIONS, "std", "c++20")
    build(BatchRange.exactly(1))
    assert len(gpu.compiled) == 9


def test_a_cubin_that_the_driver_refuses_is_an_error_with_its_reason(gpu: Gpu) -> None:
    gpu.unloadable = 1
    with pytest.raises(BackendError, match=r"(?s)refuses the kernel.*error 209: no kernel image.*sm_90"):
        build(BatchRange.exactly(1))


def test_a_launch_that_the_driver_refuses_is_an_error(gpu: Gpu) -> None:
    runner = build(BatchRange.exactly(1))
    images, others = torch.zeros(2, 1, *INPUT_SHAPE)
    runner.forward(images)
    gpu.status = 700
    with pytest.raises(BackendError, match=r"(?s)refuses to launch.*error 700"):
        runner.forward(images)
    with pytest.raises(BackendError, match=r"(?s)refuses to prepare the launch.*error 700"):
        runner.forward(others)


def test_images_at_an_odd_address_are_refused(gpu: Gpu) -> None:
    runner = build(BatchRange.exactly(1), kind=InputType.UINT8)
    images = torch.zeros(3 * 32 * 32 + 1, dtype=torch.uint8)[1:].view(1, *INPUT_SHAPE)
    with pytest.raises(BackendError, match=r"(?s)not aligned.*multiple of 16"):
        runner.forward(images)
    assert not gpu.launched


@pytest.mark.usefixtures("gpu")
def test_a_batch_over_the_largest_is_refused() -> None:
    with pytest.raises(BackendError, match=r"(?s)1,048,577 images.*at most 1,048,576"):
        build(BatchRange(1, 1, LARGEST_BATCH + 1))


@pytest.mark.usefixtures("gpu")
def test_a_gpu_with_too_little_shared_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SimpleNamespace(shared_memory_per_block_optin=65_536, multi_processor_count=40)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: small)
    with pytest.raises(BackendError, match=r"(?s)does not run fp16x2 on this GPU.*65,536 bytes"):
        build(BatchRange.exactly(1), Precision.FP16X2)


def missing(what: str) -> Callable[..., Any]:
    def fail() -> None:
        raise BackendError(f"{what} is missing", found="nothing", wanted=what, hint="install it")

    return fail


@pytest.mark.usefixtures("gpu")
def test_where_it_cannot_run_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Fused()
    assert backend.probe(CUDA)
    assert backend.probe(CPU).reason == "fused runs on cuda alone"
    for module, what in ((fused, "cuda_core"), (fused, "nvrtc_version"), (driver, "library")):
        with monkeypatch.context() as patch:
            patch.setattr(module, what, missing(what))
            assert backend.probe(CUDA).reason == f"{what} is missing: nothing: install it"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 0))
    assert backend.probe(CUDA).reason == "compute capability 7.0, 7.5 or newer is wanted"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "sees no CUDA device" in str(backend.probe(CUDA).reason)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("precision", "capability", "wanted"),
    [
        ("tf32", (9, 0), "fp32 or fp16 or bf16 or fp16x2 or int8 or fp8 on an NVIDIA GPU"),
        *((name, (7, 5), "fp32, fp16, int8, or .* capability 8.0 or newer") for name in ("bf16", "fp16x2")),
        ("fp8", (8, 6), "fp32, fp16, bf16, fp16x2, int8, or a GPU of compute capability 8.9 or newer"),
        *((name, (7, 5), None) for name in ("fp32", "fp16", "int8")),
        *((name, at, None) for name, at in (("bf16", (8, 0)), ("fp16x2", (8, 0)), ("fp8", (8, 9)))),
    ],
)
def test_precisions_by_gpu(
    monkeypatch: pytest.MonkeyPatch, precision: str, capability: tuple[int, int], wanted: str | None
) -> None:
    """A GPU too old for a precision is told those that it has."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    if wanted is None:
        assert Fused().executed_precision(Precision(precision), CUDA) == precision
        return
    with pytest.raises(BackendError, match=f"fused does not run {precision} on cuda(?s:.)*wanted: {wanted}"):
        Fused().executed_precision(Precision(precision), CUDA)


@pytest.mark.programs
@emulated
@pytest.mark.usefixtures("gpu")
def test_a_quantised_network_runs_with_its_scales() -> None:
    arrays, images = weights.load().arrays, normalize(pixels(2))
    scales = calibrate(arrays, pixels(4), Precision.INT8)
    spec = BuildSpec(CPU, Precision.INT8, BatchRange.exactly(2), scales=scales)
    logits = Fused()._build(arrays, spec).forward(images)
    assert parity.Reference(arrays, images, lambda _: scales).compare(logits, "int8").right
    assert not parity.Reference(arrays, images).compare(logits, "int8").right, "those are the shipped scales"


@pytest.mark.parametrize("as_graph", [False, True])
def test_a_bound_launch_keeps_its_code_loaded(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, as_graph: bool) -> None:
    """Code that nothing holds is unloaded; a call that is bound outlives its runner."""

    class Code:
        handle = 0

    monkeypatch.setattr(driver, "_load", lambda *_: {ENTRY: Code()})
    variant = Variant("fp32", 1, bytes_in=False, shared_bytes=SHARED_BYTES)
    kernel = fused.load_kernel(weights.load().arrays, variant, CPU, 1)
    code = weakref.ref(kernel.code.value)
    stream: Any = SimpleNamespace(cuda_stream=7)
    call = kernel.bind(stream, torch.zeros(1, *INPUT_SHAPE), torch.zeros(1, 10), as_graph=as_graph)
    del kernel
    assert code() is not None
    assert (gpu.contexts, gpu.destroyed) == ([], [-1] if as_graph else [])
    del call
    assert code() is None
    assert gpu.destroyed == ([-1, 1] if as_graph else [])
