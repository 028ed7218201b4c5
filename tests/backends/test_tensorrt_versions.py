"""Which TensorRT there is: its bindings in TensorRT 10 and 11, and what is refused of several in one environment."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

from lenet import backends
from lenet.backends import tensorrt_versions, tripy
from lenet.backends.tensorrt import TensorRT
from lenet.backends.tensorrt_api import logger
from lenet.backends.tensorrt_engine import TensorRTBackend
from lenet.backends.tensorrt_rtx import TensorRTRTX
from lenet.errors import BackendError
from lenet.measurement.environment import fingerprint, machine_facts
from lenet.provenance import package_version
from tests.fakes import tensorrt_api
from tests.fakes.tensorrt_api import FakeTensorRT
from tests.fakes.tensorrt_bindings import RECORDED, names_in

CUDA = torch.device("cuda", 0)
EXTRAS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
BINDINGS = [name for name in ("tensorrt-cu12-bindings", "tensorrt-cu13-bindings") if package_version(name)]
LEAN = importlib.util.find_spec("tensorrt_lean_bindings") and importlib.util.find_spec("tensorrt_lean_libs")


def fake(version: str) -> FakeTensorRT:
    return FakeTensorRT("tensorrt", version, lambda images: images)


def assert_imitated(version: str, names: dict[str, Any]) -> None:
    """The fake of a version has nothing that the bindings lack, and its enumerations have their values."""
    library = fake(version)
    for imitation, name in tensorrt_api.IMITATIONS.items():
        if name in names:
            lacking = {each for each in vars(imitation) if each[0] != "_"} - set(names[name])
            assert lacking <= {"set_compute_capability"}, "only TensorRT for RTX has that one"
    for name in ("BuilderFlag", "NetworkDefinitionCreationFlag", "ProfilingVerbosity"):
        assert {each.name: int(each) for each in getattr(library, name)}.items() <= names[name].items()
    library.refused.add("Builder")
    with pytest.raises(TypeError, match=re.escape(names["error of a constructor"])):
        library.Builder(logger(library))


class TestBindings:
    @pytest.mark.parametrize("version", RECORDED)
    def test_the_fake_is_like_those_that_are_recorded(self, version: str) -> None:
        assert_imitated(version, RECORDED[version])

    def test_the_number_of_a_flag_is_another_in_tensorrt_11(self) -> None:
        flags = [int(fake(version).NetworkDefinitionCreationFlag["STRONGLY_TYPED"]) for version in sorted(RECORDED)]
        assert flags == [1, 0, 0]

    @pytest.mark.skipif(not BINDINGS, reason="pip install --no-deps tensorrt-cu13-bindings")
    @pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc makes the libraries that the bindings are loaded with")
    def test_the_fake_is_like_those_that_are_installed(self) -> None:
        folder = Path(str(metadata.distribution(BINDINGS[0]).locate_file("")))
        ((version, names),) = names_in(folder).items()
        assert_imitated(version, names)
        assert RECORDED.get(version, names) == names

    @pytest.mark.skipif(not LEAN, reason="pip install --no-deps tensorrt-lean-cu13-bindings tensorrt-lean-cu13-libs")
    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, whose driver has no error to tell")
    def test_the_lean_runtime_writes_to_the_log_what_it_lacks(self) -> None:
        """In a process of its own: without a driver, what this runtime makes cannot be used."""
        code = (
            "import os, tensorrt_lean_libs, tensorrt_lean_bindings as trt\n"
            "from lenet.backends.tensorrt_api import created, failure, logger\n"
            "runtime = created(trt, 'Runtime', logger(trt))\n"
            "print(failure(trt, 'made no engine').found, flush=True)\n"
            "os._exit(0)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "CUDA" in done.stdout


CURRENT = {"tensorrt": "11.4.0.106", "tensorrt-cu13": "11.4.0.106", "tensorrt-cu13-libs": "11.4.0.106"}
OLDER = {"tensorrt-cu12": "10.15.1.29", "tensorrt-cu12-bindings": "10.15.1.29", "tensorrt-cu12-libs": "10.15.1.29"}


def install(monkeypatch: pytest.MonkeyPatch, **distributions: str) -> None:
    """As where these are installed, and no other."""
    monkeypatch.setattr(tensorrt_versions, "package_version", distributions.get)


def imported(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake(version))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))


class TestTwoVersions:
    @pytest.mark.parametrize("installed", [CURRENT, OLDER, {}, {**OLDER, "tensorrt-cu12": "10.15.1.29.post1"}])
    def test_one_is_available(self, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, **installed)
        imported(monkeypatch, next(iter(installed.values()), "11.0.0.114"))
        assert TensorRT().probe(CUDA)

    @pytest.mark.parametrize(
        "installed",
        [
            {**CURRENT, **OLDER},
            {**CURRENT, "tensorrt-cu12-libs": "10.15.1.29"},
            {**OLDER, "tensorrt-cu12-libs": "10.16.1.11"},
            {**OLDER, "tensorrt-cu13": "10.15.1.29"},
        ],
        ids=["whole", "libraries", "part", "cuda"],
    )
    def test_two_are_refused_and_named(self, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, **installed)
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(BackendError) as caught:
            TensorRT().library()
        assert caught.value.found.startswith("two versions of tensorrt: ")
        for name, version in installed.items():
            assert f"{name} {version}" in caught.value.found
            assert f" {name} " in caught.value.hint.partition("&&")[0]
        assert caught.value.hint.endswith('pip install -e ".[tensorrt]"')
        assert str(TensorRT().probe(CUDA).reason).startswith(caught.value.found)

    def test_of_tensorrt_for_rtx_they_are_refused_as_well(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, **{"tensorrt-rtx-cu13": "1.7.1.116", "tensorrt-rtx-cu12-libs": "1.7.1.116"})
        with pytest.raises(BackendError, match=r'tensorrt-rtx-cu12-libs 1\.7\.1\.116(.|\n)*"\.\[tensorrt-rtx\]"'):
            TensorRTRTX().library()

    def test_where_tripy_is_its_command_is_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, **CURRENT, **OLDER, nvtripy="0.1.7")
        with pytest.raises(BackendError) as caught:
            TensorRT().library()
        assert caught.value.hint.endswith(backends.entry("tripy").install)

    def test_a_module_from_elsewhere_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, **OLDER)
        imported(monkeypatch, "11.4.0.106")
        with pytest.raises(BackendError, match=r"11\.4\.0\.106 is imported, tensorrt-cu12 10\.15\.1\.29, .* installed"):
            TensorRT().library()
        imported(monkeypatch, "10.15.1")
        assert TensorRT().library().__version__ == "10.15.1"

    @pytest.mark.parametrize(
        ("installed", "reason"),
        [
            ({**CURRENT, **OLDER}, "two versions of tensorrt: tensorrt 11"),
            (
                {"tensorrt-cu12": "11.4.0.106"},
                r"wants TensorRT >= 10\.15, < 11, tensorrt-cu12 11\.4\.0\.106 is installed",
            ),
            (
                {"tensorrt-cu12": "10.9.0.34"},
                r"wants TensorRT >= 10\.15, < 11, tensorrt-cu12 10\.9\.0\.34 is installed",
            ),
        ],
    )
    def test_tripy_says_what_it_wants(
        self, installed: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(monkeypatch, **installed, nvtripy="0.1.7")
        monkeypatch.setattr(tripy, "package_version", lambda _: "0.1.7")
        monkeypatch.setattr(tripy, "_PYTHON", (3, 12))
        found = str(backends.load("tripy").probe(CUDA).reason)
        assert re.search(reason, found)
        assert found.endswith(backends.entry("tripy").install)


class TestOneEnvironment:
    def test_tripy_s_metadata_says_what_the_backend_and_the_extra_say(self) -> None:
        required = metadata.requires("nvtripy") if package_version("nvtripy") else None
        if required is None:
            pytest.skip("nvtripy is not installed: pip install --no-deps nvtripy==0.1.7")
        (wanted,) = (one for one in map(Requirement, required) if one.name.startswith("tensorrt"))
        (ours,) = (one for one in map(Requirement, EXTRAS["tensorrt"]) if one.name.startswith("tensorrt"))
        assert wanted.name == ours.name, "two distributions would overwrite each other's files"
        first, end = (".".join(map(str, each)) for each in tripy._TENSORRT)
        assert wanted.specifier.contains(first)
        assert not wanted.specifier.contains(end)
        assert list((ours.specifier & wanted.specifier).filter(["10.14.1", "10.16.1.11", "11.4.0.106"])) == [
            "10.16.1.11"
        ]

    def test_the_extra_takes_what_the_backend_takes(self) -> None:
        for backend in (TensorRT(), TensorRTRTX()):
            first, end = (".".join(map(str, each)) for each in backend.supported)
            (ours,) = (one for one in map(Requirement, EXTRAS[backend.name]) if one.name.startswith("tensorrt"))
            assert ours.specifier.contains(first)
            assert not ours.specifier.contains(end)
            assert ours.specifier.contains(f"{int(end.partition('.')[0]) - 1}.99")

    @pytest.mark.parametrize("name", backends.entry("tensorrt").packages[0])
    def test_each_distribution_names_the_version(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def version(asked: str, of: str) -> str:
            if asked.startswith("tensorrt") and asked != name:
                raise metadata.PackageNotFoundError(asked)
            return of if asked == name else "1.0"

        prints = []
        for of in ("10.16.1.11", "11.4.0.106"):
            monkeypatch.setattr(metadata, "version", lambda asked, of=of: version(asked, of))
            assert backends.installed_version(backends.entry("tensorrt")) == of
            facts = machine_facts(torch.device("cpu"))
            assert facts["packages"]["tensorrt"] == of
            prints.append(fingerprint(facts))
        assert prints[0] != prints[1]


@pytest.mark.parametrize(
    ("backend", "installed", "major"),
    [
        (TensorRT(), CURRENT, "13"),
        (TensorRT(), OLDER, "12"),
        (TensorRT(), {"tensorrt": "10.16.1.11"}, None),
        (TensorRTRTX(), {"tensorrt-rtx-cu12": "1.7.1.116"}, "12"),
    ],
)
def test_the_cuda_of_a_library_is_told_by_its_distributions(
    backend: TensorRTBackend, installed: dict[str, str], major: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, **installed)
    assert tensorrt_versions.cuda_major(backends.entry(backend.name)) == major
