"""What a row is measured with."""

from __future__ import annotations

from dataclasses import dataclass

from lenet.measurement.gpu_state import GpuSampler
from lenet.measurement.host_state import HostWatch
from lenet.measurement.protocol import Protocol
from lenet.suite.energy import EnergyMeter

__all__ = ["Instruments"]


@dataclass(frozen=True, slots=True)
class Instruments:
    """What a row is measured with, alike for every row of a run.

    Attributes:
        protocol: How many rounds or windows to run.
        sampler: Reads what throttles the GPU.
        host: Watches the CPU that queues a GPU's work.
        energy: Measures a row's energy.
    """

    protocol: Protocol
    sampler: GpuSampler
    host: HostWatch
    energy: EnergyMeter
