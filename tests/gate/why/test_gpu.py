"""Real profiles on an NVIDIA GPU, beside those of copies that were made slower: the line names what it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lenet.gate.trees import Tree
from lenet.gate.why import explain
from lenet.results import Case
from lenet.vocabulary import ONE_BATCH_MODES, Mode
from tests.gate.why.trees import EAGER, FORWARD, NETWORK, SLOW_ALGORITHM, case, delay, tree

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
    pytest.mark.timeout(600),
]
ROW = "a row"
GPU = "an NVIDIA GPU"
FORWARD_ROW = case(device=GPU)
END_TO_END = case(mode=Mode.END_TO_END, device=GPU)
EXTRA_KERNEL = (NETWORK, FORWARD, f"        torch.cuda._sleep(1_000_000) if images.is_cuda else None\n{FORWARD}")
HOST_DELAY = delay(NETWORK, "        x = x.flatten(1)\n", 0.005)
SLOW_COPY = (
    EAGER,
    "        allow_tf32(self._tf32)\n",
    "        allow_tf32(self._tf32)\n        images = images.cpu().to(images.device)\n",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return tree(tmp_path_factory.mktemp("base"))


def line(base: Tree, tmp_path: Path, row: Case, *changes: tuple[str, str, str]) -> str:
    trees = [base, tree(tmp_path, "head", *changes)]
    found = explain(trees, {ROW: row}, tmp_path / "why", timeout=250, slowdowns={})[ROW]
    print(f"{row.backend} {row.mode} {row.batch_size}: {found.line}")  # noqa: T201 - `pytest -s` shows the lines
    return found.line


@pytest.mark.parametrize("backend", ["pytorch", "pytorch-cudagraph"])
@pytest.mark.parametrize("mode", ONE_BATCH_MODES)
def test_a_kernel_that_was_added_is_named(base: Tree, tmp_path: Path, backend: str, mode: Mode) -> None:
    found = line(base, tmp_path, case(backend, mode, GPU), EXTRA_KERNEL)
    assert found.startswith("new kernel spin_kernel: +")


@pytest.mark.parametrize("row", [FORWARD_ROW, case(device=GPU, batch_size=1000)], ids=["1", "1000"])
def test_a_slower_algorithm_is_named_by_its_layer(base: Tree, tmp_path: Path, row: Case) -> None:
    found = line(base, tmp_path, row, *SLOW_ALGORITHM)
    assert found.startswith("conv1: +")
    assert "kernels where base has" in found


def test_a_slower_algorithm_in_a_graph_is_named_by_its_kernels(base: Tree, tmp_path: Path) -> None:
    found = line(base, tmp_path, case("pytorch-cudagraph", device=GPU), *SLOW_ALGORITHM)
    assert "kernel" in found
    assert "nothing" not in found


def test_a_delay_on_the_host_is_named(base: Tree, tmp_path: Path) -> None:
    found = line(base, tmp_path, END_TO_END, HOST_DELAY)
    assert found.startswith("gaps between kernels (the host launches too late): +")
    assert "on the host: time outside operators +" in found


def test_a_delay_on_the_host_does_not_explain_a_forward_row(base: Tree, tmp_path: Path) -> None:
    trees = [base, tree(tmp_path, "head", HOST_DELAY)]
    slowdowns = {ROW: (1e-4, 1e-2)}
    found = explain(trees, {ROW: FORWARD_ROW}, tmp_path / "why", timeout=250, slowdowns=slowdowns)[ROW]
    assert found.line.startswith("nothing that the profiles show explains")
    assert "on the host: time outside operators" in {one.what for one in found.differences}


def test_a_slower_copy_is_named(base: Tree, tmp_path: Path) -> None:
    found = line(base, tmp_path, case(mode=Mode.END_TO_END, device=GPU, batch_size=4096), SLOW_COPY)
    assert found.startswith("the copy ")
