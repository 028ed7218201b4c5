"""The energy of work, by the counters that hardware keeps: NVML's of a GPU, RAPL's of a CPU. No torch here.

- NVML: ``nvmlDeviceGetTotalEnergyConsumption``, millijoules of the whole board since the driver was loaded, from the
  Volta generation on (https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html).
- RAPL: ``energy_uj`` below ``/sys/class/powercap``, microjoules of a CPU package or of its memory, which wrap around at
  ``max_energy_range_uj`` (https://docs.kernel.org/power/powercap/powercap.html).

A counter moves in steps: NVML's of 10 ms (gpuopenanalytics/pynvml, pull request 18) or more. So a window begins and
ends right after a step.

The packages that read these counters do not fit. `zeus` 0.16 requires amdsmi, pandas and scikit-learn, and polls each
RAPL zone in a process of its own, which takes CPU time from the work. `pyRAPL` 0.2 (2019) knows no wrap-around.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

__all__ = ["Counter", "Energy", "NoEnergyError", "NvmlCounter", "RaplCounter", "idle_power", "measure_energy"]

SECONDS: Final = 1.0
"""The shortest window. A step that is missed at its ends is then a small part of it."""

RAMP: Final = 0.2
"""Seconds of work before the window, in which clocks and power rise."""

SETTLE: Final = 1.0
"""Seconds without work before the window of idle power."""

PATIENCE: Final = 2.0
"""Longest wait for a counter's next step, in seconds."""

_NAP: Final = 0.005
"""Seconds between two looks at a counter without work."""

_MOST_WATTS: Final = 5000
"""More than a CPU package or its memory draws. A wrap-around that would take more is a counter that was reset."""

_POWERCAP: Final = Path("/sys/class/powercap")


class NoEnergyError(Exception):
    """Energy cannot be measured. The text is the reason, with what to do."""


class Counter(Protocol):
    """A counter of energy.

    Attributes:
        name: What it is, for people.
    """

    name: str

    def read(self) -> float:
        """Joules since some moment.

        Raises:
            NoEnergyError: The counter cannot be read, or ran backwards.
        """


@dataclass(frozen=True, slots=True)
class Energy:
    """The energy of a row's work.

    Attributes:
        counter: The counter's name.
        joules: In all, idle power included.
        seconds: Duration of the work.
        images: Number of images that went through.
        idle_watts: Power without work, in watts.
    """

    counter: str
    joules: float
    seconds: float
    images: int
    idle_watts: float

    @property
    def watts(self) -> float:
        """Mean power during the work."""
        return self.joules / self.seconds

    @property
    def joules_per_1000_images(self) -> float:
        """Joules for 1,000 images, idle power included."""
        return 1000 * self.joules / self.images

    @property
    def joules_above_idle_per_1000_images(self) -> float:
        """Joules for 1,000 images beyond what the device draws without work in the same time."""
        return 1000 * (self.joules - self.idle_watts * self.seconds) / self.images

    @property
    def images_per_joule(self) -> float:
        """Images for a joule, idle power included."""
        return self.images / self.joules

    def to_json(self) -> dict[str, Any]:
        """The attributes and what follows from them, by name."""
        derived = ("joules_per_1000_images", "joules_above_idle_per_1000_images", "images_per_joule")
        return asdict(self) | {name: getattr(self, name) for name in derived}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Energy:
        """What `to_json` gave."""
        return cls(**{one.name: document[one.name] for one in fields(cls)})


class NvmlCounter:
    """A GPU's counter.

    Args:
        query: Returns millijoules, or None if the GPU does not tell.

    Raises:
        NoEnergyError: The GPU does not tell.
    """

    name = "NVML"

    def __init__(self, query: Callable[[], int | None]) -> None:
        self._query = query
        self._last = 0
        self.read()

    def read(self) -> float:
        """Joules of the board since the driver was loaded."""
        found = self._query()
        if found is None:
            raise NoEnergyError(
                "NVML tells no energy of this GPU: it needs a whole GPU of the Volta generation or newer"
            )
        if found < self._last:
            raise NoEnergyError(
                f"NVML's counter ran backwards, from {self._last} to {found} mJ: the driver was reset; measure again"
            )
        self._last = found
        return found / 1e3


class _Zone:
    """A zone of RAPL.

    Args:
        folder: Its directory.
        clock: Seconds since some moment.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self.name = _text(folder / "name")
        self._folder = folder
        self._clock = clock
        self._joules = 0.0
        self._at, self._last = clock(), self._microjoules("energy_uj")

    def read(self) -> float:
        """Joules since the zone was opened."""
        now, found = self._clock(), self._microjoules("energy_uj")
        passed = found - self._last
        if passed < 0:
            passed += self._microjoules("max_energy_range_uj")
            if not 0 <= passed <= 1e6 * _MOST_WATTS * (now - self._at):
                raise NoEnergyError(
                    f"RAPL's counter of {self.name} ran backwards, from {self._last} to {found} uJ: it was reset; "
                    "measure again"
                )
        self._joules += passed / 1e6
        self._at, self._last = now, found
        return self._joules

    def _microjoules(self, name: str) -> int:
        text = _text(self._folder / name)
        if not text.isdecimal():
            raise NoEnergyError(f"{self._folder / name} holds {text[:40]!r}, which is no whole number")
        return int(text)


class RaplCounter:
    """The counters of all CPU packages and of their memory, added up.

    Args:
        powercap: Directory of the kernel's power zones.
        clock: Seconds since some moment.

    Raises:
        NoEnergyError: There is no RAPL here, or it may not be read.
    """

    def __init__(self, powercap: Path = _POWERCAP, clock: Callable[[], float] = time.perf_counter) -> None:
        # "psys" holds the packages, "core" and "uncore" are parts of one, and intel-rapl-mmio repeats them.
        found = [folder for folder in sorted(powercap.glob("intel-rapl:*")) if _counts(_text(folder / "name"))]
        if not any(_text(folder / "name") != "dram" for folder in found):
            raise NoEnergyError(f"this machine has no RAPL: no package in {powercap}; virtual machines seldom have it")
        self._zones: Sequence[_Zone] = [_Zone(folder, clock) for folder in found]
        self.name = f"RAPL ({', '.join(zone.name for zone in self._zones)})"

    def read(self) -> float:
        """Joules since the counter was opened."""
        return sum(zone.read() for zone in self._zones)


def _counts(name: str) -> bool:
    return name.startswith("package-") or name == "dram"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except PermissionError as error:
        raise NoEnergyError(
            f"{path} may not be read: `sudo chmod a+r {path.parent.parent}/intel-rapl:*/energy_uj` allows it until the "
            "next boot"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise NoEnergyError(f"{path} cannot be read: {error}") from error


class _Mark(NamedTuple):
    """A step of a counter: when it was seen, the joules then, and the images since it was waited for."""

    at: float
    joules: float
    images: int


def measure_energy(
    work: Callable[[], int],
    counter: Counter,
    idle_watts: float,
    *,
    shortest: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Energy:
    """Measure the energy of work that is done again and again.

    Args:
        work: Does some work to its end, about a hundredth of a second of it, and returns its number of images.
        counter: The counter of the device that does the work.
        idle_watts: From `idle_power`.
        shortest: Shortest duration of the work, in seconds.
        clock: Seconds since some moment.

    Raises:
        NoEnergyError: The counter cannot be read, runs backwards or stands still.
    """
    until = clock() + RAMP
    while clock() < until:
        work()
    joules, seconds, images = _window(work, counter, clock, shortest)
    return Energy(counter.name, joules, seconds, images, idle_watts)


def idle_power(
    counter: Counter,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """The power of a device without work, in watts, over at least `SECONDS`. What this process holds there stays.

    Args:
        counter: The device's counter.
        clock: Seconds since some moment.
        sleep: Waits so many seconds.

    Raises:
        NoEnergyError: As for `measure_energy`.
    """

    def rest() -> int:
        sleep(_NAP)
        return 0

    sleep(SETTLE)
    joules, seconds, _ = _window(rest, counter, clock, SECONDS)
    return joules / seconds


def _window(
    work: Callable[[], int], counter: Counter, clock: Callable[[], float], shortest: float
) -> tuple[float, float, int]:
    """Joules, seconds and images of work from one step of the counter to another, not before the shortest time."""
    begin = _next_step(work, counter, clock)
    images = 0
    while clock() - begin.at < shortest:
        images += work()
    end = _next_step(work, counter, clock)
    return end.joules - begin.joules, end.at - begin.at, images + end.images


def _next_step(work: Callable[[], int], counter: Counter, clock: Callable[[], float]) -> _Mark:
    """Work until the counter moves."""
    before, since, images = counter.read(), clock(), 0
    while True:
        images += work()
        now, joules = clock(), counter.read()
        if joules > before:
            return _Mark(now, joules, images)
        if now - since > PATIENCE:
            raise NoEnergyError(
                f"the counter {counter.name} stood still for {now - since:.1f} s: its machine does not feed it"
            )
