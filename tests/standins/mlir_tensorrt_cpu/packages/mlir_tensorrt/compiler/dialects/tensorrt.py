"""Builders of the TensorRT dialect's operations, as many as LeNet and a few eager calls need.

A builder knows its result's rank and element type; the sizes come from nvtripy, which sets them on the value, and are
checked when the graph is compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from ..ir import DYNAMIC, Attribute, DenseElementsAttr, InsertionPoint, IntegerType, Operation, RankedTensorType, Value


class ActivationTypeAttr(Attribute):
    pass


class ElementWiseOperationAttr(Attribute):
    pass


class MatrixOperationAttr(Attribute):
    pass


class PoolingTypeAttr(Attribute):
    pass


def __getattr__(name: str) -> NoReturn:
    if name.startswith("__"):  # the import system's own questions
        raise AttributeError(name)
    raise NotImplementedError(f"the CPU stand-in has no tensorrt.{name}: it knows the operations of LeNet alone")


def constant(elements: DenseElementsAttr) -> Value:
    tensor = elements.value
    return _add("constant", [], {"value": tensor}, RankedTensorType(tuple(tensor.shape), elements.element_type))


def convolution(
    input: Value,
    stride: Sequence[int],
    *,
    pre_padding: Sequence[int],
    post_padding: Sequence[int],
    kernel: Value,
    bias: Value | None,
    num_groups: int,
    dilation: Sequence[int],
) -> Value:
    attributes = {
        "stride": list(stride),
        "pre_padding": list(pre_padding),
        "post_padding": list(post_padding),
        "num_groups": num_groups,
        "dilation": list(dilation),
    }
    return _add("convolution", [input, kernel, bias], attributes, _like(input))


def pooling(
    input: Value,
    window_size: Attribute,
    stride: Attribute,
    pre_padding: Attribute,
    post_padding: Attribute,
    pooling_type: Attribute,
    *,
    average_count_excludes_padding: Attribute | None,
) -> Value:
    del average_count_excludes_padding
    attributes = {
        "window_size": list(window_size.value),
        "stride": list(stride.value),
        "pre_padding": list(pre_padding.value),
        "post_padding": list(post_padding.value),
        "pooling_type": pooling_type.value,
    }
    return _add("pooling", [input], attributes, _like(input))


def activation(input: Value, activation_type: Attribute) -> Value:
    return _add("activation", [input], {"activation_type": activation_type.value}, _like(input))


def element_wise(left: Value, right: Value, operation: Attribute) -> Value:
    compares = operation.value in {"kEQUAL", "kLESS", "kGREATER"}
    element_type = IntegerType.get_signless(1) if compares else left.type.element_type
    return _add("element_wise", [left, right], {"operation": operation.value}, _unknown(left.type.rank, element_type))


def matrix_multiply(left: Value, right: Value, left_operation: Attribute, right_operation: Attribute) -> Value:
    attributes = {"left_operation": left_operation.value, "right_operation": right_operation.value}
    vectors = list(attributes.values()).count("kVECTOR")
    rank = max(left.type.rank, right.type.rank) - vectors
    return _add("matrix_multiply", [left, right], attributes, _unknown(rank, left.type.element_type))


def transpose(input: Value, permutation: Attribute) -> Value:
    return _add("transpose", [input], {"permutation": permutation.value}, _like(input))


def concatenation(inputs: Sequence[Value], *, axis: int) -> Value:
    return _add("concatenation", inputs, {"axis": axis}, _like(inputs[0]))


def shape(input: Value) -> Value:
    return _add("shape", [input], {}, RankedTensorType((input.type.rank,), IntegerType.get_signless(32)))


def slice(
    input: Value,
    *,
    static_start: Sequence[int],
    static_size: Sequence[int],
    static_stride: Sequence[int],
) -> Value:
    attributes = {"start": list(static_start), "size": list(static_size), "stride": list(static_stride)}
    return _add("slice", [input], attributes, _like(input))


def collapse_rank(result: RankedTensorType, input: Value) -> Value:
    return _add("collapse_rank", [input], {}, result)


def reshape(result: RankedTensorType, input: Value, *, shape: Value) -> Value:
    return _add("reshape", [input, shape], {}, result)


def broadcast(
    result: RankedTensorType,
    input: Value,
    *,
    shape: Value,
    broadcast_dims: Sequence[int],
) -> Value:
    return _add("broadcast", [input, shape], {"broadcast_dims": list(broadcast_dims)}, result)


def cast(result: RankedTensorType, input: Value) -> Value:
    return _add("cast", [input], {}, result)


def _like(value: Value) -> RankedTensorType:
    return _unknown(value.type.rank, value.type.element_type)


def _unknown(rank: int, element_type: Any) -> RankedTensorType:
    return RankedTensorType((DYNAMIC,) * rank, element_type)


def _add(
    name: str, operands: Sequence[Value | None], attributes: dict[str, Any], result_type: RankedTensorType
) -> Value:
    result = Value(result_type)
    InsertionPoint.current().block.operations.append(Operation(name, operands, attributes, result))
    return result
