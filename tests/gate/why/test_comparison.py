"""Records written by hand: what the line says, and when it says that nothing explains a slow-down."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lenet.gate.why.comparison import Explanation, compare
from lenet.gate.why.groups import DEVICE, HOST, changes
from lenet.gate.why.records import KINDS, Layer, Part, Record
from lenet.vocabulary import Mode
from tests.gate.why.trees import case

GPU = case(device="NVIDIA H200")
END_TO_END = case(mode=Mode.END_TO_END, device="NVIDIA H200")
SGEMM = "void implicit_convolve_sgemm<float, 5>(int)"
ADD = "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float> >(int)"


def part(kind: str, name: str, micros: float, *, layer: str = "", operator: str = "", calls: float = 1) -> Part:
    return Part(kind, layer, operator, name, calls, 1e-6 * micros)


CONV = (part("kernel", SGEMM, 20, layer="conv1"), part("kernel", ADD, 2, layer="conv1"))
REST = (part("kernel", "void gemv2T(int)", 8, layer="fc1"), part("gaps", "", 4), part("outside", "", 100))
BASE = Record("a row", None, parts=(*CONV, *REST))


def explained(*parts: Part, slowdown: tuple[float, float] | None = None, of: Record = BASE) -> Explanation:
    return compare(of, replace(of, parts=parts), GPU, slowdown)


def test_a_layer_with_another_number_of_kernels() -> None:
    third = part("kernel", "void nchwToNhwc(int)", 18.2, layer="conv1")
    found = explained(*CONV, third, *REST, slowdown=(34e-6, 53e-6))
    assert found.line == "conv1: +18.2 us, 3 kernels where base has 2"
    assert found.differences[0].what == "conv1"
    assert found.differences[0].head == pytest.approx(40.2e-6)


def test_another_kernel_in_a_layer() -> None:
    other = part("kernel", "void fft2d_r2c_32x32<float>(int)", 60, layer="conv1")
    assert (
        explained(other, CONV[1], *REST).line == "conv1: +40.0 us, fft2d_r2c_32x32 in place of implicit_convolve_sgemm"
    )


def test_the_same_kernel_that_takes_longer() -> None:
    assert explained(replace(CONV[0], seconds=30e-6), CONV[1], *REST).line == "conv1: +10.0 us (22.0 us -> 32.0 us)"


def test_another_variant_of_a_kernel() -> None:
    other = part("kernel", "void implicit_convolve_sgemm<float, 1>(int)", 30, layer="conv1")
    assert explained(other, CONV[1], *REST).line == "conv1: +10.0 us, another variant of the same kernel"


def test_a_new_kernel() -> None:
    spin = part("kernel", "at::cuda::(anonymous namespace)::spin_kernel(long)", 9.8)
    assert explained(*CONV, *REST, spin).line == "new kernel spin_kernel: +9.80 us a pass"
    new = part("kernel", ADD, 9.8, operator="aten::add_")
    expected = "new operator add_: +9.80 us a pass, kernel vectorized_elementwise_kernel<CUDAFunctor_add>"
    assert explained(*CONV, *REST, new).line == expected


def test_kernels_that_a_compiler_renamed_are_set_against_each_other() -> None:
    base = Record("a row", None, parts=(part("kernel", "triton_poi_fused_relu_0", 20), part("gaps", "", 1)))
    renumbered = (part("kernel", "triton_poi_fused_relu_7", 26), part("gaps", "", 1))
    assert explained(*renumbered, of=base).line == "kernel triton_poi_fused_relu: +6.00 us (20.0 us -> 26.0 us)"
    fused = (part("kernel", "triton_red_fused_relu_mm_1", 26), part("gaps", "", 1))
    assert explained(*fused, of=base).line == (
        "triton_red_fused_relu_mm in place of triton_poi_fused_relu: +6.00 us (20.0 us -> 26.0 us)"
    )


def test_gaps_of_a_forward_row_and_of_an_end_to_end_row() -> None:
    late = (*CONV, REST[0], part("gaps", "", 16), part("outside", "", 111.5))
    assert explained(*late).line == "gaps between kernels: +12.0 us (4.00 us -> 16.0 us)"
    found = compare(BASE, replace(BASE, parts=late), END_TO_END)
    assert found.line == (
        "gaps between kernels (the host launches too late): +12.0 us, on the host: time outside operators +11.5 us"
    )


def test_a_slower_copy() -> None:
    base = replace(BASE, parts=(*BASE.parts, part("copy", "Memcpy HtoD (Pinned -> Device)", 20)))
    head = replace(BASE, parts=(*BASE.parts, part("copy", "Memcpy HtoD (Pageable -> Device)", 50)))
    line = compare(base, head, END_TO_END).line
    assert line.startswith("the copy to the GPU: +30.0 us, Memcpy HtoD (Pageable -> Device) in place of Memcpy HtoD")
    back = (*base.parts, part("copy", "Memcpy DtoH (Device -> Pageable)", 30))
    assert compare(base, replace(base, parts=back), END_TO_END).line == "the copy from the GPU: +30.0 us a pass"


def test_two_parts_that_explain_it_together_and_many() -> None:
    slower = [replace(one, seconds=1.5 * one.seconds) for one in (*CONV, REST[0])]
    assert explained(*slower, *REST[1:], slowdown=(34e-6, 58e-6)).line == (
        "conv1: +11.0 us (22.0 us -> 33.0 us); fc1: +4.00 us (8.00 us -> 12.0 us)"
    )
    many = tuple(part("kernel", f"kernel_{'abcdefghi'[number]}", 10) for number in range(9))
    base = Record("a row", None, parts=many)
    found = explained(*(replace(one, seconds=11e-6) for one in many), of=base, slowdown=(90e-6, 99e-6))
    assert found.line.startswith("9 parts are slower, together +9.00 us, the most kernel kernel_a: +1.00 us")


def test_what_no_profile_shows_is_said() -> None:
    found = explained(*BASE.parts, slowdown=(1.0, 1.052))
    assert found.line == "nothing that the profiles show explains +5.2 %"
    little = explained(replace(CONV[0], seconds=21e-6), CONV[1], *REST, slowdown=(34e-6, 40e-6))
    assert little.line == "nothing that the profiles show explains +17.6 %, the most is conv1: +1.00 us"


def test_profiles_that_were_disturbed_explain_nothing() -> None:
    found = explained(*(replace(one, seconds=3 * one.seconds) for one in BASE.parts), slowdown=(34e-6, 36e-6))
    assert found.line.startswith("the profiles were disturbed (+68.0 us in the profiles, +2.00 us measured)")


def test_a_slow_down_that_does_not_show_again_is_not_explained() -> None:
    base = Record("a row", None, seconds=1e-3, parts=(part("outside", "", 200), part("operator", "aten::mm", 800)))
    head = replace(base, parts=(part("outside", "", 240), base.parts[1]))
    slowdown = (1e-3, 1.06e-3)
    line = compare(base, replace(head, seconds=1.005e-3), case(), slowdown).line
    assert line == "the slow-down did not show again while it was profiled (+5.00 us of +60.0 us)"
    shown = compare(base, replace(head, seconds=1.05e-3), case(), slowdown).line
    assert shown == "host time outside operators: +40.0 us a pass"


def test_libraries_facts_and_hashes_that_differ() -> None:
    base = replace(BASE, versions={"triton": "3.5.1"}, facts={"plan_sha256": "aa", "level": "3"})
    head = replace(BASE, versions={"triton": "3.8.0"}, facts={"plan_sha256": "bb", "level": "3"})
    found = compare(base, head, GPU, (1.0, 1.1))
    assert found.line == "triton 3.5.1 -> 3.8.0: libraries or settings differ, no kernel explains it"
    assert [(one.what, one.note) for one in found.differences[-2:]] == [
        ("triton", "3.5.1 -> 3.8.0"), ("plan_sha256", "differs")
    ]  # fmt: skip
    slower = replace(head, parts=(replace(CONV[0], seconds=30e-6), CONV[1], *REST))
    assert compare(base, slower, GPU).line == "conv1: +10.0 us (22.0 us -> 32.0 us); triton 3.5.1 -> 3.8.0"


def test_another_tactic_of_an_engine() -> None:
    base = replace(BASE, layers=(Layer("conv1", "conv", "sm80_a"), Layer("conv2", "conv", "sm80_b")))
    head = replace(BASE, layers=(Layer("conv1", "conv", "sm80_a"), Layer("conv2", "conv", "sm80_c")))
    assert compare(base, head, GPU, (1.0, 1.1)).line == (
        "engine: another tactic for layer conv2: sm80_b -> sm80_c; no kernel explains +10.0 %"
    )


def test_a_gpu_that_may_not_be_profiled() -> None:
    reason = "GPU kernels: the profile of PyTorch holds none"
    base = Record("a row", None, (reason, "CUPTI: CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"), parts=(REST[2],))
    line = compare(base, BASE, GPU, (1.0, 1.1)).line
    assert line.startswith("the profile of base shows no work of the GPU (GPU kernels: ")
    assert "CUPTI_ERROR_INSUFFICIENT_PRIVILEGES" in line


def test_a_side_that_cannot_be_profiled() -> None:
    assert compare(BASE, Record("a row", "no such backend"), GPU).line == "head cannot be profiled: no such backend"


parts = st.lists(
    st.builds(
        Part,
        st.sampled_from(sorted(KINDS)),
        st.sampled_from(["", "conv1", "fc1"]),
        st.sampled_from(["", "aten::relu", "Conv"]),
        st.text(max_size=9),
        st.integers(0, 3).map(float),
        st.integers(0, 1_000_000).map(lambda nanos: 1e-9 * nanos),
    ),
    max_size=30,
)


@given(parts, st.floats(1e-7, 1.0), st.floats(0.0, 1.0))
def test_equal_profiles_explain_nothing(same: list[Part], seconds: float, slower: float) -> None:
    record = Record("a row", None, parts=tuple(same))
    found = compare(record, record, GPU, (seconds, seconds * (1 + slower)))
    assert found.differences == ()
    assert found.line.startswith(("nothing that the profiles show explains", "the profile of base and head shows no"))


@given(parts, parts, st.sampled_from([DEVICE, HOST]))
def test_the_changes_add_up(base: list[Part], head: list[Part], kinds: frozenset[str]) -> None:
    total = sum(one.seconds for one in head if one.kind in kinds) - sum(
        one.seconds for one in base if one.kind in kinds
    )
    found = changes(base, head, kinds)
    assert sum(one.seconds for one in found) == pytest.approx(total, abs=1e-12)
    assert [one.seconds for one in found] == sorted((one.seconds for one in found), reverse=True)


@given(parts, parts)
@example([], [Part("node", "", "", "\n", 0.0, 1e-9)])
def test_the_listed_times_add_up_and_the_line_is_short(base: list[Part], head: list[Part]) -> None:
    before, after = Record("a row", None, parts=tuple(base)), Record("a row", None, parts=tuple(head))
    found = compare(before, after, case(), (1.0, 1.1))
    listed = sum((one.head or 0.0) - (one.base or 0.0) for one in found.differences)
    total = sum(one.seconds for one in head if one.kind in HOST) - sum(one.seconds for one in base if one.kind in HOST)
    assert listed == pytest.approx(total, abs=1e-12)
    assert len(found.line) <= 300
    assert "\n" not in found.line
