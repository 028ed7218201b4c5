"""What a runner holds, as weak references: for tests of what is left once it is closed."""

from __future__ import annotations

import gc
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lenet.backends.base import Runner
from lenet.devices import no_garbage_collection

__all__ = ["held", "without_collector"]


def held(runner: Runner, *kinds: type) -> list[weakref.ref[Any]]:
    """The tensors and networks that a runner refers to, directly or not, and the objects of other kinds."""
    seen: dict[int, object] = {}
    left: list[object] = [vars(runner)]
    while left:
        each = left.pop()
        is_namespace = isinstance(each, dict) and "__builtins__" in each
        if id(each) in seen or is_namespace or isinstance(each, (types.ModuleType, type)):
            continue
        seen[id(each)] = each
        left += gc.get_referents(each)
    return [weakref.ref(each) for each in seen.values() if isinstance(each, (torch.Tensor, nn.Module, *kinds))]


@contextmanager
def without_collector() -> Iterator[None]:
    """Collect once, then not again: what dies inside dies by reference counting alone.

    What survives is put aside for good, so that the next collection is quick.
    """
    gc.collect()
    gc.freeze()
    with no_garbage_collection():
        yield
