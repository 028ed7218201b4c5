"""The compiler: from a graph to a program, every shape of it checked."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from .._interpreter import Input, Instruction, InstructionError, Program
from ..runtime.api import Executable, MTRTException
from .dialects.func import FuncOp, ReturnOp
from .ir import DYNAMIC, Attribute, Context, Module, Operation, RankedTensorType, ShapeProfile, Value

__all__ = ["CompilationTask", "CompilerClient", "Executable", "translate_mlir_to_executable"]


class CompilationTask:
    """Checks a graph."""

    def run(self, module: Module) -> None:
        """Infer its shapes at the bounds of its profile.

        Raises:
            MTRTException: An operation does not fit its operands; its location is written to standard error first,
                as MLIR does, for nvtripy to find the operation by.
        """
        program, operations = _lower(_main(module))
        try:
            program.check()
        except InstructionError as error:
            os.write(2, f"{operations[error.index].location}: error: {error}\n".encode())
            raise MTRTException("InternalError: failed to run compilation on module") from error


class CompilerClient:
    """The compiler's front door."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def get_compilation_task(self, kind: str, options: Sequence[str]) -> CompilationTask:
        """The one task there is; an option that nvtripy 0.1.7 does not pass is an error of this stand-in."""
        known = ("--tensorrt-timing-cache-path=", "--tensorrt-builder-opt-level=", "--tensorrt-strongly-typed=True")
        unknown = [each for each in options if not each.startswith((*known, "--force-entrypoints-return-allocs"))]
        if kind != "tensorrt-to-executable" or unknown:
            raise MTRTException(f"InvalidArgument: {kind} {' '.join(unknown)}")
        return CompilationTask()


def translate_mlir_to_executable(module: Module) -> Executable:
    """The program of a graph that was checked."""
    program, _ = _lower(_main(module))
    return Executable(program.to_bytes())


def _main(module: Module) -> FuncOp:
    (function,) = module.body.operations
    assert isinstance(function, FuncOp)
    return function


def _lower(function: FuncOp) -> tuple[Program, list[Operation]]:
    """The program of a function, and the operation that each of its instructions came from."""
    numbers: dict[Value, int] = {argument: number for number, argument in enumerate(function.body.arguments)}
    *operations, returned = function.body.operations
    assert isinstance(returned, ReturnOp)
    instructions: list[Instruction] = []
    constants: dict[str, torch.Tensor] = {}
    for operation in operations:
        assert operation.result is not None
        attributes = operation.attributes
        if operation.name == "constant":
            name = f"constant{len(constants)}"
            constants[name], attributes = attributes["value"], {"name": name}
        operands = tuple(None if value is None else numbers[value] for value in operation.operands)
        type_ = operation.result.type
        sizes = tuple(None if size == DYNAMIC else size for size in type_.shape)
        instructions.append(Instruction(operation.name, operands, attributes, type_.element_type.name, sizes))
        numbers[operation.result] = len(numbers)
    inputs = zip(function.body.arguments, function.input_attributes(), strict=True)
    program = Program(
        tuple(_input(argument.type, attributes.get("tensorrt.shape_profile")) for argument, attributes in inputs),
        tuple(instructions),
        constants,
        tuple(numbers[value] for value in returned.operands if value is not None),
    )
    return program, operations


def _input(type_: RankedTensorType, profile: Attribute | None) -> Input:
    bounds = profile.value if profile else ShapeProfile(type_.shape, type_.shape, type_.shape)
    return Input(type_.element_type.name, bounds.minimum, bounds.optimum, bounds.maximum)
