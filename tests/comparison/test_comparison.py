from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lenet import backends, weights
from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import Availability, Backend, BatchRange, BuildSpec, Runner
from lenet.cli import main
from lenet.comparison import Missing, RowParity, compare_backends, reference_of
from lenet.data import cifar10
from lenet.data.synthetic import synthetic
from lenet.errors import BackendError, WeightsError
from lenet.models.pytorch_lenet import LeNet, from_weights
from lenet.parity import ParityError
from lenet.suite.images import Batches
from lenet.vocabulary import InputType, Precision

CPU = torch.device("cpu")
SPLIT = synthetic(50)


class _Wrong(Backend):
    """PyTorch, with a bias forgotten."""

    name: ClassVar[str] = "wrong"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    def probe(self, device: torch.device) -> Availability:
        return Availability("1.0", None if device.type == "cpu" else "a CPU is wanted")

    def executed_precision(self, precision: Precision, device: torch.device) -> str:  # noqa: ARG002
        return precision

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        return _WrongRunner(from_weights({**arrays, "fc2.bias": np.zeros_like(arrays["fc2.bias"])}), spec)


class _WrongRunner(Runner):
    def __init__(self, model: LeNet, spec: BuildSpec) -> None:
        super().__init__(spec, None)
        self._model = model

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self._model(images.float())  # type: ignore[no-any-return]


class _Raw(_Wrong):
    """Normalises nothing."""

    name: ClassVar[str] = "raw"

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        return _WrongRunner(from_weights(arrays), spec)


class _Failing(_Wrong):
    name: ClassVar[str] = "failing"

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:  # noqa: ARG002
        raise BackendError("the engine cannot be built", found="out of memory", wanted="", hint="")


class _Unforeseen(_Wrong):
    """Its library raises what none of its own exceptions is, and only when it runs."""

    name: ClassVar[str] = "unforeseen"

    def _build(self, arrays: Mapping[str, np.ndarray], spec: BuildSpec) -> Runner:
        runner = _WrongRunner(from_weights(arrays), spec)
        runner._forward = self._fail  # type: ignore[method-assign]
        return runner

    def _fail(self, images: torch.Tensor) -> torch.Tensor:
        raise TypeError(f"no overload takes {images.shape[0]} images")


class _Absent(_Wrong):
    name: ClassVar[str] = "absent"

    def probe(self, device: torch.device) -> Availability:  # noqa: ARG002
        return Availability(None, "absent is not installed: pip install absent")

    def executed_precision(self, precision: Precision, device: torch.device) -> str:
        raise self._unsupported(precision, device, "another")


GPU_ALONE = [name for name in backends.names() if "cpu" not in backends.load(name).devices]


def test_a_backend_for_a_gpu_says_so_on_a_cpu_whatever_the_precision() -> None:
    assert "tripy" in GPU_ALONE
    _, missing = compare(*GPU_ALONE)
    assert missing == [Missing(name, f"{name} runs on cuda alone") for name in GPU_ALONE]
    for name in GPU_ALONE:
        refused = backends.load(name)._unsupported(Precision.FP32, CPU, "a GPU")
        assert refused.found == f"{name} runs on cuda alone"


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"wrong": _Wrong, "failing": _Failing, "raw": _Raw, "absent": _Absent, "unforeseen": _Unforeseen}
    load = backends.load
    monkeypatch.setattr(backends, "load", lambda name: more[name]() if name in more else load(name))


def compare(*names: str, input_type: InputType = InputType.FLOAT32) -> tuple[list[object], list[Missing]]:
    done, missing = compare_backends(
        names,
        weights.load().arrays,
        SPLIT,
        device=CPU,
        precision=Precision.FP32,
        batch_size=20,
        input_type=input_type,
    )
    return list(done), missing


def test_pytorch_is_right_and_has_no_delta_to_itself() -> None:
    (agreement,), missing = compare("pytorch")
    assert missing == []
    assert agreement.right  # type: ignore[attr-defined]
    assert agreement.images == 50  # type: ignore[attr-defined]
    assert agreement.delta_loss is agreement.delta_accuracy is None  # type: ignore[attr-defined]


def test_bytes_give_the_same_loss_and_accuracy() -> None:
    (floats,), (bytes_,) = (compare("pytorch", input_type=input_type)[0] for input_type in InputType)
    assert bytes_.right  # type: ignore[attr-defined]
    assert bytes_.accuracy == floats.accuracy  # type: ignore[attr-defined]
    assert bytes_.loss == pytest.approx(floats.loss, rel=1e-6)  # type: ignore[attr-defined]


def test_a_backend_that_takes_bytes_for_images_is_wrong() -> None:
    (agreement,), _ = compare("raw", input_type=InputType.UINT8)
    assert not agreement.right  # type: ignore[attr-defined]
    assert agreement.diverging_layer == "conv1"  # type: ignore[attr-defined]


def test_a_wrong_backend_is_found_and_its_layer_named() -> None:
    (agreement,), _ = compare("wrong")
    assert not agreement.right  # type: ignore[attr-defined]
    assert agreement.diverging_layer == "fc2"  # type: ignore[attr-defined]
    assert agreement.delta_loss > 0  # type: ignore[attr-defined]
    assert agreement.share_of_tolerance > 10  # type: ignore[attr-defined]


def test_every_difference_is_from_pytorch() -> None:
    (pytorch, *others), _ = compare("pytorch", "raw", "wrong", input_type=InputType.UINT8)
    assert [one.backend for one in others] == ["raw", "wrong"]  # type: ignore[attr-defined]
    for one in others:
        for name in ("loss", "accuracy"):
            assert getattr(one, f"delta_{name}") == abs(getattr(one, name) - getattr(pytorch, name))
    assert others[0].loss != others[1].loss  # type: ignore[attr-defined]


def test_what_cannot_run_is_named_with_its_reason_and_the_rest_goes_on() -> None:
    done, missing = compare("absent", "failing", "pytorch")
    assert len(done) == 1
    assert missing == [
        Missing("absent", "absent is not installed: pip install absent"),
        Missing("failing", "the engine cannot be built: out of memory"),
    ]


class _Stateful(_WrongRunner):
    """PyTorch, whose logits a fault changes by what it was called with before."""

    def __init__(self, fault: Callable[[torch.Tensor, list[torch.Tensor]], torch.Tensor], batch: int) -> None:
        spec = BuildSpec(CPU, Precision.FP32, BatchRange.exactly(batch))
        super().__init__(from_weights(weights.load().arrays), spec)
        self._fault = fault
        self._before: list[torch.Tensor] = []

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        self._before.append(super()._forward(images).clone())
        return self._fault(self._before[-1], self._before[:-1])


def row_of(runner: Runner, batch: int) -> RowParity:
    place = torch.empty(batch, *INPUT_SHAPE)
    reference = reference_of(weights.load().arrays, synthetic(max(batch, 32)).images, InputType.FLOAT32)
    return RowParity(lambda: runner.forward(place), place, runner, reference, "fp32")


@pytest.mark.parametrize("batch", [1, 8, 32, 40])
def test_a_row_whose_logits_stay_right_passes(batch: int) -> None:
    row = row_of(_Stateful(lambda found, _: found, batch), batch)
    assert row.check_before().images == max(batch, 32)
    row.check_after()


@pytest.mark.parametrize("batch", [1, 8, 40])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            lambda found, before: found if len(before) < 40 else found * math.nan,
            "right before the rounds and are wrong",
        ),
        (lambda found, before: found if len(before) < 40 else before[0] + 1, "right before the rounds and are wrong"),
        (lambda found, before: found if len(before) < 40 else before[39], "once other images lie in the same memory"),
        (lambda found, before: found if len(before) < 41 else found + before[-1] - found, "once other images lie"),
    ],
    ids=["NaN", "another's", "remembered", "the batch before's"],
)
def test_a_row_whose_logits_go_wrong_later_fails_and_says_when(
    batch: int, fault: Callable[[torch.Tensor, list[torch.Tensor]], torch.Tensor], message: str
) -> None:
    runner = _Stateful(fault, batch)
    row = row_of(runner, batch)
    row.check_before()
    rounds = 40 - len(runner._before)
    for _ in range(rounds):
        row._call()
    with pytest.raises(ParityError, match=message):
        row.check_after()


def test_a_small_batch_is_checked_on_images_enough_for_every_unit() -> None:
    """On one image most units of fc2 are idle: eight that are forgotten change nothing there."""
    arrays = weights.load().arrays
    forgetting = {**arrays, "fc2.weight": arrays["fc2.weight"] * (np.arange(120) < 112).astype(np.float32)}
    runner = _WrongRunner(from_weights(forgetting), BuildSpec(CPU, Precision.FP32, BatchRange.exactly(1)))
    with pytest.raises(ParityError, match="nothing is timed"):
        row_of(runner, 1).check_before()


def test_what_a_library_was_not_expected_to_raise_costs_its_own_results_alone() -> None:
    done, missing = compare("unforeseen", "pytorch")
    assert len(done) == 1
    assert missing == [Missing("unforeseen", "it failed unexpectedly: TypeError: no overload takes 20 images")]


def test_the_command_tells_of_it_beside_the_others_results(
    monkeypatch: pytest.MonkeyPatch, noise_directory: Path
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("in a library")

    load = cifar10.load
    monkeypatch.setattr(cifar10, "load", lambda *what, **how: load(*what, **how).head(1000))
    monkeypatch.setattr(type(backends.load("onnxruntime")), "probe", fail)
    options = ["--backend", "pytorch", "--backend", "onnxruntime", "--device", "cpu"]
    options += ["--data", str(noise_directory), "--accept-unknown-data"]
    done = CliRunner().invoke(main, ["evaluate", *options, "--json"])
    document = json.loads(done.stdout)
    assert [one["backend"] for one in document["backends"]] == ["pytorch"]
    assert document["not_run"] == {"onnxruntime": "it failed unexpectedly: ZeroDivisionError: in a library"}


def test_weights_whose_logits_overflow_are_at_fault_and_no_backend() -> None:
    large = {name: 1e12 * array for name, array in weights.load().arrays.items()}
    with pytest.raises(WeightsError, match="the weights' logits overflow"):
        compare_backends(["pytorch"], large, SPLIT, device=CPU, precision=Precision.FP32, batch_size=20)
    batches = Batches(large, SPLIT)
    with pytest.raises(pytest.fail.Exception, match="the weights' logits overflow"):
        batches.reference(4, InputType.FLOAT32)


def test_a_backend_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[str] = []

    class Probed(_Absent):
        def probe(self, device: torch.device) -> Availability:
            probed.append(self.name)
            return super().probe(device)

        def _build(self, *_: Any) -> Runner:
            raise BackendError("no", found="no", wanted="no", hint="no")

    monkeypatch.setattr(backends, "load", lambda _: Probed())
    compare("absent", "absent")
    assert probed == ["absent"] * 2, "once here, and once by `Backend.build`"
