"""Traces of a GPU, written by hand as torch.profiler exports them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lenet.gate.why.probe.timeline import CALL, LAYER, ROUND, labels, parts

Event = dict[str, Any]
Work = tuple[str, str, float, float]
"""A kernel's or copy's category and name, and its start and duration in microseconds after the call's start."""
ROUNDS = 5
HOLD: Work = ("kernel", "at::cuda::(anonymous namespace)::spin_kernel(long)", -40.0, 60.0)
CONV: Work = ("kernel", "void implicit_convolve_sgemm<float, 5>(int)", 20.0, 10.0)
RELU: Work = ("kernel", "void at::native::vectorized_elementwise_kernel<4, at::native::relu_functor>(int)", 32.0, 3.0)


def event(category: str, name: str, start: float, duration: float, correlation: int | None = None) -> Event:
    args = {} if correlation is None else {"correlation": correlation}
    return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": duration, "tid": 7, "args": args}


def trace(work: Sequence[Work], *, modules: bool = False, rounds: int = ROUNDS) -> list[Event]:
    """Rounds, each a millisecond after the last: a convolution, which launches the first kernel, and a relu."""
    found = []
    for number in range(rounds):
        start = 1000.0 * number
        found += [event("user_annotation", ROUND, start - 50, 200.0), event("user_annotation", CALL, start, 30.0)]
        found += [event("gpu_user_annotation", CALL, start + 20, 15.0)]
        found += [event("user_annotation", f"{LAYER}conv1", start + 1, 13.0)] if modules else []
        found += [event("cpu_op", "aten::conv2d", start + 2, 10.0), event("cpu_op", "aten::cudnn", start + 3, 8.0)]
        found += [event("cpu_op", "aten::relu", start + 16, 4.0)]
        launches = {CONV[1]: start + 5, RELU[1]: start + 17}
        for place, (category, name, after, duration) in enumerate(work):
            correlation = 100 * number + place + 1
            found.append(event("cuda_runtime", "cudaLaunchKernel", launches.get(name, start + 25), 1.0, correlation))
            found.append(event(category, name, start + after, duration, correlation))
    return [{"ph": "M", "name": "process_name"}, *found]


def seconds(found: list[dict[str, Any]], kind: str) -> dict[str, float]:
    return {part["name"]: part["seconds"] for part in found if part["kind"] == kind}


def test_kernels_and_gaps_without_the_hold() -> None:
    found = parts(trace([HOLD, CONV, RELU]), held=True, around=False, host={}, device={})
    assert seconds(found, "kernel") == {CONV[1]: 10e-6, RELU[1]: 3e-6}
    assert seconds(found, "gaps") == {"": 2e-6}
    assert seconds(found, "around") == {}


def test_a_kernel_like_the_hold_is_kept_where_the_checkout_launches_it() -> None:
    spin = ("kernel", HOLD[1], 40.0, 9.8)
    found = parts(trace([HOLD, CONV, spin]), held=True, around=False, host={}, device={})
    assert seconds(found, "kernel") == {CONV[1]: 10e-6, HOLD[1]: pytest.approx(9.8e-6)}


def test_the_parts_of_an_end_to_end_pass_add_up_to_it() -> None:
    copy = ("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 8.0, 4.0)
    found = parts(trace([copy, CONV, RELU]), held=False, around=True, host={}, device={})
    assert seconds(found, "copy") == {copy[1]: 4e-6}
    assert seconds(found, "gaps") == {"": 10e-6}
    device = [part["seconds"] for part in found if part["kind"] in {"kernel", "copy", "gaps", "around"}]
    assert sum(device) == pytest.approx(200e-6)


def test_kernels_that_overlap_leave_no_gap_between_them() -> None:
    other = ("kernel", "other()", 22.0, 4.0)
    found = parts(trace([CONV, other, RELU]), held=False, around=False, host={}, device={})
    assert seconds(found, "gaps") == {"": 2e-6}


def test_each_kernel_has_the_operator_that_launched_it_and_the_layer_of_the_labelled_trace() -> None:
    host, device = labels(trace([CONV, RELU], modules=True), held=False)
    found = parts(trace([CONV, RELU]), held=False, around=False, host=host, device=device)
    kernels = {part["name"]: (part["layer"], part["operator"]) for part in found if part["kind"] == "kernel"}
    assert kernels == {CONV[1]: ("conv1", "aten::conv2d"), RELU[1]: ("", "aten::relu")}
    operators = {part["name"]: (part["layer"], part["seconds"]) for part in found if part["kind"] == "operator"}
    assert operators["aten::cudnn"] == ("conv1", 8e-6)
    assert operators["aten::conv2d"] == ("conv1", 2e-6)
    assert seconds(found, "outside") == {"": 16e-6}


def test_ranges_of_torch_compile_are_no_operators_around_others() -> None:
    found = trace([])
    for one in trace([]):
        if one.get("name") == CALL and one["cat"] == "user_annotation":
            found.append(event("user_annotation", "Torch-Compiled Region: 0/0", one["ts"] + 1, 20.0))
    operators = {part["name"]: part["operator"] for part in parts(found, held=False, around=False, host={}, device={})}
    assert operators["aten::cudnn"] == "aten::conv2d"
    assert operators["Torch-Compiled Region: 0/0"] == "Torch-Compiled Region: 0/0"


def test_labels_of_another_sequence_of_kernels_are_not_taken() -> None:
    host, device = labels(trace([CONV, RELU], modules=True), held=False)
    found = parts(trace([CONV, RELU, RELU]), held=False, around=False, host=host, device=device)
    assert {part["layer"] for part in found if part["kind"] == "kernel"} == {""}


def test_events_lost_in_a_few_rounds_change_nothing() -> None:
    whole = trace([CONV, RELU], rounds=9)
    lost = [one for one in whole if not (one.get("cat") == "kernel" and one["ts"] < 3000)]
    of_whole, of_lost = (parts(one, held=False, around=False, host={}, device={}) for one in (whole, lost))
    assert {str(part) for part in of_whole} == {str(part) for part in of_lost}


def test_a_trace_without_work_of_the_gpu_has_the_hosts_alone() -> None:
    found = parts(trace([]), held=True, around=True, host={}, device={})
    assert {part["kind"] for part in found} == {"operator", "outside"}
