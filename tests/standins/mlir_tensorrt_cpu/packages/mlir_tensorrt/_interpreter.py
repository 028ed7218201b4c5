"""The graph as data, and torch CPU kernels that run it. The real package has no such module.

A `Program` runs twice over: on torch's meta device, where tensors have shapes and no elements, to check the graph at
the smallest, the optimal and the largest shapes of its inputs; and on the CPU, to compute. Tensors that hold shapes
(integers) are computed with their elements in both.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor
from torch.nn import functional

DTYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i8": torch.int8,
    "i1": torch.bool,
}
"""torch's data types by MLIR's names."""

Sizes: TypeAlias = tuple[int | None, ...]
"""Sizes of a tensor's dimensions, None where not known before it runs."""


class InstructionError(Exception):
    """An instruction does not fit its operands.

    Attributes:
        index: Which instruction of the program.
    """

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True)
class Input:
    """An input of the program: its element type and the range of its shape."""

    element_type: str
    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]


@dataclass(frozen=True)
class Instruction:
    """One operation: its operands by their numbers, inputs first, and what is known of its result."""

    operation: str
    operands: tuple[int | None, ...]
    attributes: dict[str, Any]
    element_type: str
    sizes: Sizes

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Its result.

        Raises:
            ValueError: The operands do not fit, or the result is not what the graph says.
            RuntimeError: torch refused the operands.
        """
        operands = [None if number is None else values[number] for number in self.operands]
        result = _KERNELS[self.operation](self, *operands)
        found, wanted = tuple(result.shape), self.sizes
        fits = len(found) == len(wanted) and all(size in {None, got} for size, got in zip(wanted, found, strict=True))
        if not fits or result.dtype is not DTYPES[self.element_type]:
            raise ValueError(f"the result is {result.dtype} {found}, the graph says {self.element_type} {wanted}")
        return result


@dataclass(frozen=True)
class Program:
    """A compiled graph.

    Attributes:
        inputs: Its inputs.
        instructions: Its operations, in order.
        constants: Its constant tensors, by the name that their instruction gives.
        results: The numbers of the values that it returns.
    """

    inputs: tuple[Input, ...]
    instructions: tuple[Instruction, ...]
    constants: dict[str, Tensor]
    results: tuple[int, ...]

    def check(self) -> None:
        """Infer every shape at the ends and the optimum of the inputs' ranges.

        Raises:
            InstructionError: An instruction does not fit its operands.
        """
        for bound in ("minimum", "optimum", "maximum"):
            shapes = (getattr(each, bound) for each in self.inputs)
            inputs = [
                torch.empty(shape, dtype=DTYPES[each.element_type], device="meta")
                for each, shape in zip(self.inputs, shapes, strict=True)
            ]
            self._run(inputs, {name: _without_elements(each) for name, each in self.constants.items()})

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Compute the results, in memory of their own."""
        values = self._run(inputs, self.constants)
        return [values[number].clone(memory_format=torch.contiguous_format) for number in self.results]

    def _run(self, inputs: Sequence[Tensor], constants: dict[str, Tensor]) -> list[Tensor]:
        values = list(inputs)
        for index, instruction in enumerate(self.instructions):
            try:
                if instruction.operation == "constant":
                    values.append(constants[instruction.attributes["name"]])
                else:
                    values.append(instruction.run(values))
            except (ValueError, RuntimeError) as error:
                raise InstructionError(index, f"'tensorrt.{instruction.operation}' op {error}") from error
        return values

    def to_bytes(self) -> bytes:
        """The program as a safetensors file: constants as tensors, everything else as JSON in its metadata."""
        fields = {name: value for name, value in asdict(self).items() if name != "constants"}
        return tensors_to_bytes(self.constants, {"program": json.dumps(fields, sort_keys=True)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Program:
        """The program that `to_bytes` wrote."""
        length = int.from_bytes(content[:8], "little")
        fields = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["program"])
        return cls(
            tuple(Input(each["element_type"], *map(tuple, _bounds(each))) for each in fields["inputs"]),
            tuple(
                Instruction(
                    each["operation"],
                    tuple(each["operands"]),
                    each["attributes"],
                    each["element_type"],
                    tuple(each["sizes"]),
                )
                for each in fields["instructions"]
            ),
            tensors_from_bytes(content),
            tuple(fields["results"]),
        )


def _bounds(fields: dict[str, Any]) -> tuple[list[int], list[int], list[int]]:
    return fields["minimum"], fields["optimum"], fields["maximum"]


def _without_elements(constant: Tensor) -> Tensor:
    return constant.to("meta") if constant.is_floating_point() else constant


def _same_dtype(*operands: Tensor | None) -> None:
    """Refuse mixed types, as a strongly typed network does and torch does not."""
    found = {each.dtype for each in operands if each is not None}
    if len(found) > 1:
        raise ValueError(f"operands of unlike types: {', '.join(sorted(map(str, found)))}")


def _padded(image: Tensor, attributes: dict[str, Any], value: float) -> Tensor:
    pairs = zip(reversed(attributes["pre_padding"]), reversed(attributes["post_padding"]), strict=True)
    return functional.pad(image, [size for pair in pairs for size in pair], value=value)


def _convolution(step: Instruction, image: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    _same_dtype(image, kernel, bias)
    at = step.attributes
    padded = _padded(image, at, 0.0)
    return functional.conv2d(padded, kernel, bias, at["stride"], 0, at["dilation"], at["num_groups"])


def _pooling(step: Instruction, image: Tensor) -> Tensor:
    if step.attributes["pooling_type"] != "kMAX":
        raise ValueError(f"pooling {step.attributes['pooling_type']} is not one that the CPU stand-in knows")
    padded = _padded(image, step.attributes, float("-inf"))
    return functional.max_pool2d(padded, step.attributes["window_size"], step.attributes["stride"])


def _activation(step: Instruction, x: Tensor) -> Tensor:
    return _ACTIVATIONS[step.attributes["activation_type"]](x)


def _element_wise(step: Instruction, left: Tensor, right: Tensor) -> Tensor:
    _same_dtype(left, right)
    if left.dim() != right.dim():
        raise ValueError(f"operands of unlike ranks: {left.dim()} and {right.dim()}")
    return _ELEMENT_WISE[step.attributes["operation"]](left, right)


def _matrix_multiply(_: Instruction, left: Tensor, right: Tensor) -> Tensor:
    _same_dtype(left, right)
    return left @ right


def _transpose(step: Instruction, x: Tensor) -> Tensor:
    return x.permute(step.attributes["permutation"])


def _concatenation(step: Instruction, *operands: Tensor) -> Tensor:
    _same_dtype(*operands)
    return torch.cat(operands, dim=step.attributes["axis"])


def _shape(_: Instruction, x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


def _slice(step: Instruction, x: Tensor) -> Tensor:
    bounds = zip(step.attributes["start"], step.attributes["size"], step.attributes["stride"], strict=True)
    return x[tuple(slice(start, start + size * stride, stride) for start, size, stride in bounds)]


def _collapse_rank(step: Instruction, x: Tensor) -> Tensor:
    return x.reshape([-1 if size is None else size for size in step.sizes])


def _reshape(_: Instruction, x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape(shape.tolist())


def _broadcast(step: Instruction, x: Tensor, shape: Tensor) -> Tensor:
    sizes = [1] * len(shape)
    for dimension, size in zip(step.attributes["broadcast_dims"], x.shape, strict=True):
        sizes[dimension] = size
    return x.reshape(sizes).expand(shape.tolist())


def _cast(step: Instruction, x: Tensor) -> Tensor:
    return x.to(DTYPES[step.element_type])


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "kRELU": torch.relu,
    "kSIGMOID": torch.sigmoid,
    "kTANH": torch.tanh,
}
_ELEMENT_WISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kSUM": operator.add,
    "kSUB": operator.sub,
    "kPROD": operator.mul,
    "kFLOOR_DIV": operator.floordiv,
    "kMAX": torch.maximum,
    "kMIN": torch.minimum,
    "kEQUAL": torch.eq,
    "kLESS": torch.lt,
    "kGREATER": torch.gt,
}
_KERNELS: dict[str, Callable[..., Tensor]] = {
    "convolution": _convolution,
    "pooling": _pooling,
    "activation": _activation,
    "element_wise": _element_wise,
    "matrix_multiply": _matrix_multiply,
    "transpose": _transpose,
    "concatenation": _concatenation,
    "shape": _shape,
    "slice": _slice,
    "collapse_rank": _collapse_rank,
    "reshape": _reshape,
    "broadcast": _broadcast,
    "cast": _cast,
}
