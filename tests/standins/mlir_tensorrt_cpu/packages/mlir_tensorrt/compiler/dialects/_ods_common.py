"""Helpers of the generated builders."""

from __future__ import annotations

from ..ir import Value


def get_op_result_or_value(value: Value) -> Value:
    """The value itself: builders here return results, never operations."""
    return value
