"""Fixtures for the cases. Each imports what it needs, so that collecting the cases needs no PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lenet import backends
from lenet.errors import BackendError, LenetError, PrecisionError
from lenet.measurement.floor import Limits
from lenet.measurement.protocol import Protocol
from lenet.suite import storage
from lenet.suite.bridge import Store
from lenet.suite.options import protocol_of
from lenet.suite.run import RUN, Run
from lenet.vocabulary import Precision

if TYPE_CHECKING:
    import torch

    from lenet.backends.base import Backend
    from lenet.data.cifar10 import Split
    from lenet.measurement.gpu_state import GpuSampler
    from lenet.measurement.host_state import HostWatch
    from lenet.quantization import Scales
    from lenet.suite.builds import Builds
    from lenet.suite.energy import EnergyMeter
    from lenet.suite.images import Batches, Splits
    from lenet.suite.instruments import Instruments
    from lenet.weights import Weights

__all__ = [
    "MachineLimits",
    "backend",
    "batches",
    "build",
    "device",
    "energy",
    "executed",
    "host",
    "instruments",
    "limits",
    "network",
    "protocol",
    "sampler",
    "scales",
    "scales_by_precision",
    "splits",
    "store",
    "test_split",
    "threads",
]


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device to measure."""
    from lenet import devices

    return devices.resolve(request.config.getoption("--device"))


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int | None]:
    """The number of CPU threads of ``--threads``, which PyTorch has while the case runs. None for PyTorch's own choice.

    The other runtimes take PyTorch's number when they build.
    """
    import torch

    from lenet.measurement.parallel import threads as torch_threads

    asked: int | None = getattr(request, "param", None)
    with torch_threads(asked or torch.get_num_threads()):
        yield asked


@pytest.fixture(scope="session")
def sampler(device: torch.device) -> Iterator[GpuSampler]:
    """A reader of the GPU's clocks, temperature and throttling."""
    from lenet.measurement.gpu_state import GpuSampler

    with GpuSampler(device) as opened:
        yield opened


@pytest.fixture(scope="session")
def host(device: torch.device) -> HostWatch:
    """The watch of the thread that launches a GPU's work. On a CPU many threads work, and none is watched."""
    from lenet.measurement.host_state import IdleHostWatch, PinnedHostWatch

    return PinnedHostWatch() if device.type == "cuda" else IdleHostWatch()


@pytest.fixture(scope="session")
def network(request: pytest.FixtureRequest) -> Weights:
    """The weights to measure: those of ``--weights``, or the shipped ones. The run records them."""
    from lenet import weights

    found = weights.load(request.config.getoption("--weights") or weights.SHIPPED)
    request.config.stash[RUN].weights = {
        "file": found.path.name,
        "digest": weights.digest(found.arrays),
        "accuracy": found.accuracy,
    }
    return found


@pytest.fixture(scope="session")
def protocol(request: pytest.FixtureRequest) -> Protocol:
    """The protocol, which decides a row's rounds."""
    return protocol_of(request.config)


@pytest.fixture(scope="session")
def splits(data_directory: Path | None, request: pytest.FixtureRequest) -> Splits:
    """The images, by split."""
    from lenet.suite.images import Splits

    return Splits(data_directory, accept_unknown=request.config.getoption("--accept-unknown-data"))


@pytest.fixture(scope="session")
def test_split(splits: Splits) -> Split:
    """The test images."""
    return splits.load("test")


@pytest.fixture(scope="session")
def scales_by_precision(network: Weights) -> Callable[[Precision], Scales | None]:
    """The scales beside the weights by precision. Each file is read once."""
    from lenet.quantization import scales_beside

    return functools.cache(functools.partial(scales_beside, network.path, network.arrays))


@pytest.fixture
def scales(precision: Precision, scales_by_precision: Callable[[Precision], Scales | None]) -> Scales | None:
    """The scales of the precision, or a failure with the reason if they are missing or do not fit."""
    try:
        return scales_by_precision(precision)
    except LenetError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def batches(network: Weights, test_split: Split, scales_by_precision: Callable[[Precision], Scales | None]) -> Batches:
    """Batches of the test images, with their references."""
    from lenet.suite.images import Batches

    return Batches(network.arrays, test_split, scales_by_precision)


class MachineLimits:
    """The machine's limits. They are measured when the first row of a number of CPU threads asks.

    The run keeps those of the most threads.

    Args:
        device: The device to measure.
        run: The run that keeps them.
    """

    def __init__(self, device: torch.device, run: Run) -> None:
        self._device = device
        self._run = run
        self._found: dict[int, Limits | None] = {}

    def find(self) -> Limits | None:
        """The limits, or None if they cannot be measured. Rows then have no floor."""
        import torch

        from lenet.measurement.limits import measure_limits

        threads = torch.get_num_threads()
        if threads not in self._found:
            self._found[threads] = None
            try:
                self._found[threads] = measure_limits(self._device)
            except Exception as error:  # noqa: BLE001 - whatever a library raises
                self._run.notes.append(f"No row has a floor: the machine's limits cannot be measured: {error!r}")
            if threads == max(self._found):
                self._run.limits = self._found[threads]
        return self._found[threads]


@pytest.fixture(scope="session")
def limits(request: pytest.FixtureRequest, device: torch.device) -> MachineLimits:
    """The machine's limits."""
    return MachineLimits(device, request.config.stash[RUN])


@pytest.fixture(scope="session")
def energy(request: pytest.FixtureRequest, device: torch.device, sampler: GpuSampler) -> EnergyMeter:
    """Measures the energy of rows if ``--energy`` asks for it. The gate compares times alone."""
    from lenet.suite.energy import EnergyMeter

    asked = request.config.getoption("--energy") and not storage.in_gate(request.config)
    return EnergyMeter(device, sampler, request.config.stash[RUN].notes, asked=asked)


@pytest.fixture(scope="session")
def instruments(protocol: Protocol, sampler: GpuSampler, host: HostWatch, energy: EnergyMeter) -> Instruments:
    """What each row is measured with."""
    from lenet.suite.instruments import Instruments

    return Instruments(protocol, sampler, host, energy)


@pytest.fixture
def backend(backend_name: str, device: torch.device) -> Backend:
    """The backend, or a skip with the reason if it cannot run here."""
    found = backends.load(backend_name)
    availability = found.probe(device)
    if not availability:
        pytest.skip(availability.reason or "")
    return found


@pytest.fixture
def executed(backend: Backend, precision: Precision, device: torch.device) -> str:
    """The precision that the backend really runs, or a skip if it cannot run the one asked for."""
    try:
        return backend.executed_precision(precision, device)
    except PrecisionError as error:
        pytest.skip(error.found)
    except BackendError as error:
        pytest.skip(error.summary)


@pytest.fixture(scope="session")
def build(network: Weights) -> Iterator[Builds]:
    """Builds runners of the weights to measure."""
    from lenet.suite.builds import Builds

    with closing(Builds(network.arrays)) as builds:
        yield builds


@pytest.fixture
def store(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Store:
    """Stores the seconds of a case's rounds."""
    return Store(request.node, benchmark)
