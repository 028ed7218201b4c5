"""TensorRT for RTX: an engine for a compute capability, whose kernels are compiled on the GPU at hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar, Final

import torch

from lenet.backends.base import BatchRange, BuildSpec, Runner, new_stream
from lenet.backends.tensorrt_api import accepted, build_plan, made
from lenet.backends.tensorrt_engine import EngineRunner, TensorRTBackend, Version, dotted
from lenet.engine_cache import Cached, EngineCache, EngineKey
from lenet.errors import BackendError
from lenet.vocabulary import Precision

__all__ = ["JitRunner", "TensorRTRTX", "targets"]

_KERNELS: Final = "kernels"
"""What the engine cache calls the compiled kernels that it keeps beside an engine."""


class TensorRTRTX(TensorRTBackend):
    """TensorRT for RTX: an engine for a compute capability, whose kernels are compiled on the GPU when first run.

    Compiled kernels are kept in the engine cache, beside the engine. The library captures CUDA graphs by itself.
    """

    name: ClassVar[str] = "tensorrt-rtx"
    module: ClassVar[str] = "tensorrt_rtx"
    supported: ClassVar[tuple[Version, Version]] = ((1, 4), (2, 0))
    before_ampere: ClassVar[tuple[Precision, ...]] = (Precision.FP16,)  # 1.7 compiles no float32 product for sm75

    def build_ahead(self, model: bytes, precision: Precision, batches: BatchRange, target: str) -> bytes:
        """Build an engine for a GPU that need not be here.

        Args:
            model: An ONNX model of `lenet.export.to_onnx`, of the precision's type.
            precision: What is asked of its arithmetic.
            batches: The batch sizes that it must take.
            target: One of `targets`, such as ``sm89``.

        Returns:
            The serialised engine.

        Raises:
            BackendError: The library cannot be used, does not know the target, or refuses the network for it.
        """
        return build_plan(
            self.library(),
            model,
            precision=precision,
            batches=batches,
            optimization_level=self.optimization_level,
            target=self.target(target),
        )

    def target(self, name: str) -> Any:
        """The library's own name for one of `targets`.

        Raises:
            BackendError: The library cannot be used, or does not know the target.
        """
        trt = self.library()
        known = targets(trt)
        if name not in known:
            raise BackendError(
                f"{self.name} {trt.__version__} does not build for {name!r}",
                found=name,
                wanted=", ".join(known),
                hint="sm89 is compute capability 8.9; `nvidia-smi --query-gpu=compute_cap --format=csv` prints a GPU's",
            )
        return known[name]

    def _unsupported_gpu(self, trt: ModuleType, capability: Version) -> str | None:
        known = targets(trt)
        if _target_name(capability) in known:
            return None
        return (
            f"{self.name} {trt.__version__} runs on {', '.join(known)}, not on compute capability {dotted(capability)}"
        )

    def _target(self, trt: ModuleType, capability: Version) -> Any:
        return targets(trt)[_target_name(capability)]

    def _runner(
        self, trt: ModuleType, spec: BuildSpec, engine: Cached[Any], cache: EngineCache, key: EngineKey
    ) -> Runner:
        config = made(trt, engine.value.create_runtime_config(), "no runtime configuration")
        # The default starts on fallback kernels and swaps in those of a batch size at some later call.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        graphs = trt.CudaGraphStrategy
        config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if self.cuda_graph else graphs.DISABLED
        kernels = made(trt, config.create_runtime_cache(), "no runtime cache")
        stored = cache.read(key, _KERNELS)
        if stored is not None:
            kernels.deserialize(stored)  # refused after a new driver, say: then kernels are compiled anew
        accepted(trt, config.set_runtime_cache(kernels), "the runtime cache")
        context = engine.value.create_execution_context(config)
        store = functools.partial(cache.write, key, kind=_KERNELS)
        return JitRunner(trt, spec, engine, context, new_stream(spec.device), kernels, stored, store)


def targets(trt: ModuleType) -> dict[str, Any]:
    """The compute capabilities that TensorRT for RTX builds for, by name: ``sm89`` is 8.9."""
    return {name.lower(): value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}


class JitRunner(EngineRunner):
    """An `EngineRunner` whose library compiles kernels in the first pass at a batch size; they are stored then.

    Args:
        trt: The library.
        spec: What it was built for.
        engine: The deserialised engine.
        context: An execution context of the engine; None where the library made none.
        stream: The stream that its work is queued on.
        kernels: The runtime cache that the context compiles into.
        stored: What is stored of it.
        store: Stores it.
    """

    def __init__(
        self,
        trt: ModuleType,
        spec: BuildSpec,
        engine: Cached[Any],
        context: Any,
        stream: torch.cuda.Stream | None,
        kernels: Any,
        stored: bytes | None,
        store: Callable[[bytes], None],
    ) -> None:
        super().__init__(trt, spec, engine, context, stream)
        self._kernels = kernels
        self._stored = stored
        self._store = store
        self._compiled: set[int] = set()

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super()._forward(images)
        if self._batch not in self._compiled:
            self._compiled.add(self._batch)
            self._store_kernels()
        return logits

    def _store_kernels(self) -> None:
        content = bytes(made(self._trt, self._kernels.serialize(), "no serialised runtime cache"))
        if content != self._stored:
            self._store(content)
            self._stored = content


def _target_name(capability: Version) -> str:
    return f"sm{capability[0]}{capability[1]}"
