"""The benchmark suite as a person runs it: `pytest benchmarks` in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lenet import results
from lenet.measurement.environment import fingerprint
from lenet.measurement.floor import floor
from lenet.report.rounding import significant
from lenet.results import NotRun
from tests import preloaded

pytestmark = pytest.mark.programs
ROOT = Path(__file__).parents[2]
QUICK = ("--backend=pytorch", "--device=cpu", "--warmups=1", "-p", "no:cacheprovider")
STARTS_QUICKLY = ("-p", "tests.benchmarks.short_limits")
PROCESS = {"PYTHONUNBUFFERED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
REPEATED = "on a CPU nothing is copied: end-to-end would repeat forward"
Done = subprocess.CompletedProcess[str]
# Rows of batch 2 are wrong in a layer from the build on, those of batch 3 fail after they were timed. At batch 4 logits
# become NaN after 10 calls, and at batch 5 the tenth call's logits are given for whatever lies at its address. Parity
# takes 8 and 7 calls before it is content, so both are timed.
FAULTS = """
import pytest
import torch

from lenet.backends.pytorch_eager import PyTorchEager, PyTorchRunner

build, forward = PyTorchEager._build, PyTorchRunner._forward


def wrong_build(self, arrays, spec):
    wrong = spec.batches.minimum == 2 or wrong_build.was_wrong
    wrong_build.was_wrong = spec.batches.minimum in (2, 32) and wrong  # and so is what is built to find the layer
    return build(self, {**arrays, "fc2.bias": 0 * arrays["fc2.bias"]} if wrong else arrays, spec)


wrong_build.was_wrong = False


def wrong_forward(self, images):
    calls = self.calls = getattr(self, "calls", 0) + 1
    logits = forward(self, images)
    if len(images) == 5 and calls >= 10:
        remembered = self.remembered = getattr(self, "remembered", {})
        return remembered.setdefault(images.data_ptr(), logits)
    return logits * float("nan") if len(images) == 4 and calls > 10 else logits


PyTorchEager._build, PyTorchRunner._forward = wrong_build, wrong_forward


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    yield
    if item.callspec.params["batch_size"] == 3:
        raise RuntimeError("too late")
"""


def benchmarks(
    *arguments: str,
    storage: Path,
    data: Path | None = None,
    file: str = "test_inference.py",
    quick: tuple[str, ...] = (*QUICK, "--batch-size=2"),
    plugins: Path | None = None,
) -> Done:
    images = ["--synthetic"] if data is None else [f"--data={data}", "--accept-unknown-data"]
    options = (*quick, "--rounds=3", *arguments, *images, f"--benchmark-storage=file://{storage}")
    return pytest_here(f"benchmarks/{file}", *options, plugins=plugins)


def pytest_here(*arguments: str, plugins: Path | None = None) -> Done:
    return preloaded.run("-m", "pytest", *STARTS_QUICKLY, *arguments, cwd=ROOT, env=environment(plugins))


def environment(plugins: Path | None = None) -> dict[str, str]:
    """Lines wide enough not to be broken, one thread as little is computed, and where else to look for modules.

    pytest looks for no plugins: the suite's own are named in pyproject.toml, and Hypothesis takes a second to import.
    """
    found = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    path = os.pathsep.join(filter(None, [str(plugins or ""), found.get("PYTHONPATH")]))
    return {**found, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **PROCESS}


def refused(*options: str, plugins: Path | None = None) -> Done:
    done = pytest_here(
        "benchmarks/test_inference.py", "--device=cpu", "-p", "no:cacheprovider", *options, plugins=plugins
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, (options, done.stdout)
    return done


class Saved(NamedTuple):
    """A run that was saved, and what it printed."""

    done: Done
    path: Path

    def document(self) -> Any:
        return json.loads(self.path.read_text())


def the_file(storage: Path) -> Path:
    (path,) = storage.rglob("*.json")
    return path


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The first row is right; then come wrong logits of several kinds, a late failure, and too large a batch."""
    storage, plugins = tmp_path_factory.mktemp("faulty"), tmp_path_factory.mktemp("plugins")
    (plugins / "faults_for_a_test.py").write_text(FAULTS)
    sizes = [f"--batch-size={size}" for size in (1, 2, 3, 4, 5, 1_000_000_000)]
    options = (*QUICK, "--mode=forward", "-p", "faults_for_a_test")
    done = benchmarks(*sizes, "--benchmark-autosave", storage=storage, quick=options, plugins=plugins)
    return Saved(done, the_file(storage))


def test_the_coursework_s_table_is_printed_with_what_was_not_run(saved: Saved) -> None:
    text = saved.done.stdout
    assert "LeNet, batch 2, fp32, CPU" in text
    assert "LeNet, batch 1, fp32, CPU" in text
    assert re.search(
        r"Limits, measured: fp32 [\d.]+, fp16 [\d.]+, bf16 [\d.]+ TFLOP/s; memory [\d.]+ GB/s; launch", text
    )
    assert re.search(r"runtime +ms/batch +ms/image +ratio +ms/batch +ms/image +ratio", text)
    for row in results.load(saved.path).rows:
        milliseconds = (
            re.escape(significant(1e3 * row.summary.median / images)) for images in (1, row.case.batch_size)
        )
        assert re.search(rf"pytorch +{' !? +'.join(milliseconds)} +1\.00 +- +- +-\s", text)
    assert "seeded synthetic images, seed 0; median of 3 rounds" in text
    who = "pytorch forward fp32 2, pytorch forward fp32 1"
    assert f"! {who}: 3 rounds give no interval of the median: measure at least 6 (--rounds)" in text
    assert "! 2 of 2 rows are unstable: " in text
    assert "Published by the coursework" in text
    left_out = "pytorch-end_to_end-2-fp32-pinned-float32, pytorch-end_to_end-1-fp32-pinned-float32"
    assert f"Not run:\n  {left_out}: {REPEATED}\n" in text


def test_a_run_is_filed_under_its_kind_of_machine_and_reads_back(saved: Saved) -> None:
    found = results.load(saved.path)
    assert saved.path.parent.name == found.kind
    assert saved.path.name.startswith("0001_")
    assert found.kind.startswith("cpu-")
    assert found.fingerprint == fingerprint(found.machine)
    assert not found.partial
    assert saved.document()["lenet"]["protocol"] == {"warmups": 1, "rounds": 3}
    assert [(row.case.backend, row.case.mode, row.case.batch_size, row.summary.rounds) for row in found.rows] == [
        ("pytorch", "forward", size, 3) for size in (2, 1)
    ]
    assert {row.case.images for row in found.rows} == {"seeded synthetic images, seed 0"}
    assert {row.case.host_memory for row in found.rows} == {None}
    for row in found.rows:
        assert row.max_abs_delta is not None
        assert row.share_of_tolerance is not None
        assert 0 < row.max_abs_delta < 1e-4 < row.share_of_tolerance <= 1
    assert found.not_run == tuple(NotRun(f"pytorch-end_to_end-{size}-fp32-pinned-float32", REPEATED) for size in (2, 1))
    ratios = [benchmark["extra_info"]["speedup_over_pytorch"] for benchmark in saved.document()["benchmarks"]]
    assert ratios == [1, 1]


def test_the_limits_are_saved_and_each_row_has_its_floor(saved: Saved) -> None:
    found = results.load(saved.path)
    assert found.limits is not None
    for row, benchmark in zip(found.rows, saved.document()["benchmarks"], strict=True):
        lowest = floor(row.case.workload, found.limits)
        assert lowest is not None
        assert row.floor == (lowest if row.summary.median >= lowest.seconds else None)  # the limits are of a moment
        assert benchmark["extra_info"]["times_floor"] == row.times_floor


def test_bytes_are_measured_where_they_are_asked_for(tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    types = ("--input=uint8", "--input=float32")
    done = benchmarks("--mode=forward", *types, f"--benchmark-json={saved}", storage=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "LeNet, batch 2, fp32, CPU, 1 thread, uint8 images" in done.stdout
    rows = results.load(saved).rows
    assert [row.case.input for row in rows] == ["uint8", "float32"]
    assert all(row.case.input in row.case.conditions() for row in rows)


def test_real_images_are_used_and_named_where_they_are_found(noise_directory: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    done = benchmarks("--mode=forward", f"--benchmark-json={saved}", storage=tmp_path, data=noise_directory)
    assert done.returncode == 0, done.stdout
    (row,) = json.loads(saved.read_text())["benchmarks"]
    images = row["extra_info"]["case"]["images"]
    assert re.fullmatch(r"unknown test images, SHA-256 [0-9a-f]{12}", images), "the noise is not CIFAR-10's"
    assert f"{images}; median of 3 rounds" in done.stdout
    assert str(noise_directory) not in saved.read_text()


def test_what_forward_adds_is_printed_and_saved(tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    done = benchmarks(
        "--backend=pytorch-cudagraph", f"--benchmark-json={saved}", storage=tmp_path, file="test_overhead.py"
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"bare_us\s+[\d.]+,\s+forward_us\s+[\d.]+,\s+added_us\s+-?[\d.]+", done.stdout)
    assert "Needs an NVIDIA GPU: pytorch-cudagraph.\n" in done.stdout
    (row,) = json.loads(saved.read_text())["benchmarks"]
    assert row["stats"]["rounds"] == 30
    info = row["extra_info"]
    assert info["forward_us"] == pytest.approx(1e6 * row["stats"]["median"], abs=0.01)
    assert info["bare_us"] > 0
    assert "added_us" in info


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mode=throughput", "--depth=0"), "--depth: '0' is no whole number of at least 1"),
        (("--mode=throughput", "--depth=2"), "each runner wants a core, and torch uses 1: choose --depth=1, or more"),
        (("--depth=2",), "--depth=2 is for throughput: add --mode=throughput"),
    ],
)
def test_a_depth_that_no_row_can_use_is_refused(options: tuple[str, ...], said: str) -> None:
    assert said in refused(*options).stderr


def test_a_wrong_option_is_refused_with_what_is_near() -> None:
    """`tests/suite/test_options.py` has the other options."""
    done = refused("--backend=pytroch")
    assert "test_inference" not in done.stdout
    assert "there is no backend 'pytroch': did you mean pytorch " in done.stderr


def test_a_storage_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    in_the_way = tmp_path / "a file"
    in_the_way.touch()
    done = benchmarks("--benchmark-autosave", storage=in_the_way)
    assert done.returncode == 4, done.stdout
    assert f"ERROR: cannot write into {in_the_way}" in done.stderr
    assert "--benchmark-storage" in done.stderr
    assert "test_inference" not in done.stdout


def test_an_interrupted_run_keeps_its_finished_rows_and_is_marked_partial(tmp_path: Path) -> None:
    options = ["--mode=forward", "--batch-size=1", "--batch-size=1000", "--batch-size=1001", "--rounds=300"]
    storage = ["--synthetic", "--benchmark-autosave", "--benchmark-storage", f"file://{tmp_path}"]
    command = ("-m", "pytest", "benchmarks/test_inference.py", "-v", *STARTS_QUICKLY, *QUICK, *options, *storage)
    with preloaded.start(*command, cwd=ROOT, env=environment()) as started:
        assert any("PASSED" in line for line in started.out)
        time.sleep(1)  # the second row has begun, and takes ten times as long
        os.kill(started.pid, signal.SIGINT)
        done = started.finish()
    assert done.returncode == 2, done.stdout
    assert "LeNet, batch 1, fp32" in done.stdout
    assert "The run was interrupted: rows are missing." in done.stdout
    found = results.load(the_file(tmp_path))
    assert found.partial
    assert [(row.case.batch_size, row.summary.rounds) for row in found.rows] == [(1, 300)]


def test_a_row_that_fails_is_not_saved_and_fails_alone(faulty: Saved) -> None:
    assert faulty.done.returncode == 1, faulty.done.stdout
    found = results.load(faulty.path)
    assert [row.case.batch_size for row in found.rows] == [1]
    assert [item.name for item in found.not_run] == [
        f"pytorch-forward-{size}-fp32-pinned-float32" for size in (2, 3, 4, 5, 1_000_000_000)
    ]
    printed = " ".join(faulty.done.stdout.split())  # long reasons are broken into lines
    assert all(f"{item.name}: {' '.join(item.reason.split())}" in printed for item in found.not_run)
    assert "LeNet, batch 1, fp32" in faulty.done.stdout
    assert not re.search(r"LeNet, batch (2|3|4|5|1,000,000,000),", faulty.done.stdout)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (2, "failed: the logits are wrong, so nothing is timed: max |delta logit| "),
        (3, "failed: RuntimeError: too late"),
        (4, "failed: the logits were right before the rounds and are wrong after them: max |delta logit| inf"),
        (5, "failed: the logits are wrong once other images lie in the same memory: max |delta logit| "),
        (1_000_000_000, "failed: batch 1,000,000,000 does not fit: about "),
    ],
    ids=["wrong logits", "after it was timed", "wrong after many calls", "remembered", "too large for memory"],
)
def test_a_failed_row_says_why(faulty: Saved, size: int, reason: str) -> None:
    reasons = {item.name: item.reason for item in results.load(faulty.path).not_run}
    assert reasons[f"pytorch-forward-{size}-fp32-pinned-float32"].startswith(reason)


@pytest.mark.parametrize(
    ("size", "layer"),
    [(2, "the layer at fault is fc2"), (4, "a new build shows no layer at fault")],
    ids=["in every build", "after many calls"],
)
def test_a_row_of_wrong_logits_names_the_layer_where_it_can_be_told(faulty: Saved, size: int, layer: str) -> None:
    reasons = {item.name: item.reason for item in results.load(faulty.path).not_run}
    assert reasons[f"pytorch-forward-{size}-fp32-pinned-float32"].endswith(layer)


def test_a_run_without_any_backend_has_failed(tmp_path: Path) -> None:
    options = ("--device=cpu", "--backend=pytorch-cudagraph", "-p", "no:cacheprovider")
    done = benchmarks("--benchmark-autosave", storage=tmp_path, quick=options)
    assert done.returncode == 1, done.stdout
    assert "Needs an NVIDIA GPU: pytorch-cudagraph.\n" in done.stdout
    assert "No inference row was measured: the run has failed." in done.stdout
    assert not list(tmp_path.rglob("*.json"))


def test_builds_of_a_backend_that_is_not_here_have_failed(tmp_path: Path) -> None:
    options = ("--device=cpu", "--backend=pytorch-cudagraph", "-p", "no:cacheprovider")
    done = benchmarks(storage=tmp_path, quick=options, file="test_build.py")
    assert done.returncode == 1, done.stdout
    assert "Needs an NVIDIA GPU: pytorch-cudagraph.\n" in done.stdout
    assert "No case of a backend was measured: the run has failed." in done.stdout


def test_a_build_for_a_batch_that_does_not_fit_memory_fails_alone(tmp_path: Path) -> None:
    options = (
        "--device=cpu",
        "--backend=pytorch",
        "--batch-size=1000000000",
        "--batch-size=1",
        "-p",
        "no:cacheprovider",
    )
    done = benchmarks("--benchmark-autosave", storage=tmp_path, quick=options, file="test_build.py")
    assert done.returncode == 1, done.stdout
    assert "batch 1,000,000,000 does not fit: about " in done.stdout
    assert re.search(r"\b3 failed, 3 passed", done.stdout)
    assert re.search(r"^test_build\[pytorch-1-fp32-float32-build\]: [\d.]+ ms$", done.stdout, re.MULTILINE)


def test_a_run_in_which_only_transfers_are_skipped_is_green(tmp_path: Path) -> None:
    done = benchmarks("--mode=forward", "benchmarks/test_transfer.py", storage=tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_disabled_run_says_so(tmp_path: Path) -> None:
    done = benchmarks("--mode=forward", "--benchmark-disable", storage=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "pytest-benchmark is disabled" in done.stdout
    assert "has failed" not in done.stdout


def test_rows_of_a_runner_follow_each_other_and_forward_is_measured_once(tmp_path: Path) -> None:
    """Whatever end to end copies from: forward copies nothing."""
    several = ("--precision=bf16", "--precision=fp32", "--host-memory=pinned", "--host-memory=pageable")
    quick = ("--backend=pytorch", "--backend=pytorch-compile", "--batch-size=2")
    done = benchmarks(*several, "--collect-only", "-q", storage=tmp_path, quick=quick)
    named = [line.partition("[")[2] for line in done.stdout.splitlines() if "test_inference[" in line]
    assert named == [
        f"{backend}-{row}-float32]"
        for backend in ("pytorch", "pytorch-compile")
        for precision in ("bf16", "fp32")
        for row in (
            f"forward-2-{precision}-pinned",
            f"end_to_end-2-{precision}-pinned",
            f"end_to_end-2-{precision}-pageable",
        )
    ]


@pytest.mark.parametrize("named", ["option", "environment"])
def test_a_data_directory_that_is_asked_for_and_not_there_is_refused(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is measured: no synthetic images take its place."""
    nowhere = tmp_path / "nowhere"
    if named == "environment":
        monkeypatch.setenv("LENET_DATA", str(nowhere))
    option = [f"--data={nowhere}"] if named == "option" else []
    done = pytest_here("benchmarks/test_inference.py", *QUICK, "--rounds=3", *option)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"no CIFAR-10 in {nowhere}" in done.stderr
    assert "synthetic" not in done.stdout + done.stderr


def test_images_that_are_not_cifar_10_are_not_measured_unless_they_are_asked_for(
    noise_directory: Path, tmp_path: Path
) -> None:
    options = ("--mode=forward", f"--data={noise_directory}", f"--benchmark-storage=file://{tmp_path}")
    done = pytest_here("benchmarks/test_inference.py", *QUICK, "--rounds=3", "--batch-size=1", *options)
    assert done.returncode == 1
    assert "does not hold CIFAR-10" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
