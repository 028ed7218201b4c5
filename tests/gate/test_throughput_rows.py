"""Rows of throughput in the gate: they are found again by their names, and profiled one batch at a time."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from lenet.gate.why import comparison, processes
from lenet.gate.workers import case_pattern
from lenet.vocabulary import Mode
from tests.gate.why.trees import case

ON_A_CPU = replace(case(mode=Mode.THROUGHPUT, batch_size=1000), depth=2)
ON_A_GPU = replace(case(mode=Mode.THROUGHPUT, batch_size=1000, device="NVIDIA H200"), host_memory="pinned", depth=3)


@pytest.mark.parametrize("row", [ON_A_CPU, ON_A_GPU])
def test_a_row_is_found_by_its_name(row: object) -> None:
    pattern = case_pattern(row)  # type: ignore[arg-type]
    assert re.match(pattern, "pytorch-throughput-1000-fp32-pinned-float32-turn0")
    assert not re.match(pattern, "pytorch-throughput-1000-fp32-pinned-uint8-turn0")
    assert not re.match(pattern, "pytorch-forward-1000-fp32-pinned-float32-turn0")


def test_a_slow_row_is_profiled_one_batch_at_a_time() -> None:
    assert processes._request("a row", ON_A_CPU)["mode"] == Mode.FORWARD
    assert processes._request("a row", ON_A_GPU)["mode"] == Mode.END_TO_END
    assert not comparison.on_the_device(ON_A_GPU)
