"""The benchmark suite as a person runs it: `pytest benchmarks` in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = ["--rounds=3", "--warmups=1", "--device=cpu", "-p", "no:cacheprovider"]


def benchmarks(
    *arguments: str, data: Path | None = None, file: str = "test_inference.py"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", f"benchmarks/{file}", *QUICK, *arguments]
    return subprocess.run(
        [*command, "--data", str(data or "nowhere")], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_coursework_s_table_is_printed_with_what_was_not_run() -> None:
    done = benchmarks("--backend=pytorch", "--batch-size=2", "--batch-size=1")
    assert done.returncode == 0, done.stdout
    assert "LeNet, batch 2, fp32, CPU" in done.stdout
    assert "LeNet, batch 1, fp32, CPU" in done.stdout
    assert "seeded synthetic images, seed 0; median of 3 rounds" in done.stdout
    assert "test_inference[pytorch-end_to_end-2-fp32]: on a CPU nothing is copied" in done.stdout


def test_real_images_are_used_and_named_where_they_are_found(noise_directory: Path) -> None:
    done = benchmarks("--backend=pytorch", "--batch-size=2", data=noise_directory)
    assert done.returncode == 0, done.stdout
    assert "CIFAR-10 test images; median of 3 rounds" in done.stdout


def test_what_forward_adds_is_printed_and_saved(tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    done = benchmarks(
        "--backend=pytorch", "--backend=pytorch-cudagraph", f"--benchmark-json={saved}", file="test_overhead.py"
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"bare_us\s+[\d.]+,\s+forward_us\s+[\d.]+,\s+added_us\s+-?[\d.]+", done.stdout)
    assert "pytorch-cudagraph-fp32: pytorch-cudagraph runs on cuda alone" in done.stdout
    (row,) = json.loads(saved.read_text())["benchmarks"]
    assert row["stats"]["rounds"] == 30
    info = row["extra_info"]
    assert info["forward_us"] == pytest.approx(1e6 * row["stats"]["median"], abs=0.01)
    assert info["bare_us"] > 0
    assert "added_us" in info


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--backend=pytroch", "did you mean pytorch"),
        ("--mode=sideways", "invalid choice"),
        ("--batch-size=x", "invalid"),
    ],
)
def test_a_wrong_option_is_refused(option: str, message: str) -> None:
    done = benchmarks(option)
    assert done.returncode == 4
    assert message in done.stderr
