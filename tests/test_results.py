from __future__ import annotations

from typing import Any

import pytest

from lenet.errors import ResultsError
from lenet.results import Case, row

CASE = Case("pytorch", "forward", "fp32", 1000, "a GPU", "CIFAR-10 test images")
STATS = {"rounds": 100, "median": 0.002, "mean": 0.003, "stddev": 0.001}


def entry(**change: Any) -> dict[str, Any]:
    return {"name": "test_inference[x]", "extra_info": CASE.to_extra_info() | change, "stats": STATS}


def test_a_row_survives_being_stored() -> None:
    found = row(entry())
    assert found is not None
    assert found.case == CASE
    assert (found.rounds, found.median, found.mean, found.stddev) == (100, 0.002, 0.003, 0.001)
    assert found.milliseconds_per_batch == pytest.approx(2.0)
    assert found.milliseconds_per_image == pytest.approx(0.002)


def test_a_benchmark_that_is_no_case_is_passed_over() -> None:
    assert row({"name": "test_epoch", "extra_info": {}, "stats": STATS}) is None


def test_another_schema_is_refused() -> None:
    with pytest.raises(ResultsError, match=r"(?s)test_inference\[x\] cannot be read\n  found:  row schema 99"):
        row(entry(schema=99))


def test_a_missing_field_is_named() -> None:
    broken = entry()
    del broken["extra_info"]["device"]
    with pytest.raises(ResultsError, match="no field 'device'"):
        row(broken)
