"""Run a variant of the kernel on the CPU, with g++ in the place of NVRTC."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from lenet.kernels import Variant
from tests import programs
from tests.kernels.stored import compiled

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
OPTIONS = ("-std=c++17", "-Og", "-w", "-shared", "-fPIC")


@cache
def library(variant: Variant, *, bulk: bool = True, behind: str = "") -> ctypes.CDLL:
    """The kernel's source behind the emulator's header, compiled; `behind` comes last."""
    parameters = "const float*" if variant.precision == "fp32" else "const uint4*"
    source = (
        f'#include "emulator.h"\n{variant.source}\nusing Parameters = {parameters};\n#include "harness.inc"\n{behind}'
    )
    macros = variant.macros | {"EMULATED_BULK": str(bulk).lower()}
    return compiled_library(source, ("emulator.h", "harness.inc"), macros)


def compiled_library(source: str, included: Sequence[str], macros: Mapping[str, str]) -> ctypes.CDLL:
    """A source that includes the emulator, compiled and loaded.

    Args:
        source: C++.
        included: The files of this directory that it includes.
        macros: The macros that it wants.
    """
    options = [*OPTIONS, *(f"-D{name}={value}" for name, value in macros.items())]

    def compile_now(directory: Path) -> bytes:
        (directory / "kernel.cpp").write_text(source, encoding="utf-8")
        precompiled = ("-include", str(Path(_standard_headers().name) / "standard.h"))
        command = [str(COMPILER), *options, *precompiled, f"-I{HERE}", "-o", "kernel.so", "kernel.cpp"]
        subprocess.run(command, cwd=directory, check=True)
        return (directory / "kernel.so").read_bytes()

    texts = [(HERE / name).read_text(encoding="utf-8") for name in included]
    with programs.kept_compiler():
        content = compiled(*_compiler(), [source, *texts, *options], compile_now)
    with TemporaryDirectory(prefix="lenet-emulator-") as directory:
        file = Path(directory) / "kernel.so"
        file.write_bytes(content)
        return ctypes.CDLL(str(file))


@cache
def _standard_headers() -> TemporaryDirectory[str]:
    """A directory with what the emulator includes, precompiled: to read it takes as long as the rest of a kernel."""
    directory = TemporaryDirectory(prefix="lenet-emulator-")
    included = re.findall(r"^#include <.*>$", (HERE / "emulator.h").read_text(encoding="utf-8"), re.MULTILINE)
    (Path(directory.name) / "standard.h").write_text("\n".join(included) + "\n", encoding="utf-8")
    command = [str(COMPILER), *OPTIONS, "-x", "c++-header", "-o", "standard.h.gch", "standard.h"]
    subprocess.run(command, cwd=directory.name, check=True)
    return directory


@cache
def _compiler() -> tuple[str, str]:
    """The compiler's name and version, and the machine that it compiles for."""

    def asked(option: str) -> str:
        return subprocess.run([str(COMPILER), option], capture_output=True, text=True, check=True).stdout.strip()

    return asked("--version"), asked("-dumpmachine")


def emulate(
    variant: Variant,
    images: np.ndarray,
    parameters: np.ndarray,
    workspace: np.ndarray | None = None,
    *,
    bulk: bool = True,
    multiprocessors: int = 132,
) -> np.ndarray:
    """Logits (N, 10), float32; NaN where the kernel wrote none.

    The workspace is a new one unless given. Copies are BULK, as from compute capability 9.0 on, unless told otherwise.
    """
    logits = np.zeros((len(images), 10), np.float32)
    if workspace is None:
        workspace = np.zeros((len(images), variant.workspace), np.float32)
    images = np.ascontiguousarray(images)

    def pointer(array: np.ndarray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    library(variant, bulk=bulk).emulate(
        pointer(images),
        ctypes.c_size_t(images.nbytes),
        pointer(parameters),
        ctypes.c_size_t(parameters.nbytes),
        pointer(logits),
        ctypes.c_int(len(images)),
        ctypes.c_int(variant.blocks(len(images), multiprocessors)),
        pointer(workspace),
        ctypes.c_size_t(workspace.nbytes),
    )
    return logits


def one_of_each_precision(cases: Iterable[tuple[Variant, int, bool]]) -> list[object]:
    """To compile one takes a second: `nox -s tests` has the first of each precision, `nox -s programs` the rest."""
    found: list[object] = []
    here: set[str] = set()
    for case in cases:
        precision = case[0].precision
        found.append(pytest.param(*case, marks=[pytest.mark.programs] if precision in here else []))
        here.add(precision)
    return found
