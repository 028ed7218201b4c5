"""`--mode=throughput` as a person runs it, on a CPU."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from lenet import results
from tests.benchmarks.test_suite import benchmarks, the_file

pytestmark = pytest.mark.programs


def test_a_throughput_row_is_measured_saved_and_read_back(tmp_path: Path) -> None:
    done = benchmarks("--mode=throughput", "--host-memory=pinned", "--host-memory=pageable", storage=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pytorch throughput fp32 2" in done.stdout
    assert "without a copy one host memory is enough" in done.stdout
    (row,) = (measurement := results.load(the_file(tmp_path))).rows
    assert (row.case.mode, row.case.host_memory, row.case.depth) == ("throughput", None, None)
    assert row.throughput is not None
    assert row.throughput.depth == 1, "the tests have one thread"
    assert 0 < row.throughput.latency_p50 <= row.throughput.latency_p95 <= row.throughput.latency_p99
    assert row.summary.rounds == 3
    assert row.floor is None or row.floor.term in {"arithmetic", "memory"}
    (line,) = csv.DictReader(io.StringIO(results.to_csv([measurement])))
    assert (line["mode"], line["in_flight"], line["depth"]) == ("throughput", "1", "")
    assert float(line["latency_p95"]) == row.throughput.latency_p95
