"""Torch-TensorRT's calls as the backend makes them, recorded: an engine is the exported program, run by PyTorch.

Every call must fit the parameters that the real function has in `tests.fakes.torch_tensorrt_signatures`. It is no GPU:
it tells nothing of kernels, streams or speed.
"""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests.fakes.torch_tensorrt_signatures import RECORDED

__all__ = ["FakeModule", "FakeTorchTensorRT", "UnsupportedOperatorException"]


class UnsupportedOperatorException(RuntimeError):  # noqa: N818 - Torch-TensorRT's name
    """As of ``torch_tensorrt.dynamo.conversion``."""


def signature(name: str) -> inspect.Signature:
    """What the real function takes."""
    found: Callable[..., None] = eval(f"lambda {RECORDED[name]}: None")  # noqa: S307 - a table of this repository
    return inspect.signature(found)


class FakeTorchTensorRT(SimpleNamespace):
    """The module ``torch_tensorrt``.

    Args:
        version: Of its distribution.

    Attributes:
        calls: What was called, each with its arguments by name.
        broken: Raised by the next conversion.
        refuses: What an engine is refused with; empty where it is loaded.
        lacks: Options that the conversion has not.
    """

    def __init__(self, version: str = RECORDED["version"]) -> None:
        super().__init__(__version__=version, calls=[], broken=None, refuses="", lacks=())
        self._programs: dict[bytes, Any] = {}
        self._numbers = itertools.count()
        self.Input = self._taking("Input", lambda **kwargs: kwargs)
        self.Device = self._taking("Device", lambda **kwargs: kwargs)
        self.runtime = SimpleNamespace(
            TorchTensorRTModule=self._taking("TorchTensorRTModule", self._module),
            RuntimeSettings=self._taking("RuntimeSettings", lambda **kwargs: kwargs),
        )
        self.dynamo = SimpleNamespace(CompilationSettings=self._taking("CompilationSettings", lambda **kwargs: kwargs))

    def __getattribute__(self, name: str) -> Any:
        if name == "dynamo":  # anew, for its parameters may change
            convert = "convert_exported_program_to_serialized_trt_engine"
            setattr(super().__getattribute__(name), convert, self._taking(convert, self._convert))
        return super().__getattribute__(name)

    def _taking(self, name: str, does: Callable[..., Any]) -> Callable[..., Any]:
        """A function that records its calls, with the real one's parameters."""
        real = signature(name)

        def call(*arguments: Any, **named: Any) -> Any:
            bound = real.bind(*arguments, **named).arguments
            self.calls.append((name, bound))
            return does(**(bound | bound.pop("kwargs", {})))

        left = [one for one in real.parameters.values() if one.name not in self.lacks]
        call.__signature__ = real.replace(parameters=left)  # type: ignore[attr-defined]
        return call

    def _convert(self, exported_program: Any, **_: Any) -> bytes:
        if self.broken is not None:
            raise RuntimeError("While interpreting the module got an error") from self.broken
        plan = b"plan %d" % next(self._numbers)
        self._programs[plan] = exported_program.module()
        return plan

    def _module(self, serialized_engine: bytes, **_: Any) -> FakeModule:
        return FakeModule(self._programs[serialized_engine], self.calls, self.refuses)

    def take(self, name: str) -> list[dict[str, Any]]:
        """The arguments of the calls of a function since the last time this was asked; all others are forgotten."""
        found = [arguments for called, arguments in self.calls if called == name]
        self.calls.clear()
        return found


class FakeModule(nn.Module):
    """``TorchTensorRTModule``, whose engine is set up lazily."""

    runtime_settings: Any = None

    def __init__(self, engine: nn.Module, calls: list[Any], refuses: str) -> None:
        super().__init__()
        warnings.warn("RuntimeSettings is only honored on TRT-RTX builds", UserWarning, stacklevel=2)  # as the real one
        self.engine = engine
        self._calls, self._refuses = calls, refuses
        self._ready = False

    def setup_engine(self) -> None:
        self._calls.append(("setup_engine", {"runtime_settings": self.runtime_settings}))
        if self._refuses:
            raise RuntimeError(self._refuses)
        self._ready = True

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        assert self._ready
        logits: torch.Tensor = self.engine(*inputs)
        return logits
