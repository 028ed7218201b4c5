"""What works on this machine and what does not: each backend imported, built, run and compared in its own process.

A vendor library may crash, hang or write to the terminal; in a child process with a time limit it can do so without
taking the others along, and what it wrote can be shown.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Final, NoReturn, Self, TypeVar

import numpy as np
import torch

from lenet import backends, parity
from lenet.backends.base import Availability, Backend, BatchRange, BuildSpec
from lenet.comparison import logits_of
from lenet.data.augmentation import normalize
from lenet.data.synthetic import synthetic
from lenet.documents import parse
from lenet.errors import BackendError, LenetError, PrecisionError, UnavailableError
from lenet.provenance import bound_to_this, versions
from lenet.vocabulary import Precision

__all__ = ["Examination", "Step", "examine", "examine_in_processes", "machine"]

IMAGES: Final = parity.ENOUGH_IMAGES
"""Images that each backend runs."""
SECONDS: Final = 100
"""Time that each backend's process is given: two minutes, less what this process takes to start and to print.

All begin at once, so that it bounds the whole examination, and one that hangs keeps no other waiting.
"""
_REINSTALL: Final = "it is installed and cannot be loaded: see the log, and install it again"
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that would end this process at once; Ctrl-C is an exception of Python's already."""

_T = TypeVar("_T")


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
    found = versions(("lenet-bench", "numpy", *backends.distributions())) | {"device": str(device)}
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
    images = normalize(synthetic(IMAGES).images)
    steps: list[Step] = []
    version = executed = None
    advice = ""
    try:
        backend, availability = _step(steps, "import", lambda: _probe(name, device), lambda found: _told(found[1]))
        version = availability.version
        if not availability:
            steps[-1] = Step("import", passed=False, seconds=steps[-1].seconds, message=availability.reason or "")
            broken = availability.broken and device.type in backend.devices
            advice = _REINSTALL if broken else availability.reason or ""
            return Examination(name, version, None, tuple(steps), advice, unavailable=not broken)
        try:
            executed = backend.executed_precision(precision, device)
        except BackendError as error:
            told = error.found if isinstance(error, PrecisionError) else error.summary
            steps.append(Step("build", passed=False, seconds=0.0, message=told))
            return Examination(name, version, None, tuple(steps), told, unavailable=True)
        spec = BuildSpec(device, precision, BatchRange(1, IMAGES, IMAGES))
        with _step(steps, "build", lambda: backend.build(arrays, spec), lambda built: _facts(built.facts())) as runner:
            logits = _step(steps, "run", lambda: logits_of(runner, images, IMAGES), lambda out: f"{tuple(out.shape)}")
        reference = parity.Reference(arrays, images)
        compared = _step(steps, "compare", lambda: reference.compare(logits, executed), str)
        if not compared.right:
            steps[-1] = Step("compare", passed=False, seconds=steps[-1].seconds, message=str(compared))
            advice = "the logits are wrong: `lenet evaluate --backend all` names the layer"
    except UnavailableError as error:
        return Examination(name, version, executed, tuple(steps), error.hint, unavailable=True)
    except LenetError as error:
        advice = error.hint
    except Exception:  # noqa: BLE001 - whatever a vendor library raises is what is asked for
        advice = "see the log; report it with this output (`lenet doctor --json`)"
    return Examination(name, version, executed, tuple(steps), advice)


def examine_in_processes(
    names: Iterable[str],
    device: str,
    precision: Precision,
    *,
    seconds: float = SECONDS,
    on_begin: Callable[[str], object] = lambda _: None,
) -> list[Examination]:
    """Examine each backend in a process of its own, all at once.

    No process outlives this one, nor what it started itself: they end with it, by whatever signal it does. Their
    temporary files go with them.

    Args:
        names: Of the backends.
        device: As ``--device`` takes it.
        precision: What to ask of each.
        seconds: Time limit of each process, and so of all.
        on_begin: Called with a backend's name before its result is waited for.
    """
    with _unwound_by_signals(), ExitStack() as stack:
        # A process that is killed removes none of its own, nor do the libraries in it.
        folder = tempfile.TemporaryDirectory(prefix="lenet-doctor-", ignore_cleanup_errors=True)
        temporary = stack.enter_context(folder)
        children = {name: stack.enter_context(_Child(name, device, precision, temporary)) for name in names}
        until = time.monotonic() + seconds
        found = []
        for name, child in children.items():
            on_begin(name)
            found.append(child.result(until, seconds))
        return found


class _Child:
    """A process that examines a backend, and leads a group of all that it starts."""

    def __init__(self, name: str, device: str, precision: Precision, temporary: str) -> None:
        self._name = name
        self._started = time.perf_counter()
        # Files and no pipes, which could fill while another process is awaited.
        self._files = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed by `__exit__`
        arguments = ["doctor", name, "--here", "--json", "--device", device, "--precision", precision]
        self._process = subprocess.Popen(  # noqa: S603
            bound_to_this("lenet", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=self._files[0],
            stderr=self._files[1],
            # The log of one that crashes says where.
            env=os.environ | {"PYTHONFAULTHANDLER": "1", "TMPDIR": temporary},
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        for file in self._files:
            file.close()

    def result(self, until: float, seconds: float) -> Examination:
        """What it found, at a moment of `time.monotonic` at the latest, which is so many seconds after it began."""
        try:
            code = self._process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self._end()
            step = Step("process", passed=False, seconds=seconds, message=f"no answer in {seconds:g} s")
            advice = "a first build can be slow: try again; `lenet doctor --json` has the log"
            return Examination(self._name, None, None, (step,), advice, _lines(self._output()[1]))
        output, log = self._output()
        try:
            found = parse(output[output.index("{") :])["backends"][0]
            steps = tuple(Step(**step) for step in found["steps"])
            told = {key: found[key] for key in ("version", "precision", "advice", "unavailable")}
            return Examination(backend=self._name, steps=steps, log=_lines(log), **told)
        except (ValueError, KeyError, IndexError, TypeError):
            message = f"the process ended with {code}"
            step = Step("process", passed=False, seconds=time.perf_counter() - self._started, message=message)
            return Examination(self._name, None, None, (step,), "a library crashed: see the log", _lines(log))

    def _output(self) -> tuple[str, str]:
        for file in self._files:
            file.seek(0)
        output, log = (file.read().decode(errors="replace") for file in self._files)
        return output, log

    def _end(self) -> None:
        """End it, and what it started, if it has not ended; what it wrote can still be read."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@contextmanager
def _unwound_by_signals() -> Iterator[None]:
    """Let a signal that asks this process to end unwind the stack first, and end it then as it would have."""
    received: list[int] = []

    def unwind(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        received.append(number)
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # which alone can have handlers
        yield
        return
    asked = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in asked:
        signal.signal(number, unwind)
    try:
        yield
    finally:
        for number in asked:
            signal.signal(number, signal.SIG_DFL)
        if received:
            signal.raise_signal(received[0])


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


def _probe(name: str, device: torch.device) -> tuple[Backend, Availability]:
    backend = backends.load(name)
    return backend, backend.probe(device)


def _told(availability: Availability) -> str:
    return availability.reason or "available"


def _facts(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in facts.items()) or "built"


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.splitlines())
