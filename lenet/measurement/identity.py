"""Whether a measurement was made on this machine, by its parts and whatever is installed. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import pynvml

from lenet.measurement.environment import Facts, cpu_facts, machine_kind

__all__ = ["ThisMachine", "find_gpu"]

_CPU_FIELDS: Final = ("model", "architecture", "threads")
_OF_A_CPU: Final = "cpu-"


def find_gpu(uuid: str) -> Any:
    """NVML's handle of a GPU, or None. NVML must be open.

    Args:
        uuid: As CUDA gives it.
    """
    # CUDA gives the bare UUID; NVML's is prefixed by what it names, a GPU or a part of one.
    for prefix in ("GPU-", "MIG-"):
        with suppress(pynvml.NVMLError):
            return pynvml.nvmlDeviceGetHandleByUUID(prefix + uuid)
    return None


class ThisMachine:
    """This machine, to be compared with the facts of a measurement.

    A machine is known by its CPU and, if a GPU was measured, by that GPU's UUID. Its fingerprint says more: it changes
    with each library that is updated.
    """

    def __init__(self) -> None:
        self._cpu = cpu_facts()

    def made(self, facts: Facts) -> bool:
        """Whether a measurement with these facts was made here."""
        cpu, gpu = facts.get("cpu") or {}, facts.get("gpu")
        if any(cpu.get(name) != self._cpu[name] for name in _CPU_FIELDS):
            return False
        if not gpu:
            return True
        with _nvml() as opened:
            return opened and find_gpu(str(gpu.get("uuid"))) is not None

    def may_be(self, kind: str) -> bool:
        """Whether a folder may hold files of this machine. Of a CPU's it is seen by its name, but for the number."""
        if kind.startswith(_OF_A_CPU):
            return kind.rpartition("-")[0] == machine_kind({"cpu": self._cpu}).rpartition("-")[0]
        with _nvml() as opened:
            return opened


@contextmanager
def _nvml() -> Iterator[bool]:
    """Opens NVML. False if there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        pynvml.nvmlShutdown()
