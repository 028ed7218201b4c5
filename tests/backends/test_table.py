from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

from lenet import backends, export
from lenet.backends import Entry
from lenet.backends.base import Backend
from lenet.comparison import compare_backends, doctor
from lenet.data.synthetic import synthetic
from lenet.errors import BackendError
from lenet.measurement.environment import FINGERPRINT_FIELDS, fingerprint, machine_facts
from lenet.vocabulary import Precision
from lenet.weights import Arrays

CPU = torch.device("cpu")
PROJECT: dict[str, Any] = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
FROM_ELSEWHERE = {
    "triton": "PyTorch for CUDA on Linux requires it",
    "cuda-bindings": "PyTorch for CUDA requires it",
    "jaxlib": "jax requires it",
    "mlir-tensorrt-compiler": "nvtripy requires it, from NVIDIA's page",
    "mlir-tensorrt-runtime": "nvtripy requires it, from NVIDIA's page",
}
"""Packages that no extra names, each with where it comes from."""


@pytest.mark.parametrize("name", backends.names())
def test_every_line_names_a_backend_of_that_name(name: str) -> None:
    backend = backends.load(name)
    assert isinstance(backend, Backend)
    assert backend.name == name
    assert backends.entry(name).install.endswith(f"pip install {backends.entry(name).requirements}")


def test_an_unknown_name_gets_the_near_ones() -> None:
    with pytest.raises(BackendError, match=r"(?s)there is no backend 'pytroch'.*did you mean pytorch"):
        backends.load("pytroch")
    with pytest.raises(BackendError, match="`lenet backends` lists them"):
        backends.entry("zzz")


def test_a_backend_whose_library_is_of_another_build_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    line = backends.entry("onnxruntime-cudagraph")
    installed = {"onnxruntime": "1.32.0"}
    monkeypatch.setattr(backends, "first_version", lambda names: next(filter(None, map(installed.get, names)), None))
    assert backends.not_installed(backends.entry("onnxruntime")) is None
    told = backends.not_installed(line)
    assert told is not None
    assert told.startswith("onnxruntime is installed, not onnxruntime-gpu: ")
    assert told.endswith(f"pip uninstall --yes onnxruntime && {line.install}")
    installed["onnxruntime-gpu"] = installed.pop("onnxruntime")
    assert backends.not_installed(line) is None
    installed.clear()
    assert backends.not_installed(line) == f"not installed: {line.install}"


def test_the_table_cannot_be_changed() -> None:
    assert isinstance(backends.names(), tuple)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", backends.names())
def test_split_operands_are_the_fused_kernel_s_alone(name: str, device: str) -> None:
    """No framework has a type for them, so none may answer with some other arithmetic."""
    if name == "fused" and device == "cuda":
        assert backends.load(name).executed_precision(Precision.FP16X2, torch.device(device)) == "fp16x2"
        return
    with pytest.raises(BackendError, match=f"{name} does not run fp16x2 on {device}"):
        backends.load(name).executed_precision(Precision.FP16X2, torch.device(device))


@pytest.mark.parametrize("name", backends.names())
def test_probing_an_impossible_device_is_an_answer(name: str) -> None:
    availability = backends.load(name).probe(torch.device("meta"))
    assert not availability
    assert availability.reason


def installs(extra: str) -> set[str]:
    """The distributions that an extra of this project names, those of the extras in it as well."""
    found: set[str] = set()
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        nested = requirement.extras if requirement.name == PROJECT["name"] else ()
        found |= set().union(*map(installs, nested)) if nested else {requirement.name}
    return found


NEEDED = {Requirement(each).name for each in PROJECT["dependencies"]}
LINES = [backends.entry(name) for name in backends.names()]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_an_environment_with_a_gpu_has_every_backend(line: Entry) -> None:
    """But JAX and Torch-TensorRT, whose extras for a GPU are their own."""
    alone = ("jax-cuda", "torch-tensorrt", "torch-tensorrt-rtx")
    assert (installs("gpu").union(NEEDED, *map(installs, alone))) & set(line.packages[0])


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_no_other_environment_has_the_releases_that_torch_tensorrt_pins(extra: str) -> None:
    assert not {name for name in installs(extra) if name.startswith("torch")}


def test_an_environment_without_a_gpu_has_what_one_with_a_gpu_has_and_needs_none_of() -> None:
    assert installs("cpu") <= installs("gpu") | {"onnxruntime", "jax"}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_the_command_installs_the_packages(line: Entry) -> None:
    extras = re.search(r"-e \"\.\[(.*)\]\"", line.requirements)
    named = set().union(*map(installs, extras[1].split(","))) if extras else {Requirement(line.requirements).name}
    missing = {package[0] for package in line.packages if not (named | NEEDED) & set(package)}
    assert missing <= set(FROM_ELSEWHERE)
    assert line.packages[0][0] not in missing, "the library itself"


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-cudagraph", "tensorrt", "tensorrt-rtx"])
def test_a_backend_of_an_onnx_graph_names_what_exports_it(name: str) -> None:
    packages = [package[0] for package in backends.entry(name).packages]
    assert packages[1:] == list(export.PACKAGES)


def test_every_package_of_the_table_is_recorded_and_in_the_fingerprint_and_in_doctor() -> None:
    recorded, header = machine_facts(CPU)["packages"], doctor.machine(CPU)
    for name, package in backends.packages().items():
        assert name in recorded
        assert f"packages.{name}" in FINGERPRINT_FIELDS
        assert set(package) <= set(header)
    for line in LINES:
        assert recorded[line.packages[0][0]] == backends.installed_version(line)


@pytest.mark.parametrize("package", sorted(backends.packages()))
def test_another_version_of_any_package_is_another_fingerprint(package: str) -> None:
    facts = machine_facts(CPU)
    facts["packages"][package] = "1.0"
    before = fingerprint(facts)
    facts["packages"][package] = "2.0"
    assert fingerprint(facts) != before


def with_line(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    """Change a backend's line of the table."""
    monkeypatch.setitem(backends._BY_NAME, name, replace(backends.entry(name), **changes))


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("lenet.backends.no_such:Thing", "ModuleNotFoundError: No module named 'lenet.backends.no_such'"),
        ("lenet.backends.pytorch_eager:Thing", "AttributeError: .* has no attribute 'Thing'"),
        ("broken_backend:Thing", "OSError: libfoo.so: cannot open"),
    ],
)
def test_a_backend_that_cannot_be_imported_is_an_error_and_the_others_run(
    target: str, found: str, arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_backend.py").write_text("raise OSError('libfoo.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with_line(monkeypatch, "onnxruntime", target=target)
    wanted = r"the class Thing in .*, as the table in lenet/backends/__init__.py says"
    with pytest.raises(BackendError, match=rf"(?s)'onnxruntime' cannot be imported\n  found:  {found}.*{wanted}"):
        backends.load("onnxruntime")
    done, missing = compare_backends(
        ["pytorch", "onnxruntime"], arrays, synthetic(4), device=CPU, precision=Precision.FP32, batch_size=4
    )
    assert [each.backend for each in done] == ["pytorch"]
    assert re.search(found, missing[0].reason)
    examination = doctor.examine("onnxruntime", arrays, CPU, Precision.FP32)
    assert examination.broken
    assert "correct the table or the module" in examination.advice


def test_a_distribution_that_does_not_exist_is_named_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with_line(monkeypatch, "onnxruntime", packages=(("onnxruntime-no-such",), ("onnx-no-such",)))
    availability = backends.load("onnxruntime").probe(CPU)
    install = backends.entry("onnxruntime").install
    assert availability.reason == f"onnxruntime-no-such and onnx-no-such are not installed: {install}"
    assert availability.version is None


def test_a_library_is_found_by_any_of_its_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "onnxruntime-gpu":
            return "1.31.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    line = backends.entry("onnxruntime")
    assert backends.installed_version(line) == "1.31.0"
    assert backends.missing_packages(line) == ["onnx"]
