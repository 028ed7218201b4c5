from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet.measurement.floor import Floor, Limits, Workload, best_rate, copy_seconds, floor, moved_bytes
from lenet.vocabulary import Mode

LIMITS = Limits(
    arithmetic={"fp32": 50e12, "fp16": 600e12, "bf16": 600e12, "tf32": 300e12},
    memory=((1_000_000, 1e12), (32_000_000, 4e12), (500_000_000, 2e12)),
    copy={"pinned": ((1_000_000, 40e9), (64_000_000, 50e9)), "pageable": ((64_000_000, 10e9),)},
    launch=2e-6,
    launch_wall=10e-6,
)
FORWARD = Workload(Mode.FORWARD, 1000, "fp32", "float32", None, cold_cache=False)
END_TO_END = replace(FORWARD, mode=Mode.END_TO_END, host_memory="pinned")
THROUGHPUT = replace(END_TO_END, mode=Mode.THROUGHPUT)


@pytest.mark.parametrize(
    ("work", "seconds", "term"),
    [
        # 1,303,440 FLOP an image at 50 TFLOP/s
        (FORWARD, 1_303_440e3 / 50e12, "arithmetic"),
        # 3 * 32 * 32 * 4 + 10 * 4 bytes an image, 62,006 weights of 4 and of 2 bytes; 12.6 MB may stay in a cache
        (replace(FORWARD, precision="tf32"), 1_303_440e3 / 300e12, "arithmetic"),
        (replace(FORWARD, precision="fp16"), (12_328e3 + 124_012) / 4e12, "memory"),
        (replace(FORWARD, precision="fp16", cold_cache=True), (12_328e3 + 124_012) / 2e12, "memory"),
        (replace(FORWARD, precision="fp16", batch_size=10_000), (123_280e3 + 124_012) / 2e12, "memory"),
        # 3 * 32 * 32 + 10 * 4 bytes an image make 0.8 us; three products for one make 6.5
        (replace(FORWARD, precision="fp16", input="uint8"), 1_303_440e3 / 600e12, "arithmetic"),
        (replace(FORWARD, precision="fp16x2", input="uint8"), 3 * 1_303_440e3 / 600e12, "arithmetic"),
        (replace(FORWARD, batch_size=1), 2e-6, "launch"),
        (END_TO_END, 12_288e3 / 50e9, "copy"),
        (replace(END_TO_END, batch_size=10_000), 122_880e3 / 50e9, "copy"),
        (replace(END_TO_END, input="uint8"), 3_072e3 / 50e9, "copy"),
        (replace(END_TO_END, input="uint8", host_memory="zero-copy"), 3_072e3 / 50e9, "copy"),
        (replace(END_TO_END, input="uint8", host_memory="pageable"), 3_072e3 / 50e9, "copy"),
        (replace(END_TO_END, batch_size=1), 10e-6, "launch"),
        (THROUGHPUT, 12_288e3 / 50e9, "copy"),
        (replace(THROUGHPUT, batch_size=1), 12_288 / 50e9, "copy"),  # launches overlap
        # on a CPU nothing is copied, and runners side by side have the best rate of memory
        (replace(THROUGHPUT, host_memory=None), 1_303_440e3 / 50e12, "arithmetic"),
        (
            replace(THROUGHPUT, host_memory=None, batch_size=10_000, precision="fp16"),
            (123_280e3 + 124_012) / 4e12,
            "memory",
        ),
    ],
)
def test_known_answers(work: Workload, seconds: float, term: str) -> None:
    found = floor(work, LIMITS)
    assert found is not None
    assert found.seconds == pytest.approx(seconds, rel=1e-12)
    assert found.term == term


@pytest.mark.parametrize(("precision", "weight"), [("fp32", 4), ("tf32", 4), ("fp16", 2), ("bf16", 2), ("fp16x2", 4)])
def test_a_weight_is_read_in_the_executed_precision(precision: str, weight: int) -> None:
    assert moved_bytes(replace(FORWARD, precision=precision)) == 12_328e3 + 62_006 * weight


def test_a_link_is_as_fast_as_its_best_copy() -> None:
    """Other traffic slowed the copy of the largest buffer; a row must not undercut its floor for that."""
    busy = replace(LIMITS, copy={"pinned": ((1_000_000, 40e9), (16_000_000, 50e9), (64_000_000, 30e9))})

    assert floor(replace(END_TO_END, batch_size=10_000), busy) == Floor(122_880e3 / 50e9, "copy")


def test_a_copy_from_pageable_memory_takes_as_long_as_it_was_measured_to() -> None:
    """What a report shows as the copy's part of a row; the floor is the link's all the same."""
    pageable = replace(END_TO_END, input="uint8", host_memory="pageable")
    assert copy_seconds(pageable, LIMITS) == pytest.approx(3_072e3 / 10e9)
    assert copy_seconds(replace(pageable, host_memory="zero-copy"), LIMITS) == pytest.approx(3_072e3 / 50e9)


def test_a_precision_whose_rate_is_not_known_has_no_floor() -> None:
    assert floor(replace(FORWARD, precision="int8"), LIMITS) is None
    assert floor(replace(FORWARD, precision="tf32"), replace(LIMITS, arithmetic={"fp32": 1e12})) is None


def test_limits_survive_being_stored() -> None:
    assert Limits.from_json(json.loads(json.dumps(LIMITS.to_json()))) == LIMITS


positive = st.floats(1e-9, 1e15)
rates = st.lists(st.tuples(st.integers(1, 10**10), positive), min_size=1, max_size=5).map(tuple)
any_limits = st.builds(
    Limits,
    arithmetic=st.fixed_dictionaries(dict.fromkeys(("fp32", "tf32", "fp16", "bf16"), positive)),
    memory=rates,
    copy=st.fixed_dictionaries({"pinned": rates, "pageable": rates}),
    launch=positive,
    launch_wall=positive,
)
any_work = st.builds(
    Workload,
    mode=st.just(Mode.FORWARD),
    batch_size=st.integers(1, 10**6),
    precision=st.sampled_from(["fp32", "tf32", "fp16", "bf16", "fp16x2"]),
    input=st.sampled_from(["float32", "uint8"]),
    host_memory=st.none(),
    cold_cache=st.booleans(),
)
memories = st.sampled_from(["pinned", "pageable", "zero-copy"])


def known(work: Workload, limits: Limits) -> Floor:
    found = floor(work, limits)
    assert found is not None
    return found


@given(any_work, any_limits, memories, st.integers(1, 10**6))
def test_a_floor_is_positive_grows_with_the_batch_and_the_copy_only_adds(
    work: Workload, limits: Limits, memory: str, more: int
) -> None:
    end_to_end = replace(work, mode=Mode.END_TO_END, host_memory=memory)
    assert 0 < known(work, limits).seconds <= known(end_to_end, limits).seconds
    for one in (work, end_to_end):
        assert known(one, limits).seconds <= known(replace(one, batch_size=one.batch_size + more), limits).seconds


@given(any_work, any_limits, memories)
def test_bytes_are_never_slower_than_floats_nor_a_faster_machine_than_a_slower(
    work: Workload, limits: Limits, memory: str
) -> None:
    end_to_end = replace(work, mode=Mode.END_TO_END, host_memory=memory)
    faster = replace(limits, arithmetic={name: 2 * rate for name, rate in limits.arithmetic.items()})
    for one in (work, end_to_end):
        assert (
            known(replace(one, input="uint8"), limits).seconds <= known(replace(one, input="float32"), limits).seconds
        )
        assert known(one, faster).seconds <= known(one, limits).seconds


@given(rates, st.integers(1, 10**10), st.integers(1, 10**10))
def test_a_larger_buffer_never_gets_a_better_rate(
    measured: tuple[tuple[int, float], ...], size: int, more: int
) -> None:
    assert best_rate(measured, size) >= best_rate(measured, size + more)
    assert best_rate(measured, 10**11) == dict(sorted(measured))[max(measured)[0]]
