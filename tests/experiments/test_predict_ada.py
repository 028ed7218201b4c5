"""The prediction for an RTX 4060 Ti: its arithmetic, its occupancy by NVIDIA's own calculator, and its instructions."""

from __future__ import annotations

import ctypes
import re
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet import parity, weights
from lenet.data.augmentation import normalize
from lenet.errors import ResultsError
from lenet.kernels import Variant, pack
from tests.experiments.scripts import load
from tests.experiments.test_scripts import RESULTS, tables
from tests.kernels.emulation import COMPILER, emulate, library
from tests.kernels.test_kernels import MOST_REGISTERS, SHARED, emulated, pixels

ada = load("predict_ada")

ASKED = r"""
#include <cuda_occupancy.h>
extern "C" int blocks(int minor, int major, int threads_sm, int shared_sm, int shared_block, int registers, int threads,
                      int shared) {
    cudaOccDeviceProp card;
    card.computeMajor = major, card.computeMinor = minor, card.maxThreadsPerBlock = 1024;
    card.maxThreadsPerMultiprocessor = threads_sm, card.regsPerBlock = card.regsPerMultiprocessor = 65536;
    card.warpSize = 32, card.sharedMemPerBlock = 48 * 1024, card.sharedMemPerMultiprocessor = shared_sm;
    card.sharedMemPerBlockOptin = shared_block, card.reservedSharedMemPerBlock = 1024, card.numSms = 1;
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = 1024, kernel.numRegs = registers, kernel.sharedSizeBytes = 0;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN, kernel.maxDynamicSharedSizeBytes = shared;
    kernel.numBlockBarriers = 1, kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
    cudaOccDeviceState state;
    cudaOccResult result;
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &card, &kernel, &state, threads, shared)) return -1;
    return result.activeBlocksPerMultiprocessor;
}
"""


def header() -> Path | None:
    """The folder of NVIDIA's occupancy calculator, in the environment of PyTorch for CUDA."""
    for name in ("nvidia", "triton"):
        spec = find_spec(name)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            for pattern in ("*/include", "backends/nvidia/include"):
                for found in Path(place).glob(f"{pattern}/cuda_occupancy.h"):
                    return found.parent
    return None


@pytest.mark.programs
@pytest.mark.skipif(COMPILER is None or header() is None, reason="needs g++ and NVIDIA's cuda_occupancy.h")
def test_occupancy_is_that_of_nvidia_s_calculator(tmp_path: Path) -> None:
    (tmp_path / "asked.cpp").write_text(ASKED)
    subprocess.run(
        [str(COMPILER), "-w", "-shared", "-fPIC", f"-I{header()}", "-o", "a.so", "asked.cpp"], cwd=tmp_path, check=True
    )
    asked = ctypes.CDLL(str(tmp_path / "a.so")).blocks
    seen = set()
    for card, minor, major in ((ada.ADA, 9, 8), (ada.H200, 0, 9)):
        for precision in ("fp32", "fp16", "fp16x2"):
            for registers in range(16, 101, 3):
                for shared in (0, 1000, 20_000, 49_151, card.shared_block):
                    variant = Variant(precision, 1, bytes_in=False, shared_bytes=shared)
                    found = min(ada.blocks_at_once(card, variant, registers).values())
                    limits = card.threads, card.shared, card.shared_block
                    assert found == asked(minor, major, *limits, registers, variant.threads, shared), (
                        variant,
                        registers,
                    )
                    seen.add(found)
    assert {1, 2, 3} < seen


def measured(precision: str, images: int, *, first: float = 3.0, wave: float = 10.0) -> Any:
    """A variant whose times on an H200 lie on a line."""
    variant = Variant(precision, images, bytes_in=False, shared_bytes=ada.ADA.shared_block)
    return ada.Measured(variant, {batch: first + wave * ada.waves(ada.H200, variant, batch) for batch in ada.BATCHES})


@given(
    st.sampled_from(["fp32", "fp16", "fp16x2"]),
    st.sampled_from([1, 2, 4]),
    st.floats(2, 50),
    st.floats(0.5, 100),
    st.sampled_from([1, 100, 1000, 10_000]),
    st.integers(1, 200),
)
def test_a_card_is_predicted_from_itself(
    precision: str, images: int, first: float, wave: float, batch: int, count: int
) -> None:
    one = measured(precision, images, first=first, wave=wave)
    card = replace(ada.H200, memory=float("inf"), products=1 << 40)
    for found in ada.predict(one, card, card, batch):
        assert found == pytest.approx(one.microseconds[batch])
    assert ada.fitted(one, card, count) == pytest.approx(first + wave * count)


def test_clock_multiprocessors_and_memory_scale_the_time() -> None:
    one = measured("fp32", 4)
    same = ada.predict(one, ada.H200, ada.H200, 10_000)
    assert same[0] == same[1] == pytest.approx(3 + 19 * 10)
    faster = replace(ada.H200, clock=2 * ada.H200.clock)
    assert ada.predict(one, ada.H200, faster, 10_000)[0] - ada.LAUNCH == pytest.approx((same[0] - ada.LAUNCH) / 2)
    fewer = replace(ada.H200, multiprocessors=66)
    assert ada.predict(one, ada.H200, fewer, 10_000)[0] == pytest.approx(3 + 38 * 10)
    slow = replace(ada.H200, memory=1e9, l2=0)
    assert ada.predict(one, ada.H200, slow, 10_000)[0] == pytest.approx(ada.LAUNCH + 122_880)
    assert ada.predict(one, ada.H200, replace(slow, l2=2**30), 10_000) == same


def test_tensor_cores_bound_the_time() -> None:
    one = measured("fp16", 4)
    least, most = ada.predict(one, ada.H200, replace(ada.H200, products=512), 10_000)
    cycles = 19 * ada.mma(one.variant) * 8  # waves, products of a block, cycles of one
    there = one.microseconds[10_000]
    assert least == pytest.approx(there)
    assert most == pytest.approx(there + 1e6 * cycles * 7 / 8 / ada.H200.clock)
    assert ada.predict(one, ada.H200, replace(ada.H200, products=1), 10_000)[0] == pytest.approx(
        ada.LAUNCH + 1e6 * 512 * cycles / ada.H200.clock
    )


class Counted(Variant):
    """A variant that counts its products."""

    @property
    def source(self) -> str:
        own: str = Variant.source.fget(self)  # type: ignore[attr-defined]
        counted = own.replace("multiply_add<BFLOAT>(", "++count, multiply_add<BFLOAT>(")
        return f'static unsigned count;\nextern "C" unsigned made() {{ return count; }}\n{counted}'


@pytest.mark.programs
@emulated
@pytest.mark.parametrize(("precision", "images"), [("fp32", 4), ("fp16", 4), ("fp16x2", 1)])
def test_products_are_as_many_as_the_kernel_makes(precision: str, images: int) -> None:
    """In the emulator, of code as compute capability 8.9 gets it, which gives right logits too."""
    variant = Counted(precision, images, bytes_in=False, shared_bytes=SHARED["sm_89"])
    arrays, given = weights.load().arrays, normalize(pixels(images))
    made = library(variant, bulk=False).made
    before = made()
    logits = torch.from_numpy(emulate(variant, given.numpy(), pack(arrays, variant), bulk=False))
    assert made() - before == 32 * ada.mma(variant)  # each lane counts
    allowed = parity.tolerance(arrays, given, precision)
    assert parity.compare(logits, parity.reference(arrays, given), allowed).right


def test_a_multiprocessor_of_the_card_holds_a_block_of_every_variant() -> None:
    variants = list(ada.variants_of(ada.ADA))
    assert {variant.precision for variant in variants} == {"fp32", "fp16", "fp16x2"}
    for variant in variants:
        assert variant.needed_bytes <= variant.shared_bytes == SHARED["sm_89"] == ada.ADA.shared_block
        assert min(ada.blocks_at_once(ada.ADA, variant, MOST_REGISTERS[variant.precision]).values()) == 1


PAGE = RESULTS / "fused-h200.md"


def test_the_page_has_the_tables_of_its_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ada, "registers_of", lambda _: 80)  # what NVRTC says is another test's
    assert ada.main([str(PAGE)]) == 0
    printed = tables(capsys.readouterr().out)
    assert printed == tables((RESULTS / "ada-prediction.md").read_text())
    assert len(printed) == 4


def test_a_page_s_times_are_those_back_to_back(tmp_path: Path) -> None:
    row = r"(\| fp16 uint8, 4 images x [^|]*\| )[\d.]+, [\d.]+ \|"
    text, changed = re.subn(row, r"\g<1>11.0, 22.0 |", PAGE.read_text())
    assert changed == 1
    file = tmp_path / "page.md"
    file.write_text(text)
    card, found, _ = ada.read(file)
    assert card is ada.H200
    assert found[Variant("fp16", 4, bytes_in=True, shared_bytes=ada.ADA.shared_block)].microseconds[10_000] == 22


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("NVIDIA H200", "NVIDIA H1"),
        ("| fp16x2 float32, 2 images", "| fp16x2 float32, 3 images"),
        (", back to back", ""),
    ],
)
def test_what_is_no_page_of_the_check_is_told(before: str, after: str, tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(PAGE.read_text().replace(before, after))
    with pytest.raises(ResultsError, match=r"page\.md is no page to predict from"):
        ada.main([str(file)])
    with pytest.raises(ResultsError, match="FileNotFoundError"):
        ada.read(tmp_path / "absent.md")
