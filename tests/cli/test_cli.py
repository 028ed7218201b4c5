"""The commands as a person runs them."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from lenet import __version__, backends
from lenet.cli import main
from lenet.data import cifar10
from lenet.errors import DataError
from lenet.models.pytorch_lenet import from_weights
from lenet.report import curves
from lenet.training.evaluation import evaluate
from lenet.weights import load, save
from tests import preloaded

CPU_ONLY = ["--device", "cpu"]
UNKNOWN = "--accept-unknown-data"


def lenet(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module", autouse=True)
def _noise_is_read_once() -> Iterator[None]:
    """To read and hash 180 MB of it for each command takes longer than the command."""
    load_split, splits = cifar10.load, dict[object, cifar10.Split]()

    def load_once(split: cifar10.SplitName, directory: Path, **options: Any) -> cifar10.Split:
        if not options.get("accept_unknown"):
            return load_split(split, directory, **options)
        key = (split, directory)
        if key not in splits:
            splits[key] = load_split(split, directory, **options)
        return splits[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "load", load_once)
        yield


@pytest.fixture
def not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of this process draws no curves, where they are not what is tested: they take a second."""
    monkeypatch.setattr(curves, "save", lambda _: None)


def test_train_then_evaluate(noise_directory: Path, tmp_path: Path) -> None:
    small = ["--epochs", "2", "--train-images", "400", "--test-images", "100", "--batch-size", "100"]
    trained = lenet("train", "--data", noise_directory, UNKNOWN, "--out", tmp_path / "run", *small, *CPU_ONLY)
    assert trained.exit_code == 0, trained.output
    assert "    2   0.05 " in trained.stderr
    assert f"written to {tmp_path / 'run'}" in trained.stdout
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        ".lock",
        "checkpoint.safetensors",
        "curves.png",
        "curves.svg",
        "history.csv",
        "run.json",
        "weights.safetensors",
    }
    weights = tmp_path / "run" / "weights.safetensors"
    tested = cifar10.load("test", noise_directory, accept_unknown=True).head(100)
    wanted = evaluate(from_weights(load(weights).arrays), tested, torch.device("cpu"), 100)
    assert float(trained.stdout.split()[2].rstrip(",")) == pytest.approx(wanted.loss, abs=1e-5)
    evaluated = lenet("evaluate", "--data", noise_directory, UNKNOWN, "--weights", weights, "--json", *CPU_ONLY)
    assert evaluated.exit_code == 0, evaluated.output
    document = json.loads(evaluated.stdout)
    assert document["images"] == 10_000
    assert 2.2 < document["loss"] < 2.5
    text = lenet("evaluate", "--data", noise_directory, UNKNOWN, "--weights", weights, *CPU_ONLY)
    assert f"loss      {document['loss']:.7f}\naccuracy  {document['accuracy']:.4f}\n" in text.stdout


@pytest.mark.usefixtures("not_drawn")
def test_every_value_of_the_recipe_is_an_option(noise_directory: Path, tmp_path: Path) -> None:
    options = {
        "--epochs": "1",
        "--batch-size": "150",
        "--learning-rate": "0.01",
        "--momentum": "0.5",
        "--weight-decay": "0.001",
        "--milestone": "7",
        "--decay": "0.3",
        "--padding": "2",
        "--seed": "5",
        "--train-images": "300",
        "--test-images": "50",
    }
    flat = [text for pair in options.items() for text in pair]
    result = lenet("train", "--data", noise_directory, UNKNOWN, "--out", tmp_path, *flat, *CPU_ONLY)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run.json").read_text())["recipe"] == {
        "epochs": 1,
        "batch_size": 150,
        "learning_rate": 0.01,
        "momentum": 0.5,
        "weight_decay": 0.001,
        "milestones": [7],
        "decay": 0.3,
        "padding": 2,
        "seed": 5,
        "train_images": 300,
        "test_images": 50,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--data", "nowhere"], "no CIFAR-10 in nowhere"),
        (["evaluate", "--data", "DATA", "--batch-size", "10001"], "10,001"),
        (["evaluate", "--weights", "nowhere"], "cannot read nowhere"),
        (["evaluate", "--data", "DATA", "--input", "uint8"], "--input uint8 and no --backend"),
        (["evaluate", "--data", "DATA", "--precision", "int8"], "--precision int8 and no --backend"),
        (["train", "--data", "DATA", "--batch-size", "-1"], "--batch-size"),
        (["train", "--data", "DATA", "--out", "/dev/null/run"], "cannot write into /dev/null/run"),
        (["backends", "pytorhc"], "did you mean pytorch"),
    ],
)
def test_bad_input_is_told_in_three_lines_and_exits_with_2(
    noise_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"DATA": [str(noise_directory), UNKNOWN]}
    result = lenet(*[one for argument in arguments for one in data.get(argument, [argument])])
    assert result.exit_code == 2
    assert result.stderr.startswith("lenet: ")
    assert message in result.stderr
    assert all(f"\n  {part}" in result.stderr for part in ("found: ", "wanted: ", "next: "))
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("evaluate --batch-size 0", "--batch-size"),
        ("evaluate --backend pytorch --batch-size 0", "--batch-size"),
        ("export --onnx out --precision fp16x2", "--precision"),
        ("build --backend tensorrt-rtx --target sm89 --out out --precision fp16x2", "--precision"),
    ],
)
def test_a_value_that_a_command_has_no_use_for_is_refused(command: str, option: str) -> None:
    result = lenet(*command.split())
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr


def test_device_cuda_without_cuda(monkeypatch: pytest.MonkeyPatch, noise_directory: Path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for command in ("train", "evaluate"):
        result = lenet(command, "--data", noise_directory, UNKNOWN, "--device", "cuda")
        assert result.exit_code == 2
        assert "there is no CUDA device" in result.stderr


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_download_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    result = lenet(command, "--data", tmp_path / "data", "--download", *CPU_ONLY)
    assert result.exit_code == 2
    assert "could not be downloaded" in result.stderr
    assert "no route to host" in result.stderr


@pytest.mark.parametrize("input_type", ["float32", "uint8"])
def test_backends_are_compared_on_the_input_that_is_asked_for(
    noise_directory: Path, monkeypatch: pytest.MonkeyPatch, input_type: str
) -> None:
    asked: list[object] = []

    def compare(names: object, *_: object, **options: object) -> tuple[list[object], list[object]]:
        asked.extend([names, options["input_type"]])
        return [], []

    monkeypatch.setattr("lenet.comparison.compare_backends", compare)
    options = ("--backend", "pytorch", "--input", input_type, "--json", *CPU_ONLY)
    assert json.loads(lenet("evaluate", "--data", noise_directory, UNKNOWN, *options).stdout)["input"] == input_type
    assert asked == [("pytorch",), input_type]


def test_backends_lists_every_backend() -> None:
    listed = json.loads(lenet("backends", "--json").stdout)
    assert [line["name"] for line in listed] == list(backends.names())
    probed = json.loads(lenet("backends", "pytorch", "--json").stdout)
    assert [line["reason"] for line in probed] == [None]
    table = lenet("backends").stdout
    assert all(name in table for name in backends.names())


def test_ctrl_c_is_no_verdict(noise_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lenet.comparison.compare_backends", interrupt)
    done = lenet("evaluate", "--data", noise_directory, UNKNOWN, "--backend", "all", *CPU_ONLY)
    assert (done.exit_code, done.stderr) == (130, "lenet: interrupted\n")


def test_a_comparison_of_nothing_is_no_success(noise_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it takes no time: the reference of 10,000 images takes seconds."""
    monkeypatch.setattr("lenet.comparison.agreement.reference_of", lambda *_: pytest.fail("nothing asks for it"))
    done = lenet("evaluate", "--data", noise_directory, UNKNOWN, "--backend", "pytorch-cudagraph", *CPU_ONLY)
    assert done.exit_code == 2
    assert "pytorch-cudagraph: pytorch-cudagraph runs on cuda alone" in done.stdout


def test_a_table_in_a_log_is_wide_enough_for_its_numbers() -> None:
    result = CliRunner().invoke(main, ["results", "--example", "--details"], env={"COLUMNS": "80"})
    remarks = [line for line in result.stdout.splitlines() if line.startswith("! ")]
    assert 80 < max(map(len, remarks)) <= 120


def test_version() -> None:
    assert lenet("--version").stdout == f"lenet, version {__version__}\n"


def huge_weights(path: Path) -> Path:
    """Weights that are finite, of a network whose logits overflow."""
    save(path, {name: array * np.float32(1e20) for name, array in load().arrays.items()}, {})
    return path


def huge_options(data: Path, tmp_path: Path) -> tuple[str | Path, ...]:
    return ("--weights", huge_weights(tmp_path / "huge"), "--data", data, UNKNOWN, *CPU_ONLY)


def strictly(text: str) -> Any:
    return json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


def test_logits_that_are_not_finite_are_no_success(noise_directory: Path, tmp_path: Path) -> None:
    options = huge_options(noise_directory, tmp_path)
    done = lenet("evaluate", *options, "--json")
    document = strictly(done.stdout)
    reason = "the logits of 10,000 of 10,000 images are not finite"
    assert (done.exit_code, document["loss"], document["reason"]) == (1, None, reason)
    done = lenet("evaluate", *options)
    assert done.exit_code == 1
    assert f"loss      not finite: {reason}\n" in done.stdout


def test_a_backend_whose_logits_are_not_finite_stands_in_the_report(
    noise_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no measurements are stored, which the report would show too
    few = cifar10.load("test", noise_directory, accept_unknown=True).head(100)
    monkeypatch.setattr("lenet.cli.evaluate.load_split", lambda *_, **__: few)
    infinite = lambda _, images: torch.full((len(images), 10), math.inf)  # noqa: E731
    monkeypatch.setattr("lenet.backends.pytorch_eager.PyTorchRunner._forward", infinite)
    options: tuple[str | Path, ...] = ("--data", noise_directory, UNKNOWN, *CPU_ONLY)
    done = lenet("evaluate", "--backend", "pytorch", *options, "--json")
    (line,) = strictly(done.stdout)["backends"]
    assert (done.exit_code, line["loss"], line["right"], line["max_abs_delta"]) == (1, None, False, None)
    (tmp_path / "parity.json").write_text(done.stdout)
    done = lenet("report", "--parity", tmp_path / "parity.json", "--out", tmp_path / "report.html")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report.html").read_text()
    assert "not finite" in page
    assert f"pytorch: {line['reason']}" in page
    assert strictly((tmp_path / "parity.json").read_text())["data"] in page


@pytest.mark.usefixtures("not_drawn")
def test_images_that_are_not_cifar_10_are_named_everywhere(
    noise_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no measurements are stored, which the report would show too
    small = ["--epochs", "1", "--train-images", "200", "--test-images", "100", "--out", str(tmp_path / "run")]
    refused = lenet("train", "--data", noise_directory, *small, *CPU_ONLY)
    assert refused.exit_code == 2
    assert "does not hold CIFAR-10" in refused.stderr
    trained = lenet("train", "--data", noise_directory, UNKNOWN, *small, *CPU_ONLY)
    assert re.search(r"\(unknown test images, SHA-256 [0-9a-f]{12}\)", trained.stdout)
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert [name[:14] for name in data.values()] == ["unknown train ", "unknown test i"]
    assert json.loads(load(tmp_path / "run" / "weights.safetensors").metadata["data"]) == data
    lenet("report", "--run", tmp_path / "run", "--out", tmp_path / "report.html")
    assert all(name in (tmp_path / "report.html").read_text() for name in data.values())
    evaluated = lenet("evaluate", "--data", noise_directory, UNKNOWN, "--json", *CPU_ONLY)
    assert "not the official test_batch.bin" in json.loads(evaluated.stdout)["data"]


@pytest.mark.programs
def test_matplotlib_s_settings_neither_stop_a_training_nor_change_its_figures(
    noise_directory: Path, tmp_path: Path
) -> None:
    command = ["-m", "lenet", "train", "--data", str(noise_directory), UNKNOWN, *CPU_ONLY, "--out", "run"]
    command += ["--epochs", "1", "--train-images", "200", "--test-images", "100"]
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 20\naxes.facecolor: black\nfont.size: 30\n")
    # The directory is of a user of Jupyter: matplotlib reads a matplotlibrc there.
    environment = os.environ | {
        "MPLBACKEND": "a backend that is not installed",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    done = preloaded.run(*command, cwd=tmp_path, env=environment, prepare=without_matplotlib)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("a matplotlib of its own\n")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "history.csv").write_bytes((tmp_path / "run" / "history.csv").read_bytes())
    curves.save(tmp_path / "plain")
    ours, plain = (tmp_path / name / "curves.png" for name in ("run", "plain"))
    assert ours.read_bytes() == plain.read_bytes()


def without_matplotlib() -> None:
    """Let this process import matplotlib anew, which reads its settings then, and say at the end that it did."""
    drawing = ("matplotlib", "mpl_toolkits", "lenet.report")
    for name in [name for name in sys.modules if name.startswith(drawing)]:
        del sys.modules[name]
    tell = lambda: sys.stderr.write("a matplotlib of its own\n" if "matplotlib" in sys.modules else "none\n")  # noqa: E731
    Finalize(None, tell, exitpriority=1)


def test_a_figure_that_fails_fails_no_training(
    noise_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(curves, "save", fail)
    small = ["--epochs", "1", "--train-images", "200", "--test-images", "100", "--out", str(tmp_path / "run")]
    done = lenet("train", "--data", noise_directory, UNKNOWN, *small, *CPU_ONLY)
    assert done.exit_code == 0
    assert "the run is whole, but its curves could not be drawn: no font" in done.stderr
    assert (tmp_path / "run" / "weights.safetensors").exists()


@pytest.mark.parametrize("columns", ["40", "80", "120"])
def test_no_line_of_the_help_is_cut(columns: str) -> None:
    text = CliRunner().invoke(main, ["--help"], env={"COLUMNS": columns}).stdout
    assert "..." not in text.partition("\n")[2], "the first line has click's own [ARGS]..."
    words = " ".join(text.split())
    for name, found in main.commands.items():
        sentence = " ".join((found.help or "").split("\n\n")[0].split()).partition(". ")[0].removesuffix(".")
        assert f"{name} {sentence}" in words


@pytest.mark.usefixtures("not_drawn")
def test_a_finished_training_says_what_to_type_next(
    noise_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--epochs", "1", "--train-images", "100", "--test-images", "10", "--batch-size", "50", *CPU_ONLY]
    done = lenet("train", "--data", noise_directory, UNKNOWN, "--out", "a run", *small)
    assert done.exit_code == 0, done.output
    *_, first, second = done.stdout.splitlines()
    commands = [shlex.split(first.removeprefix("next:")), shlex.split(second)]
    assert all(words[0].endswith("lenet") for words in commands)
    for words in commands:
        assert lenet(*words[1:]).exit_code == 0, words
    assert Path("report.html").exists()


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_a_hint_about_missing_data_names_the_command_that_was_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    other = {"evaluate": "train", "train": "evaluate"}[command]
    unreadable = tmp_path / "broken" / "cifar-10-batches-py"
    unreadable.mkdir(parents=True)
    for data in "nowhere", unreadable.parent:
        done = lenet(command, "--data", data)
        assert done.exit_code == 2
        assert f"add --download to `lenet {command}`" in done.stderr
        assert f"lenet {other}" not in done.stderr


def test_without_a_command_the_hint_can_be_typed(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        cifar10.chosen_directory(tmp_path / "a b")
    assert refused.value.hint.endswith(f"lenet evaluate --download --data '{tmp_path}/a b'`")
