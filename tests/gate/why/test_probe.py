"""Real profiles of this package on a CPU, beside those of copies that were made slower: the line names what it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lenet.gate.why.comparison import compare
from lenet.gate.why.processes import profile
from lenet.gate.why.records import Record
from lenet.gate.workers import environment
from tests.gate.why.trees import EAGER, FORWARD, NETWORK, RUNNER, SLOW_ALGORITHM, case, delay, tree

ROW = "pytorch forward fp32 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield tmp_path_factory.mktemp("why")


@pytest.fixture(scope="module")
def base(folder: Path) -> Record:
    return profiled(folder, "base")


def profiled(folder: Path, side: str, *changes: tuple[str, str, str], backend: str = "pytorch") -> Record:
    place = folder / f"{side}-profile"
    place.mkdir()
    return profile(tree(folder, side, *changes), {ROW: case(backend)}, place, environment, 120)[ROW]


def test_the_parts_of_a_pass_are_its_layers_and_the_time_outside(base: Record) -> None:
    assert (base.problem, base.missing) == (None, ())
    assert {part.layer for part in base.parts} == {"conv1", "conv2", "fc1", "fc2", "fc3", ""}
    relu = [part for part in base.parts if part.name == "aten::relu"]
    assert [part.calls for part in relu] == [4]
    assert sum(part.kind == "outside" for part in base.parts) == 1
    assert base.versions["torch"]
    assert base.facts["torch.get_num_threads"] == "1"


def test_an_operator_that_was_added_is_named(folder: Path, base: Record) -> None:
    added = f"        torch.sort(images.repeat(200, 1, 1, 1).flatten())\n{FORWARD}"
    head = profiled(folder, "operator", (NETWORK, FORWARD, added))
    line = compare(base, head, case()).line
    assert line.startswith("new operator sort: +")
    assert line.endswith("a pass")


def test_a_slower_algorithm_is_named_by_its_layer(folder: Path, base: Record) -> None:
    head = profiled(folder, "algorithm", *SLOW_ALGORITHM)
    line = compare(base, head, case()).line
    assert line.startswith("conv1: +")
    assert "operators where base has 8" in line


def test_a_delay_on_the_host_is_named(folder: Path, base: Record) -> None:
    head = profiled(folder, "delay", delay(EAGER, RUNNER, 0.02))
    assert compare(base, head, case()).line.startswith("host time outside operators: +")
    assert head.seconds is not None
    assert head.seconds > 0.02


def test_a_library_and_a_fact_that_differ_are_named(folder: Path, base: Record) -> None:
    own = (
        '    def facts(self, *, zero_copy: bool = False) -> dict[str, str]:\n        return {"algorithm": "direct"}\n\n'
    )
    where = "    def _forward(self, images"
    changed = tree(folder, "library", (EAGER, where, own + where))
    installed = changed.path / "triton-0.0.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: triton\nVersion: 0.0.1\n")
    place = folder / "library-profile"
    place.mkdir()
    head = profile(changed, {ROW: case()}, place, environment, 120)[ROW]
    # A slow-down of a second, so that no profile of a pass that takes less can explain it.
    found = compare(base, head, case(), (1.0, 2.0))
    now = base.versions.get("triton", "none")
    assert f"triton {now} -> 0.0.1" in found.line
    assert "algorithm none -> direct: libraries or settings differ, no kernel explains it" in found.line
    assert ("algorithm", "none -> direct") in {(one.what, one.note) for one in found.differences}


def test_a_checkout_with_another_interface_is_told(folder: Path, base: Record) -> None:
    head = profiled(folder, "older", ("lenet/backends/base.py", "class BatchRange:", "class Batches:"))
    found = compare(base, head, case(), (1.0, 2.0))
    assert found.line.startswith("head cannot be profiled: ")
    assert "BatchRange" in found.line


@pytest.mark.parametrize("backend", ["onnxruntime"])
def test_onnxruntime_is_profiled_by_its_nodes(folder: Path, backend: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    record = profiled(folder, backend, backend=backend)
    assert (record.problem, record.missing) == (None, ())
    assert {"node", "session", "outside"} == {part.kind for part in record.parts}
    assert sum("Conv" in part.operator for part in record.parts) >= 2
    assert record.facts["session.intra_op_num_threads"] == "1"
