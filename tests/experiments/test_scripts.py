"""Each script of `experiments/`, with the smallest arguments, prints the tables of its file in docs/results/."""

from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lenet import quantization
from lenet.backends.base import BatchRange, BuildSpec
from lenet.data.synthetic import synthetic
from lenet.errors import DeviceError
from lenet.gate import report
from lenet.models.pytorch_lenet import LeNet
from lenet.provenance import without_git_variables
from lenet.training.recipe import Recipe
from lenet.training.steps import exact_float32
from lenet.vocabulary import Precision
from tests.experiments.scripts import EXPERIMENTS, load
from tests.gate.fakes import plain
from tests.gate.scripted import Gate

ROOT = EXPERIMENTS.parent
RESULTS = ROOT / "docs" / "results"
NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.py") if path.stem not in {"common", "persistent"})
FORKS = RESULTS / "gate-forks"
RECORDS = sorted((RESULTS / "gate").glob("*.jsonl"))
BASELINE = str(max((ROOT / ".benchmarks").glob("nvidia-*/*_campaign.json")))
TABLES = {
    "gate_analysis": ("gate.md", [*map(str, RECORDS), "--draws=10"]),
    "gate_forks": (
        "gate-forks.md",
        [
            *map(str, RECORDS),
            "--draws=10",
            *(f"--{one}={FORKS / one}.jsonl" for one in ("servers", "pairs", "turns")),
            f"--turns={FORKS / 'turns-h200.jsonl'}",
        ],
    ),
    "gate_rules": ("gate-rules.md", [*map(str, RECORDS), "--draws=10"]),
    "hot_path": ("hot-path.md", ["--device=cpu", "--backend=pytorch", "--backend=fused"]),
    "parity": ("parity-h100.md", ["--device=cpu", "--batch-size=4", "--images=8", "pytorch", "fp32", "uint8"]),
    "parity_faults": ("parity-faults.md", ["--images=32", "fp32"]),
    "quantization": ("quantization.md", ["--images=8", "--seeds=1"]),
    "repeatability": ("repeatability-h100.md", [BASELINE, BASELINE]),
}
"""Scripts that a CPU runs: the file of what they print, and arguments."""

ON_A_GPU = (
    "energy_check",
    "fused_check",
    "latency",
    "placement",
    "timer_check",
    "train_fast",
    "train_h100",
    "train_steps",
)
ELSEWHERE = {
    "gate_builds",
    "gate_pairs",
    "gate_pairs_analysis",
    "gate_study",
    "predict_ada",
    "throughput_depth",
    "warm_compile",
}
"""Scripts without a table, which other tests run."""


def tables(text: str) -> dict[str, int]:
    """The heads of a Markdown text's tables, each with the number of rows under it.

    Every row must have as many cells as its head.
    """
    found: dict[str, int] = {}
    head, lines = "", text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch(r"\|( ?:?-+:? ?\|)+", following):
            head = line
        elif line.startswith("|") and "---" not in line:
            assert len(line.split(" | ")) <= len(head.split(" | ")), line
            found[head] = found.get(head, 0) + 1
    return found


def test_every_script_is_run_here_or_named() -> None:
    assert sorted({*TABLES, *ON_A_GPU, *ELSEWHERE}) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_script_says_what_it_is_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(name).main(["--help"])
    assert ended.value.code == 0
    assert (load(name).__doc__ or "").split(maxsplit=1)[0] in capsys.readouterr().out


@pytest.mark.programs
@pytest.mark.parametrize("name", TABLES)
def test_a_script_prints_the_tables_of_its_file(
    name: str, data_directory: Path | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    document, arguments = TABLES[name]
    monkeypatch.setattr(quantization, "calibrate", partial(quantization.calibrate, count=32))  # images, not 256
    if name.startswith(("parity", "quantization")) and data_directory is None:
        arguments = [*arguments, "--synthetic"]
    assert not load(name).main(arguments)
    printed = tables(capsys.readouterr().out)
    assert printed.keys() <= tables((RESULTS / document).read_text()).keys()
    assert printed
    assert all(printed.values())


@pytest.mark.parametrize("name", ON_A_GPU)
def test_a_script_for_a_gpu_wants_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip(f"experiments/{name}.py takes minutes on a GPU: run it there by experiments/gpu.sh")
    with pytest.raises(DeviceError):
        load(name).main(["--one-process"] if name == "placement" else [])
    assert capsys.readouterr().out == ""
    pytest.skip(f"experiments/{name}.py was loaded and refused this machine: it needs an NVIDIA GPU")


def test_the_recipe_and_resumed_runs_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    script, images, device = load("train_h100"), synthetic(200), torch.device("cpu")
    script.whole_runs(images, images, device, epochs=1, seeds=2)
    script.repeatable(images, images, device)
    out = capsys.readouterr().out
    assert tables(out).keys() <= tables((RESULTS / "train-h100.md").read_text()).keys()
    assert list(tables(out).values()) == [4]  # two seeds, their mean and deviation
    assert out.count("differs by at most 0.0e+00") == 2  # a second run, and a resumed one


def test_whole_runs_are_recorded_and_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """On a CPU both ways are the same, so are the samples."""
    script, images, record = load("train_fast"), synthetic(200), tmp_path / "runs.jsonl"
    recipes = [Recipe(epochs=1, seed=seed) for seed in range(2)]
    script.runs(images, images, torch.device("cpu"), {"kernels": recipes, "graph": recipes}, record)
    with exact_float32():  # where two threads set and put back the flags, they may stay set
        script.runs(images, images, torch.device("cpu"), {"kernels": [], "graph": recipes}, record, together=True)
    out = capsys.readouterr().out
    assert tables(out).keys() <= tables((RESULTS / "train-fast-h200.md").read_text()).keys()
    losses = [json.loads(line)["loss"] for line in record.read_text().splitlines()]
    assert losses == 3 * losses[:2]
    assert "| accuracy | 2 and 4 | 1.00 | 1.00 |" in out


def test_every_variant_of_a_training_step_computes_lenet() -> None:
    script, model, images = load("train_steps"), LeNet(), torch.randn(4, 3, 32, 32)
    for variant in (script.REFERENCE, *script.VARIANTS):
        torch.testing.assert_close(variant.forward(model, images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "code"), [("train_steps", "BEGINNING"), ("warm_compile", "_BUILD")])
def test_what_a_script_gives_another_python_imports_what_there_is(name: str, code: str) -> None:
    imports = [node for node in ast.walk(ast.parse(getattr(load(name), code))) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").startswith("lenet")]
    assert ours
    exec(compile(ast.Module([*ours], []), name, "exec"), {})  # noqa: S102


@pytest.mark.programs
def test_the_gate_study_slows_the_first_row_alone(
    tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, str(EXPERIMENTS / "gate_study.py"), f"--out={tmp_path}", "--minutes=0"]
    subprocess.run(command, check=True)
    repository, file = tmp_path / "000-00.repository", load("gate_study").FILE
    show = ["git", "-C", str(repository), "show", f"slow-5:{file}"]
    slowed = tmp_path / "slowed.py"
    slowed.write_bytes(subprocess.run(show, env=without_git_variables(), capture_output=True, check=True).stdout)
    eager = runpy.run_path(str(slowed))["PyTorchEager"]()

    readings: list[float] = []

    def tick() -> float:
        readings.append(float(len(readings)))
        return readings[-1]

    monkeypatch.setattr("time.perf_counter", tick)
    read = {}
    for batch in (1, 2):
        spec = BuildSpec(torch.device("cpu"), Precision.FP32, BatchRange.exactly(batch))
        runner = eager.build(arrays, spec)
        readings.clear()
        runner.forward(torch.zeros(batch, 3, 32, 32))
        read[batch] = len(readings)
    assert read == {1: 3, 2: 1}  # the pass's begin and end, and the wait's only look


def test_the_study_keeps_what_the_analysis_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a report of today the record has the form of those that are kept."""
    gate = Gate(monkeypatch, tmp_path, own_environments=False)
    found = json.loads(report.to_json(gate.run(lambda *_: plain({1: 1.0, 2: 1.0}))))
    new = load("gate_study").compact({"percent": 0, "started": 0, "exit": 0, "wall": 1.23} | found)
    kept = json.loads(RECORDS[0].read_text().splitlines()[0])

    def form(record: object) -> object:
        if isinstance(record, dict):
            return {key: form(value) for key, value in record.items() if key not in {"medians", "decisions", "cpu"}}
        return [form(record[0])] if isinstance(record, list) and record else None

    assert new["packages"]
    for name in ("packages", "rows", "rule"):
        del new[name], kept[name]
    assert form(new) == form(kept)
    assert new["stages"][0]["decisions"] == {"row 1": "PASS", "row 2": "PASS"}
