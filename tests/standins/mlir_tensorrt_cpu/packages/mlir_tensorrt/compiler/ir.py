"""The part of MLIR's Python API that nvtripy builds its graph with: types, attributes, locations and operations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch

from ..runtime.api import MemRefValue

DYNAMIC = -(2**63)
"""MLIR's mark for a dimension that is not known."""


class _Scope:
    """Something that a `with` statement makes current."""

    _entered: ClassVar[list[Any]]

    def __init_subclass__(cls) -> None:
        cls._entered = []

    def __enter__(self) -> Self:
        self._entered.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.pop()

    @classmethod
    def current(cls) -> Self:
        innermost: Self = cls._entered[-1]
        return innermost


class Context(_Scope):
    """Owner of types and attributes in MLIR; here they need none."""

    def enable_multithreading(self, enable: bool) -> None:
        """There are no threads to switch."""


@dataclass(frozen=True)
class Location(_Scope):
    """Where an operation comes from, printed as MLIR prints it: nvtripy looks for its tensors' names in the text."""

    text: str

    @classmethod
    def unknown(cls) -> Location:
        return cls("unknown")

    @classmethod
    def name(cls, name: str) -> Location:
        return cls(f'"{name}"')

    @classmethod
    def fused(cls, locations: Sequence[Location], metadata: Attribute) -> Location:
        quoted = str(metadata.value).replace('"', "'")
        return cls(f'fused<"{quoted}">[{", ".join(each.text for each in locations)}]')

    def __str__(self) -> str:
        return f"loc({self.text})"


@dataclass(frozen=True)
class ElementType:
    """Type of a tensor's elements, by MLIR's name."""

    name: str


class _NamedType(ElementType):
    _name: ClassVar[str]

    @classmethod
    def get(cls) -> Self:
        return cls(cls._name)


class F32Type(_NamedType):
    _name = "f32"


class F16Type(_NamedType):
    _name = "f16"


class BF16Type(_NamedType):
    _name = "bf16"


class Float8E4M3FNType(_NamedType):
    _name = "f8e4m3fn"


class IntegerType(ElementType):
    @classmethod
    def get_signless(cls, width: int) -> IntegerType:
        return cls(f"i{width}")


class ShapedType:
    @staticmethod
    def get_dynamic_size() -> int:
        return DYNAMIC


@dataclass(frozen=True)
class RankedTensorType:
    """A tensor's shape, as far as it is known, and the type of its elements."""

    shape: tuple[int, ...]
    element_type: ElementType

    @classmethod
    def get(cls, shape: Sequence[int], element_type: ElementType) -> RankedTensorType:
        return cls(tuple(shape), element_type)

    @property
    def rank(self) -> int:
        return len(self.shape)

    def is_dynamic_dim(self, dimension: int) -> bool:
        return self.shape[dimension] == DYNAMIC

    def __str__(self) -> str:
        sizes = ("?" if size == DYNAMIC else str(size) for size in self.shape)
        return f"tensor<{'x'.join((*sizes, self.element_type.name))}>"


@dataclass(frozen=True)
class FunctionType:
    inputs: tuple[RankedTensorType, ...]
    results: tuple[RankedTensorType, ...]

    @classmethod
    def get(cls, inputs: Sequence[RankedTensorType], results: Sequence[RankedTensorType]) -> FunctionType:
        return cls(tuple(inputs), tuple(results))


@dataclass(frozen=True)
class ShapeProfile:
    """The shapes that an input may have."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]


class Attribute:
    """A constant of an operation, kept as the Python value that it was made of."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @classmethod
    def get(cls, *arguments: Any) -> Self:
        """Of ``(value)`` or ``(type, value)``."""
        return cls(arguments[-1])

    @staticmethod
    def parse(text: str) -> Attribute:
        """A shape profile as a `ShapeProfile`; anything else as its text."""
        if not text.startswith("#tensorrt.shape_profile"):
            return Attribute(text)
        bounds = [tuple(int(size) for size in re.findall(r"\d+", sizes)) for sizes in re.findall(r"\[(.*?)\]", text)]
        return Attribute(ShapeProfile(*bounds))


class ArrayAttr(Attribute):
    pass


class BoolAttr(Attribute):
    pass


class DenseI64ArrayAttr(Attribute):
    pass


class DictAttr(Attribute):
    pass


class FloatAttr(Attribute):
    pass


class IntegerAttr(Attribute):
    pass


class StringAttr(Attribute):
    pass


class TypeAttr(Attribute):
    pass


class DenseElementsAttr(Attribute):
    """A constant tensor."""

    def __init__(self, tensor: torch.Tensor, element_type: ElementType) -> None:
        super().__init__(tensor)
        self.element_type = element_type

    @classmethod
    def get(  # type: ignore[override]  # MLIR's signature
        cls, *, array: MemRefValue, type: ElementType, shape: Sequence[int]
    ) -> Self:
        """A view of the array: nvtripy holds it until the program is compiled to bytes, which are a copy."""
        return cls(array.tensor.reshape(tuple(shape)), type)


class Value:
    """An input of the function, or an operation's result."""

    def __init__(self, type: RankedTensorType) -> None:
        self.type = type

    def set_type(self, type: RankedTensorType) -> None:
        self.type = type


class Operation:
    """An operation, at the current location."""

    def __init__(
        self,
        name: str,
        operands: Sequence[Value | None],
        attributes: dict[str, Any],
        result: Value | None = None,
    ) -> None:
        self.name = name
        self.operands = tuple(operands)
        self.attributes = attributes
        self.result = result
        self.location = Location.current()

    def __str__(self) -> str:
        return f"{self.name} -> {self.result.type if self.result else 'nothing'} {self.location}"


@dataclass
class Block:
    """Operations in order."""

    arguments: list[Value]
    operations: list[Operation] = field(default_factory=list)


class InsertionPoint(_Scope):
    """The block that operations are added to."""

    def __init__(self, block: Block) -> None:
        self.block = block


class Module:
    """A graph: the function main."""

    def __init__(self) -> None:
        self.body = Block([])
        self.attributes: dict[str, Any] = {}

    @classmethod
    def create(cls) -> Module:
        return cls()

    @property
    def operation(self) -> Module:
        return self

    def get_asm(self, *, large_elements_limit: int) -> str:
        """The graph as text, one operation a line, without its constants' elements."""
        del large_elements_limit
        functions: list[Any] = list(self.body.operations)
        return "\n".join(str(operation) for function in functions for operation in function.body.operations)
