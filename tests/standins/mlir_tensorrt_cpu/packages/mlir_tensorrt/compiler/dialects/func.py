"""The func dialect: a function and its return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ir import Attribute, Block, FunctionType, InsertionPoint, Operation, Value


class FuncOp(Operation):
    """A function; nvtripy makes one, named main, in each module."""

    def __init__(self, name: str, function_type: FunctionType, *, ip: InsertionPoint) -> None:
        super().__init__(name, operands=[], attributes={"function_type": function_type})
        self.function_type = function_type
        self.body = Block([])
        self.arg_attrs = Attribute([])
        ip.block.operations.append(self)

    def add_entry_block(self) -> Block:
        """The block of its body, whose arguments are its inputs."""
        self.body = Block([Value(each) for each in self.function_type.inputs])
        return self.body

    def input_attributes(self) -> list[dict[str, Any]]:
        """For each input, its attributes, such as the range of its shape."""
        return [each.value for each in self.arg_attrs.value]


class ReturnOp(Operation):
    """The results of a function."""

    def __init__(self, values: Sequence[Value]) -> None:
        super().__init__("return", operands=list(values), attributes={})
        InsertionPoint.current().block.operations.append(self)
