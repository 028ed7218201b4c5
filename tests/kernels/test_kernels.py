"""The CUDA sources without a GPU: emulated on the CPU against the float64 reference, and compiled by NVRTC."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lenet import parity, weights
from lenet.architecture import INPUT_SHAPE
from lenet.data.augmentation import normalize
from lenet.errors import BackendError
from lenet.kernels import IMAGES_A_BLOCK, PRECISIONS, SPLIT, Variant, compiler, largest_that_fits, pack
from lenet.kernels.compiler import compile_variant, nvrtc_version
from lenet.provenance import package_version
from lenet.quantization import FORMATS
from tests import programs
from tests.kernels import stored
from tests.kernels.emulation import COMPILER, emulate, one_of_each_precision

SHARED = {"sm_75": 64 * 1024, "sm_80": 163 * 1024, "sm_89": 99 * 1024, "sm_90": 227 * 1024}
"""Shared memory that a block can have (CUDA C++ Programming Guide, table of compute capabilities)."""

OLDEST = {"bf16": "sm_80", "fp8": "sm_89"}
"""Precisions that not all architectures have."""

MOST_REGISTERS = {"fp32": 96, "fp16": 126, "bf16": 126, "fp16x2": 156}
"""A thread. NVRTC 13.0 used at most 96 in fp32, 124 in fp16 and bf16, and 146 in fp16x2, over all that is compiled
below. They cannot become more than 96, 128 and 168, for `__launch_bounds__` keeps a block within the 65,536 that a
multiprocessor has, at the cost of spills or of a worse order. fp32, int8 and fp8 take all: there spills alone tell."""


def nvrtc_missing() -> str:
    try:
        nvrtc_version()
    except BackendError as error:
        return f"{error.summary}: {error.found}"
    return ""


emulated = pytest.mark.skipif(COMPILER is None, reason="the emulator is compiled by g++, which is not installed")
compiled = pytest.mark.skipif(bool(nvrtc_missing()), reason=nvrtc_missing())


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *INPUT_SHAPE), dtype=torch.uint8, generator=generator)


COPIES, BULK, BOTH = (False,), (True,), (False, True)


@emulated
@pytest.mark.parametrize(
    ("variant", "batch", "bulk"),
    one_of_each_precision(
        (variant, batch, bulk)
        for variant, batch, ways in (
            (Variant("fp32", 8, bytes_in=False, shared_bytes=SHARED["sm_90"]), 13, BOTH),
            (Variant("fp32", 8, bytes_in=True, shared_bytes=SHARED["sm_90"]), 8, BULK),
            (Variant("fp32", 2, bytes_in=True, shared_bytes=SHARED["sm_90"]), 3, COPIES),
            (Variant("fp32", 1, bytes_in=False, shared_bytes=SHARED["sm_90"]), 3, BULK),
            (Variant("fp32", 2, bytes_in=True, shared_bytes=SHARED["sm_75"]), 1, COPIES),
            (Variant("fp32", 1, bytes_in=False, shared_bytes=SHARED["sm_90"], blocks_an_image=SPLIT), 3, BULK),
            (Variant("fp32", 1, bytes_in=True, shared_bytes=SHARED["sm_89"], blocks_an_image=SPLIT), 1, COPIES),
            (Variant("fp16", 8, bytes_in=False, shared_bytes=SHARED["sm_90"]), 13, BOTH),
            (Variant("fp16", 4, bytes_in=True, shared_bytes=SHARED["sm_89"]), 3, COPIES),
            (Variant("fp16", 4, bytes_in=False, shared_bytes=SHARED["sm_90"]), 6, BULK),
            (Variant("fp16", 2, bytes_in=True, shared_bytes=SHARED["sm_90"]), 3, BULK),
            (Variant("bf16", 1, bytes_in=True, shared_bytes=SHARED["sm_90"]), 1, BULK),
            (Variant("fp16x2", 8, bytes_in=False, shared_bytes=SHARED["sm_90"]), 3, BOTH),
        )
        for bulk in ways
    ),
    ids=lambda value: (
        f"{value.precision}-{value.images}-{value.blocks_an_image}"
        if isinstance(value, Variant)
        else {True: "bulk", False: "copies"}[value]
        if isinstance(value, bool)
        else None
    ),
)
def test_logits_are_the_reference_s(variant: Variant, batch: int, bulk: bool) -> None:
    """Blocks full and not, fc1's weights in shared memory and not, of both input types and ways to copy.

    Each precision, input type and number of images or blocks is there with both ways to copy, or in code that is.
    """
    if variant.staged and not bulk:  # a GPU without bulk copies has less shared memory
        variant = replace(variant, shared_bytes=SHARED["sm_80"])
    arrays = weights.load().arrays
    images = normalize(pixels(batch))
    given = pixels(batch) if variant.bytes_in else images
    logits = torch.from_numpy(emulate(variant, given.numpy(), pack(arrays, variant), bulk=bulk))
    compared = parity.compare(
        logits, parity.reference(arrays, images), parity.tolerance(arrays, images, variant.precision)
    )
    assert compared.right, compared


@pytest.mark.programs
@emulated
@pytest.mark.parametrize(
    ("precision", "bytes_in", "bulk"),
    [("fp16", False, True), ("fp32", False, True), ("fp32", False, False), ("fp32", True, True)],
)
@pytest.mark.parametrize(("batch", "multiprocessors"), [(19, 1), (17, 132)])
def test_a_block_takes_its_share_of_the_batch_in_turns(
    precision: str, bytes_in: bool, bulk: bool, batch: int, multiprocessors: int
) -> None:
    """One block with turns of 8, 8 and 3 images; three blocks with turns of 6, 6 and 5."""
    variant = Variant(precision, 8, bytes_in, shared_bytes=SHARED["sm_90"])
    assert variant.turns
    arrays = weights.load().arrays
    images = normalize(pixels(batch))
    given = (pixels(batch) if bytes_in else images).numpy()
    logits = torch.from_numpy(
        emulate(variant, given, pack(arrays, variant), bulk=bulk, multiprocessors=multiprocessors)
    )
    compared = parity.compare(logits, parity.reference(arrays, images), parity.tolerance(arrays, images, precision))
    assert compared.right, compared


@pytest.mark.parametrize(("batch", "blocks"), [(1, 1), (9, 2), (1056, 132), (10_000, 132)])
def test_blocks_that_take_turns_are_one_a_multiprocessor(batch: int, blocks: int) -> None:
    staged, not_staged = (Variant("fp16", 8, bytes_in=False, shared_bytes=SHARED[of]) for of in ("sm_90", "sm_80"))
    assert staged.blocks(batch, 132) == replace(staged, precision="fp32").blocks(batch, 132) == blocks
    assert not_staged.blocks(batch, 132) == -(-batch // 8)


@emulated
def test_blocks_that_share_an_image_give_the_same_bits_in_any_order_and_launch() -> None:
    """A launch leaves the workspace fit for the next, which reads no old sums; of each image another block is last."""
    variant = Variant("fp32", 1, bytes_in=False, shared_bytes=SHARED["sm_90"], blocks_an_image=SPLIT)
    parameters = pack(weights.load().arrays, variant)
    images = normalize(pixels(1)).repeat(3, 1, 1, 1).numpy()
    workspace = np.zeros((3, variant.workspace), np.float32)
    first = emulate(variant, images, parameters, workspace)
    sums = workspace[:, : SPLIT * 120]
    assert sums.all()
    sums[:] = np.nan
    second = emulate(variant, images, parameters, workspace)
    assert (np.concatenate([first, second]) == first[0]).all()


@emulated
@pytest.mark.parametrize("blocks", [1, SPLIT])
@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc1", "fc2", "fc3"])
def test_a_weight_that_changes_changes_the_logits(layer: str, blocks: int) -> None:
    """Else the test above could pass on weights that the kernel does not read."""
    variant = Variant("fp32", 1, bytes_in=False, shared_bytes=SHARED["sm_90"], blocks_an_image=blocks)
    arrays = weights.load().arrays
    images = normalize(pixels(1))
    changed = dict(arrays)
    changed[f"{layer}.weight"] = arrays[f"{layer}.weight"] * np.float32(1.01)
    logits = torch.from_numpy(emulate(variant, images.numpy(), pack(changed, variant)))
    allowed = parity.tolerance(arrays, images, "fp32")
    assert not parity.compare(logits, parity.reference(arrays, images), allowed).right
    assert parity.compare(logits, parity.reference(changed, images), allowed).right


def log_of(variant: Variant, architecture: str) -> str:
    """What the compiler says of a variant that compiles."""
    programs.notice("NVRTC")
    versions = (nvrtc_version(), *(str(package_version(name)) for name in ("nvidia-cuda-nvrtc", "cuda-core")))
    caller = Path(compiler.__file__).read_text(encoding="utf-8")
    inputs = (variant.source, *map(str, variant.macros.items()), caller)
    compile_now = partial(_compile, variant, architecture)
    return stored.compiled(f"NVRTC {' '.join(versions)}", architecture, inputs, compile_now).decode()


def _compile(variant: Variant, architecture: str, _: Path) -> bytes:
    done = compile_variant(variant, architecture)
    assert done.cubin
    return done.log.encode()


@pytest.mark.programs
@compiled
@pytest.mark.parametrize("architecture", SHARED)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_compiles_into_few_registers_and_spills_none(precision: str, architecture: str) -> None:
    """What does not fit goes to memory: slow, and nothing else tells."""
    if architecture < OLDEST.get(precision, ""):
        pytest.skip(f"{precision} begins with {OLDEST[precision]}")
    shared_bytes = SHARED[architecture]
    most = largest_that_fits(precision, shared_bytes)
    if not most:
        pytest.skip(f"not one image fits into {shared_bytes:,} bytes")
    sizes = IMAGES_A_BLOCK if precision not in FORMATS else (4, most) if architecture == "sm_90" else (most,)
    variants = [Variant(precision, n, bytes_in=False, shared_bytes=shared_bytes) for n in sizes if n <= most]
    variants.append(Variant(precision, most, bytes_in=True, shared_bytes=shared_bytes))
    if precision == "fp32" and architecture != "sm_75":
        variants += [Variant(precision, 1, bytes_in, shared_bytes, SPLIT) for bytes_in in (False, True)]
    for variant in variants:
        log = log_of(variant, architecture)
        assert re.findall(r"(\d+) bytes spill stores", log) == ["0"], log
        (registers,) = re.findall(r"Used (\d+) registers", log)
        assert int(registers) <= MOST_REGISTERS.get(precision, 128), variant


@compiled
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_shared_memory_that_it_needs_is_what_the_source_says(precision: str) -> None:
    variants = [Variant(precision, images, bytes_in=False, shared_bytes=0) for images in IMAGES_A_BLOCK]
    if precision == "fp32":
        variants.append(Variant(precision, 1, bytes_in=False, shared_bytes=0, blocks_an_image=SPLIT))
    for variant in variants:
        enough, short = (replace(variant, shared_bytes=variant.needed_bytes - less) for less in (0, 16))
        assert "shared memory is too small" not in why_it_does_not_compile(Unfinished(**asdict(enough)))
        assert "shared memory is too small for so many images" in why_it_does_not_compile(short)


@compiled
def test_images_are_staged_where_the_source_has_room_for_it() -> None:
    variants = [Variant("fp16", 8, bytes_in=False, shared_bytes=n) for n in range(0, SHARED["sm_90"] + 1, 16)]
    first = next(i for i, variant in enumerate(variants) if variant.staged)
    enough, short = variants[first], variants[first - 1]
    assert "too small to stage images" not in why_it_does_not_compile(Unfinished(**asdict(enough)))
    assert "too small to stage images" in why_it_does_not_compile(Staged(**asdict(short)))


class Staged(Variant):
    """A variant that stages images, whatever its shared memory."""

    @property
    def staged(self) -> bool:
        return True


class Unfinished(Variant):
    """A variant that is read to its end and then refused: to compile it would take a second."""

    @property
    def source(self) -> str:
        return f'{super().source}\nstatic_assert(IMAGES == 0, "all of it was read");\n'


def why_it_does_not_compile(variant: Variant) -> str:
    with pytest.raises(BackendError) as caught:
        compile_variant(variant, "sm_90")
    assert ("all of it was read" in caught.value.found) is isinstance(variant, Unfinished)
    return caught.value.found


@compiled
def test_what_the_compiler_says_is_shown() -> None:
    variant = Variant("fp32", 1, bytes_in=False, shared_bytes=SHARED["sm_90"])
    with pytest.raises(BackendError, match=r"(?s)NVRTC cannot compile the kernel for sm_1.*found:") as caught:
        compile_variant(variant, "sm_1")
    assert "\0" not in str(caught.value), "a terminal would show it, and a log would be no text"


@pytest.mark.parametrize(("shared_bytes", "fitting"), [(227 * 1024, 8), (99 * 1024, 4), (64 * 1024, 2), (16 * 1024, 0)])
def test_images_a_block_are_limited_by_shared_memory(shared_bytes: int, fitting: int) -> None:
    assert largest_that_fits("fp32", shared_bytes) == fitting
