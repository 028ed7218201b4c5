"""Energy by a counter: on a fake clock, by a fake GPU, and by a fake tree of the kernel's power zones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet.measurement import energy
from lenet.measurement.energy import Energy, NoEnergyError, NvmlCounter, RaplCounter, idle_power, measure_energy

CHUNK = 0.01


class Machine:
    """A device that draws ``idle`` or ``busy`` watts, with a counter that moves every ``step`` seconds."""

    name = "a counter"

    def __init__(self, idle: float = 40.0, busy: float = 300.0, step: float = 0.1, chunk: float = CHUNK) -> None:
        self.idle, self.busy, self.step, self.chunk = idle, busy, step, chunk
        self.now = self.joules = self.seen = 0.0
        self.readings: list[float] = []

    def _pass(self, seconds: float, watts: float) -> None:
        last = math.floor((self.now + seconds) / self.step) * self.step
        if last > self.now:
            self.seen = self.joules + watts * (last - self.now)
        self.now += seconds
        self.joules += watts * seconds

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self._pass(seconds, self.idle)

    def work(self) -> int:
        self._pass(self.chunk, self.busy)
        return 7

    def read(self) -> float:
        self.readings.append(self.now)
        return self.seen


def measured(machine: Machine) -> Energy:
    watts = idle_power(machine, clock=machine.clock, sleep=machine.sleep)
    return measure_energy(machine.work, machine, watts, clock=machine.clock)


@given(
    idle=st.floats(1, 100),
    more=st.floats(0, 1000),
    step=st.floats(0.001, 0.15),
    chunk=st.floats(0.001, 3.0),
)
def test_power_energy_and_images_come_out_whatever_the_counter_s_step(
    idle: float, more: float, step: float, chunk: float
) -> None:
    machine = Machine(idle, idle + more, step, chunk)
    found = measured(machine)
    # A window's end is seen up to a chunk of work after the counter's step.
    slack = 2 * min(chunk, step) / found.seconds + 1e-9
    assert found.idle_watts == pytest.approx(idle, rel=0.02)
    assert found.watts == pytest.approx(idle + more, rel=slack)
    assert found.seconds >= energy.SECONDS
    assert found.images == 7 * round(found.seconds / chunk)
    assert found.joules_per_1000_images == pytest.approx(1000 * (idle + more) * chunk / 7, rel=slack)
    above = found.joules_per_1000_images - 1000 * found.idle_watts * chunk / 7
    assert found.joules_above_idle_per_1000_images == pytest.approx(above, abs=1e-6)
    assert found.images_per_joule == pytest.approx(1000 / found.joules_per_1000_images)
    assert Energy.from_json(found.to_json()) == found


def test_a_window_begins_after_the_ramp_and_the_counter_is_left_alone_in_it() -> None:
    machine = Machine()
    measure_energy(machine.work, machine, 0.0, clock=machine.clock)
    first, *_, last = machine.readings
    assert first >= energy.RAMP - 1e-9
    assert last >= first + energy.SECONDS
    gaps = [after - before for before, after in zip(machine.readings, machine.readings[1:], strict=False)]
    assert max(gaps) >= 0.8 * energy.SECONDS


def test_idle_power_is_that_of_a_device_that_has_settled() -> None:
    machine = Machine()
    idle_power(machine, clock=machine.clock, sleep=machine.sleep)
    assert machine.readings[0] >= energy.SETTLE


def test_a_counter_that_stands_still_gives_a_reason() -> None:
    machine = Machine(step=1e9)
    with pytest.raises(NoEnergyError, match=r"the counter a counter stood still for 2\.\d s"):
        idle_power(machine, clock=machine.clock, sleep=machine.sleep)
    with pytest.raises(NoEnergyError, match=r"the counter a counter stood still for 2\.\d s"):
        measure_energy(machine.work, machine, 0.0, clock=machine.clock)


def test_nvml_tells_millijoules_and_never_less_than_before() -> None:
    readings: Iterator[int | None] = iter([5000, 7500, 7499, None])
    counter = NvmlCounter(lambda: next(readings))
    assert counter.read() == 7.5
    with pytest.raises(NoEnergyError, match="ran backwards, from 7500 to 7499 mJ: the driver was reset"):
        counter.read()
    with pytest.raises(NoEnergyError, match="NVML tells no energy of this GPU"):
        counter.read()
    with pytest.raises(NoEnergyError, match="NVML tells no energy of this GPU"):
        NvmlCounter(lambda: None)


RANGE = 262_143_328_850


def zone(powercap: Path, place: str, name: str, energy_uj: int | str = 0, most: int = RANGE) -> Path:
    folder = powercap / place
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_packages_and_their_memory_are_added_up_and_nothing_twice(tmp_path: Path) -> None:
    zones = [
        zone(tmp_path, "intel-rapl:0", "package-0", 10_000_000),
        zone(tmp_path, "intel-rapl:0:0", "dram", 500),
        zone(tmp_path, "intel-rapl:1", "package-1"),
        zone(tmp_path, "intel-rapl:0:1", "core"),
        zone(tmp_path, "intel-rapl:2", "psys"),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0"),
    ]
    (tmp_path / "intel-rapl").mkdir()
    counter = RaplCounter(tmp_path)
    assert counter.name == "RAPL (package-0, dram, package-1)"
    assert counter.read() == 0
    for number, folder in enumerate(zones):
        before = int((folder / "energy_uj").read_text())
        (folder / "energy_uj").write_text(f"{before + 10**number * 1_000_000}\n")
    assert counter.read() == pytest.approx(111)


@given(st.lists(st.integers(0, 50_000_000), max_size=20), st.integers(0, 60_000_000))
def test_a_counter_that_wraps_around_counts_on(passed: list[int], first: int) -> None:
    most = 60_000_001
    reads: list[int] = []
    at = first

    def texts(path: Path) -> str:
        return {"name": "package-0", "energy_uj": str(at), "max_energy_range_uj": str(most)}[path.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(energy, "_text", texts)
        counter = energy._Zone(Path("zone"), seconds())
        for one in passed:
            at = (at + one) % most
            reads.append(one)
            assert counter.read() == pytest.approx(sum(reads) / 1e6, abs=1e-6)


def seconds() -> Callable[[], float]:
    """A clock that is a second later whenever it is asked."""
    times = iter(range(10**6))
    return lambda: float(next(times))


@pytest.mark.parametrize("most", [RANGE, 0])
def test_a_counter_that_was_reset_is_no_wrap_around(tmp_path: Path, most: int) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 10_000_000, most)
    counter = RaplCounter(tmp_path, seconds())
    (folder / "energy_uj").write_text("0\n")
    with pytest.raises(NoEnergyError, match="package-0 ran backwards, from 10000000 to 0 uJ: it was reset"):
        counter.read()


def test_where_there_is_no_rapl_the_reason_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoEnergyError, match="this machine has no RAPL: no package in"):
        RaplCounter(tmp_path / "none")
    zone(tmp_path, "intel-rapl:0", "dram")
    with pytest.raises(NoEnergyError, match="this machine has no RAPL"):
        RaplCounter(tmp_path)
    folder = zone(tmp_path, "intel-rapl:1", "package-0", "broken")
    with pytest.raises(NoEnergyError, match="energy_uj holds 'broken', which is no whole number"):
        RaplCounter(tmp_path)
    (folder / "energy_uj").unlink()
    with pytest.raises(NoEnergyError, match=r"energy_uj cannot be read: .*No such file"):
        RaplCounter(tmp_path)


def test_a_counter_that_may_not_be_read_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0")
    read = Path.read_text

    def guarded(path: Path) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_text", guarded)
    with pytest.raises(NoEnergyError, match=rf"may not be read: `sudo chmod a\+r {tmp_path}/intel-rapl:\*/energy_uj`"):
        RaplCounter(tmp_path)
