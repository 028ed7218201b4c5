"""The machine behind a measurement: what it is, in plain JSON; which part of that must match; what to call it.

Importing this needs no torch; `machine_facts` uses it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from lenet import backends
from lenet.documents import to_json
from lenet.measurement.control_groups import group_limits
from lenet.measurement.instrumentation import switches
from lenet.provenance import first_version, source_commit

if TYPE_CHECKING:
    import torch

    from lenet.measurement.gpu_state import GpuSampler

__all__ = [
    "FINGERPRINT_FIELDS",
    "LIMIT_FIELDS",
    "Facts",
    "cpu_facts",
    "describe_difference",
    "fingerprint",
    "machine_facts",
    "machine_kind",
    "usable_cpus",
]

Facts = Mapping[str, Any]

_PACKAGES: Final = {
    name: backends.packages().get(name, (name,))
    for name in ("torch", "torchvision", "numpy", *backends.packages(), "pytest-benchmark")
}
"""What is measured or bears on it, by name, each with the distributions any one of which holds it."""

_MACHINE_FIELDS: Final = (
    "cpu.model",
    "cpu.architecture",
    "cpu.cores",
    "cpu.threads",
    "cpu.usable",
    "system.os",
    "system.kernel",
    "python.implementation",
    "python.version",
    "gpu.name",
    "gpu.uuid",
    "gpu.compute_capability",
    "gpu.memory_bytes",
    "gpu.power_limit_w",
    "gpu.max_sm_clock_mhz",
    "gpu.max_memory_clock_mhz",
    "gpu.application_sm_clock_mhz",
    "gpu.application_memory_clock_mhz",
    "gpu.driver",
    "cuda.runtime",
    "cuda.cudnn",
    "torch.threads",
)
_PACKAGE_FIELDS: Final = tuple(f"packages.{name}" for name in _PACKAGES)

FINGERPRINT_FIELDS: Final = (*_MACHINE_FIELDS, *_PACKAGE_FIELDS)
"""The facts that must be equal for two measurements to be compared, as dotted names.

The commit is what is compared; the size of memory is left out because virtual machines change it while they run.
"""

LIMIT_FIELDS: Final = ("cpu.affinity", "cpu.quota", "memory_limit_bytes", "switches")
"""The facts that must be equal as well, each of them None on a machine that is used whole and as it comes.

Such a machine has the fingerprint that it had before these were told.
"""


def machine_facts(device: torch.device | None = None) -> dict[str, Any]:
    """What this machine is, in nested dictionaries of plain JSON. Nothing names its owner, its user or its host.

    Args:
        device: The GPU that is measured, or a CPU; None takes torch's current GPU where there is one.

    Returns:
        What cannot be told is None, as is all of ``gpu`` on a CPU. Sizes are in bytes, clocks in MHz, power in watts.
        ``cpu.affinity``, ``cpu.quota`` (in processors) and ``memory_limit_bytes`` are what of the machine this process
        may use, each None where it may use all; ``switches`` are the variables that change what libraries run.
    """
    import torch

    if device is None:
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    on_gpu = device.type == "cuda"
    limits = group_limits()
    return {
        "cpu": {**cpu_facts(), "affinity": _affinity(), "quota": limits.cpus},
        "memory_bytes": psutil.virtual_memory().total,
        "memory_limit_bytes": limits.memory_bytes,
        "system": {"os": platform.system(), "distribution": _distribution(), "kernel": platform.release()},
        "python": {"implementation": platform.python_implementation(), "version": platform.python_version()},
        "gpu": _gpu_facts(device) if on_gpu else None,
        "cuda": {
            "runtime": torch.version.cuda if on_gpu else None,
            "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        },
        "torch": {"threads": torch.get_num_threads()},
        "switches": switches() or None,
        "packages": {name: first_version(distributions) for name, distributions in _PACKAGES.items()},
        "commit": source_commit(),
    }


def cpu_facts() -> dict[str, Any]:
    """The processor: its model, its architecture, and how many it has and this process may use. It needs no torch."""
    return {
        "model": _cpu_model(),
        "architecture": platform.machine(),
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "usable": usable_cpus(),
    }


def fingerprint(facts: Facts) -> str:
    """A short name of the part of the facts that must match: 12 hexadecimal digits of the SHA-256 of its JSON.

    Args:
        facts: From `machine_facts`, also when read back from JSON.
    """
    found = [_fact(facts, field) for field in _MACHINE_FIELDS]
    # Only what is installed counts, so that a new backend in the table changes no fingerprint where it is not.
    told = ((field, _fact(facts, field)) for field in (*_PACKAGE_FIELDS, *LIMIT_FIELDS))
    found += [[field, value] for field, value in told if value is not None]
    matter = to_json(found, sort_keys=True)
    return hashlib.sha256(matter.encode()).hexdigest()[:12]


def describe_difference(ours: Facts, theirs: Facts, *, recorded_by_both: bool = False) -> list[str]:
    """The facts that keep two machines from being compared, such as ``gpu.driver: '580.159.04', not '580.159.03'``.

    Args:
        ours: The facts here.
        theirs: Those to compare with.
        recorded_by_both: Leave out what one of them does not record, as another version of this project may not.

    Returns:
        A line for each field of the fingerprint that differs; none where the fingerprints are equal. A limit that one
        of them does not record is not known to differ.
    """
    told = [field for field in FINGERPRINT_FIELDS if not recorded_by_both or _both_record(ours, theirs, field)]
    told += [field for field in LIMIT_FIELDS if _both_record(ours, theirs, field)]
    differ = (field for field in told if _fact(ours, field) != _fact(theirs, field))
    return [f"{field}: {_comparison(ours, theirs, field)}" for field in differ]


def machine_kind(facts: Facts) -> str:
    """A readable name for machines of one kind, fit for a directory.

    Returns:
        The GPU's name, as ``nvidia-h100-80gb-hbm3``; without one the CPU's with the number that may be used, as
        ``cpu-intel-xeon-2c``.
    """
    gpu = _fact(facts, "gpu.name")
    if gpu is not None:
        return _slug(gpu)
    # Drop what adds nothing: trademarks, the clock, and words that every CPU bears.
    model = re.sub(r"\((R|TM|C)\)|@.*|\b(CPU|Processor|\d+-Core)\b", " ", _fact(facts, "cpu.model") or "unknown")
    return f"cpu-{_slug(model)}-{_fact(facts, 'cpu.usable')}c"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _fact(facts: Facts, field: str) -> Any:
    value: Any = facts
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _both_record(ours: Facts, theirs: Facts, field: str) -> bool:
    return not _lacks(ours, field) and not _lacks(theirs, field)


def _lacks(facts: Facts, field: str) -> bool:
    """Whether facts have no such field, as those of another version of this project; a GPU's on a CPU are None."""
    above, _, name = field.rpartition(".")
    place = _fact(facts, above) if above else facts
    return place is not None and name not in place


def _comparison(ours: Facts, theirs: Facts, field: str) -> str:
    here, there = _fact(ours, field), _fact(theirs, field)
    if _lacks(theirs, field):
        return f"{here!r}, not recorded there"
    return f"not recorded here, {there!r} there" if _lacks(ours, field) else f"{here!r}, not {there!r}"


def _cpu_model() -> str | None:
    if platform.system() == "Linux":
        return _linux_cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None  # noqa: S603
    return platform.processor() or None


def _linux_cpu_model(cpuinfo: str) -> str | None:
    """The model as the kernel names it: in words on x86, by number on Arm."""
    fields = dict(re.findall(r"^(.*?)\s*:\s*(.*)$", cpuinfo, flags=re.MULTILINE))
    if "model name" in fields:
        return str(fields["model name"])
    arm = [fields[name] for name in ("CPU implementer", "CPU part") if name in fields]
    return f"ARM {' '.join(arm)}" if arm else None


def usable_cpus() -> int | None:
    """How many CPUs this process may run on, where the system tells; else how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _affinity() -> str | None:
    """The CPUs that this process may run on, such as ``0-3,8``; None where it may run on all, or no system tells."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) >= (psutil.cpu_count() or 0):
        return None
    # Neighbours differ from their place in the list by the same number.
    runs = [[cpu for _, cpu in run] for _, run in groupby(enumerate(cpus), lambda pair: pair[1] - pair[0])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _gpu_facts(device: torch.device) -> dict[str, Any]:
    import torch

    from lenet.measurement.gpu_state import GpuSampler

    properties = torch.cuda.get_device_properties(device)
    with GpuSampler(device) as sampler:
        return {
            "name": properties.name,
            "uuid": str(properties.uuid),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_cache_bytes": properties.L2_cache_size,
            **_limits(sampler),
            "nvml_missing": sampler.missing,
        }


def _limits(sampler: GpuSampler) -> dict[str, Any]:
    import pynvml

    limit = sampler.query(pynvml.nvmlDeviceGetEnforcedPowerLimit)
    return {
        "power_limit_w": None if limit is None else limit / 1000,
        "max_sm_clock_mhz": sampler.query(pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_SM),
        "max_memory_clock_mhz": sampler.query(pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_MEM),
        "application_sm_clock_mhz": sampler.query(pynvml.nvmlDeviceGetApplicationsClock, pynvml.NVML_CLOCK_SM),
        "application_memory_clock_mhz": sampler.query(pynvml.nvmlDeviceGetApplicationsClock, pynvml.NVML_CLOCK_MEM),
        "driver": None if sampler.missing else pynvml.nvmlSystemGetDriverVersion(),
    }
