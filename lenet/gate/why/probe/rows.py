"""A row's record: its runner is built through the interface of the checkout's backends, and profiled."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.profiler import ProfilerActivity, profile, record_function

from . import libraries, timeline

_MOST: Final = 300
_FEWEST: Final = 7
_SECONDS: Final = 1.5
"""Passes of a profile: at most, at least, and for how long."""
_WARM_UP: Final = 0.3
_HERTZ: Final = 2e9
"""About the clock of a GPU, for the length of a hold."""
_LONGEST_HOLD: Final = 0.02
_APART: Final = 0.0002
"""Seconds between passes, more than the clocks of the host and the GPU differ in a trace."""
_THREADS: Final = torch.get_num_threads()
_EAGER: Final = "pytorch"
"""The backend whose modules run one after the other, so that ranges around them tell the layer."""


def profile_row(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A row's record. Whatever fails is a reason in it.

    Args:
        row: Its name and case.
        folder: A directory for temporary files.
    """
    record: dict[str, Any] = {"row": row["name"], "problem": None, "missing": [], "parts": [], "layers": []}
    record |= {"seconds": None, "facts": {}, "versions": {}}
    with _noted(record, "versions"):
        record["versions"] = libraries.versions()
    try:
        with TemporaryDirectory(dir=folder) as temporary:
            _fill(record, row, Path(temporary))
    except Exception as error:  # noqa: BLE001 - of whatever the checkout raises
        record["problem"] = _reason(error)
    return record


def _fill(record: dict[str, Any], row: Mapping[str, Any], folder: Path) -> None:
    torch.set_num_threads(row["threads"] or _THREADS)
    with contextlib.ExitStack() as stack:
        runner = _built(row)
        if hasattr(runner, "__exit__"):
            stack.enter_context(runner)
        stack.enter_context(torch.inference_mode())
        stack.enter_context(runner.on_stream())
        profiled = _Profiled(row, runner, folder)
        record["seconds"] = profiled.seconds
        record["facts"] |= libraries.switches()
        with _noted(record, "facts of the build"):
            record["facts"] |= dict(runner.facts(zero_copy=row["host_memory"] == "zero-copy"))
        with _noted(record, "the profile of PyTorch"):
            record["parts"] = profiled.parts(record["missing"])
        if row["backend"] in libraries.ENGINES:
            with _noted(record, "the engine's layers"):
                record["layers"], facts = libraries.engine_layers(row["backend"], runner)
                record["facts"] |= facts
                _name_layers(record["parts"], record["layers"])
    if row["backend"] == "onnxruntime" and row["device"] == "cpu":
        with _noted(record, "the profile of ONNX Runtime"):
            record["parts"], facts = _nodes(row, folder)
            record["facts"] |= facts


@contextlib.contextmanager
def _noted(record: dict[str, Any], what: str) -> Iterator[None]:
    """Note in the record what is missing, and why."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - each library fails in its own way
        record["missing"].append(f"{what}: {_reason(error)}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _built(row: Mapping[str, Any]) -> Any:
    """The row's runner. The checkout is imported here, so that an import that fails is a reason too."""
    from lenet import backends, weights
    from lenet.backends.base import BatchRange, BuildSpec
    from lenet.vocabulary import InputType, Precision

    device = torch.device(row["device"], 0) if row["device"] == "cuda" else torch.device("cpu")
    batches = BatchRange.exactly(row["batch_size"])
    spec = BuildSpec(device, Precision(row["asked"]), batches, InputType(row["input"]))
    return backends.load(row["backend"]).build(weights.load(weights.SHIPPED).arrays, spec)


class _Profiled:
    """A runner's call, warmed up, and what is measured of it.

    Attributes:
        seconds: The median time of a pass by the host's clock, without a profiler.
    """

    def __init__(self, row: Mapping[str, Any], runner: Any, folder: Path) -> None:
        self._row = row
        self._stream = runner.stream
        self._folder = folder
        self._call = _call(row, runner)
        self._flush = _cache_flush(row, runner)
        self._held = self._stream is not None and row["mode"] == "forward"
        self._wait()
        began, launches = time.perf_counter(), [0.0]
        while time.perf_counter() < began + _WARM_UP or len(launches) < _FEWEST:
            launches.append(self._timed(wait=False))
            self._wait()
        self._hold = min(4 * median(launches) + 3e-4, _LONGEST_HOLD)
        self.passes = max(_FEWEST, min(_MOST, int(_SECONDS / max(self._timed(wait=True), 1e-6))))
        self.wall = [self._timed(wait=True) for _ in range(self.passes)]
        self.seconds = median(self.wall)

    def _wait(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()

    def _timed(self, *, wait: bool) -> float:
        began = time.perf_counter()
        self._call()
        if wait:
            self._wait()
        return time.perf_counter() - began

    def parts(self, missing: list[str]) -> list[dict[str, Any]]:
        """The parts of a pass; notes what is missing."""
        host: timeline.Labels = {}
        device: timeline.Labels = {}
        if self._row["backend"] == _EAGER:
            with _named_modules():
                host, device = timeline.labels(self._trace(_FEWEST), held=self._held)
        trace = self._trace(self.passes)
        around = self._stream is not None and not self._held
        found = timeline.parts(trace, held=self._held, around=around, host=host, device=device)
        if self._stream is not None and not any(part["kind"] in {"kernel", "copy"} for part in found):
            missing.append("GPU kernels: the profile of PyTorch holds none")
        return found

    def _trace(self, passes: int) -> list[dict[str, Any]]:
        """The events of some passes, each after the last one has ended."""
        gpu = [] if self._stream is None else [ProfilerActivity.CUDA]
        with profile(activities=[ProfilerActivity.CPU, *gpu]) as profiler:
            for _ in range(passes + 2):
                self._flush()
                time.sleep(_APART)
                with record_function(timeline.ROUND):
                    if self._held:
                        torch.cuda._sleep(int(self._hold * _HERTZ))  # noqa: SLF001 - PyTorch's tests hold by it too
                    with record_function(timeline.CALL):
                        self._call()
                    self._wait()
        path = self._folder / "trace.json"
        profiler.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        return events


def _call(row: Mapping[str, Any], runner: Any) -> Callable[[], object]:
    """What a round of the row covers."""
    batch, images = _images(row, runner.spec.device)
    if row["mode"] == "forward":
        return lambda: runner.forward(images)
    source = batch if row["host_memory"] == "pageable" else batch.pin_memory()
    if row["host_memory"] == "zero-copy":
        return lambda: runner.forward(source)

    def copy_and_run() -> object:
        images.copy_(source, non_blocking=True)
        return runner.forward(images)

    return copy_and_run


@torch.inference_mode(mode=False)
def _images(row: Mapping[str, Any], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch in the host's memory and on the device. torch.compile would compile anew for inference tensors."""
    generator = torch.Generator().manual_seed(0)
    shape = (row["batch_size"], 3, 32, 32)
    if row["input"] == "uint8":
        batch = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    else:
        batch = torch.randn(shape, generator=generator)
    return batch, batch.to(device, copy=True)


def _cache_flush(row: Mapping[str, Any], runner: Any) -> Callable[[], object]:
    """What empties the GPU's L2 cache before a pass, for a row with a cold cache."""
    if not row["cold_cache"]:
        return lambda: None
    size = 2 * torch.cuda.get_device_properties(runner.spec.device).L2_cache_size
    scratch = torch.empty(size, dtype=torch.uint8, device=runner.spec.device)

    def flush() -> None:
        scratch.zero_()
        runner.stream.synchronize()

    return flush


@contextlib.contextmanager
def _named_modules() -> Iterator[None]:
    """Put a range with its name around each module of a network."""
    names: dict[int, str] = {}
    open_ones: list[Any] = []

    def enter(module: torch.nn.Module, _inputs: object) -> None:
        if not open_ones:
            names.update({id(one): name for name, one in module.named_modules()})
        name = names.get(id(module), "")
        open_ones.append(record_function(timeline.LAYER + name) if name else contextlib.nullcontext())
        open_ones[-1].__enter__()

    def leave(_module: torch.nn.Module, _inputs: object, _output: object) -> None:
        open_ones.pop().__exit__(None, None, None)

    hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _name_layers(parts: list[dict[str, Any]], layers: list[dict[str, str]]) -> None:
    """Give kernels that bear the name of a layer's tactic that layer."""
    for part in parts:
        found = [one["name"] for one in layers if one["tactic"] and one["tactic"] in part["name"]]
        if part["kind"] == "kernel" and len(found) == 1:
            part["layer"] = found[0]


def _nodes(row: Mapping[str, Any], folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The parts by node, and the session's options: of a runner of its own, since a profile costs time."""
    with libraries.profiled_sessions(folder) as sessions:
        runner = _built(row)
    with torch.inference_mode(), contextlib.closing(runner):
        profiled = _Profiled(row, runner, folder)
    (session,) = sessions
    path = Path(session.end_profiling())
    return libraries.node_parts(path, profiled.passes, profiled.wall), libraries.session_facts(session)
