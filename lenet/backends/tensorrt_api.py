"""Calls of the API that TensorRT and TensorRT for RTX share: building an engine, and what failed, in the log's words.

The library is an argument, ``trt``. NVIDIA's documentation:
https://docs.nvidia.com/deeplearning/tensorrt/latest/ (and .../tensorrt-rtx/latest/). What is called here is the same in
TensorRT 10.15 and 11, by its guide "Migrating from TensorRT 10.x to 11.x" and by its bindings.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable
from types import ModuleType
from typing import Any, Final

from lenet.architecture import INPUT_SHAPE
from lenet.backends.base import BatchRange
from lenet.errors import BackendError
from lenet.export import INPUT
from lenet.vocabulary import Precision

__all__ = ["DEFAULT_LEVEL", "accepted", "build_plan", "created", "failure", "logger", "made"]

DEFAULT_LEVEL: Final = 3
"""The builder optimisation level that both libraries take where none is asked for."""

_LOG_LINES: Final = 20


def build_plan(
    trt: ModuleType,
    model: bytes,
    *,
    precision: Precision,
    batches: BatchRange,
    optimization_level: int = DEFAULT_LEVEL,
    target: Any = None,
) -> bytes:
    """Build a serialised engine.

    Args:
        trt: The library.
        model: An ONNX model of `lenet.export.to_onnx`.
        precision: Says whether TF32 may be used; the types are the model's.
        batches: The batch sizes of its one optimisation profile.
        optimization_level: How long to look for fast kernels, from 0 to 5.
        target: One of the values of `targets`, for TensorRT for RTX; None for the current GPU.

    Raises:
        BackendError: The library refused the model, the configuration or the network; its messages are shown.
    """
    log = logger(trt)
    log.messages.clear()
    builder = created(trt, "Builder", log)
    # TensorRT 11 ignores the flag, for there every network is strongly typed. Its number is not that of TensorRT 10.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = created(trt, "OnnxParser", made(trt, network, "no network"), log)
    if not parser.parse(model):
        raise BackendError(
            f"{trt.__name__} cannot parse the ONNX model",
            found=_lines(_describe(parser.get_error(index)) for index in range(parser.num_errors)),
            wanted="an ONNX model that `lenet export` writes",
            hint=f"check that {trt.__name__} {trt.__version__} and the exporter fit each other",
        )
    config = _configuration(trt, builder, precision, batches, optimization_level, target)
    return bytes(made(trt, builder.build_serialized_network(network, config), "no engine"))


def _configuration(
    trt: ModuleType, builder: Any, precision: Precision, batches: BatchRange, optimization_level: int, target: Any
) -> Any:
    config = made(trt, builder.create_builder_config(), "no builder configuration")
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = optimization_level
    level = config.builder_optimization_level  # one that is out of range is logged, and left as it was
    accepted(trt, level == optimization_level, f"optimisation level {optimization_level}")
    switch = config.set_flag if precision is Precision.TF32 else config.clear_flag  # it is on by default
    switch(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    shapes = [(size, *INPUT_SHAPE) for size in (batches.minimum, batches.optimum, batches.maximum)]
    try:
        profile.set_shape(INPUT, *shapes)
    except (RuntimeError, TypeError) as error:  # it holds the sizes to be inconsistent, or its integers are too short
        raise BackendError(
            f"{trt.__name__} refused the batch sizes",
            found=f"{shapes}: {str(error).partition('. ')[0]}",
            wanted="sizes that its dimensions can hold",
            hint="choose smaller batches",
        ) from error
    accepted(trt, config.add_optimization_profile(profile) >= 0, f"the profile {shapes}")
    if target is not None:
        config.num_compute_capabilities = 1
        accepted(trt, config.set_compute_capability(target, 0), f"the target {target}")
    return config


def created(trt: ModuleType, name: str, *arguments: Any) -> Any:
    """An object of one of the library's classes. Its constructor raises a `TypeError` where the library made none.

    Raises:
        BackendError: It made none, as where the driver is too old.
    """
    try:
        return getattr(trt, name)(*arguments)
    except TypeError as error:
        raise failure(trt, f"made no {name}") from error


def made(trt: ModuleType, thing: Any, absence: str) -> Any:
    """What the library made. It returns None where it failed.

    Raises:
        BackendError: It failed.
    """
    if thing is None:
        raise failure(trt, f"made {absence}")
    return thing


def accepted(trt: ModuleType, was: bool, what: str) -> None:
    """Check what the library answered to a setting or a call. It returns False where it refused.

    Raises:
        BackendError: It refused.
    """
    if not was:
        raise failure(trt, f"refused {what}")


def failure(trt: ModuleType, problem: str) -> BackendError:
    """The error of a call that the library failed, with the last lines of its log."""
    messages = logger(trt).messages
    return BackendError(
        f"{trt.__name__} {trt.__version__} {problem}",
        found=_lines(messages) if messages else "nothing in its log",
        wanted="a library, a driver and a GPU that fit each other and the network",
        hint="act on the last messages of its log, which are shown as found",
    )


def _describe(error: Any) -> str:
    """A parser's error, and the node that it is about where there is one."""
    node = f"{error.node_operator()} node {error.node_name()}: " if error.node_operator() else ""
    return f"{node}{error.desc()}"


def _lines(messages: Iterable[str]) -> str:
    return "\n          ".join(messages)


@functools.cache
def logger(trt: ModuleType) -> Any:
    """The library's logger, which keeps the last warnings and errors. A process has one: no library takes a second."""

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: deque[str] = deque(maxlen=_LOG_LINES)

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(trt.ILogger.WARNING):  # the lower, the more severe
                self.messages.append(msg)

    return Log()
