from __future__ import annotations

import copy
import json
import platform
import subprocess
import sys
from typing import Any

import psutil
import pynvml
import pytest
import torch

from lenet import provenance
from lenet.measurement import environment
from lenet.measurement.environment import (
    FINGERPRINT_FIELDS,
    describe_difference,
    fingerprint,
    machine_facts,
    machine_kind,
)
from tests.measurement.fakes import UUID, FakeNvml, fake_h100

CPU = torch.device("cpu")

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    FakeNvml(monkeypatch)
    return machine_facts(fake_h100(monkeypatch))


def changed(facts: dict[str, Any], field: str, value: object) -> dict[str, Any]:
    other = copy.deepcopy(facts)
    *path, last = field.split(".")
    place = other
    for name in path:
        place = place[name]
    place[last] = value
    return other


def test_the_facts_are_plain_json(facts: dict[str, Any]) -> None:
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_cores_are_told_from_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda *, logical=True: 8 if logical else 4)
    cpu = machine_facts(CPU)["cpu"]
    assert (cpu["cores"], cpu["threads"]) == (4, 8)


def test_the_facts_tell_what_gpu_it_is(facts: dict[str, Any]) -> None:
    assert facts["gpu"] == {
        "name": "NVIDIA H100 80GB HBM3",
        "uuid": UUID,
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "memory_bytes": 85_017_755_648,
        "l2_cache_bytes": 52_428_800,
        "power_limit_w": 700.0,
        "max_sm_clock_mhz": 1980,
        "max_memory_clock_mhz": 2619,
        "application_sm_clock_mhz": 1980,
        "application_memory_clock_mhz": 2619,
        "driver": "580.159.04",
        "nvml_missing": None,
    }


def test_the_current_gpu_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(monkeypatch)
    fake_h100(monkeypatch)

    assert machine_facts()["gpu"]["uuid"] == UUID


def test_without_nvml_torch_still_tells_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    gpu = machine_facts(fake_h100(monkeypatch))["gpu"]

    assert gpu["uuid"] == UUID
    assert gpu["driver"] is None
    assert gpu["power_limit_w"] is None
    assert "NVML cannot be opened" in gpu["nvml_missing"]


def test_on_a_cpu_the_facts_tell_cpu_system_and_versions() -> None:
    facts = machine_facts(CPU)

    assert facts["gpu"] is None
    assert facts["cuda"] == {"runtime": None, "cudnn": None}
    assert facts["cpu"]["model"]
    assert 1 <= facts["cpu"]["usable"] <= facts["cpu"]["threads"]
    assert facts["memory_bytes"] > 2**28
    assert facts["python"]["version"] == platform.python_version()
    assert torch.__version__.startswith(facts["packages"]["torch"])
    assert facts["torch"]["threads"] == torch.get_num_threads()


def test_a_package_is_found_under_any_of_its_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"tensorrt-cu13": "10.13.0", "onnxruntime-gpu": "1.32.0"}
    monkeypatch.setattr(provenance, "package_version", installed.get)

    packages = machine_facts(CPU)["packages"]

    assert packages["tensorrt"] == "10.13.0"
    assert packages["onnxruntime"] == "1.32.0"
    assert packages["nvtripy"] is None


def test_the_fingerprint_is_short_and_survives_json(facts: dict[str, Any]) -> None:
    name = fingerprint(facts)

    assert len(name) == 12
    assert int(name, 16) >= 0
    assert fingerprint(json.loads(json.dumps(facts, sort_keys=True))) == name


@pytest.mark.parametrize("field", FINGERPRINT_FIELDS)
def test_each_field_of_the_fingerprint_matters_and_is_named_when_it_differs(facts: dict[str, Any], field: str) -> None:
    other = changed(facts, field, "another")

    assert fingerprint(other) != fingerprint(facts)
    assert [line.split(":")[0] for line in describe_difference(facts, other)] == [field]


@pytest.mark.parametrize("field", ["commit", "memory_bytes", "gpu.nvml_missing", "system.distribution"])
def test_what_may_change_on_one_machine_does_not_matter(facts: dict[str, Any], field: str) -> None:
    other = changed(facts, field, "another")

    assert fingerprint(other) == fingerprint(facts)
    assert describe_difference(facts, other) == []


def test_two_readings_of_one_machine_agree() -> None:
    first, second = machine_facts(CPU), machine_facts(CPU)

    assert fingerprint(first) == fingerprint(second)


def test_a_difference_shows_both_values(facts: dict[str, Any]) -> None:
    other = changed(facts, "gpu.driver", "580.159.03")

    assert describe_difference(facts, other) == ["gpu.driver: '580.159.04', not '580.159.03'"]


def test_a_package_that_one_side_does_not_record_is_told_so_and_matters(facts: dict[str, Any]) -> None:
    facts = changed(facts, "packages.onnx", "1.23.2")
    older = json.loads(json.dumps(facts))
    del older["packages"]["onnx"]

    assert fingerprint(older) != fingerprint(facts)
    assert describe_difference(facts, older) == ["packages.onnx: '1.23.2', not recorded there"]
    assert describe_difference(older, facts) == ["packages.onnx: not recorded here, '1.23.2' there"]
    assert describe_difference(older, older) == []
    assert describe_difference(facts, older, recorded_by_both=True) == []


def test_a_backend_that_is_not_installed_changes_no_fingerprint(facts: dict[str, Any]) -> None:
    facts = changed(facts, "packages.nvtripy", None)
    older = json.loads(json.dumps(facts))
    del older["packages"]["nvtripy"]

    assert fingerprint(older) == fingerprint(facts)
    assert describe_difference(facts, older) == []


def test_a_cpu_and_a_gpu_differ_in_the_gpus_fields(facts: dict[str, Any]) -> None:
    fields = [line.split(":")[0] for line in describe_difference(facts, machine_facts(CPU))]

    assert "gpu.uuid" in fields
    assert "cpu.model" not in fields


def test_every_field_of_the_fingerprint_is_a_fact(facts: dict[str, Any]) -> None:
    for field in FINGERPRINT_FIELDS:
        place: Any = facts
        for name in field.split("."):
            assert name in place, field
            place = place[name]


@pytest.mark.parametrize(
    ("model", "usable", "kind"),
    [
        ("Intel(R) Xeon(R) Processor", 2, "cpu-intel-xeon-2c"),
        ("Intel(R) Xeon(R) Platinum 8480C CPU @ 2.00GHz", 16, "cpu-intel-xeon-platinum-8480c-16c"),
        ("AMD Ryzen 5 7500F 6-Core Processor", 12, "cpu-amd-ryzen-5-7500f-12c"),
        ("Apple M2 Pro", 10, "cpu-apple-m2-pro-10c"),
        ("ARM 0x41 0xd4f", 4, "cpu-arm-0x41-0xd4f-4c"),
        (None, 4, "cpu-unknown-4c"),
    ],
)
def test_a_cpu_has_a_readable_kind(model: str | None, usable: int, kind: str) -> None:
    assert machine_kind({"gpu": None, "cpu": {"model": model, "usable": usable}}) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("NVIDIA GeForce RTX 4060 Ti", "nvidia-geforce-rtx-4060-ti"),
    ],
)
def test_a_gpu_has_a_readable_kind(facts: dict[str, Any], name: str, kind: str) -> None:
    assert machine_kind(changed(facts, "gpu.name", name)) == kind


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        (
            "processor\t: 0\nmodel\t\t: 97\nmodel name\t: AMD Ryzen 5 7500F 6-Core Processor\n",
            "AMD Ryzen 5 7500F 6-Core Processor",
        ),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n", "ARM 0x41 0xd4f"),
        ("processor\t: 0\n", None),
    ],
)
def test_linux_names_the_cpu_in_words_or_by_number(cpuinfo: str, model: str | None) -> None:
    assert environment._linux_cpu_model(cpuinfo) == model


@pytest.mark.programs
@pytest.mark.parametrize("module", ["environment", "statistics"])
def test_importing_it_imports_no_torch(module: str) -> None:
    code = f"import sys, lenet.measurement.{module}; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@needs_gpu
def test_a_real_gpu_is_told_in_full() -> None:
    gpu = machine_facts()["gpu"]

    assert gpu["nvml_missing"] is None
    assert gpu["driver"]
    assert gpu["max_sm_clock_mhz"] > 0
    assert machine_kind({"gpu": gpu}).startswith("nvidia-")
