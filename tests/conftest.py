"""Fixtures of the tests: random weights, a data directory made here, and the real one where it is found."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from lenet.data import cifar10
from lenet.data.cifar10 import Split
from lenet.report.pdf import find_browser
from tests import programs
from tests.kernels import stored
from tests.standins import mlir_tensorrt_cpu as standin

# The fixtures import what imports PyTorch: it takes seconds, and the process that starts pytest-xdist's needs none.
if TYPE_CHECKING:
    import torch
    from playwright.sync_api import Browser

    from lenet.weights import Arrays

# A busy machine is no fault of what is tested.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

RECORDS = 10_000
RECORD_BYTES = 3073


def pytest_configure(config: pytest.Config) -> None:
    """Programs that tests start compute little, and are no workers of pytest-xdist, where this process is one."""
    config.pluginmanager.register(programs)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in ("PYTEST_XDIST_TESTRUNUID", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        os.environ.pop(name, None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without the stand-in the tests that need it are skipped, and say what runs them."""
    if item.get_closest_marker(standin.MARKER) is not None and not standin.is_installed():
        pytest.skip("runs nvtripy on its CPU stand-in: `nox -s standin`")


def pytest_collection_finish() -> None:
    """What is imported by now stays: a collection that a test asks for need not look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The tests' batches are small: a second thread would mostly be waited for."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heard() -> Iterator[None]:
    """A job in the background ignores SIGINT and SIGQUIT, under nohup SIGHUP. What tests start would inherit that."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGQUIT", "SIGHUP") if hasattr(signal, name)]
    ignored = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)  # no handler passes on to another program
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session", autouse=True)
def _compiled_kernels_are_kept(pytestconfig: pytest.Config) -> None:
    """To compile them takes a minute."""
    stored.open_store(pytestconfig)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium or Chrome, for the tests of pages."""
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium here: install Debian's `chromium`, or Chrome")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: `nox -s browser` does it")
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # root has no other way
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def arrays() -> Arrays:
    """Freshly initialised weights, the same each time."""
    import torch

    from lenet.models.pytorch_lenet import LeNet

    torch.manual_seed(0)
    return {name: tensor.detach().numpy() for name, tensor in LeNet().named_parameters()}


@pytest.fixture(scope="session")
def noise_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the binary layout, full of noise: the labels cycle through the classes."""
    directory = tmp_path_factory.mktemp("noise")
    layout = directory / "cifar-10-batches-bin"
    layout.mkdir()
    generator = np.random.default_rng(0)
    records = generator.integers(0, 256, (RECORDS, RECORD_BYTES), dtype=np.uint8)
    records[:, 0] = np.arange(RECORDS) % 10
    records.tofile(layout / "data_batch_1.bin")
    for number in range(2, 6):
        (layout / f"data_batch_{number}.bin").hardlink_to(layout / "data_batch_1.bin")
    records[::-1].tofile(layout / "test_batch.bin")
    return directory


@pytest.fixture
def damaged(noise_directory: Path, tmp_path: Path) -> Path:
    """A copy of the noise directory whose test batch is its own, to be damaged by a test."""
    layout = tmp_path / "data" / "cifar-10-batches-bin"
    shutil.copytree(noise_directory / "cifar-10-batches-bin", layout, copy_function=_link)
    test_batch = layout / "test_batch.bin"
    content = test_batch.read_bytes()
    test_batch.unlink()
    test_batch.write_bytes(content)
    return layout.parent


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


@pytest.fixture(scope="session")
def real_train(data_directory: Path | None) -> Split:
    return cifar10.load("train", _real(data_directory))


@pytest.fixture(scope="session")
def real_test(data_directory: Path | None) -> Split:
    return cifar10.load("test", _real(data_directory))


def _real(directory: Path | None) -> Path:
    if directory is None:
        pytest.skip("CIFAR-10 is not here: set LENET_DATA or --data to the directory that holds it")
    return directory


@pytest.fixture(scope="session")
def onnx_models(arrays: dict[str, np.ndarray]) -> dict[torch.dtype, bytes]:
    """The weights as ONNX models, by the dtype inside."""
    pytest.importorskip("onnx", reason='pip install -e ".[onnx]"')
    import torch

    from lenet.export import to_onnx

    return {dtype: to_onnx(arrays, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
