"""Real profiles of this package on a CPU, beside those of copies that were made slower: the line names what it was."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lenet.backends import base as interface
from lenet.gate.trees import environment
from lenet.gate.why import processes
from lenet.gate.why.comparison import compare
from lenet.gate.why.probe import rows
from lenet.gate.why.processes import profile
from lenet.gate.why.records import Record, parse
from lenet.results import Case
from tests.gate.why.trees import EAGER, FORWARD, NETWORK, RUNNER, SLOW_ALGORITHM, case, tree

pytestmark = pytest.mark.programs

FEW = {"_MOST": 30, "_WARM_UP": 0.05}
"""A tenth of the passes: the changes are large."""
PLAIN, OPERATOR, ALGORITHM, DELAY, LIBRARY = range(1, 6)
"""Batch sizes. Head differs in another way for each, so that one process profiles all its changes."""
SORT = (
    NETWORK,
    FORWARD,
    f"""        if len(images) == {OPERATOR}:
            torch.sort(images[:1].repeat(200, 1, 1, 1).flatten())
{FORWARD}""",
)
SLOW_CONVOLUTION = [
    (
        name,
        old,
        new.replace(
            "        columns", f"        if len(images) != {ALGORITHM}: return super().forward(images)\n        columns"
        ),
    )
    for name, old, new in SLOW_ALGORITHM
]
WAIT = (
    EAGER,
    RUNNER,
    f"""        import time
        end = time.perf_counter() + 0.005
        while len(images) == {DELAY} and time.perf_counter() < end: pass
{RUNNER}""",
)
FACT = (
    EAGER,
    "    def _forward(self, images",
    f"""    def facts(self, *, zero_copy: bool = False) -> dict[str, str]:
        return {{"algorithm": "direct"}} if self.spec.batches.optimum == {LIBRARY} else {{}}

    def _forward(self, images""",
)
NODES = "onnxruntime"

Records = dict[object, Record]


def profiled_here(one: Case, folder: Path) -> Record:
    """What the probe records in this process, which has imported PyTorch."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**FEW, "_THREADS": 1}.items():
            patch.setattr(rows, name, value)
        found = rows.profile_row(processes._request("row", one), folder)
    return parse(json.dumps(found))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Records:
    place = tmp_path_factory.mktemp("base")
    return {size: profiled_here(case(batch_size=size), place) for size in range(OPERATOR, LIBRARY + 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("why")
    probe = made / "probe"
    shutil.copytree(processes._PROBE, probe)
    text = (probe / "rows.py").read_text(encoding="utf-8")
    for name, value in FEW.items():
        text, found = re.subn(rf"(?m)^{name}: Final = .*$", f"{name}: Final = {value}", text)
        assert found == 1
    (probe / "rows.py").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(processes, "_PROBE", probe)
        yield made


@pytest.fixture(scope="module")
def head(folder: Path) -> Records:
    changed = tree(folder, "head", SORT, *SLOW_CONVOLUTION, WAIT, FACT)
    installed = changed.path / "triton-0.0.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: triton\nVersion: 0.0.1\n")
    cases: dict[object, Case] = {size: case(batch_size=size) for size in range(PLAIN, LIBRARY + 1)}
    cases[NODES] = replace(case(NODES), threads=2)
    place = folder / "profile"
    place.mkdir()
    found = profile(changed, {str(name): one for name, one in cases.items()}, place, environment, 240)
    return {name: found[str(name)] for name in cases}


def test_the_parts_of_a_pass_are_its_layers_and_the_time_outside(head: Records) -> None:
    record = head[PLAIN]
    assert (record.problem, record.missing) == (None, ())
    assert {part.layer for part in record.parts} == {"conv1", "conv2", "fc1", "fc2", "fc3", ""}
    relu = [part for part in record.parts if part.name == "aten::relu"]
    assert [part.calls for part in relu] == [4]
    assert sum(part.kind == "outside" for part in record.parts) == 1
    assert record.versions["torch"]
    assert record.facts["torch.get_num_threads"] == "1"


def test_an_operator_that_was_added_is_named(base: Records, head: Records) -> None:
    line = compare(base[OPERATOR], head[OPERATOR], case()).line
    assert line.startswith("new operator sort: +")
    assert line.partition(";")[0].endswith("a pass"), "then comes the library that differs as well"


def test_a_slower_algorithm_is_named_by_its_layer(base: Records, head: Records) -> None:
    line = compare(base[ALGORITHM], head[ALGORITHM], case()).line
    assert line.startswith("conv1: +")
    assert "operators where base has 8" in line


def test_a_delay_on_the_host_is_named(base: Records, head: Records) -> None:
    assert compare(base[DELAY], head[DELAY], case()).line.startswith("host time outside operators: +")
    assert (head[DELAY].seconds or 0) > 0.005


def test_a_library_and_a_fact_that_differ_are_named(base: Records, head: Records) -> None:
    # A slow-down of a second, so that no profile of a pass that takes less can explain it.
    found = compare(base[LIBRARY], head[LIBRARY], case(), (1.0, 2.0))
    now = base[LIBRARY].versions.get("triton", "none")
    assert f"triton {now} -> 0.0.1" in found.line
    assert "algorithm none -> direct: libraries or settings differ, no kernel explains it" in found.line
    assert ("algorithm", "none -> direct") in {(one.what, one.note) for one in found.differences}


def test_a_checkout_with_another_interface_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(interface, "BatchRange")
    older = profiled_here(case(), tmp_path)
    found = compare(Record("row", None), older, case(), (1.0, 2.0))
    assert found.line.startswith("head cannot be profiled: ")
    assert "BatchRange" in found.line


def test_onnxruntime_is_profiled_by_its_nodes_with_the_row_s_threads(head: Records) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    record = head[NODES]
    assert (record.problem, record.missing) == (None, ())
    assert {"node", "session", "outside"} == {part.kind for part in record.parts}
    assert sum("Conv" in part.operator for part in record.parts) >= 2
    assert record.facts["session.intra_op_num_threads"] == record.facts["torch.get_num_threads"] == "2"
