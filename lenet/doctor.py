"""What works on this machine and what does not: each backend imported, built, run and compared in its own process.

A vendor library may crash, hang or write to the terminal; in a child process with a time limit it can do so without
taking the others along, and what it wrote can be shown.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
import torch

from lenet import backends, parity
from lenet.backends.base import BatchRange, BuildSpec, Precision
from lenet.comparison import logits_of
from lenet.data.augmentation import normalize
from lenet.data.synthetic import synthetic
from lenet.documents import parse
from lenet.errors import BackendError, LenetError
from lenet.provenance import versions

__all__ = ["Examination", "Step", "examine", "examine_in_processes", "machine"]

IMAGES: Final = 8
"""Images that each backend runs."""
SECONDS: Final = 100
"""Time that each backend's process is given: two minutes, less what this process takes to start and to print.

All begin at once, so that it bounds the whole examination, and one that hangs keeps no other waiting.
"""
_REINSTALL: Final = "it is installed and cannot be loaded: see the log, and install it again"
_T = TypeVar("_T")
_DISTRIBUTIONS: Final = (
    "lenet-bench",
    "torch",
    "triton",
    "numpy",
    "cuda-core",
    "cuda-bindings",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-rtx",
    "nvtripy",
    "mlir-tensorrt-compiler",
    "mlir-tensorrt-runtime",
)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried.

    Attributes:
        name: ``import``, ``build``, ``run`` or ``compare``.
        passed: Whether it worked.
        seconds: How long it took.
        message: What came out of it, or what went wrong.
    """

    name: str
    passed: bool
    seconds: float
    message: str


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found of one backend.

    Attributes:
        backend: Its name.
        version: Of its library, where that could be told.
        precision: What it really runs, where it got so far.
        steps: What was tried, up to the first that failed.
        advice: What to do next; empty where all is well.
        log: The lines that the libraries wrote.
        unavailable: Whether it said itself that it cannot run here, or not so.
    """

    backend: str
    version: str | None
    precision: str | None
    steps: tuple[Step, ...]
    advice: str = ""
    log: tuple[str, ...] = field(default=())
    unavailable: bool = False

    @property
    def passed(self) -> bool:
        """Whether every step was tried and worked."""
        return bool(self.steps) and all(step.passed for step in self.steps)

    @property
    def broken(self) -> bool:
        """Whether it failed where it should have run."""
        return not self.passed and not self.unavailable

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**asdict(self), "passed": self.passed}


def machine(device: torch.device) -> dict[str, str | None]:
    """Versions of everything that takes part, and the device."""
    found = versions(_DISTRIBUTIONS) | {"device": str(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["device"] = f"{properties.name}, compute capability {properties.major}.{properties.minor}"
        found["cuda"] = torch.version.cuda
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def examine(name: str, arrays: Mapping[str, np.ndarray], device: torch.device, precision: Precision) -> Examination:
    """Import, build, run and compare one backend in this process; the first step that fails is the last.

    Args:
        name: Of the backend.
        arrays: Weights by parameter name.
        device: Where to run it.
        precision: What to ask of it.
    """
    backend = backends.load(name)
    images = normalize(synthetic(IMAGES).images)
    steps: list[Step] = []
    version = executed = None
    advice = ""
    try:
        availability = _step(steps, "import", lambda: backend.probe(device), lambda found: found.reason or "available")
        version = availability.version
        if not availability:
            steps[-1] = Step("import", passed=False, seconds=steps[-1].seconds, message=availability.reason or "")
            broken = availability.broken and device.type in backend.devices
            advice = _REINSTALL if broken else availability.reason or ""
            return Examination(name, version, None, tuple(steps), advice, unavailable=not broken)
        try:
            executed = backend.executed_precision(precision, device)
        except BackendError as error:
            steps.append(Step("build", passed=False, seconds=0.0, message=error.summary))
            return Examination(name, version, None, tuple(steps), error.summary, unavailable=True)
        spec = BuildSpec(device, precision, BatchRange(1, IMAGES, IMAGES))
        runner = _step(steps, "build", lambda: backend.build(arrays, spec), lambda built: _facts(built.facts()))
        logits = _step(steps, "run", lambda: logits_of(runner, images, IMAGES), lambda out: f"{tuple(out.shape)}")
        wanted, allowed = parity.reference(arrays, images), parity.tolerance(arrays, images, executed)
        compared = _step(steps, "compare", lambda: parity.compare(logits, wanted, allowed), str)
        if not compared.right:
            steps[-1] = Step("compare", passed=False, seconds=steps[-1].seconds, message=str(compared))
            advice = "the logits are wrong: `lenet evaluate --backend all` names the layer"
    except LenetError as error:
        advice = error.hint
    except Exception:  # noqa: BLE001 - whatever a vendor library raises is what is asked for
        advice = "see the log; report it with this output (`lenet doctor --json`)"
    return Examination(name, version, executed, tuple(steps), advice)


def examine_in_processes(
    names: Iterable[str], device: str, precision: Precision, *, seconds: float = SECONDS
) -> list[Examination]:
    """Examine each backend in a process of its own, all at once.

    Args:
        names: Of the backends.
        device: As ``--device`` takes it.
        precision: What to ask of each.
        seconds: Time limit of each process, and so of all.
    """
    wanted = tuple(names)
    with ThreadPoolExecutor(max(len(wanted), 1)) as pool:
        return list(pool.map(lambda name: _examine_in_process(name, device, precision, seconds), wanted))


def _examine_in_process(name: str, device: str, precision: Precision, seconds: float) -> Examination:
    command = [sys.executable, "-m", "lenet", "doctor", name, "--here", "--json"]
    command += ["--device", device, "--precision", precision]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, errors="replace")  # noqa: S603
    except subprocess.TimeoutExpired as error:
        log = _lines((error.stderr or b"").decode(errors="replace"))
        step = Step("process", passed=False, seconds=seconds, message=f"no answer in {seconds:g} s")
        return Examination(name, None, None, (step,), "see the log; a first build can be slow: try again", log)
    log = _lines(done.stderr)
    try:
        found = parse(done.stdout[done.stdout.index("{") :])["backends"][0]
        steps = tuple(Step(**step) for step in found["steps"])
        told = {key: found[key] for key in ("version", "precision", "advice", "unavailable")}
        return Examination(backend=name, steps=steps, log=log, **told)
    except (ValueError, KeyError, IndexError, TypeError):
        message = f"the process ended with {done.returncode}"
        step = Step("process", passed=False, seconds=time.perf_counter() - started, message=message)
        return Examination(name, None, None, (step,), "a library crashed: see the log", log)


def _step(steps: list[Step], name: str, do: Callable[[], _T], describe: Callable[[_T], str]) -> _T:
    started = time.perf_counter()
    try:
        result = do()
    except Exception as error:
        message = str(error) if isinstance(error, LenetError) else f"{type(error).__name__}: {error}"
        steps.append(Step(name, passed=False, seconds=time.perf_counter() - started, message=message))
        raise
    steps.append(Step(name, passed=True, seconds=time.perf_counter() - started, message=describe(result)))
    return result


def _facts(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in facts.items()) or "built"


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.splitlines())
