"""Fixtures of the backends' tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from lenet.backends import onnxruntime, openvino
from lenet.export import to_onnx
from lenet.weights import Arrays


@cache
def _exports() -> dict[object, bytes]:
    return {}


def _exported(arrays: Arrays, *arguments: Any, **options: Any) -> bytes:
    """As `to_onnx`, which takes seconds, but once for the same weights and options."""
    digest = hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays)))
    shapes = tuple((name, arrays[name].shape, str(arrays[name].dtype)) for name in sorted(arrays))
    key = (digest.digest(), shapes, arguments, tuple(sorted(options.items())))
    if key not in _exports():
        _exports()[key] = to_onnx(arrays, *arguments, **options)
    return _exports()[key]


@pytest.fixture(scope="module")
def shared_exports() -> Iterator[None]:
    """For modules whose subject is what a runner does: backends share the models that are exported for them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (onnxruntime, openvino):
            patch.setattr(module, "to_onnx", _exported)
        yield
