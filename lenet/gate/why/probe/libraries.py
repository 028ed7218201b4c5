"""What a library says of itself: versions, switches, ONNX Runtime's profile, and an engine's layers."""

from __future__ import annotations

import hashlib
import importlib
import json
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import torch

ENGINES: Final = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "torch-tensorrt": "tensorrt",
    "torch-tensorrt-rtx": "tensorrt_rtx",
    "tripy": "tensorrt",
}
"""The module that inspects a backend's engine."""

_LIBRARIES: Final = (
    "cuda",
    "jax",
    "mlir",
    "numpy",
    "nvidia",
    "nvtripy",
    "onnx",
    "openvino",
    "tensorrt",
    "torch",
    "triton",
)
_PLANS: Final = ("serialized_tensorrt_engine", "serialized_engine")
"""What TriPy's and Torch-TensorRT's holders of an engine call its plan."""
_SWITCHES: Final = (
    "backends.cuda.matmul.allow_tf32",
    "backends.cudnn.allow_tf32",
    "backends.cudnn.benchmark",
    "backends.cudnn.deterministic",
    "backends.cudnn.enabled",
    "backends.cudnn.version",
    "backends.mkldnn.enabled",
    "get_float32_matmul_precision",
    "get_num_threads",
    "version.cuda",
)
_DEPTH: Final = 4


def versions() -> dict[str, str]:
    """Versions of the libraries that can change a time; of two of one name, that which Python imports."""
    found = {"python": platform.python_version()}
    for one in metadata.distributions():
        name = str(one.metadata["Name"]).lower().replace("_", "-")
        if name.startswith(_LIBRARIES):
            found.setdefault(name, one.version)
    return found


def switches() -> dict[str, str]:
    """PyTorch's settings that can change a time. A release that lacks one has it not in the record."""
    found = {}
    for name in _SWITCHES:
        try:
            value: Any = torch
            for step in name.split("."):
                value = getattr(value, step)
            found[f"torch.{name}"] = str(value() if callable(value) else value)
        except Exception:  # noqa: BLE001, S112 - releases differ in what they have, and in how they refuse
            continue
    return found


@contextmanager
def profiled_sessions(folder: Path) -> Iterator[list[Any]]:
    """Have the sessions of ONNX Runtime that are opened meanwhile write a profile.

    Yields:
        The sessions that were opened.
    """
    library: Any = importlib.import_module("onnxruntime")
    plain, session = library.SessionOptions, library.InferenceSession
    opened: list[Any] = []

    class Options(plain):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.enable_profiling = True
            self.profile_file_prefix = str(folder / "onnxruntime")

    class Session(session):  # type: ignore[misc,valid-type]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            opened.append(self)

    library.SessionOptions, library.InferenceSession = Options, Session
    try:
        yield opened
    finally:
        library.SessionOptions, library.InferenceSession = plain, session


def session_facts(session: Any) -> dict[str, str]:
    """The options of a session that can change its time."""
    options = session.get_session_options()
    names = ("execution_mode", "graph_optimization_level", "inter_op_num_threads", "intra_op_num_threads")
    found = {f"session.{name}": str(getattr(options, name)).rpartition(".")[2] for name in names}
    return found | {"session.providers": ", ".join(session.get_providers())}


def node_parts(profile: Path, passes: int, wall: list[float]) -> list[dict[str, Any]]:
    """The nodes of ONNX Runtime's profile as the parts of a pass.

    Args:
        profile: What ``InferenceSession.end_profiling`` names.
        passes: The number of runs that count, the last ones.
        wall: The seconds of these passes.
    """
    runs: list[list[dict[str, Any]]] = [[]]
    for event in json.loads(profile.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            runs[-1].append(event)
        elif event["name"] == "model_run":
            runs[-1].append(event)
            runs.append([])
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    counted = runs[:-1][-passes:]
    for run in counted:
        for event in run:
            kind = event["args"].get("op_name", "")
            times[event["name"].removesuffix("_kernel_time"), kind].append(1e-6 * event["dur"])
    inside = times.pop(("model_run", ""))
    parts = [
        # The profile has whole microseconds, so the mean tells more than the median.
        _part("node", name, sum(values) / len(counted), operator=kind, calls=len(values) / len(counted))
        for (name, kind), values in times.items()
    ]
    nodes = sum(part["seconds"] for part in parts)
    parts.append(_part("session", "", max(fmean(inside) - nodes, 0.0)))
    parts.append(_part("outside", "", max(median(wall) - fmean(inside), 0.0)))
    return parts


def _part(kind: str, name: str, seconds: float, *, operator: str = "", calls: float = 1) -> dict[str, Any]:
    part = {"kind": kind, "layer": "", "operator": operator, "name": name[:300]}
    return {**part, "calls": round(calls, 2), "seconds": round(seconds, 10)}


def engine_layers(backend: str, runner: object) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The layers of a runner's engine, each with its tactic, and the SHA-256 of a plan that the runner holds.

    Raises:
        LookupError: The runner holds no engine.
    """
    trt = importlib.import_module(ENGINES[backend])
    facts = {}
    engine = _held(runner, lambda one: hasattr(one, "create_engine_inspector"))
    if engine is None:
        holder = _held(runner, lambda one: any(hasattr(one, name) for name in _PLANS))
        if holder is None:
            raise LookupError("the runner holds no engine")
        plan = bytes(next(getattr(holder, name) for name in _PLANS if hasattr(holder, name)))
        facts["plan_sha256"] = hashlib.sha256(plan).hexdigest()
        engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan)
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return [_layer(one) for one in json.loads(text)["Layers"]], facts


def _layer(described: Any) -> dict[str, str]:
    """A layer of the inspector: a name alone, unless the engine was built with detailed verbosity."""
    if isinstance(described, str):
        return {"name": described[:300], "kind": "", "tactic": ""}
    tactic = described.get("TacticName") or described.get("TacticValue") or ""
    kind = described.get("LayerType", "")
    return {"name": str(described.get("Name", ""))[:300], "kind": str(kind)[:300], "tactic": str(tactic)[:300]}


def _held(thing: Any, wanted: Callable[[Any], bool], depth: int = _DEPTH) -> Any:
    """What an object holds, itself or within what it holds."""
    if wanted(thing):
        return thing
    if depth:
        for value in [*getattr(thing, "__dict__", {}).values(), getattr(thing, "value", None)]:
            if value is not None and (found := _held(value, wanted, depth - 1)) is not None:
                return found
    return None
