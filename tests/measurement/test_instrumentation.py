from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lenet.measurement.instrumentation import instruments, switches
from tests import preloaded


def trace(*_: Any) -> None:
    return None


@contextmanager
def through(set_to: Callable[[Any], None], found: Callable[[], Any]) -> Iterator[None]:
    before = found()
    set_to(trace)
    try:
        yield
    finally:
        set_to(before)


@pytest.mark.parametrize(
    ("module", "kind"), [(sys, "trace"), (sys, "profile"), (threading, "trace"), (threading, "profile")]
)
def test_a_tracer_or_profiler_is_named_by_its_package_and_where_it_sits(module: Any, kind: str) -> None:
    with through(getattr(module, f"set{kind}"), getattr(module, f"get{kind}")):
        found = instruments()
    assert f"{__name__.partition('.')[0]} ({module.__name__}.set{kind})" in found


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with Python 3.12")
def test_a_tool_of_sys_monitoring_is_named() -> None:
    monitoring = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    free = next(number for number in range(6) if monitoring.get_tool(number) is None)
    monitoring.use_tool_id(free, "a tool")
    try:
        assert "a tool (sys.monitoring)" in instruments()
    finally:
        monitoring.free_tool_id(free)


def test_tracemalloc_is_named() -> None:
    tracemalloc.start()
    try:
        assert any("PYTHONTRACEMALLOC" in found for found in instruments())
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:.*Profiler clears events:UserWarning")  # PyTorch's advice, in some releases
def test_pytorch_s_anomaly_mode_and_profiler_are_named() -> None:
    with torch.autograd.set_detect_anomaly(True):
        assert any("anomaly" in found for found in instruments())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert any("profiler" in found for found in instruments())


@pytest.mark.parametrize("name", ["CUDA_LAUNCH_BLOCKING", "PYTORCH_NO_CUDA_MEMORY_CACHING"])
def test_a_variable_for_debugging_is_named_with_what_it_does(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert any(found.startswith(f"{name}=1 (") for found in instruments())
    monkeypatch.setenv(name, "0")
    assert not any(found.startswith(name) for found in instruments())


@pytest.mark.programs
def test_python_s_development_mode_is_named_and_plain_python_has_nothing() -> None:
    code = "from lenet.measurement.instrumentation import instruments; print(instruments())"
    plain, developing = (
        subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=True).stdout
        for options in ((), ("-X", "dev"))
    )
    assert plain == "[]\n"
    assert "PYTHONDEVMODE" in developing


def test_switches_are_recorded_without_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    before = switches()
    monkeypatch.setenv("LD_PRELOAD", "/home/someone/lib/libjemalloc.so:/usr/lib/other.so")
    monkeypatch.setenv("TORCHINDUCTOR_FREEZING", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/home/someone/cache")
    monkeypatch.setenv("SOMEONES_TOKEN", "secret")
    added = {name: value for name, value in switches().items() if name not in before}
    wanted = {"LD_PRELOAD": "libjemalloc.so:other.so", "OMP_WAIT_POLICY": "ACTIVE", "TORCHINDUCTOR_FREEZING": "1"}
    assert added == wanted


@pytest.mark.programs
def test_what_libraries_set_by_themselves_is_no_switch() -> None:
    """What the server of processes imported may have set too: the kernel keeps the variables that it began with."""
    code = (
        "import os, sys; from lenet.measurement.instrumentation import switches; from tests import frozen\n"
        "assert not any(name.endswith('numeric_utils') for name in sys.modules)\n"
        "began = dict(one.split('=', 1) for one in open('/proc/self/environ').read().split('\\0') if '=' in one)\n"
        "os.environ.clear(); os.environ.update(began); before = switches()\n"
        "os.environ.update(frozen.VARIABLES)\n"
        "import torch._inductor.compile_fx, torch._inductor.fx_passes.numeric_utils\n"
        "assert switches() == before, switches()"
    )
    done = preloaded.run("-c", code, cwd=Path.cwd(), env=os.environ)
    assert done.returncode == 0, done.stderr
