"""Kernels are loaded and launched; the driver is a fake."""

from __future__ import annotations

import ctypes
import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lenet.errors import BackendError
from lenet.kernels import driver


def test_a_driver_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", fail)
    driver.library.cache_clear()
    with pytest.raises(BackendError, match=r"driver cannot be loaded\n  found:  libcuda.so.1: cannot open"):
        driver.library()


@pytest.mark.parametrize(
    ("status", "wrong", "refusals"),
    [
        (0, None, []),
        (1, None, ["one: 1000 bytes of shared memory: 1"]),
        (0, RuntimeError("no kernel image"), ["no kernel image"]),
    ],
    ids=["fits", "too much shared memory", "cannot be loaded"],
)
def test_kernels_are_loaded_where_they_will_run_and_allowed_their_shared_memory(
    monkeypatch: pytest.MonkeyPatch, status: int, wrong: Exception | None, refusals: list[str]
) -> None:
    asked = list[object]()

    def get_kernel(name: str) -> object:
        asked.append(name)
        if wrong:
            raise wrong
        return SimpleNamespace(handle=f"handle of {name}")

    def set_attribute(*arguments: object) -> tuple[int]:
        asked.extend(arguments)
        return (status,)

    def from_cubin(cubin: bytes) -> object:
        asked.append(cubin)
        return SimpleNamespace(get_kernel=get_kernel)

    core = SimpleNamespace(
        Device=lambda ordinal: SimpleNamespace(set_current=lambda: asked.append(ordinal)),
        ObjectCode=SimpleNamespace(from_cubin=from_cubin),
    )
    bindings = SimpleNamespace(
        CUfunction_attribute=SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="most shared memory"),
        CUkernel=lambda handle: handle,
        CUdevice=lambda ordinal: ("device", ordinal),
        cuKernelSetAttribute=set_attribute,
    )
    monkeypatch.setattr(driver, "cuda_core", lambda: core)
    monkeypatch.setattr(driver, "kernel_handle", lambda kernel: kernel.handle)
    monkeypatch.setattr(importlib, "import_module", {"cuda.bindings.driver": bindings}.__getitem__)
    found: list[str] = []
    loaded = driver._load({"one": 1000, "other": 0}, torch.device("cuda", 1), found, b"cubin")
    assert found == refusals
    first: list[Any] = ["one", "most shared memory", 1000, "handle of one", ("device", 1)]
    if refusals:
        assert loaded is None
        assert asked == [1, b"cubin", *(first[:1] if wrong else first)]
    else:
        assert loaded is not None
        assert [*loaded] == ["one", "other"]
        assert asked == [1, b"cubin", *first, "other", "most shared memory", 0, "handle of other", ("device", 1)]
